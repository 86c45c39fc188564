#pragma once
// Vocabulary-parallel matrices [V, H]: rows padded at the end with zeros to a common multiple, then cut evenly. Both
// sides pad, by different amounts, so their rank boundaries differ.

#include "layout/layout.hpp"
#include "layout/partition.hpp"

namespace refit::layout {

/// The rows of one rank: `rows.begin ..` of the padded matrix, of which the first `real` exist in the tensor.
struct VocabularyPart {
  Range rows;
  std::int64_t real = 0;
};

/// Part `index` of `parts` of `padded` rows, of which the first `vocab` are real. `padded` must divide.
VocabularyPart vocabulary_part(std::int64_t vocab, std::int64_t padded, std::int64_t parts, std::int64_t index);

/// Appends the piece of a vocabulary matrix with `hidden` columns (nothing where the part is all padding).
void append_vocabulary_piece(const VocabularyPart& part, std::int64_t hidden, const StorageKey& storage, DType dtype,
                             std::vector<Piece>& out);
/// Appends the zero fill of its padding rows (nothing where there are none).
void append_vocabulary_fill(const VocabularyPart& part, std::int64_t hidden, const StorageKey& storage,
                            std::vector<Fill>& out);

}  // namespace refit::layout
