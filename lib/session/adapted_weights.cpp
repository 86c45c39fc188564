#include "session/adapted_weights.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "core/box.hpp"
#include "kernels/memory.hpp"
#include "transport/bytes.hpp"
#include "transport/together.hpp"

namespace refit::session {

using layout::AdaptedLayout;
using layout::FactorLayout;
using model::Tensor;
using transport::together;

namespace {

std::vector<Tensor> merged_matrices(const model::Model& model) {
  std::vector<Tensor> matrices;
  if (model.adapters != model::SendAdapters::merged) return matrices;
  std::ranges::copy_if(model.tensors, std::back_inserter(matrices), [](const Tensor& t) { return t.adapter_of >= 0; });
  return matrices;
}

std::int64_t aligned(const layout::Storage& storage) { return round_up(storage.bytes(), transport::kStorageAlignment); }

/// Returns the tile that brings a piece, rows of which are contiguous or not, to contiguous memory.
kernels::Tile tile_to(std::byte* destination, const std::byte* source, const layout::Piece& piece) {
  kernels::Tile tile;
  tile.source = source;
  tile.destination = destination;
  tile.extent = piece.box.extent;
  tile.source_strides = piece.place.strides;
  tile.destination_strides = row_major_strides(piece.box.extent);
  tile.from = tile.to = piece.format.dtype;
  return tile;
}

}  // namespace

std::int64_t AdaptedWeights::bytes(const model::Model& model, const layout::Layout& train, const AdaptedLayout& adapted,
                                   Rank rank) {
  std::int64_t bytes = 0;
  for (const layout::Storage& storage : layout::materialise(adapted, model.tensors, rank).storages)
    if (AdaptedLayout::is_added(storage.key)) bytes += aligned(storage);
  const layout::LocalLayout factors = layout::materialise(FactorLayout(model, train), merged_matrices(model), rank);
  return bytes + transport::ArenaMap(factors).bytes;
}

AdaptedWeights::AdaptedWeights(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
                               const model::Model& model, const layout::Layout& train, const AdaptedLayout& adapted,
                               std::optional<Rank> rank, const Train* mine, std::byte* arena,
                               transport::Progress& progress)
    : space_(space),
      world_(world),
      model_(model),
      train_(train),
      adapted_(adapted),
      rank_(rank),
      mine_(mine),
      progress_(progress),
      factor_layout_(model, train),
      matrices_(merged_matrices(model)) {
  together(world_, [&] {
    if (!rank) return;
    local_ = layout::materialise(adapted_, model_.tensors, *rank);
    std::vector<std::byte*> places;
    for (const layout::Storage& storage : local_.storages) {
      if (AdaptedLayout::is_added(storage.key)) {
        places.push_back(arena);
        arena += aligned(storage);
      } else {
        places.push_back(mine->storages.address({storage.key, 0, {}}, storage.dtype));
      }
    }
    memory_ = transport::LocalMemory(local_, std::move(places));
    factors_ = layout::materialise(factor_layout_, matrices_, *rank);
    factor_memory_ = transport::LocalMemory(factors_, arena);
    make_jobs(*rank, *mine);
  });
  if (!matrices_.empty()) make_executor(links, rank, mine, progress);
}

AdaptedWeights::~AdaptedWeights() = default;

void AdaptedWeights::make_jobs(Rank rank, const Train& mine) {
  std::vector<layout::Piece> pieces;
  for (const layout::LocalPiece& made : local_.pieces) {
    const layout::StorageKey& key = made.piece.place.storage;
    if (!AdaptedLayout::is_added(key)) continue;
    const Tensor& tensor = model_[made.tensor];
    pieces.clear();
    train_.pieces(tensor, rank, pieces);
    const layout::Piece& piece = pieces.at(AdaptedLayout::piece_of(key));
    Job job{tensor.index, piece, {}};
    kernels::Merge& merge = job.merge;
    merge.weight = mine.storages.address(piece.place, piece.format.dtype);
    merge.weight_type = piece.format.dtype;
    merge.weight_strides = piece.place.strides;
    merge.out = memory_.address(made.piece.place, made.piece.format.dtype);
    merge.out_type = made.piece.format.dtype;
    merge.rows = piece.box.extent[0];
    merge.columns = piece.box.extent[1];
    if (tensor.adapters >= 0) {
      const Tensor& a = model_[tensor.adapters];
      const Tensor& b = model_[tensor.adapters + 1];
      merge.factor_type = train_.format(a).value().dtype;
      const auto place = [&](const Tensor& matrix) {
        return factor_memory_.address({FactorLayout::key(matrix, piece.box), 0, {}}, merge.factor_type);
      };
      merge.a = place(a);
      merge.b = place(b);
      merge.a_stride = merge.columns;
      merge.b_stride = merge.rank = a.shape[0];
      merge.scaling = b.scaling;
    }
    jobs_.push_back(std::move(job));
  }
}

/// Makes the way of the matrices to the train ranks. Collective over the world.
void AdaptedWeights::make_executor(transport::Links& links, std::optional<Rank> rank, const Train* mine,
                                   transport::Progress& progress) {
  std::vector<int> members(static_cast<std::size_t>(train_.ranks()));
  std::iota(members.begin(), members.end(), 0);
  const transport::ExecutorRow& row = transport::row_of(transport::ExecutorKind::p2p);
  const transport::Tuning tuning;
  row.prepare(world_);
  links.prepare();
  communicator_ = links.communicator(transport::Purpose::bulk, members, tuning.streams);
  together(world_, [&] {
    if (!rank) return;
    const OwnRanks self(rank, rank);
    const plan::Planner planner(matrices_, train_, factor_layout_, {.colocated = true});
    const std::vector<plan::Copy> copies = planner.rank_plan(self).copies;
    routes_ = std::make_unique<transport::Routes>(train_, std::vector{communicator_.get()},
                                                  WorldMap{train_.ranks(), train_.ranks(), true});
    const transport::Endpoint me{self, mine->storages, factor_memory_};
    executor_ = transport::make_p2p(space_, *routes_, me, copies, tuning, progress);
  });
}

void AdaptedWeights::run(bool rounds_product) {
  if (executor_) executor_->execute();
  for (Job& job : jobs_) {
    kernels::Merge& of = job.merge;
    of.rounds_product = rounds_product;
    if (of.a != nullptr) {
      kernels::merge(space_, of);
      continue;
    }
    const auto factor = static_cast<float>(model_[job.tensor].scaling);
    const bool is_contiguous = of.weight_strides[0] == of.columns;
    const std::int64_t rows = is_contiguous ? 1 : of.rows;
    const std::int64_t count = is_contiguous ? of.rows * of.columns : of.columns;
    for (std::int64_t r = 0; r < rows; ++r) {
      kernels::scale(space_, of.weight + r * of.weight_strides[0] * byte_size(of.weight_type),
                     of.out + r * of.columns * byte_size(of.out_type), of.out_type, count, factor);
    }
  }
  space_.fence();
}

kernels::SharedBuffer AdaptedWeights::gathered(const Tensor& matrix) {
  const std::int64_t size = byte_size(train_.format(matrix).value().dtype);
  transport::Control::Bytes mine;
  std::vector<layout::Piece> pieces;
  if (rank_) train_.pieces(matrix, *rank_, pieces);
  for (const layout::Piece& piece : pieces) {
    const kernels::SharedBuffer values(piece.box.volume() * size);
    const kernels::Tile tile = tile_to(values.data(), mine_->storages.address(piece.place, piece.format.dtype), piece);
    kernels::CopyTable(space_, {&tile, 1}).run(space_);
    space_.fence();
    for (const std::int64_t number : {piece.box.lower[0], piece.box.lower[1], piece.box.extent[0], piece.box.extent[1]})
      transport::append(mine, number);
    mine.insert(mine.end(), values.span().begin(), values.span().end());
  }
  kernels::SharedBuffer whole(matrix.elements() * size);
  for (const transport::Control::Bytes& bytes : world_.gather_all(mine)) {
    const std::byte* at = bytes.data();
    while (at != bytes.data() + bytes.size()) {
      std::int64_t box[4];
      std::memcpy(box, at, sizeof(box));
      at += sizeof(box);
      for (std::int64_t row = 0; row < box[2]; ++row, at += box[3] * size) {
        std::memcpy(whole.data() + ((box[0] + row) * matrix.shape[1] + box[1]) * size, at,
                    static_cast<std::size_t>(box[3] * size));
      }
    }
  }
  return whole;
}

void AdaptedWeights::run_plainly() {
  auto job = jobs_.begin();
  std::int64_t done = 0;
  for (const Tensor& tensor : model_.tensors) {
    if (!AdaptedLayout::is_made(model_, tensor)) continue;
    progress_.moved(++done);
    const bool is_merged = tensor.adapters >= 0;
    const kernels::SharedBuffer a = is_merged ? gathered(model_[tensor.adapters]) : kernels::SharedBuffer();
    const kernels::SharedBuffer b = gathered(is_merged ? model_[tensor.adapters + 1] : tensor);
    for (; job != jobs_.end() && job->tensor == tensor.index; ++job) {
      kernels::Merge of = job->merge;
      const Box& box = job->piece.box;
      const std::int64_t size = byte_size(is_merged ? of.factor_type : of.out_type);
      if (is_merged) {
        of.a = a.data() + box.lower[1] * size;
        of.a_stride = tensor.shape[1];
        of.b = b.data() + box.lower[0] * of.rank * size;
        of.rounds_product = false;
        kernels::merge_plainly(space_, of);
        space_.fence();
        continue;
      }
      const kernels::SharedBuffer made(box.volume() * size);
      for (std::int64_t i = 0; i < box.volume(); ++i) {
        const Extents index = unravel(i, box.extent);
        const std::int64_t from = (box.lower[0] + index[0]) * tensor.shape[1] + box.lower[1] + index[1];
        std::uint32_t bits = 0;
        std::memcpy(&bits, b.data() + from * size, static_cast<std::size_t>(size));
        const auto value = std::bit_cast<float>(kernels::convert_bits(bits, of.out_type, DType::f32));
        bits = kernels::convert_bits(std::bit_cast<std::uint32_t>(value * static_cast<float>(tensor.scaling)),
                                     DType::f32, of.out_type);
        std::memcpy(made.data() + i * size, &bits, static_cast<std::size_t>(size));
      }
      kernels::transfer(made.data(), of.out, box.volume() * size);
    }
  }
}

}  // namespace refit::session
