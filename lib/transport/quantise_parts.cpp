#include "transport/quantise_parts.hpp"

#include <algorithm>
#include <map>

#include "core/clock.hpp"
#include "kernels/memory.hpp"
#include "kernels/parts.hpp"
#include "model/part_boxes.hpp"
#include "transport/together.hpp"

namespace refit::transport {
namespace {

using layout::QuantisedLayout;
using model::Role;
using model::Tensor;

constexpr std::int64_t kWord = sizeof(std::uint32_t);

/// Returns whether a rank has some columns only of some rows of a weight.
bool has_cut_rows(const layout::Layout& layout, const Tensor& weight) {
  std::vector<layout::Piece> pieces;
  for (std::int32_t rank = 0; rank < layout.ranks(); ++rank) {
    pieces.clear();
    layout.pieces(weight, Rank{rank}, pieces);
    for (const layout::Piece& piece : pieces)
      if (piece.box.extent[1] != weight.shape[1]) return true;
  }
  return false;
}

/// The words that ranks reduce: for each weight the number of its first one, -1 where it has none. They follow from the
/// model and the layout alone.
class SharedWords {
 public:
  SharedWords(const model::Model& model, const layout::Layout& layout) : first_(model.tensors.size(), -1) {
    const StoredFormat format = model.quantisation.format;
    const std::vector<std::int32_t> groups = scale_groups(model);
    std::map<std::pair<std::uint64_t, Shape>, bool> cut;  // by class, whose boxes are equal
    for (const Tensor& weight : model.tensors) {
      if (weight.scales < 0) continue;
      std::int64_t words = kernels::amax_words(format, weight.shape[weight.shape.size() - 2]);
      if (format == StoredFormat::fp8_channel) {
        const auto [known, is_new] = cut.try_emplace({layout.placement_class(weight), weight.shape});
        if (is_new) known->second = has_cut_rows(layout, weight);
        if (!known->second) words = 0;
      }
      std::int64_t& first = first_[static_cast<std::size_t>(weight.index)];
      const std::int32_t group = groups[static_cast<std::size_t>(weight.index)];
      if (group != weight.index) {
        first = first_[static_cast<std::size_t>(group)];
      } else if (words > 0) {
        first = count_;
        count_ += words;
      }
    }
  }

  std::int64_t count() const { return count_; }
  std::int64_t first(const Tensor& weight) const { return first_[static_cast<std::size_t>(weight.index)]; }

 private:
  std::vector<std::int64_t> first_;
  std::int64_t count_ = 0;
};

/// The rows of a piece, in matrices whose rows follow each other in memory; some dimensions before them count matrices.
struct Matrices {
  Extents outer, outer_strides;
  std::int64_t rows = 1, row_stride = 0, columns = 0, column_stride = 0;

  Matrices(const Extents& extent, const Extents& strides) {
    int d = extent.size() - 1;
    columns = extent[d];
    column_stride = strides[d];
    rows = extent[--d];
    row_stride = strides[d];
    while (d > 0 && strides[d - 1] == rows * row_stride) rows *= extent[--d];
    for (int i = 0; i < d; ++i) {
      outer.push_back(extent[i]);
      outer_strides.push_back(strides[i]);
    }
  }

  std::int64_t count() const { return product(outer); }
  /// Returns the offset of a matrix's first element.
  std::int64_t offset(std::int64_t matrix) const {
    std::int64_t result = 0;
    for (int i = outer.size() - 1; i >= 0; --i) {
      result += matrix % outer[i] * outer_strides[i];
      matrix /= outer[i];
    }
    return result;
  }
};

/// Copies bytes of the host to where they lie on from now on.
void write(std::byte* to, std::span<const std::byte> bytes) {
  const kernels::SharedBuffer copy(bytes);
  kernels::transfer(copy.data(), to, copy.bytes());
}

}  // namespace

class QuantiseParts::Implementation {
 public:
  Implementation(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Library library,
                 const QuantisedPieces& mine)
      : space_(space), model_(model), library_(library) {
    const bool is_train = mine.from != nullptr;
    train_ = world.split(is_train ? 0 : -1);
    together(world, [&] {
      if (is_train) prepare(mine);
    });
    is_needed_ = world.max(static_cast<std::int64_t>(parts_.empty() ? 0 : 1)) != 0;
    const bool reduces = is_train && shared_ > 0 && train_->size() > 1;
    reduces_ = world.max(static_cast<std::int64_t>(reduces ? 1 : 0)) != 0;
  }

  bool is_needed() const { return is_needed_; }
  bool reduces() const { return reduces_; }

  double run(bool keeps_magnitudes) {
    if (train_ == nullptr) return 0;
    const double seconds = keeps_magnitudes ? 0 : find_magnitudes();
    table_.quantise(space_);
    space_.fence();
    return seconds;
  }

 private:
  /// Returns the seconds of the reduction.
  double find_magnitudes() {
    if (words_ > 0) kernels::fill(space_, memory_.data(), DType::f32, {words_}, {1}, 0.0);
    table_.raise_amax(space_);
    space_.fence();
    const double start = now();
    if (reduces_) reduce();
    return now() - start;
  }
  std::uint32_t* words() const { return reinterpret_cast<std::uint32_t*>(memory_.data()); }

  void prepare(const QuantisedPieces& mine) {
    const SharedWords shared(model_, *mine.layout);
    words_ = shared_ = shared.count();
    collect(mine, shared);
    memory_ = kernels::DeviceBuffer(std::max<std::int64_t>(1, words_) * kWord);
    for (const auto& [part, word] : waiting_) parts_[part].amax = words() + word;
    if (kernels::Runtime::has_device()) on_host_ = kernels::SharedBuffer(std::max<std::int64_t>(1, shared_) * kWord);
    table_ = kernels::PartTable(space_, parts_);
  }

  void reduce() {
    const std::int64_t bytes = shared_ * kWord;
    const bool is_apart = on_host_.data() != nullptr;
    auto* host = is_apart ? reinterpret_cast<std::uint32_t*>(on_host_.data()) : words();
    if (is_apart) kernels::transfer(memory_.data(), on_host_.data(), bytes);
    train_->max(std::span(host, static_cast<std::size_t>(shared_)));
    if (is_apart) kernels::transfer(on_host_.data(), memory_.data(), bytes);
  }

  void collect(const QuantisedPieces& mine, const SharedWords& shared) {
    std::vector<std::size_t> seen(model_.tensors.size(), 0);
    for (const layout::LocalPiece& piece : mine.from->pieces) {
      const Tensor& weight = model_[piece.tensor];
      if (weight.scales < 0) continue;
      const std::size_t number = seen[static_cast<std::size_t>(weight.index)]++;
      add(mine, weight, piece.piece, number, shared.first(weight));
    }
  }

  /// The destinations of a piece's values and of its scales.
  struct Destinations {
    std::byte* values = nullptr;
    std::byte* scales = nullptr;
    std::byte* tensor_scale = nullptr;
    DType scale_dtype = DType::f32;
  };

  /// Returns the destinations, and stores what does not change.
  Destinations destinations(const QuantisedPieces& mine, const Tensor& weight, std::size_t number) const {
    const auto address = [&](const layout::StorageKey& key, DType dtype) {
      return mine.quantised.address({key, 0, {}}, dtype);
    };
    const StoredFormat format = model_.quantisation.format;
    Destinations to;
    if (!is_packed(format)) to.values = address(QuantisedLayout::bytes_key(weight, number), DType::f8_e4m3);
    for (std::int64_t p = weight.scales; p < std::ssize(model_.tensors) && model_[p].scale_of == weight.index; ++p) {
      const Tensor& part = model_[p];
      std::byte* memory = address(QuantisedLayout::part_key(part, number), part.dtype);
      if (part.role == Role::packed_values) to.values = memory;
      if (part.role == Role::weight_shape && memory != nullptr) {
        const std::int64_t shape[] = {weight.shape[0], weight.shape[1]};
        write(memory, std::as_bytes(std::span(shape)));
      }
      const bool is_scale = part.role == Role::block_scale || format == StoredFormat::fp8_tensor;
      if (part.role == Role::tensor_scale && !is_scale) to.tensor_scale = memory;
      if (!is_scale || (part.role != Role::block_scale && part.role != Role::tensor_scale)) continue;
      to.scales = memory;
      if (is_castable(part.dtype)) to.scale_dtype = part.dtype;
    }
    return to;
  }

  /// Adds the parts of a piece. `word`: the first that it shares with other ranks; -1: none.
  void add(const QuantisedPieces& mine, const Tensor& weight, const layout::Piece& piece, std::size_t number,
           std::int64_t word) {
    const Destinations to = destinations(mine, weight, number);
    const Box box = model::in_matrix_order(weight, piece.box);
    const Matrices matrices(box.extent, model::in_matrix_order(weight, piece.place.strides));
    const model::Quantisation& how = model_.quantisation;
    kernels::Part part;
    part.rows = matrices.rows;
    part.columns = matrices.columns;
    part.source_strides[0] = matrices.row_stride;
    part.source_strides[1] = matrices.column_stride;
    part.from = piece.format.dtype;
    part.format = how.format;
    part.library = library_;
    part.group = how.group;
    part.scale_dtype = to.scale_dtype;
    const std::int64_t value_bytes = part.rows * part.columns * element_bits(how.format) / 8;
    const std::int64_t scales = part.rows * part.columns / kernels::block_columns(how.format, how.group);
    const std::int64_t scale_bytes = scales * (is_int4(how.format) ? byte_size(to.scale_dtype) : 1);
    const std::byte* source = mine.source.address(piece.place, part.from);
    for (std::int64_t m = 0; m < matrices.count(); ++m) {
      part.source = source + matrices.offset(m) * byte_size(part.from);
      part.values = to.values == nullptr ? nullptr : to.values + m * value_bytes;
      part.scales = to.scales == nullptr ? nullptr : to.scales + m * scale_bytes;
      part.tensor_scale = to.tensor_scale;
      parts_.push_back(part);
      give_words(box, word);
    }
  }

  /// Gives the last part its words.
  void give_words(const Box& box, std::int64_t shared) {
    const std::int64_t count = kernels::amax_words(model_.quantisation.format, parts_.back().rows);
    if (count == 0) return;
    const bool by_row = model_.quantisation.format == StoredFormat::fp8_channel;
    waiting_.emplace_back(parts_.size() - 1, shared < 0 ? words_ : shared + (by_row ? box.lower[0] : 0));
    if (shared < 0) words_ += count;
  }

  const kernels::ExecutionSpace& space_;
  const model::Model& model_;
  Library library_;
  std::unique_ptr<Control> train_;  ///< the train ranks; null on others
  std::vector<kernels::Part> parts_;
  std::vector<std::pair<std::size_t, std::int64_t>> waiting_;  ///< parts, and their first words
  std::int64_t shared_ = 0;                                    ///< words that are reduced
  std::int64_t words_ = 0;                                     ///< these, and behind them those of this rank alone
  kernels::DeviceBuffer memory_;
  kernels::SharedBuffer on_host_;  ///< the shared words, where kernels run on a device
  kernels::PartTable table_;
  bool is_needed_ = false, reduces_ = false;
};

QuantiseParts::QuantiseParts(const kernels::ExecutionSpace& space, Control& world, const model::Model& model,
                             Library library, const QuantisedPieces& mine)
    : implementation_(std::make_unique<Implementation>(space, world, model, library, mine)) {}

QuantiseParts::~QuantiseParts() = default;

bool QuantiseParts::is_needed() const { return implementation_->is_needed(); }

bool QuantiseParts::reduces() const { return implementation_->reduces(); }

double QuantiseParts::run(bool keeps_magnitudes) { return implementation_->run(keeps_magnitudes); }

}  // namespace refit::transport
