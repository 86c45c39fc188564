#include "transport/quantise.hpp"

#include <algorithm>
#include <compare>
#include <cstring>
#include <map>

#include "kernels/memory.hpp"
#include "transport/bytes.hpp"

namespace refit::transport {
namespace {

/// A block of which several ranks may have parts; row -1: the last element of a matrix, with which some quantisers pad.
struct BlockKey {
  std::int64_t tensor, matrix, row, column;
  friend auto operator<=>(const BlockKey&, const BlockKey&) = default;
};

/// What this rank and a peer both have parts of: places in the list of maxima, in the order of the keys.
struct Shared {
  int peer = 0;
  std::vector<std::size_t> places;
};

/// Tiles with which a rank finds the maxima of its parts of the blocks at the rim of a piece.
void append_rims(kernels::Tile tile, std::vector<kernels::Tile>& out) {
  tile.destination = nullptr;
  tile.blocks->scales = nullptr;
  const int row = tile.extent.size() - 2;
  const auto append = [&](int d, std::int64_t begin, std::int64_t matrix, std::int64_t block) {
    const std::int64_t end = begin + tile.extent[d];
    const std::int64_t head = begin % block == 0 ? 0 : std::min(block - begin % block, tile.extent[d]);
    const std::int64_t tail = end % block == 0 || end == matrix ? 0 : std::min(end % block, tile.extent[d]);
    if (head > 0) out.push_back(part_of(tile, d, 0, head));
    if (tail > 0 && head < tile.extent[d]) out.push_back(part_of(tile, d, tile.extent[d] - tail, tail));
  };
  const kernels::Blocks& blocks = *tile.blocks;
  append(row, blocks.row, blocks.rows, block_rows(blocks.quantiser));
  append(row + 1, blocks.column, blocks.columns, block_columns(blocks.quantiser));
}

}  // namespace

class Quantise::Implementation {
 public:
  Implementation(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
                 const QuantisedPieces& mine)
      : space_(space), world_(world), model_(model), quantiser_(quantiser) {
    if (mine.from != nullptr) collect(mine);
    maxima_ = kernels::SharedBuffer(std::max<std::int64_t>(1, std::ssize(keys_)) * kWord);
    for (const auto& [tile, first] : waiting_) tiles_[tile].blocks->maxima = word(first);
    for (const auto& [tile, place] : padded_) tiles_[tile].blocks->last = word(place);
    std::vector<kernels::Tile> rims;
    for (const auto& [tile, first] : waiting_) append_rims(tiles_[tile], rims);
    for (auto& [tile, place] : corners_) {
      tile.blocks->maxima = word(place);
      rims.push_back(tile);
    }
    rims_ = kernels::CopyTable(space, rims);
    std::vector<kernels::Tile> made;
    std::copy_if(tiles_.begin(), tiles_.end(), std::back_inserter(made),
                 [](const kernels::Tile& tile) { return tile.destination != nullptr; });
    table_ = kernels::CopyTable(space, made);
    find_shared();
    is_needed_ = any_shared_ || world_.max(std::ssize(made)) != 0;
  }

  bool is_needed() const { return is_needed_; }

  void run() {
    if (any_shared_) complete_maxima();
    table_.run(space_);
    space_.fence();
  }

  std::vector<kernels::Tile> tiles(const layout::StorageKey& bytes, const Box& box) const {
    const PieceTiles& piece = pieces_.at(bytes);
    const Extents begin = relative(box, piece.box);
    const int row = begin.size() - 2;
    const std::size_t first = piece.first + static_cast<std::size_t>(row > 0 ? begin[0] : 0);
    const std::int64_t matrices = product(box.extent) / (box.extent[row] * box.extent[row + 1]);
    std::vector<kernels::Tile> result;
    for (std::size_t m = first; m < first + static_cast<std::size_t>(matrices); ++m) {
      kernels::Tile tile = tiles_[m];
      tile.destination = nullptr;
      tile.blocks->scales = nullptr;
      result.push_back(part_of(part_of(tile, 0, begin[row], box.extent[row]), 1, begin[row + 1], box.extent[row + 1]));
    }
    return result;
  }

  const model::Model& model() const { return model_; }
  Quantiser quantiser() const { return quantiser_; }

 private:
  static constexpr std::int64_t kWord = sizeof(std::uint32_t);
  std::uint32_t* word(std::size_t place) const { return reinterpret_cast<std::uint32_t*>(maxima_.data()) + place; }

  void collect(const QuantisedPieces& mine) {
    std::vector<std::size_t> seen(model_.tensors.size(), 0);
    for (const layout::LocalPiece& piece : mine.from->pieces) {
      const model::Tensor& weight = model_.tensors[static_cast<std::size_t>(piece.tensor)];
      if (weight.scales < 0) continue;
      const std::size_t number = seen[static_cast<std::size_t>(weight.index)]++;
      add(mine, weight, piece.piece, number);
    }
  }

  /// One tile for each matrix of a piece.
  void add(const QuantisedPieces& mine, const model::Tensor& weight, const layout::Piece& piece, std::size_t number) {
    const int row = weight.shape.size() - 2;
    const std::int64_t matrices = product(piece.box.extent) / (piece.box.extent[row] * piece.box.extent[row + 1]);
    REFIT_ASSERT(row <= 1);
    const layout::Place bytes{layout::QuantisedLayout::bytes_key(weight, number), 0, {}};
    const layout::Place scales{layout::QuantisedLayout::scales_key(weight, number), 0, {}};
    std::byte* to = mine.quantised.address(bytes, DType::f8_e4m3);
    pieces_[bytes.storage] = {piece.box, tiles_.size()};
    const std::int64_t first_row = piece.box.lower[row] / block_rows(quantiser_);
    const std::int64_t first_column = piece.box.lower[row + 1] / block_columns(quantiser_);
    const auto touched = [](std::int64_t lower, std::int64_t extent, std::int64_t block) {
      return (lower + extent + block - 1) / block - lower / block;
    };
    const std::int64_t rows = touched(piece.box.lower[row], piece.box.extent[row], block_rows(quantiser_));
    const std::int64_t columns =
        touched(piece.box.lower[row + 1], piece.box.extent[row + 1], block_columns(quantiser_));
    // A piece in which no block begins has no scales to send.
    const auto begins = [](std::int64_t lower, std::int64_t extent, std::int64_t block) {
      return (lower + block - 1) / block * block < lower + extent;
    };
    const bool has_scales = begins(piece.box.lower[row], piece.box.extent[row], block_rows(quantiser_)) &&
                            begins(piece.box.lower[row + 1], piece.box.extent[row + 1], block_columns(quantiser_));
    for (std::int64_t m = 0; m < matrices; ++m) {
      kernels::Tile tile;
      const std::int64_t step = row > 0 ? piece.place.strides[0] : 0;
      tile.source = mine.source.address(piece.place, piece.format.dtype) + m * step * byte_size(piece.format.dtype);
      tile.extent = {piece.box.extent[row], piece.box.extent[row + 1]};
      tile.source_strides = {piece.place.strides[row], piece.place.strides[row + 1]};
      if (to != nullptr) tile.destination = to + m * tile.extent[0] * tile.extent[1];
      tile.destination_strides = {tile.extent[1], 1};
      tile.from = piece.format.dtype;
      tile.to = DType::f8_e4m3;
      tile.transform = Transform::quantise;
      kernels::Blocks blocks;
      blocks.quantiser = quantiser_;
      blocks.row = piece.box.lower[row];
      blocks.column = piece.box.lower[row + 1];
      blocks.rows = weight.shape[row];
      blocks.columns = weight.shape[row + 1];
      blocks.maxima_strides = {columns, 1};
      if (to != nullptr && has_scales) {
        blocks.scales = mine.quantised.address(scales, scale_dtype(quantiser_)) +
                        m * rows * columns * byte_size(scale_dtype(quantiser_));
      }
      blocks.scale_strides = {columns, 1};
      tile.blocks = blocks;
      add(tile, weight.index, row > 0 ? piece.box.lower[0] + m : 0, {first_row, first_column}, {rows, columns});
    }
  }

  /// The tiles of a piece, one for each of its matrices.
  struct PieceTiles {
    Box box;
    std::size_t first;
  };

  struct Pair {
    std::int64_t row, column;
  };

  void add(const kernels::Tile& tile, std::int64_t tensor, std::int64_t matrix, Pair first, Pair count) {
    const std::size_t index = tiles_.size();
    tiles_.push_back(tile);
    if (needs_maxima(tile)) {
      waiting_.emplace_back(index, keys_.size());
      for (std::int64_t r = 0; r < count.row; ++r) {
        for (std::int64_t c = 0; c < count.column; ++c) {
          keys_.push_back({tensor, matrix, first.row + r, first.column + c});
        }
      }
    }
    const kernels::Blocks& blocks = *tile.blocks;
    const bool has_last =
        blocks.row + tile.extent[0] == blocks.rows && blocks.column + tile.extent[1] == blocks.columns;
    const bool ragged = blocks.rows % block_rows(quantiser_) != 0 || blocks.columns % block_columns(quantiser_) != 0;
    if (needs_last(tile)) {
      padded_.emplace_back(index, keys_.size());
      keys_.push_back({tensor, matrix, -1, -1});
    } else if (has_last && ragged && (blocks.row > 0 || blocks.column > 0)) {  // another rank may want it
      kernels::Tile corner = part_of(part_of(tile, 0, tile.extent[0] - 1, 1), 1, tile.extent[1] - 1, 1);
      corner.destination = nullptr;
      corner.blocks->scales = nullptr;
      corners_.emplace_back(corner, keys_.size());
      keys_.push_back({tensor, matrix, -1, -1});
    }
  }

  /// All ranks tell each other which blocks they have parts of.
  void find_shared() {
    std::vector<std::size_t> order(keys_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return keys_[a] < keys_[b]; });
    Control::Bytes sorted;
    for (const std::size_t i : order) append(sorted, keys_[i]);
    const auto all = world_.exchange(std::vector<Control::Bytes>(static_cast<std::size_t>(world_.size()), sorted));
    for (int peer = 0; peer < world_.size(); ++peer) {
      if (peer == world_.rank()) continue;
      const std::vector<BlockKey> theirs = read_all<BlockKey>(all[static_cast<std::size_t>(peer)]);
      Shared shared{peer, {}};
      for (const std::size_t i : order) {
        // A piece of ours may have the block in two storages, and one of theirs too: each of theirs is sent once.
        if (!std::binary_search(theirs.begin(), theirs.end(), keys_[i])) continue;
        shared.places.push_back(i);
      }
      if (!shared.places.empty()) shared_.push_back(std::move(shared));
    }
    any_shared_ = world_.max(static_cast<std::int64_t>(keys_.empty() ? 0 : 1)) != 0;
  }

  void complete_maxima() {
    std::memset(maxima_.data(), 0, static_cast<std::size_t>(maxima_.bytes()));
    rims_.run(space_);
    space_.fence();
    struct Found {
      BlockKey key;
      std::uint32_t maximum;
    };
    std::vector<Control::Bytes> to(static_cast<std::size_t>(world_.size()));
    for (const Shared& shared : shared_) {
      for (const std::size_t place : shared.places) {
        append(to[static_cast<std::size_t>(shared.peer)], Found{keys_[place], *word(place)});
      }
    }
    std::vector<Found> found;
    for (std::size_t i = 0; i < keys_.size(); ++i) found.push_back({keys_[i], *word(i)});
    for (const Control::Bytes& bytes : world_.exchange(to)) {
      for (const Found& one : read_all<Found>(bytes)) found.push_back(one);
    }
    std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.key < b.key; });
    for (std::size_t i = 1; i < found.size(); ++i) {  // the last of equal keys has their maximum
      if (found[i].key == found[i - 1].key) found[i].maximum = std::max(found[i].maximum, found[i - 1].maximum);
    }
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      const auto behind = std::upper_bound(found.begin(), found.end(), keys_[i],
                                           [](const BlockKey& key, const Found& one) { return key < one.key; });
      *word(i) = std::prev(behind)->maximum;
    }
  }

  const kernels::ExecutionSpace& space_;
  Control& world_;
  const model::Model& model_;
  Quantiser quantiser_;
  std::vector<kernels::Tile> tiles_;
  std::map<layout::StorageKey, PieceTiles> pieces_;             ///< by the key of their bytes
  std::vector<BlockKey> keys_;                                  ///< of every word of maxima_
  std::vector<std::pair<std::size_t, std::size_t>> waiting_;    ///< tiles, and the words of their first blocks
  std::vector<std::pair<std::size_t, std::size_t>> padded_;     ///< tiles, and the words of their padding
  std::vector<std::pair<kernels::Tile, std::size_t>> corners_;  ///< last elements that others may pad with
  std::vector<Shared> shared_;
  kernels::SharedBuffer maxima_;
  kernels::CopyTable rims_, table_;
  bool any_shared_ = false;
  bool is_needed_ = false;
};

Quantise::Quantise(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
                   const QuantisedPieces& mine)
    : implementation_(std::make_unique<Implementation>(space, world, model, quantiser, mine)) {}

Quantise::~Quantise() = default;

void Quantise::run() { implementation_->run(); }

bool Quantise::is_needed() const { return implementation_->is_needed(); }

std::vector<kernels::Tile> Quantise::tiles(const layout::StorageKey& bytes, const Box& box) const {
  return implementation_->tiles(bytes, box);
}

const model::Model& Quantise::model() const { return implementation_->model(); }

Quantiser Quantise::quantiser() const { return implementation_->quantiser(); }

}  // namespace refit::transport
