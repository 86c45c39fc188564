// Memory that somebody else has allocated, mapped by other processes of this host: of every kind that engines use.

#include "transport/foreign_memory.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "core/error.hpp"
#include "support/process_control.hpp"
#include "transport/bytes.hpp"
#include "transport/foreign_regions.hpp"
#include "transport/location.hpp"
#include "transport/shared_file.hpp"
#include "transport/shared_memory.hpp"

namespace refit::transport {
namespace {

using test_support::run_process;
using test_support::run_processes;
using testing::HasSubstr;

constexpr std::int64_t kPage = 4096;
constexpr uid_t kNobody = 65534;

/// How an engine may have allocated a block.
enum class Kind {
  refit,         ///< SharedMemory
  memfd,         ///< torch's default strategy: a descriptor is open
  unlinked,      ///< a file of /dev/shm that has lost its name, with a descriptor
  path,          ///< torch's strategy file_system, MPI: a name, no descriptor
  anonymous,     ///< MAP_SHARED | MAP_ANONYMOUS: neither
  file_of_disk,  ///< a shared mapping of an ordinary file
  heap
};

std::string shared_path(const std::string& name) { return fmt::format("/dev/shm/refit_test_{}_{}", getpid(), name); }

void* map_file(int file, std::int64_t bytes, int protection = PROT_READ | PROT_WRITE, int flags = MAP_SHARED,
               void* at = nullptr, std::int64_t offset = 0) {
  void* data = mmap(at, static_cast<std::size_t>(bytes), protection, flags, file, offset);
  EXPECT_NE(data, MAP_FAILED) << std::strerror(errno);
  return data;
}

int sized(int file, std::int64_t bytes) {
  EXPECT_GE(file, 0) << std::strerror(errno);
  EXPECT_EQ(ftruncate(file, bytes), 0);
  return file;
}

/// Memory of one kind, as long as this object lives.
class Block {
 public:
  Block(Kind kind, std::int64_t bytes) : bytes_(bytes) {
    const auto size = static_cast<std::size_t>(bytes);
    switch (kind) {
      case Kind::refit:
        own_ = SharedMemory(bytes);
        data_ = own_.data();
        return;
      case Kind::heap:
        heap_.resize(size);
        data_ = heap_.data();
        return;
      case Kind::anonymous: map(-1, MAP_SHARED | MAP_ANONYMOUS); return;
      case Kind::memfd:
        file_ = sized(memfd_create("engine", 0), bytes);
        map(file_);
        return;
      case Kind::unlinked:
      case Kind::path:
      case Kind::file_of_disk: break;
    }
    static int number = 0;
    const std::string name = fmt::format("block{}", number++);
    path_ = kind == Kind::file_of_disk ? testing::TempDir() + fmt::format("refit_{}_{}", getpid(), name)
                                       : shared_path(name);
    file_ = sized(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600), bytes);
    map(file_);
    if (kind == Kind::unlinked) {
      unlink(path_.c_str());
      path_.clear();
    } else {
      close(file_);
      file_ = -1;
    }
  }
  ~Block() {
    if (mapped_) munmap(data_, static_cast<std::size_t>(bytes_));
    if (file_ >= 0) close(file_);
    if (!path_.empty()) unlink(path_.c_str());
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* data() const { return data_; }

 private:
  void map(int file, int flags = MAP_SHARED) {
    data_ = static_cast<std::byte*>(map_file(file, bytes_, PROT_READ | PROT_WRITE, flags));
    mapped_ = true;
  }
  std::int64_t bytes_;
  SharedMemory own_;
  std::vector<std::byte> heap_;
  std::string path_;
  std::byte* data_ = nullptr;
  bool mapped_ = false;
  int file_ = -1;
};

/// Every rank stores into every storage of every rank, and all see it.
void expect_stores_arrive(Control& world, PeerMemory& memory, const std::vector<OwnedBlock>& storages) {
  const int me = world.rank();
  Control::Bytes mine;
  for (const OwnedBlock& storage : storages) {
    append(mine, memory.offset(storage.address));
    append(mine, storage.bytes);
    std::fill_n(storage.address, storage.bytes, std::byte{255});
  }
  const std::vector<Control::Bytes> all = world.gather_all(mine);
  for (int round = 0; round < world.size(); ++round) {
    const int peer = (me + round) % world.size();
    ASSERT_NE(memory.map(peer), nullptr) << memory.note();
    const auto theirs = read_all<std::int64_t>(all[static_cast<std::size_t>(peer)]);
    for (std::size_t i = 0; i < theirs.size(); i += 2) {
      // The rank's share of the storage, its last byte too.
      const std::int64_t begin = theirs[i + 1] * me / world.size();
      const std::int64_t end = theirs[i + 1] * (me + 1) / world.size();
      std::fill_n(memory.at(peer, theirs[i]) + begin, end - begin, static_cast<std::byte>(16 * me + round));
    }
  }
  memory.fence();
  world.barrier();
  memory.fence();
  for (const OwnedBlock& storage : storages) {
    for (int peer = 0; peer < world.size(); ++peer) {
      const std::int64_t begin = storage.bytes * peer / world.size();
      const std::int64_t end = storage.bytes * (peer + 1) / world.size();
      const int round = (me - peer + world.size()) % world.size();
      EXPECT_EQ(std::count(storage.address + begin, storage.address + end, static_cast<std::byte>(16 * peer + round)),
                end - begin)
          << storage.name << " from rank " << peer;
    }
  }
  world.barrier();
}

/// Two storages at odd places of one block, and one in a block of its own that it fills.
std::vector<OwnedBlock> storages_in(const Block& first, const Block& second) {
  return {{"a", first.data() + 3, 5000}, {"b", first.data() + 5003, 2997}, {"c", second.data(), 4097}};
}

/// Whether this process may follow the links of map_files.
bool may_follow_map_files() {
  const Block block(Kind::anonymous, kPage);
  const auto mappings = own_mappings();
  const Mapping* mapping = mapping_below(mappings, reinterpret_cast<std::uintptr_t>(block.data()));
  const int file = open(fmt::format("/proc/self/map_files/{}", mapping->line).c_str(), O_PATH);
  if (file < 0) return false;
  close(file);
  return true;
}

/// Becomes a user without any right over others; its processes may still look into each other, as a user's own do.
void become_nobody() {
  ASSERT_EQ(setresgid(kNobody, kNobody, kNobody), 0);
  ASSERT_EQ(setresuid(kNobody, kNobody, kNobody), 0);
  ASSERT_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
}

class Ranks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(ForeignMemory, Ranks, testing::Values(1, 2, 4), testing::PrintToStringParamName());

TEST_P(Ranks, StoreIntoSharedMappingsOfEveryKind) {
  for (const Kind kind : {Kind::refit, Kind::memfd, Kind::unlinked, Kind::path, Kind::file_of_disk}) {
    run_processes(GetParam(), [&](Control& world) {
      SCOPED_TRACE(static_cast<int>(kind));
      const Block first(kind, 8000), second(kind, 4097);
      const auto storages = storages_in(first, second);
      const auto memory = make_foreign_host_memory(world, storages);
      EXPECT_EQ(memory->note(), "");
      expect_stores_arrive(world, *memory, storages);
    });
  }
}

TEST_P(Ranks, StoreIntoAnonymousSharedMappingsWhereTheKernelLetsThem) {
  for (const bool nobody : {false, true}) {
    if (nobody && geteuid() != 0) continue;
    run_processes(GetParam(), [&](Control& world) {
      if (nobody) become_nobody();
      const Block first(Kind::anonymous, 8000), second(Kind::refit, 4097);
      const auto storages = storages_in(first, second);
      const auto memory = make_foreign_host_memory(world, storages);
      if (may_follow_map_files()) {
        EXPECT_FALSE(nobody);
        expect_stores_arrive(world, *memory, storages);
      } else if (world.size() > 1) {
        EXPECT_EQ(memory->map((world.rank() + 1) % world.size()), nullptr);
        EXPECT_THAT(memory->note(), HasSubstr("a lies in a file that cannot be mapped here: /proc/"));
        EXPECT_THAT(memory->note(), HasSubstr("needs CAP_CHECKPOINT_RESTORE"));
        EXPECT_THAT(memory->note(), HasSubstr("refit_shared_memory_create"));
      }
      world.barrier();
    });
  }
}

TEST_P(Ranks, OfOneUserNeedNoRights) {
  if (geteuid() != 0) GTEST_SKIP() << "this user has none anyway";
  run_processes(GetParam(), [](Control& world) {
    become_nobody();
    const Block first(Kind::memfd, 8000), second(Kind::refit, 4097);
    const auto storages = storages_in(first, second);
    const auto memory = make_foreign_host_memory(world, storages);
    expect_stores_arrive(world, *memory, storages);
  });
}

TEST_P(Ranks, WithPrivateMemoryAreLeftToMessages) {
  run_processes(GetParam(), [](Control& world) {
    const Block first(Kind::memfd, 8000), second(Kind::heap, 4097);
    std::vector<OwnedBlock> storages = storages_in(first, second);
    storages.push_back({"empty", nullptr, 0});
    const bool is_private = world.rank() % 2 == 0;
    if (!is_private) storages.erase(storages.begin() + 2);
    const auto memory = make_foreign_host_memory(world, storages);
    const int me = world.rank();
    ASSERT_NE(memory->map(me), nullptr);  // its own it has anyway
    for (const OwnedBlock& storage : storages) {
      if (storage.bytes > 0) {
        EXPECT_EQ(memory->at(me, memory->offset(storage.address + storage.bytes - 1)),
                  storage.address + storage.bytes - 1);
      }
    }
    for (int peer = 0; peer < world.size(); ++peer) {
      EXPECT_EQ(memory->map(peer) == nullptr, peer != me && peer % 2 == 0) << peer;
    }
    const int unmapped = (world.size() + 1) / 2 - (is_private ? 1 : 0);
    EXPECT_EQ(memory->note(),
              unmapped == 0 ? ""
                            : fmt::format("memory of {} of {} ranks cannot be mapped by world rank {}; the first is of "
                                          "world rank {}: c lies in private memory; allocate it with "
                                          "refit_shared_memory_create or tensor.share_memory_()",
                                          unmapped, world.size(), me, me == 0 ? 2 : 0));
    world.barrier();
  });
}

TEST_P(Ranks, WithoutStoragesHaveNothingToMap) {
  run_processes(GetParam(), [](Control& world) {
    const Block block(Kind::memfd, kPage);
    std::vector<OwnedBlock> storages{{"a", block.data(), kPage}};
    const int last = world.size() - 1;
    if (world.rank() != last) storages.clear();
    const auto memory = make_foreign_host_memory(world, storages);
    for (int peer = 0; peer < world.size(); ++peer) EXPECT_EQ(memory->map(peer) != nullptr, peer == last);
    EXPECT_EQ(memory->local() != nullptr, world.rank() == last);
    EXPECT_EQ(memory->note(), "");
    if (world.rank() == 0) memory->at(last, 77)[0] = std::byte{7};
    world.barrier();
    if (world.rank() == last) {
      EXPECT_EQ(block.data()[77], std::byte{7});
    }
  });
}

/// Storages of one mapping, shared by two ranks or listed twice, are mapped once.
TEST(ForeignMemory, MapsAPartOfAFileOnce) {
  run_processes(2, [](Control& world) {
    const int file = sized(memfd_create("engine", 0), 10 * kPage);
    std::byte* data = static_cast<std::byte*>(map_file(file, 10 * kPage));
    const std::vector<OwnedBlock> storages{{"a", data + 2 * kPage + 5, 7000},
                                           {"tied to a", data + 2 * kPage + 5, 7000},
                                           {"part of a", data + 2 * kPage + 105, 100},
                                           {"b", data + 8 * kPage, 2 * kPage}};
    const auto count = [&] {
      const auto all = own_mappings();
      return std::ranges::count_if(all,
                                   [](const Mapping& one) { return one.path.find("memfd:engine") != one.path.npos; });
    };
    const auto before = count();
    const auto memory = make_foreign_host_memory(world, storages);
    EXPECT_EQ(count(), before + 1);
    const int peer = 1 - world.rank();
    EXPECT_EQ(
        memory->at(peer, memory->offset(storages[3].address)) - memory->at(peer, memory->offset(data + 2 * kPage)),
        6 * kPage);
    EXPECT_EQ(memory->offset(storages[0].address), memory->offset(storages[1].address));
    EXPECT_EQ(memory->offset(storages[2].address) - memory->offset(storages[0].address), 100);
    memory->at(peer, memory->offset(data + 10 * kPage - 1))[0] = std::byte{9};
    world.barrier();
    EXPECT_EQ(data[10 * kPage - 1], std::byte{9});
    world.barrier();
  });
}

/// Memory of one file in several mappings behind each other, as mprotect leaves it, is one; that of two files is not.
TEST(ForeignMemory, MayCrossMappingsOfOneFile) {
  run_processes(2, [](Control& world) {
    for (const bool two_files : {false, true}) {
      const int first = sized(memfd_create("first", 0), 4 * kPage);
      const int second = two_files ? sized(memfd_create("second", 0), 4 * kPage) : first;
      auto* data = static_cast<std::byte*>(map_file(-1, 4 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS));
      const int flags = MAP_SHARED | MAP_FIXED;
      map_file(first, 2 * kPage, PROT_READ | PROT_WRITE, flags, data);
      map_file(second, 2 * kPage, PROT_READ | PROT_WRITE, flags, data + 2 * kPage, 2 * kPage);
      ASSERT_EQ(madvise(data + 2 * kPage, kPage, MADV_DONTFORK), 0);  // another line of the list
      const std::vector<OwnedBlock> storages{{"across", data + 100, 3 * kPage}};
      const auto memory = make_foreign_host_memory(world, storages);
      if (two_files) {
        EXPECT_EQ(memory->map(1 - world.rank()), nullptr);
        EXPECT_THAT(memory->note(), HasSubstr("across lies in several mappings; allocate it with"));
      } else {
        expect_stores_arrive(world, *memory, storages);
      }
      world.barrier();
    }
  });
}

TEST(ForeignMemory, RefusesOnAllRanksWhatIsNoWritableMemory) {
  run_processes(2, [](Control& world) {
    const bool bad = world.rank() == 1;
    const int file = sized(memfd_create("engine", 0), 2 * kPage);
    auto* writable = static_cast<std::byte*>(map_file(file, 2 * kPage));
    auto* read_only = static_cast<std::byte*>(map_file(file, 2 * kPage, PROT_READ));
    auto* gone = static_cast<std::byte*>(map_file(file, 2 * kPage));
    munmap(gone, 2 * kPage);
    auto* beyond = reinterpret_cast<std::byte*>(~std::uintptr_t{0} - kPage);  // NOLINT(performance-no-int-to-ptr)
    const std::pair<OwnedBlock, std::string> rows[] = {
        {{"model.norm.weight", read_only, kPage}, "rank 1: model.norm.weight: its memory is mapped read-only"},
        {{"model.norm.weight", gone, kPage}, "rank 1: model.norm.weight: its 4096 bytes at 0x"},
        {{"model.norm.weight", nullptr, 10}, "rank 1: model.norm.weight: its 10 bytes at 0x0 are not memory of this"},
        {{"model.norm.weight", beyond, 10}, "are not memory of this"},
        {{"model.norm.weight", writable, std::int64_t{1} << 40}, "rank 1: model.norm.weight: its"}};
    for (const auto& [storage, text] : rows) {
      std::string told;
      try {
        make_foreign_host_memory(world, std::vector<OwnedBlock>{bad ? storage : OwnedBlock{"fine", writable, kPage}});
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        told = error.what();
      }
      EXPECT_THAT(told, HasSubstr(text));
    }
    const std::vector<OwnedBlock> fine{{"fine", writable, kPage}};
    EXPECT_NE(make_foreign_host_memory(world, fine)->map(1 - world.rank()), nullptr);  // and goes on
    world.barrier();
  });
}

TEST(ForeignMemory, OfAnotherUserIsRefusedWithTheReason) {
  if (geteuid() != 0) GTEST_SKIP() << "only the superuser can become somebody else";
  run_processes(2, [](Control& world) {
    if (world.rank() == 1) become_nobody();
    const Block block(Kind::memfd, kPage);
    const auto memory = make_foreign_host_memory(world, std::vector<OwnedBlock>{{"a", block.data(), kPage}});
    if (world.rank() == 1) {
      EXPECT_EQ(memory->map(0), nullptr);
      EXPECT_THAT(memory->note(), HasSubstr("is not for this process: run both as one user"));
    }
    world.barrier();
  });
}

TEST(ForeignMemory, LeavesNoMappingsOrFilesBehind) {
  run_processes(2, [](Control& world) {
    const Block first(Kind::memfd, 8000), second(Kind::path, 4097);
    const auto storages = storages_in(first, second);
    const auto files = [] {
      const std::filesystem::directory_iterator folder("/proc/self/fd");
      return std::distance(begin(folder), end(folder));
    };
    const auto shared = [] {
      const auto mappings = own_mappings();
      return std::ranges::count_if(mappings, &Mapping::shared);
    };
    const auto shared_before = shared();
    const auto files_before = files();
    for (int times = 0; times < 200; ++times) {
      const auto memory = make_foreign_host_memory(world, storages);
      EXPECT_NE(memory->map(1 - world.rank()), nullptr);
      const auto arena = make_shared_peer_memory(world, kPage);
      EXPECT_NE(arena->map(1 - world.rank()), nullptr);
    }
    EXPECT_EQ(files(), files_before);
    EXPECT_EQ(shared(), shared_before);
  });
}

TEST(ForeignMemory, OfHostsIsIdentifiedByItsAddress) {
  std::vector<std::byte> memory(100);
  const std::vector<OwnedBlock> before{{"a", memory.data(), 10}, {"b", memory.data() + 10, 10}};
  const std::vector<OwnedBlock> after{{"a", memory.data(), 10}, {"b", memory.data() + 20, 10}};
  EXPECT_EQ(identities(before), identities(before));
  EXPECT_EQ(identities(before)[0], identities(after)[0]);
  EXPECT_NE(identities(before)[1], identities(after)[1]);
}

/// The file of a mapping of this process.
SharedFile file_of(const std::byte* data) {
  const auto mappings = own_mappings();
  return OpenFiles().file_of(*mapping_below(mappings, reinterpret_cast<std::uintptr_t>(data)));
}

TEST(SharedFile, OfAProcessThatIsGoneIsRefused) {
  SharedFile file;
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t owner = fork();
  if (owner == 0) {
    const Block block(Kind::memfd, kPage);
    const SharedFile mine = file_of(block.data());
    const std::uint64_t numbers[] = {mine.device, mine.inode};
    const std::string place = mine.places.front();
    if (write(pipe_ends[1], numbers, sizeof(numbers)) < 0 || write(pipe_ends[1], place.data(), place.size() + 1) < 0)
      _exit(1);
    pause();
    _exit(0);
  }
  std::uint64_t numbers[2];
  char place[200] = {};
  ASSERT_EQ(read(pipe_ends[0], numbers, sizeof(numbers)), static_cast<ssize_t>(sizeof(numbers)));
  ASSERT_GT(read(pipe_ends[0], place, sizeof(place) - 1), 0);
  file = {numbers[0], numbers[1], {place}};
  std::string why;
  EXPECT_NE(MappedFile::open(file, 0, kPage, why), nullptr) << why;
  kill(owner, SIGKILL);
  waitpid(owner, nullptr, 0);
  EXPECT_EQ(MappedFile::open(file, 0, kPage, why), nullptr);
  EXPECT_EQ(why, std::string(place) + " is gone: its process has ended, or has closed it");
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST(SharedFile, IsNotTakenForAnother) {
  const std::string path = shared_path("stale");
  const auto make = [&](std::int64_t bytes) {
    return sized(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600), bytes);
  };
  int file = make(2 * kPage);
  auto* data = static_cast<std::byte*>(map_file(file, 2 * kPage));
  SharedFile shared = file_of(data);
  ASSERT_EQ(shared.places.size(), 3U);
  EXPECT_EQ(shared.places[1], path);
  shared.places = {path};
  std::string why;
  EXPECT_NE(MappedFile::open(shared, 0, 2 * kPage, why), nullptr) << why;
  EXPECT_NE(MappedFile::open(shared, kPage, kPage, why), nullptr) << why;
  EXPECT_EQ(MappedFile::open(shared, kPage, kPage + 1, why), nullptr);
  EXPECT_EQ(why, path + " has been cut to 8192 bytes, and storages reach to byte 8193");
  // The path gets another file, and the descriptor's number too.
  unlink(path.c_str());
  const int other = make(2 * kPage);
  EXPECT_EQ(MappedFile::open(shared, 0, kPage, why), nullptr);
  EXPECT_EQ(why, path + " is another file than the one that is mapped");
  shared.places = {fmt::format("/proc/{}/fd/{}", getpid(), file)};
  EXPECT_NE(MappedFile::open(shared, 0, kPage, why), nullptr) << why;
  ASSERT_EQ(dup2(other, file), file);
  EXPECT_EQ(MappedFile::open(shared, 0, kPage, why), nullptr);
  EXPECT_THAT(why, HasSubstr("is another file than the one that is mapped"));
  unlink(path.c_str());
  EXPECT_EQ(MappedFile::open({shared.device, shared.inode, {path}}, 0, kPage, why), nullptr);
  EXPECT_THAT(why, HasSubstr("is gone"));
  close(file);
  close(other);
  munmap(data, 2 * kPage);
}

/// Opening a device or a pipe has effects of its own.
TEST(SharedFile, IsAPlainFile) {
  struct stat found {};
  ASSERT_EQ(stat("/dev/zero", &found), 0);
  std::string why;
  EXPECT_EQ(MappedFile::open({found.st_dev, found.st_ino, {"/dev/zero"}}, 0, kPage, why), nullptr);
  EXPECT_EQ(why, "/dev/zero is no plain file");
}

TEST(SharedMemory, IsZeroAndMovesAndGoes) {
  SharedMemory first(3 * kPage + 1);
  EXPECT_EQ(std::count(first.data(), first.data() + first.bytes(), std::byte{0}), 3 * kPage + 1);
  std::byte* data = first.data();
  SharedMemory second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.span().size(), 3 * kPage + 1);
  second = SharedMemory();
  EXPECT_EQ(second.data(), nullptr);
  EXPECT_EQ(SharedMemory(0).data(), nullptr);
}

TEST(SharedMemory, RefusesMoreThanThereIs) {
  const auto told = [](std::int64_t bytes) {
    try {
      const SharedMemory memory(bytes);
    } catch (const Error& error) {
      return fmt::format("{}: {}", name(error.kind()), error.what());
    }
    return std::string();
  };
  EXPECT_THAT(told(std::int64_t{1} << 50),
              testing::ContainsRegex("runtime: .*1048576.00 GiB are needed, and [0-9.]+ GiB"));
  EXPECT_THAT(told(-1), HasSubstr("usage: shared memory of -1 bytes"));
  // Beyond this limit the kernel ends the process by a signal.
  EXPECT_EQ(run_process([&] {
              const rlimit limit{1 << 20, 1 << 20};
              setrlimit(RLIMIT_FSIZE, &limit);
              EXPECT_THAT(told(2 << 20), HasSubstr("0.00 GiB are there (free memory, or ulimit -f)"));
              EXPECT_EQ(told(1 << 20), "");
              return testing::Test::HasFailure() ? 1 : 0;
            }),
            0);
}

TEST_P(Ranks, HaveArenasThatOthersMap) {
  run_processes(GetParam(), [](Control& world) {
    const int me = world.rank();
    const std::int64_t per_peer = 10'000;
    const auto memory = make_shared_peer_memory(world, world.size() * per_peer);
    EXPECT_EQ(memory->note(), "");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->local()) % 256, 0U);
    EXPECT_EQ(memory->map(me), memory->local());
    for (int peer = 0; peer < world.size(); ++peer) {
      ASSERT_NE(memory->map(peer), nullptr);
      EXPECT_EQ(memory->at(peer, 5), memory->map(peer) + 5);
      std::fill_n(memory->map(peer) + me * per_peer, per_peer, static_cast<std::byte>(8 + me));
    }
    memory->fence();
    world.barrier();
    memory->fence();
    for (int peer = 0; peer < world.size(); ++peer) {
      const std::byte* part = memory->local() + peer * per_peer;
      EXPECT_EQ(std::count(part, part + per_peer, static_cast<std::byte>(8 + peer)), per_peer);
    }
    const int last = world.size() - 1;
    const auto one = make_shared_peer_memory(world, me == last ? 5000 : 0);
    for (int peer = 0; peer < world.size(); ++peer) EXPECT_EQ(one->map(peer) != nullptr, peer == last);
    std::string told;
    try {
      make_shared_peer_memory(world, me == last ? std::int64_t{1} << 50 : kPage);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::runtime);
      told = error.what();
    }
    EXPECT_THAT(told,
                testing::ContainsRegex("need 1048576.[0-9]+ GiB and [0-9.]+ GiB are there; use the executors p2p"));
    world.barrier();
  });
}

TEST(Mappings, AreReadAsTheKernelListsThem) {
  std::istringstream list(
      "55824acdf000-55824ace0000 r-xp 00001000 fe:00 10953992                   /usr/bin/a program\n"
      "7fb5b216f000-7fb5b2171000 rw-s 00000000 00:1b 2                          /dev/shm/torch_1 (deleted)\n"
      "7fb5b2171000-7fb5b2172000 rw-s 00002000 00:1b 2                          /dev/shm/torch_1 (deleted)\n"
      "7fb5b2172000-7fb5b2173000 rw-s 00002000 00:1b 2                          /dev/shm/torch_1 (deleted)\n"
      "7fb5b2173000-7fb5b2174000 rw-s 00003000 00:1b 3                          /dev/shm/torch_2\n"
      "7fb5b2174000-7fb5b2175000 r--s 00004000 00:1b 3                          /dev/shm/torch_2\n"
      "7fb5b2175000-7fb5b2177000 rw-p 00000000 00:00 0 \n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  const std::vector<Mapping> mappings = read_mappings(list);
  ASSERT_EQ(mappings.size(), 7U);
  EXPECT_EQ(mappings[0].path, "/usr/bin/a program");
  EXPECT_FALSE(mappings[0].shared);
  EXPECT_EQ(mappings[0].offset, 4096);
  EXPECT_EQ(mappings[1].begin, 0x7fb5b216f000U);
  EXPECT_EQ(mappings[1].end, 0x7fb5b2172000U);  // the next line goes on
  EXPECT_EQ(mappings[1].line, "7fb5b216f000-7fb5b2171000");
  EXPECT_TRUE(mappings[1].shared && mappings[1].writable && mappings[1].readable);
  EXPECT_EQ(mappings[1].inode, 2U);
  EXPECT_EQ(mappings[1].path, "/dev/shm/torch_1 (deleted)");
  EXPECT_EQ(mappings[2].begin, 0x7fb5b2172000U);  // the same part of the file again
  EXPECT_EQ(mappings[3].path, "/dev/shm/torch_2");
  EXPECT_FALSE(mappings[4].writable);
  EXPECT_EQ(mappings[5].path, "");
  EXPECT_EQ(mappings[6].end, 0xffffffffff601000U);
  EXPECT_EQ(mapping_below(mappings, 0x7fb5b2171fffU), &mappings[1]);
  EXPECT_EQ(mapping_below(mappings, 0x55824ace0000U), &mappings[0]);
  EXPECT_EQ(mapping_below(mappings, 0x1000U), nullptr);
  std::istringstream unknown("no such line\n");
  EXPECT_THROW(read_mappings(unknown), Error);
}

TEST(Regions, AreCountedOneBehindTheOther) {
  std::byte memory[1000];
  Regions own, theirs;
  own.add(memory + 100, 50);
  own.add(memory + 500, 20);
  theirs.add(memory + 900, 50);
  theirs.add(memory, 20);
  EXPECT_EQ(own.offset(memory + 100), 0);
  EXPECT_EQ(own.offset(memory + 149), 49);
  EXPECT_EQ(own.offset(memory + 500), 50);
  EXPECT_EQ(theirs.at(49), memory + 949);
  EXPECT_EQ(theirs.at(50), memory);
  EXPECT_EQ(theirs.at(69), memory + 19);
  EXPECT_THROW(own.offset(memory), Error);
  EXPECT_THROW(own.offset(memory + 150), Error);
  EXPECT_THROW(own.offset(memory + 520), Error);
  EXPECT_THROW(theirs.at(70), Error);
  EXPECT_THROW(theirs.at(-1), Error);
  EXPECT_THROW(Regions().at(0), Error);
  EXPECT_EQ(Regions().begin(), nullptr);
}

}  // namespace
}  // namespace refit::transport
