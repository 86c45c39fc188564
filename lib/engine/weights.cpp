#include "engine/weights.hpp"

#include <algorithm>

#include "checkpoint/dequantise.hpp"
#include "checkpoint/rank_files.hpp"
#include "core/hash.hpp"
#include "kernels/memory.hpp"
#include "verify/chunks.hpp"
#include "verify/tuning.hpp"

namespace refit::engine {

using layout::LocalPiece;
using model::Tensor;

Weights::Weights(const Setup& setup, const layout::LocalLayout& layout, Group group, Rank rank,
                 const transport::LocalMemory& memory)
    : setup_(setup),
      layout_(layout),
      group_(group),
      rank_(rank),
      memory_(memory),
      synthetic_(setup.model, setup.c.run.seed) {}

verify::RankView Weights::view() const { return {group_, rank_, &layout_, memory_.storages()}; }

/// Returns a piece's region in the tensor's source, where repeated scales stand once.
kernels::Region Weights::region(const LocalPiece& piece) const {
  const Tensor& tensor = setup_.model[piece.tensor];
  const kernels::Region stored = region_of(view(), piece, tensor, piece.piece.box);
  if (tensor.repeats == 1) return stored;
  const Box once{{stored.box.lower[0], stored.box.lower[2]}, {stored.box.extent[0], stored.box.extent[2]}};
  return {stored.data, stored.dtype, once, tensor.file_shape(), {stored.strides[0], stored.strides[2]}};
}

/// Returns the pieces whose values are the storage's (a tied lm_head shares its embedding's) and do not come from
/// train.
std::vector<const LocalPiece*> Weights::own_pieces() const {
  std::vector<const LocalPiece*> result;
  for (const LocalPiece& piece : layout_.pieces) {
    const Tensor& tensor = setup_.model[piece.tensor];
    if (setup_.model.canonical(tensor).index != tensor.index) continue;
    const bool made_on_the_way = tensor.scale_of >= 0;
    const bool lacks_source = (!setup_.model.moves(tensor) || !setup_.train->format(tensor)) && !made_on_the_way;
    if (group_ == Group::train || lacks_source) result.push_back(&piece);
  }
  return result;
}

void Weights::fill(const kernels::ExecutionSpace& space) const {
  for (const auto& [storage, fill] : layout_.fills) {
    const DType dtype = layout_.storages[static_cast<std::size_t>(storage)].dtype;
    kernels::fill(space, memory_.address(fill.place, dtype), dtype, fill.extent, fill.place.strides, fill.value);
  }
  space.fence();
}

Loaded Weights::load(const kernels::ExecutionSpace& space,
                     const std::function<void(std::int64_t, std::int64_t)>& progress) const {
  Loaded loaded;
  const bool is_train = group_ == Group::train;
  for (std::size_t i = 0; !is_train && i < layout_.storages.size(); ++i)
    kernels::poison(space, memory_.storages()[i], layout_.storages[i].bytes());
  space.fence();
  if (setup_.checkpoint || setup_.adapter_checkpoint) {
    loaded = read_checkpoints(space, progress);
    if (is_train) require_equal_values(space);
  }
  std::vector<const LocalPiece*> made;
  const auto own = own_pieces();
  std::ranges::copy_if(own, std::back_inserter(made), [&](const LocalPiece* piece) { return !is_read(*piece); });
  std::int64_t done = 0;
  std::int64_t all = 0;
  const auto bytes_of = [](const LocalPiece& piece) {
    return piece.piece.box.volume() * byte_size(piece.piece.format.dtype);
  };
  for (const LocalPiece* piece : made) all += bytes_of(*piece);
  for (const LocalPiece* piece : made) {
    make(space, *piece);
    done += bytes_of(*piece);
    progress(done, all);
  }
  space.fence();
  fill(space);
  return loaded;
}

void Weights::flip_bits(const kernels::ExecutionSpace& space, const Which& which) const {
  for (const LocalPiece* piece : own_pieces()) {
    if (!which(setup_.model[piece->tensor])) continue;
    kernels::flip_bit(space, memory_.address(piece->piece.place, piece->piece.format.dtype));
  }
}

/// Returns whether the piece's values are read from the checkpoint. Scales of the KV cache are not where a calibration
/// has them, and are made where nothing has them.
bool Weights::is_read(const LocalPiece& piece) const {
  const Tensor& tensor = setup_.model[piece.tensor];
  if (setup_.checkpoint_of(tensor) == nullptr) return false;
  if (tensor.role == model::Role::weight_shape) return setup_.checkpoint->find(tensor.name)->info.dtype == tensor.dtype;
  if (!facts_of(tensor.role).is_cache_scale) return true;
  return !setup_.kv_scales.contains(tensor.index) && setup_.checkpoint->find(tensor.name) != nullptr;
}

void Weights::make(const kernels::ExecutionSpace& space, const LocalPiece& piece) const {
  const auto calibrated = setup_.kv_scales.find(piece.tensor);
  if (calibrated == setup_.kv_scales.end()) return synthesise(space, piece);
  const DType dtype = piece.piece.format.dtype;
  kernels::fill(space, memory_.address(piece.piece.place, dtype), dtype, piece.piece.box.extent,
                piece.piece.place.strides, calibrated->second);
}

void Weights::synthesise(const kernels::ExecutionSpace& space, const LocalPiece& piece) const {
  synthetic_.write_as(space, setup_.model[piece.tensor], region(piece), piece.piece.format.conversion);
}

Loaded Weights::read_checkpoints(const kernels::ExecutionSpace& space,
                                 const std::function<void(std::int64_t, std::int64_t)>& progress) const {
  Loaded loaded;
  for (const auto* files : {&setup_.checkpoint, &setup_.adapter_checkpoint}) {
    if (!*files) continue;
    Loaded more = read_checkpoint(space, **files, progress);
    loaded.statistics.bytes_read += more.statistics.bytes_read;
    loaded.statistics.bytes_needed += more.statistics.bytes_needed;
    std::ranges::move(more.rounded, std::back_inserter(loaded.rounded));
    std::ranges::move(more.overflows, std::back_inserter(loaded.overflows));
  }
  return loaded;
}

Loaded Weights::read_checkpoint(const kernels::ExecutionSpace& space, const checkpoint::Checkpoint& files,
                                const std::function<void(std::int64_t, std::int64_t)>& progress) const {
  std::vector<checkpoint::ModelRead> reads;
  std::vector<std::int32_t> tensors;
  for (const LocalPiece* piece : own_pieces()) {
    const Tensor& tensor = setup_.model[piece->tensor];
    if (!is_read(*piece) || setup_.checkpoint_of(tensor) != &files) continue;
    checkpoint::ModelRead read = read_of(files, setup_.model, tensor);
    REFIT_ASSERT(read.entry != nullptr);
    const kernels::Region stored = region(*piece);
    read.box = stored.box;
    read.data = stored.data;
    read.format = piece->piece.format;
    read.strides = stored.strides;
    read.shape = stored.shape;
    reads.push_back(std::move(read));
    tensors.push_back(piece->tensor);
  }
  Loaded loaded{checkpoint::read(space, files, reads, progress), {}, {}};
  for (std::size_t i = 0; i < reads.size(); ++i) {
    const checkpoint::CastLoss& loss = loaded.statistics.losses[i];
    if (loss.rounded) loaded.rounded.push_back(tensors[i]);
    if (loss.overflows > 0) loaded.overflows.push_back({tensors[i], loss.overflows, loss.first_overflow});
  }
  return loaded;
}

void Weights::require_equal_values(const kernels::ExecutionSpace& space) const {
  for (const LocalPiece& piece : layout_.pieces) {
    const Tensor& tensor = setup_.model[piece.tensor];
    const Tensor& canonical = setup_.model.canonical(tensor);
    const checkpoint::Checkpoint* files = setup_.checkpoint_of(tensor);
    if (canonical.index == tensor.index || files == nullptr) continue;
    const std::int64_t row_bytes =
        product(piece.piece.box.extent) / piece.piece.box.extent[0] * byte_size(piece.piece.format.dtype);
    const std::int64_t rows = std::max<std::int64_t>(1, (8 << 20) / row_bytes);
    for (std::int64_t done = 0; done < piece.piece.box.extent[0]; done += rows) {
      Box part = piece.piece.box;
      part.lower[0] += done;
      part.extent[0] = std::min(rows, piece.piece.box.extent[0] - done);
      const kernels::SharedBuffer buffer(part.volume() * byte_size(piece.piece.format.dtype));
      const checkpoint::Read read{files->find(tensor.name),       part,        buffer.data(), piece.piece.format,
                                  row_major_strides(part.extent), tensor.shape};
      checkpoint::read(space, *files, {&read, 1});
      const auto found = kernels::count_differences(space, region_of(view(), piece, tensor, part), buffer.data());
      if (found.count > 0 && tensor.adapter_of >= 0) {
        fail_usage("{}: {} differs from {} (first near row {}), and the trainer has one matrix for both{}",
                   files->files.front(), tensor.name, canonical.name, part.lower[0] + found.first / part.extent[1],
                   tensor.expert < 0 ? "; use train.lora = canonical" : "");
      }
      if (found.count > 0) {
        fail_usage(
            "{}: tie_word_embeddings is true, but {} differs from {} (first near row {}); set tie_word_embeddings to "
            "false in config.json",
            setup_.checkpoint->folder, tensor.name, canonical.name, part.lower[0] + found.first / part.extent[1]);
      }
    }
  }
}

void Weights::update(const kernels::ExecutionSpace& space, std::int64_t step, double fraction,
                     const Which& leaves_out) const {
  for (const LocalPiece* piece : own_pieces()) {
    const Tensor& tensor = setup_.model[piece->tensor];
    if (leaves_out(tensor) || !checkpoint::has_values(tensor) || !setup_.model.trains(tensor)) continue;
    kernels::perturb(space, region(*piece), synthetic_.key(tensor), step, fraction);
  }
  space.fence();
}

void Weights::dump(const std::string& folder, const layout::Layout& side, Rank rank,
                   const std::vector<checkpoint::DumpTensor>& buffers) const {
  std::vector<std::vector<checkpoint::DumpTensor>> chunks(static_cast<std::size_t>(side.chunks()));
  chunks.front() = buffers;
  for (std::size_t i = 0; i < layout_.storages.size(); ++i) {
    const layout::Storage& storage = layout_.storages[i];
    const auto is_it = [&](const checkpoint::DumpTensor& buffer) { return buffer.info.name == storage.name; };
    if (std::ranges::any_of(buffers, is_it)) continue;  // what was made of it has its name
    const auto chunk = static_cast<std::size_t>(std::max(storage.key.chunk, 0));
    chunks[chunk].push_back({{storage.name, storage.shape, storage.dtype}, memory_.storages()[i]});
  }
  std::map<std::string, std::string> metadata{
      {"format", "pt"}, {"rank", fmt::format("{}", to_int(rank))}, {"coordinates", side.coordinates(rank)}};
  metadata.emplace(kUpdateFact, to_string(setup_.c.run.update));
  for (const auto& [key, value] : setup_.c.facts) metadata.emplace(cases::kFactPrefix + key, value);
  for (std::size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    if (chunks.size() > 1) metadata["chunk"] = fmt::format("{} of {}", chunk, chunks.size());
    const checkpoint::RankName name{group_ == Group::train ? "train" : "gen", to_int(rank), static_cast<int>(chunk)};
    checkpoint::write_safetensors(fmt::format("{}/{}.safetensors", folder, stem(name)), chunks[chunk], metadata);
  }
}

Sum128 source_fingerprint(const kernels::ExecutionSpace& space, const Setup& setup, const Tensor& tensor, DType dtype) {
  Sum128 sum;
  for (const Box& part : verify::chunks(Box::whole(tensor.shape), verify::Tuning().chunk_bytes / byte_size(dtype))) {
    const kernels::SharedBuffer values(part.volume() * byte_size(dtype));
    const Extents strides = row_major_strides(part.extent);
    const kernels::Region region{values.data(), dtype, part, tensor.shape, strides};
    if (const checkpoint::Checkpoint* files = setup.checkpoint_of(tensor)) {
      checkpoint::ModelRead read = read_of(*files, setup.model, tensor);
      read.box = part;
      read.data = values.data();
      read.format = dtype;
      read.strides = strides;
      checkpoint::read(space, *files, {&read, 1});
    } else {
      checkpoint::Synthetic(setup.model, setup.c.run.seed).write(space, tensor, region);
      space.fence();
    }
    kernels::fingerprint(space, region, dtype, Transform::none, hash_name(setup.model.canonical(tensor).name), &sum);
  }
  return sum;
}

}  // namespace refit::engine
