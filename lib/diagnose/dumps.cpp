#include "diagnose/dumps.hpp"

#include "checkpoint/file.hpp"
#include "checkpoint/rank_files.hpp"
#include "core/error.hpp"

namespace refit::diagnose {
namespace {

/// An engine may call bytes what a layout calls E8M0 or E4M3.
bool same_bits(DType a, DType b) { return a == b || (byte_size(a) == 1 && byte_size(b) == 1); }

}  // namespace

Dumps::Dumps(const std::string& folder, const std::string& side) : folder_(folder), side_(side) {
  for (const auto& [name, path] : checkpoint::rank_files(folder)) {
    if (name.side != side) continue;
    if (name.rank != ranks()) {
      fail_usage("{}: {} rank {} is missing: dumps are {}-rank-00000, {}-rank-00001, ... without gaps", folder, side,
                 ranks(), side, side);
    }
    files_.push_back(checkpoint::open(path));
  }
  if (files_.empty()) {
    fail_usage("{}: no {} dumps; they are files {}-rank-00000.safetensors (or .h5), one for each rank", folder, side,
               side);
  }
}

std::string Dumps::problem(Rank rank, const layout::Storage& storage) const {
  const checkpoint::Entry* entry = file(rank).find(storage.name);
  if (entry == nullptr) return "is not in the dump";
  if (entry->info.shape != storage.shape)
    return fmt::format("has shape {}, not {}", to_string(entry->info.shape), to_string(storage.shape));
  if (!same_bits(entry->info.dtype, storage.dtype))
    return fmt::format("is {}, not {}", name(entry->info.dtype), name(storage.dtype));
  return "";
}

kernels::SharedBuffer Dumps::read(Rank rank, const layout::Storage& storage, std::int64_t first,
                                  std::int64_t count) const {
  const checkpoint::Checkpoint& dump = file(rank);
  const checkpoint::Entry* entry = dump.find(storage.name);
  REFIT_ASSERT(entry != nullptr);
  const std::int64_t size = byte_size(storage.dtype);
  kernels::SharedBuffer result(count * size);
  const checkpoint::File source = checkpoint::File::open_for_reading(dump.files[static_cast<std::size_t>(entry->file)]);
  const checkpoint::FileIdentity& at_header = dump.identities[static_cast<std::size_t>(entry->file)];
  source.require(at_header);
  if (source.read_at(entry->offset + first * size, result.span()) != count * size)
    fail_usage("{}: {}: the file ends early (truncated since it was opened?)", source.path(), storage.name);
  source.require(at_header);
  return result;
}

std::int64_t span_of(const Extents& extent, const Extents& strides) {
  std::int64_t last = 0;
  for (int d = 0; d < extent.size(); ++d) last += (extent[d] - 1) * strides[d];
  return last + 1;
}

}  // namespace refit::diagnose
