#include "diagnose/dumps.hpp"

#include <algorithm>
#include <cstring>

#include "checkpoint/file.hpp"
#include "checkpoint/rank_files.hpp"
#include "core/error.hpp"

namespace refit::diagnose {
namespace {

/// Returns true for equal bits: an engine may call bytes what a layout calls E8M0 or E4M3.
bool same_bits(DType a, DType b) { return a == b || (byte_size(a) == 1 && byte_size(b) == 1); }

/// Returns the shape with the last two dimensions exchanged.
Shape exchanged(Shape shape) {
  const int last = shape.size() - 1;
  if (last > 0) std::swap(shape[last], shape[last - 1]);
  return shape;
}

/// Returns the names of a file's parameters.
std::vector<std::string> names_in(const checkpoint::Checkpoint& dump) {
  std::vector<std::string> result;
  for (const checkpoint::Entry& entry : dump.entries) result.push_back(entry.info.name);
  return result;
}

}  // namespace

Dumps::Dumps(const std::string& folder, const std::string& side) : folder_(folder), side_(side) {
  const auto require = [&](bool there, const checkpoint::RankName& missing) {
    if (!there) {
      fail_usage("{}: {}.safetensors (or .h5) is missing: dumps are {}-rank-00000, {}-rank-00001, ... without gaps",
                 folder, stem(missing), side, side);
    }
  };
  for (const auto& [name, path] : checkpoint::rank_files(folder)) {
    if (name.side != side) continue;
    if (name.chunk == 0) files_.emplace_back();
    require(name.rank == ranks() - 1, {side, name.chunk == 0 ? ranks() - 1 : name.rank, 0});
    require(name.chunk == std::ssize(files_.back()), {side, name.rank, static_cast<int>(files_.back().size())});
    files_.back().push_back(checkpoint::open(path));
  }
  if (files_.empty()) {
    fail_usage("{}: no {} dumps; they are files {}-rank-00000.safetensors (or .h5), one for each rank", folder, side,
               side);
  }
  for (std::int32_t r = 0; r < ranks(); ++r) {
    const auto found = static_cast<int>(files_[static_cast<std::size_t>(r)].size());
    require(found >= chunks(), {side, r, found});
    require(found <= chunks(), {side, 0, chunks()});
  }
}

std::vector<std::string> Dumps::names(Rank rank) const { return names_in(file(rank)); }

/// A layout without chunks is looked for in the first file.
const checkpoint::Checkpoint& Dumps::file_of(Rank rank, const layout::Storage& storage) const {
  return file(rank, std::clamp(storage.key.chunk, 0, chunks() - 1));
}

const checkpoint::Entry* Dumps::find(Rank rank, const layout::Storage& storage) const {
  const checkpoint::Checkpoint& dump = file_of(rank, storage);
  if (storage.key.chunk >= chunks()) return nullptr;
  if (const checkpoint::Entry* entry = dump.find(storage.name)) return entry;
  std::unique_ptr<Spellings>& spellings = spellings_[&dump];
  if (!spellings) spellings = std::make_unique<Spellings>(names_in(dump));
  const std::int64_t place = spellings->find(storage.name);
  return place < 0 ? nullptr : &dump.entries[static_cast<std::size_t>(place)];
}

std::string Dumps::name_of(Rank rank, const layout::Storage& storage) const {
  const checkpoint::Entry* entry = find(rank, storage);
  return entry == nullptr ? storage.name : entry->info.name;
}

Dumps::Problem Dumps::problem(Rank rank, const layout::Storage& storage) const {
  const checkpoint::Entry* entry = find(rank, storage);
  if (entry == nullptr) return {Misfit::missing, "is not in the dump"};
  if (entry->info.shape != storage.shape && entry->info.shape != exchanged(storage.shape))
    return {Misfit::shape, fmt::format("has shape {}, not {}", to_string(entry->info.shape), to_string(storage.shape))};
  if (!same_bits(entry->info.dtype, storage.dtype))
    return {Misfit::dtype, fmt::format("is {}, not {}", name(entry->info.dtype), name(storage.dtype))};
  return {};
}

std::string Dumps::hint(const Problem& problem) const {
  const std::string whose = problem.kind == Misfit::missing ? looks_like(names(Rank{0})) : "";
  return whose.empty() ? "" : fmt::format("; this looks like {}", whose);
}

bool Dumps::is_transposed(Rank rank, const layout::Storage& storage) const {
  const checkpoint::Entry* entry = find(rank, storage);
  return entry != nullptr && entry->info.shape != storage.shape && entry->info.shape == exchanged(storage.shape);
}

kernels::SharedBuffer Dumps::read_stored(const checkpoint::Checkpoint& dump, const checkpoint::Entry& entry,
                                         std::int64_t first, std::int64_t count) {
  const std::int64_t size = byte_size(entry.info.dtype);
  kernels::SharedBuffer result(count * size);
  const checkpoint::File source = checkpoint::File::open_for_reading(dump.files[static_cast<std::size_t>(entry.file)]);
  const checkpoint::FileIdentity& at_header = dump.identities[static_cast<std::size_t>(entry.file)];
  source.require(at_header);
  if (source.read_at(entry.offset + first * size, result.span()) != count * size)
    fail_usage("{}: {}: the file ends early (truncated since it was opened?)", source.path(), entry.info.name);
  source.require(at_header);
  return result;
}

kernels::SharedBuffer Dumps::read(Rank rank, const layout::Storage& storage, std::int64_t first,
                                  std::int64_t count) const {
  const checkpoint::Entry* entry = find(rank, storage);
  REFIT_ASSERT(entry != nullptr);
  if (!is_transposed(rank, storage)) return read_stored(file_of(rank, storage), *entry, first, count);
  const std::int64_t size = byte_size(storage.dtype);
  kernels::SharedBuffer result(count * size);
  std::memcpy(result.data(), exchanged_back(rank, storage, *entry).data() + first * size,
              static_cast<std::size_t>(count * size));
  return result;
}

kernels::SharedBuffer& Dumps::exchanged_back(Rank rank, const layout::Storage& storage,
                                             const checkpoint::Entry& entry) const {
  if (last_exchanged_ == &entry) return last_;
  const kernels::SharedBuffer stored = read_stored(file_of(rank, storage), entry, 0, storage.elements());
  last_ = kernels::SharedBuffer(storage.elements() * byte_size(storage.dtype));
  const kernels::ExecutionSpace space;
  const kernels::Tile tile{stored.data(),
                           last_.data(),
                           storage.shape,
                           exchanged(row_major_strides(entry.info.shape)),
                           row_major_strides(storage.shape),
                           storage.dtype,
                           storage.dtype};
  kernels::CopyTable(space, {&tile, 1}).run(space);
  space.fence();
  last_exchanged_ = &entry;
  return last_;
}

std::int64_t span_of(const Extents& extent, const Extents& strides) {
  std::int64_t last = 0;
  for (int d = 0; d < extent.size(); ++d) last += (extent[d] - 1) * strides[d];
  return last + 1;
}

}  // namespace refit::diagnose
