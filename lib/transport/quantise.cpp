#include "transport/quantise.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "kernels/memory.hpp"
#include "transport/block_shares.hpp"

namespace refit::transport {
namespace {

/// Appends the tiles with which a rank finds the maxima of its parts of the blocks at the rim of a piece.
void append_rims(kernels::Tile tile, std::vector<kernels::Tile>& out) {
  tile.destination = nullptr;
  tile.blocks->scales = nullptr;
  const int row = tile.extent.size() - 2;
  const auto append = [&](int d, std::int64_t begin, std::int64_t matrix, std::int64_t block) {
    const std::int64_t end = begin + tile.extent[d];
    const Interval whole = whole_blocks({begin, end}, block, matrix);
    if (begin < whole.begin) out.push_back(part_of(tile, d, 0, whole.begin - begin));
    if (whole.end < end) out.push_back(part_of(tile, d, whole.end - begin, end - whole.end));
  };
  const kernels::Blocks& blocks = *tile.blocks;
  append(row, blocks.row, blocks.rows, block_size(blocks.quantiser).rows);
  append(row + 1, blocks.column, blocks.columns, block_size(blocks.quantiser).columns);
}

}  // namespace

class Quantise::Implementation {
 public:
  Implementation(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
                 const QuantisedPieces& mine, const kernels::TableSizes& sizes)
      : space_(space), model_(model), quantiser_(quantiser) {
    if (mine.from != nullptr) collect(mine);
    maxima_ = kernels::SharedBuffer(std::max<std::int64_t>(1, words_) * kWord);
    for (const auto& [tile, first] : waiting_) tiles_[tile].blocks->maxima = word(first);
    for (const auto& [tile, place] : padded_) tiles_[tile].blocks->last = word(place);
    std::vector<kernels::Tile> rims;
    for (const auto& [tile, first] : waiting_) append_rims(tiles_[tile], rims);
    for (auto& [tile, place] : corners_) {
      tile.blocks->maxima = word(place);
      rims.push_back(tile);
    }
    rims_ = kernels::CopyTable(space, rims, sizes);
    std::vector<kernels::Tile> made;
    std::copy_if(tiles_.begin(), tiles_.end(), std::back_inserter(made),
                 [](const kernels::Tile& tile) { return tile.destination != nullptr; });
    table_ = kernels::CopyTable(space, made, sizes);
    if (mine.from != nullptr) find_partners(world, block_shares(model, *mine.layout, quantiser, Rank{world.rank()}));
    const bool works = !made.empty() || !sent_.empty() || !received_.empty();
    is_needed_ = world.max(static_cast<std::int64_t>(works ? 1 : 0)) != 0;
  }

  bool is_needed() const { return is_needed_; }

  void run() {
    if (exchange_ != nullptr) complete_maxima();
    table_.run(space_);
    space_.fence();
  }

  std::vector<kernels::Tile> tiles(const layout::StorageKey& bytes, const Box& box) const {
    const PieceTiles& piece = pieces_[by_key_.at(bytes)];
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
  std::uint32_t* word(std::int64_t place) const { return reinterpret_cast<std::uint32_t*>(maxima_.data()) + place; }

  /// The tiles of a piece, one for each of its matrices, and the places of its words: for each matrix a word per block
  /// that the matrix touches; then a word per matrix for its last element.
  struct PieceTiles {
    std::int32_t tensor;
    Box box;
    Box blocks;  ///< blocks that the box touches
    std::size_t first;
    std::int64_t words = 0;
    std::int64_t last_words = 0;

    std::int64_t place(const BlockKey& key) const {
      const int row = blocks.extent.size() - 2;
      const std::int64_t matrix = key.matrix - (row > 0 ? blocks.lower[0] : 0);
      if (key.row < 0) return last_words + matrix;
      const std::int64_t line = matrix * blocks.extent[row] + key.row - blocks.lower[row];
      return words + line * blocks.extent[row + 1] + key.column - blocks.lower[row + 1];
    }
  };

  void collect(const QuantisedPieces& mine) {
    std::vector<std::size_t> seen(model_.tensors.size(), 0);
    for (const layout::LocalPiece& piece : mine.from->pieces) {
      const model::Tensor& weight = model_[piece.tensor];
      if (weight.scales < 0) continue;
      const std::size_t number = seen[static_cast<std::size_t>(weight.index)]++;
      add(mine, weight, piece.piece, number);
    }
  }

  /// Adds one tile for each matrix of a piece.
  void add(const QuantisedPieces& mine, const model::Tensor& weight, const layout::Piece& piece, std::size_t number) {
    const int row = weight.shape.size() - 2;
    const std::int64_t matrices = product(piece.box.extent) / (piece.box.extent[row] * piece.box.extent[row + 1]);
    REFIT_ASSERT(row <= 1);
    const layout::Place bytes{layout::QuantisedLayout::bytes_key(weight, number), 0, {}};
    const layout::Place scales{layout::QuantisedLayout::scales_key(weight, number), 0, {}};
    std::byte* to = mine.quantised.address(bytes, DType::f8_e4m3);
    by_key_[bytes.storage] = pieces_.size();
    pieces_.push_back({weight.index, piece.box, touched_blocks(piece.box, block_size(quantiser_)), tiles_.size()});
    const std::int64_t rows = pieces_.back().blocks.extent[row];
    const std::int64_t columns = pieces_.back().blocks.extent[row + 1];
    // A piece in which no block begins has no scales to send.
    const bool has_scales = !begun_blocks(piece.box, block_size(quantiser_)).empty();
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
      tiles_.push_back(tile);
    }
    give_words(weight, pieces_.back(), matrices, rows * columns);
  }

  void give_words(const model::Tensor& weight, PieceTiles& piece, std::int64_t matrices, std::int64_t blocks) {
    const kernels::Tile& any = tiles_[piece.first];
    const std::size_t end = piece.first + static_cast<std::size_t>(matrices);
    piece.words = words_;
    if (needs_maxima(any)) {
      for (std::size_t i = piece.first; i < end; ++i, words_ += blocks) waiting_.emplace_back(i, words_);
    }
    piece.last_words = words_;
    if (needs_last(any)) {
      for (std::size_t i = piece.first; i < end; ++i) padded_.emplace_back(i, words_++);
    } else if (has_wanted_last(weight, piece.box, quantiser_)) {
      for (std::size_t i = piece.first; i < end; ++i) {
        const kernels::Tile& tile = tiles_[i];
        kernels::Tile corner = part_of(part_of(tile, 0, tile.extent[0] - 1, 1), 1, tile.extent[1] - 1, 1);
        corner.destination = nullptr;
        corner.blocks->scales = nullptr;
        corners_.emplace_back(corner, words_++);
      }
    }
  }

  /// The words that this rank sends to another, and receives from it.
  struct Partner {
    std::vector<std::int64_t> sent;                               ///< places of the words
    std::vector<std::pair<std::int64_t, std::int64_t>> received;  ///< number in the message, and place of the word
    std::int64_t count = 0;                                       ///< words in the received message
  };

  void find_partners(Control& world, const std::vector<BlockShare>& shares) {
    std::map<std::int32_t, Partner> partners;
    for (const BlockShare& share : shares) {
      Partner& partner = partners[share.peer];
      for (const BlockKey& key : share.blocks) {
        bool is_first = true;
        for (const PieceTiles& piece : pieces_of(share.tensor)) {
          if (piece.box != share.box) continue;
          // A box may be in two storages of this rank: one is sent, and both receive.
          if (!share.sends) partner.received.emplace_back(partner.count, piece.place(key));
          if (share.sends && is_first) partner.sent.push_back(piece.place(key));
          is_first = false;
        }
        REFIT_ASSERT(!is_first);
        if (!share.sends) ++partner.count;
      }
    }
    std::int64_t sent = 0, received = 0;
    for (const auto& [peer, partner] : partners) {
      sent += std::ssize(partner.sent);
      received += partner.count;
    }
    outgoing_.resize(static_cast<std::size_t>(sent));
    incoming_.resize(static_cast<std::size_t>(received));
    std::vector<Message> messages;
    std::int64_t arrived = 0;
    for (const auto& [peer, partner] : partners) {
      const bool is_self = peer == world.rank();
      const auto add = [&](Message::Kind kind, std::uint32_t* words, std::int64_t count) {
        if (count > 0 && !is_self) messages.push_back({kind, peer, reinterpret_cast<std::byte*>(words), count * kWord});
      };
      const std::int64_t first = std::ssize(sent_);
      add(Message::Kind::send, outgoing_.data() + first, std::ssize(partner.sent));
      add(Message::Kind::receive, incoming_.data() + arrived, partner.count);
      if (is_self) own_ = {first, arrived, partner.count};
      sent_.insert(sent_.end(), partner.sent.begin(), partner.sent.end());
      for (const auto& [number, place] : partner.received) received_.emplace_back(arrived + number, place);
      arrived += partner.count;
    }
    if (!partners.empty()) exchange_ = world.make_exchange(messages);
  }

  std::span<const PieceTiles> pieces_of(std::int32_t tensor) const {
    const auto [begin, end] = std::ranges::equal_range(pieces_, tensor, {}, &PieceTiles::tensor);
    return {begin, end};
  }

  void complete_maxima() {
    std::memset(maxima_.data(), 0, static_cast<std::size_t>(maxima_.bytes()));
    rims_.run(space_);
    space_.fence();
    for (std::size_t i = 0; i < sent_.size(); ++i) outgoing_[i] = *word(sent_[i]);
    exchange_->run();
    std::copy_n(outgoing_.begin() + own_.sent, own_.count, incoming_.begin() + own_.received);
    for (const auto& [number, place] : received_) {
      *word(place) = std::max(*word(place), incoming_[static_cast<std::size_t>(number)]);
    }
  }

  /// The words that this rank passes from one of its boxes to another: ranges of outgoing_ and incoming_.
  struct Own {
    std::int64_t sent = 0, received = 0, count = 0;
  };

  const kernels::ExecutionSpace& space_;
  const model::Model& model_;
  Quantiser quantiser_;
  std::vector<kernels::Tile> tiles_;
  std::vector<PieceTiles> pieces_;                               ///< in order of tensor
  std::map<layout::StorageKey, std::size_t> by_key_;             ///< of their bytes
  std::int64_t words_ = 0;                                       ///< of maxima_
  std::vector<std::pair<std::size_t, std::int64_t>> waiting_;    ///< tiles, and the words of their first blocks
  std::vector<std::pair<std::size_t, std::int64_t>> padded_;     ///< tiles, and the words of their padding
  std::vector<std::pair<kernels::Tile, std::int64_t>> corners_;  ///< last elements that others may pad with
  kernels::SharedBuffer maxima_;
  kernels::CopyTable rims_, table_;
  std::vector<std::int64_t> sent_;                               ///< words, by number in outgoing_
  std::vector<std::pair<std::int64_t, std::int64_t>> received_;  ///< number in incoming_, and a word
  std::vector<std::uint32_t> outgoing_, incoming_;
  Own own_;
  std::unique_ptr<Exchange> exchange_;  ///< null: this rank shares no block
  bool is_needed_ = false;
};

Quantise::Quantise(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
                   const QuantisedPieces& mine, const kernels::TableSizes& sizes)
    : implementation_(std::make_unique<Implementation>(space, world, model, quantiser, mine, sizes)) {}

Quantise::~Quantise() = default;

void Quantise::run() { implementation_->run(); }

bool Quantise::is_needed() const { return implementation_->is_needed(); }

std::vector<kernels::Tile> Quantise::tiles(const layout::StorageKey& bytes, const Box& box) const {
  return implementation_->tiles(bytes, box);
}

const model::Model& Quantise::model() const { return implementation_->model(); }

Quantiser Quantise::quantiser() const { return implementation_->quantiser(); }

}  // namespace refit::transport
