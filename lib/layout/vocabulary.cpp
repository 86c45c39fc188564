#include "layout/vocabulary.hpp"

namespace refit::layout {

VocabularyPart vocabulary_part(std::int64_t vocab, std::int64_t padded, std::int64_t parts, std::int64_t index) {
  const Range rows = even_part(padded, parts, index);
  return {rows, clip(rows, vocab).count};
}

void append_vocabulary_piece(const VocabularyPart& part, std::int64_t hidden, const StorageKey& storage, DType dtype,
                             std::vector<Piece>& out) {
  if (part.real == 0) return;
  out.push_back({{{part.rows.begin, 0}, {part.real, hidden}}, {storage, 0, {hidden, 1}}, dtype});
}

void append_vocabulary_fill(const VocabularyPart& part, std::int64_t hidden, const StorageKey& storage,
                            std::vector<Fill>& out) {
  const std::int64_t padding = part.rows.count - part.real;
  if (padding == 0) return;
  out.push_back({{storage, part.real * hidden, {hidden, 1}}, {padding, hidden}, 0.0});
}

}  // namespace refit::layout
