#include "verify/probe.hpp"

#include <algorithm>

#include "verify/chunks.hpp"
#include "verify/dequantised.hpp"
#include "verify/facts.hpp"
#include "verify/halves.hpp"
#include "verify/kl.hpp"
#include "verify/scales.hpp"

namespace refit::verify {
namespace {

std::int64_t rows_of(const model::Tensor& tensor) {
  const Shape shape = tensor.file_shape();
  return tensor.elements() / shape[shape.size() - 1];
}

/// The tensors of one reduction and their sums: train's rows of all of them, then gen's.
struct Batch {
  std::vector<std::int32_t> tensors;
  std::int64_t rows = 0;
  std::vector<std::int64_t> sums;
};

void add_wrapping(std::int64_t& to, std::int64_t value) {
  to = static_cast<std::int64_t>(static_cast<std::uint64_t>(to) + static_cast<std::uint64_t>(value));
}

/// Returns zeros, one for each row of a region.
std::vector<std::int64_t> no_sums(const kernels::Region& region) {
  const std::int64_t columns = region.box.extent[region.box.extent.size() - 1];
  return std::vector<std::int64_t>(static_cast<std::size_t>(region.box.volume() / columns), 0);
}

/// Adds one region's row sums to those of the whole tensor.
void add_rows(const kernels::Region& region, std::span<const std::int64_t> rows, std::span<std::int64_t> tensor_rows) {
  const int last = region.box.extent.size() - 1;
  std::int64_t row = 0;
  for (std::int64_t value : rows) {
    std::int64_t global = 0;
    std::int64_t rest = row++;
    std::int64_t stride = 1;
    for (int d = last - 1; d >= 0; --d) {
      global += (region.box.lower[d] + rest % region.box.extent[d]) * stride;
      rest /= region.box.extent[d];
      stride *= region.shape[d];
    }
    add_wrapping(tensor_rows[static_cast<std::size_t>(global)], value);
  }
}

void add_region(const LocalMemory& local, const kernels::Region& region, std::uint64_t seed,
                std::span<std::int64_t> tensor_rows) {
  for (const Half& half : halves(region)) {
    std::vector<std::int64_t> rows = no_sums(half.region);
    kernels::signed_row_sums(local.space, half.region, seed + half.number, rows.data());
    add_rows(half.region, rows, tensor_rows);
  }
}

/// Adds a piece of bytes, each times its block's scale.
void add_scaled(const LocalMemory& local, std::int32_t piece, std::uint64_t seed, std::span<std::int64_t> tensor_rows) {
  const layout::LocalPiece& mine = local.piece(piece);
  const kernels::Region region = local.region(piece, mine.piece.box);
  const Scales scales = scales_of(local, piece);
  std::vector<std::int64_t> rows = no_sums(region);
  kernels::signed_row_sums(local.space, region, scales.of, seed, rows.data());
  add_rows(region, rows, tensor_rows);
}

/// Adds a piece of values. It is converted first where the two sides store different dtypes, so that equal bits give
/// equal sums. Weights that gen quantises are not converted: the effect of that is to be seen.
void add_piece(const LocalMemory& local, std::int32_t piece, std::uint64_t seed, std::span<std::int64_t> tensor_rows) {
  const layout::LocalPiece& mine = local.piece(piece);
  const model::Tensor& tensor = local.tensor(mine.tensor);
  const DType as = local.as(mine.tensor).dtype;
  if (mine.piece.format.conversion == Conversion::block_scaled || tensor.scale_of >= 0) {
    if (has_block_scales(local.model.tensors, tensor)) return add_scaled(local, piece, seed, tensor_rows);
    return for_each_dequantised(local, piece,
                                [&](const kernels::Region& values) { add_region(local, values, seed, tensor_rows); });
  }
  if (mine.piece.format == local.as(mine.tensor) || tensor.scales >= 0) {
    add_region(local, local.region(piece, mine.piece.box), seed, tensor_rows);
    return;
  }
  for (const Box& chunk : chunks(mine.piece.box, std::max<std::int64_t>(1, local.tuning.chunk_bytes / byte_size(as)))) {
    const kernels::SharedBuffer converted = local.copy_out(local.region(piece, chunk), local.transform_of(mine), as);
    add_region(local, region_in(converted, as, tensor.shape, chunk, chunk), seed, tensor_rows);
  }
}

/// Adds the contributing pieces of a tensor on one side.
void add_pieces(const Summands& from, std::int32_t tensor, Group group, std::uint64_t seed,
                std::span<std::int64_t> tensor_rows) {
  const auto [first, last] = from.memory.pieces_of(tensor);
  for (std::int32_t p = first; p < last; ++p) {
    const bool is_theirs = from.memory.is_gen(p) == (group == Group::gen);
    if (is_theirs && from.contributes[static_cast<std::size_t>(p)] != 0) add_piece(from.memory, p, seed, tensor_rows);
  }
}

void add_own_pieces(const Summands& local, const Summands* originals, std::uint64_t seed, Batch& batch) {
  batch.sums.assign(static_cast<std::size_t>(2 * batch.rows), 0);
  std::int64_t at = 0;
  for (const Group group : {Group::train, Group::gen}) {
    for (std::int32_t t : batch.tensors) {
      const model::Tensor& tensor = local.memory.tensor(t);
      const std::int64_t rows = rows_of(tensor);
      const auto mine = std::span(batch.sums).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(rows));
      const bool before = group == Group::train && originals != nullptr && tensor.scales >= 0;
      const Summands& from = before ? *originals : local;
      add_pieces(from, t, group, seed, mine);
      const std::int32_t packed = packed_values_of(local.memory.model.tensors, tensor);
      if (packed >= 0) add_pieces(from, packed, group, seed, mine);
      at += rows;
    }
  }
}

/// The sum of the KL over all matrices, until it is divided by their number.
struct Total {
  KlSummary summary;
  double sum = 0.0;
  std::int64_t matrices = 0;
};

void add_matrices(const model::Tensor& tensor, std::span<const std::int64_t> train, std::span<const std::int64_t> gen,
                  Total& total) {
  const Shape shape = tensor.file_shape();
  const auto rows = static_cast<std::size_t>(shape[shape.size() - 2]);
  for (std::size_t at = 0; at < train.size(); at += rows) {
    const double kl = kl_of_row_sums(train.subspan(at, rows), gen.subspan(at, rows));
    total.sum += kl;
    ++total.matrices;
    if (kl > 0 && (is_beyond_numbers(train.subspan(at, rows)) || is_beyond_numbers(gen.subspan(at, rows))))
      ++total.summary.not_finite;
    if (kl <= total.summary.max) continue;
    total.summary.max = kl;
    total.summary.tensor = tensor.name;
  }
}

void reduce(const Summands& summands, const Summands* originals, std::uint64_t seed, Batch& batch, Total& total) {
  if (batch.tensors.empty()) return;
  const LocalMemory& local = summands.memory;
  add_own_pieces(summands, originals, seed, batch);
  local.world.reduce_sum(batch.sums, 0);
  std::size_t at = 0;
  for (std::int32_t t : batch.tensors) {
    const model::Tensor& tensor = local.tensor(t);
    const auto rows = static_cast<std::size_t>(rows_of(tensor));
    const std::span<const std::int64_t> sums(batch.sums);
    if (local.world.rank() == 0) {
      add_matrices(tensor, sums.subspan(at, rows), sums.subspan(static_cast<std::size_t>(batch.rows) + at, rows),
                   total);
    }
    at += rows;
  }
  batch = {};
}

}  // namespace

KlSummary measure_kl(const Summands& local, const Summands* originals, const std::vector<std::int32_t>& measured,
                     std::uint64_t seed) {
  const std::int64_t most = local.memory.tuning.batch_bytes / (2 * byte_size(DType::i64));
  Batch batch;
  Total total;
  for (std::int32_t t : measured) {
    const std::int64_t rows = rows_of(local.memory.tensor(t));
    if (batch.rows + rows > most) reduce(local, originals, seed, batch, total);
    batch.tensors.push_back(t);
    batch.rows += rows;
  }
  reduce(local, originals, seed, batch, total);
  if (total.matrices > 0) total.summary.mean = total.sum / static_cast<double>(total.matrices);
  return total.summary;
}

}  // namespace refit::verify
