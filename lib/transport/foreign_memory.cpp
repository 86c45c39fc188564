#include "transport/foreign_memory.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <tuple>

#include "kernels/kernels.hpp"
#include "transport/bytes.hpp"
#include "transport/foreign_regions.hpp"
#include "transport/location.hpp"
#include "transport/shared_file.hpp"
#include "transport/together.hpp"

namespace refit::transport {
namespace {

/// What a storage lies in.
struct Lies {
  const Mapping* first = nullptr;  ///< the mapping of its begin; nullptr: it has no bytes
  bool any_shared = false;
};

/// Errors (usage): a storage that is not memory of this process, all of it, or cannot be used as it is to be.
Lies check_mapped(const OwnedBlock& storage, const std::vector<Mapping>& mappings) {
  const auto begin = reinterpret_cast<std::uintptr_t>(storage.address);
  const std::uintptr_t end = begin + static_cast<std::uintptr_t>(storage.bytes);
  if (storage.bytes == 0) return {};
  Lies lies{mapping_below(mappings, begin), false};
  std::uintptr_t reached = begin;
  for (const Mapping* mapping = lies.first; reached < end || end < begin; reached = mapping->end, ++mapping) {
    const bool there = end > begin && lies.first != nullptr && mapping != mappings.data() + mappings.size();
    if (!there || reached < mapping->begin || reached >= mapping->end)
      fail_about(storage.name, "its {} bytes at {} are not memory of this process", storage.bytes,
                 fmt::ptr(storage.address));
    if (!mapping->readable) fail_about(storage.name, "its memory cannot be read: it is protected");
    if (storage.is_written && !mapping->writable)
      fail_about(storage.name,
                 "its memory is mapped read-only, so that nothing can be stored into it; hold weights in memory of "
                 "their own, not in a checkpoint's file");
    lies.any_shared |= mapping->shared;
  }
  return lies;
}

constexpr const char* kAdvice = "allocate it with refit_shared_memory_create or tensor.share_memory_()";

/// Returns the number of the set of processes to which this one's id belongs; containers have sets of their own.
std::uint64_t process_namespace() {
  struct stat found {};
  return stat("/proc/self/ns/pid", &found) == 0 ? found.st_ino : 0;
}

/// A part of a file.
struct FilePart {
  std::int64_t file;  ///< number among the rank's files
  std::int64_t offset, bytes;
};

/// The memory of one rank: how it reaches it itself, and what it tells the others.
struct Offer {
  std::string reason;  ///< why others cannot map it; empty: they may try
  std::vector<SharedFile> files;
  std::vector<std::string> examples;  ///< a storage in each file
  std::vector<Range> ranges;          ///< own; not told
  std::vector<FilePart> parts;        ///< of each range
};

Control::Bytes packed(const Offer& offer) {
  Control::Bytes bytes;
  append(bytes, location().host);
  append(bytes, process_namespace());
  append_text(bytes, offer.reason);
  append(bytes, std::ssize(offer.files));
  for (std::size_t i = 0; i < offer.files.size(); ++i) {
    append(bytes, offer.files[i].device);
    append(bytes, offer.files[i].inode);
    append(bytes, std::ssize(offer.files[i].places));
    for (const std::string& place : offer.files[i].places) append_text(bytes, place);
    append_text(bytes, offer.examples[i]);
  }
  append(bytes, std::ssize(offer.parts));
  for (const FilePart& part : offer.parts) append(bytes, part);
  return bytes;
}

/// Finds the memory of this rank's storages.
class Finder {
 public:
  Offer find(std::span<const OwnedBlock> storages) {
    for (const OwnedBlock& storage : storages) {
      if (storage.bytes > 0) offer_.ranges.push_back(range_of(storage));
    }
    join(offer_.ranges);
    for (const Range& range : offer_.ranges) {
      if (!offer_.reason.empty()) break;
      const Mapping& mapping = *mapping_below(mappings_, address(range.address));
      offer_.parts.push_back({static_cast<std::int64_t>(range.of), mapping.offset, range.bytes});
    }
    return std::move(offer_);
  }

 private:
  static std::uintptr_t address(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); }

  /// Returns the range that others would map for a storage: from the begin of its mapping, which is the begin of a page
  /// of whatever size.
  Range range_of(const OwnedBlock& storage) {
    const Range alone{storage.address, storage.bytes, kUnshared};
    const std::uintptr_t end = address(storage.address) + static_cast<std::uintptr_t>(storage.bytes);
    const auto [first, any_shared] = check_mapped(storage, mappings_);
    if (any_shared && first != nullptr && first->shared && first->inode != 0 && end <= first->end) {
      const auto base = reinterpret_cast<std::byte*>(first->begin);  // NOLINT(performance-no-int-to-ptr)
      return {base, static_cast<std::int64_t>(end - first->begin), file_of(*first, storage.name)};
    }
    if (offer_.reason.empty()) {
      offer_.reason = any_shared ? fmt::format("{} lies in several mappings; {}", storage.name, kAdvice)
                                 : fmt::format("{} lies in private memory; {}", storage.name, kAdvice);
    }
    return alone;
  }

  std::size_t file_of(const Mapping& mapping, const std::string& example) {
    const auto [found, is_new] = numbers_.try_emplace({mapping.device, mapping.inode}, offer_.files.size());
    if (is_new) {
      offer_.files.push_back(open_files_.file_of(mapping));
      offer_.examples.push_back(example);
    }
    return found->second;
  }

  const std::vector<Mapping> mappings_ = own_mappings();
  const OpenFiles open_files_;
  std::map<std::pair<dev_t, ino_t>, std::size_t> numbers_;
  Offer offer_;
};

class ForeignHostMemory final : public ForeignMemory {
 public:
  ForeignHostMemory(Control& world, const Offer& mine, const std::vector<Control::Bytes>& offers)
      : ForeignMemory(world, mine.ranges) {
    for (std::size_t rank = 0; rank < offers.size(); ++rank) {
      if (rank != own()) map_rank(rank, Reader(offers[rank]));
    }
  }

  void fence() override { std::atomic_thread_fence(std::memory_order_seq_cst); }

 private:
  using Part = std::tuple<dev_t, ino_t, std::int64_t, std::int64_t>;

  void map_rank(std::size_t rank, Reader offer) {
    const bool here = offer.take<std::uint64_t>() == host_;
    const bool near = offer.take<std::uint64_t>() == namespace_;
    const std::string reason = offer.take_text();
    if (!here) return leave_unmapped(rank, "it is on another host");
    if (!reason.empty()) return leave_unmapped(rank, reason);
    std::vector<SharedFile> files(static_cast<std::size_t>(offer.take<std::int64_t>()));
    std::vector<std::string> examples;
    for (SharedFile& file : files) {
      file.device = offer.take<dev_t>();
      file.inode = offer.take<ino_t>();
      file.places.resize(static_cast<std::size_t>(offer.take<std::int64_t>()));
      for (std::string& place : file.places) place = offer.take_text();
      // The id of a process of another container is another process here, or none.
      if (!near) std::erase_if(file.places, [](const std::string& place) { return place.starts_with("/proc/"); });
      examples.push_back(offer.take_text());
    }
    Regions regions;
    std::map<Part, std::shared_ptr<MappedFile>> mapped;
    for (auto parts = offer.take<std::int64_t>(); parts > 0; --parts) {
      const auto part = offer.take<FilePart>();
      const auto number = static_cast<std::size_t>(part.file);
      const Part key{files[number].device, files[number].inode, part.offset, part.bytes};
      std::shared_ptr<MappedFile>& memory = mapped[key];
      if (const auto before = mapped_.find(key); before != mapped_.end()) memory = before->second;
      std::string why;
      if (memory == nullptr) memory = MappedFile::open(files[number], part.offset, part.bytes, why);
      if (memory == nullptr) {
        if (why.empty()) why = "its process is in another container (PID namespace)";
        return leave_unmapped(
            rank, fmt::format("{} lies in a file that cannot be mapped here: {}; {}", examples[number], why, kAdvice));
      }
      regions.add(memory->data(), part.bytes);
    }
    mapped_.merge(mapped);
    set(rank, std::move(regions));
  }

  const std::uint64_t host_ = location().host;
  const std::uint64_t namespace_ = process_namespace();
  std::map<Part, std::shared_ptr<MappedFile>> mapped_;  ///< each part of a file once
};

}  // namespace

std::unique_ptr<PeerMemory> make_foreign_host_memory(Control& world, std::span<const OwnedBlock> storages) {
  Offer mine;
  together(world, [&] { mine = Finder().find(storages); });
  const std::vector<Control::Bytes> offers = world.gather_all(packed(mine));
  std::unique_ptr<PeerMemory> result;
  // Together also at the end: nobody goes on, and frees its memory perhaps, before all have mapped it.
  together(world, [&] { result = std::make_unique<ForeignHostMemory>(world, mine, offers); });
  return result;
}

std::vector<std::uint64_t> host_identities(std::span<const OwnedBlock> storages) {
  const std::vector<Mapping> mappings = own_mappings();
  std::vector<std::uint64_t> result;
  result.reserve(storages.size());
  for (const OwnedBlock& storage : storages) {
    const auto begin = reinterpret_cast<std::uintptr_t>(storage.address);
    const Mapping* const first = check_mapped(storage, mappings).first;
    std::uint64_t identity = begin;
    if (first != nullptr && first->inode != 0) {
      const auto within = static_cast<std::uint64_t>(first->offset) + (begin - first->begin);
      identity = combine(combine(combine(identity, first->device), first->inode), within);
    }
    result.push_back(identity);
  }
  return result;
}

std::unique_ptr<PeerMemory> make_foreign_memory(Control& world, std::span<const OwnedBlock> storages) {
  return kernels::Runtime::has_device() ? make_foreign_device_memory(world, storages)
                                        : make_foreign_host_memory(world, storages);
}

std::vector<std::uint64_t> identities(std::span<const OwnedBlock> storages) {
  return kernels::Runtime::has_device() ? device_identities(storages) : host_identities(storages);
}

}  // namespace refit::transport
