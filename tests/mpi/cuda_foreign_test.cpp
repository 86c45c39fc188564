// Device memory that somebody else has allocated, on real GPUs; the ranks may share one. Blocks of cudaMalloc are cut
// into storages as torch's allocator does it.

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "core/error.hpp"
#include "kernels/kernels.hpp"
#include "transport/bytes.hpp"
#include "transport/cuda.hpp"
#include "transport/foreign_memory.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

void check(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

std::byte* allocate(std::int64_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, static_cast<std::size_t>(bytes)));
  return static_cast<std::byte*>(data);
}

/// Memory of cudaMalloc.
class Block {
 public:
  explicit Block(std::int64_t bytes) : data_(allocate(bytes)) {}
  ~Block() { cudaFree(data_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* data_;
};

/// Calls a function of the driver, to which nothing here is linked.
template <typename... Arguments>
CUresult driver(const char* name, Arguments... arguments) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult state{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &state);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &state);
#endif
  if (error != cudaSuccess || found == nullptr) return CUDA_ERROR_NOT_FOUND;
  return reinterpret_cast<CUresult(CUDAAPI*)(Arguments...)>(found)(arguments...);
}

/// Memory as torch's expandable segments and vLLM's sleep mode have it: addresses, and pages that come and go.
class MappedPages {
 public:
  explicit MappedPages(std::size_t bytes) : bytes_(bytes) {
    int device = 0;
    check(cudaGetDevice(&device));
    properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties_.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
    expect("cuMemAddressReserve",
           driver("cuMemAddressReserve", &address_, bytes, std::size_t{0}, CUdeviceptr{0}, 0ULL));
    map();
  }
  ~MappedPages() {
    if (is_mapped_) unmap();
    driver("cuMemAddressFree", address_, bytes_);
  }
  MappedPages(const MappedPages&) = delete;
  MappedPages& operator=(const MappedPages&) = delete;

  void map() {
    expect("cuMemCreate",
           driver("cuMemCreate", &pages_, bytes_, const_cast<const CUmemAllocationProp*>(&properties_), 0ULL));
    expect("cuMemMap", driver("cuMemMap", address_, bytes_, std::size_t{0}, pages_, 0ULL));
    const CUmemAccessDesc access{properties_.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    expect("cuMemSetAccess", driver("cuMemSetAccess", address_, bytes_, &access, std::size_t{1}));
    is_mapped_ = true;
  }
  void unmap() {
    expect("cuMemUnmap", driver("cuMemUnmap", address_, bytes_));
    expect("cuMemRelease", driver("cuMemRelease", pages_));
    is_mapped_ = false;
  }
  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }  // NOLINT(performance-no-int-to-ptr)

 private:
  static void expect(const char* name, CUresult result) { EXPECT_EQ(result, CUDA_SUCCESS) << name; }
  std::size_t bytes_;
  CUmemAllocationProp properties_{};
  CUdeviceptr address_ = 0;
  CUmemGenericAllocationHandle pages_ = 0;
  bool is_mapped_ = false;
};

void fill(std::byte* device, std::int64_t bytes, int value) {
  check(cudaMemset(device, value, static_cast<std::size_t>(bytes)));
  check(cudaDeviceSynchronize());
}

std::int64_t count(const std::byte* device, std::int64_t bytes, int value) {
  std::vector<std::byte> host(static_cast<std::size_t>(bytes));
  EXPECT_EQ(cudaMemcpy(host.data(), device, host.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  return std::ranges::count(host, static_cast<std::byte>(value));
}

/// Storages of two blocks: at odd places, the last bytes too.
std::vector<OwnedBlock> storages_in(std::byte* first, std::int64_t first_bytes, std::byte* second,
                                    std::int64_t second_bytes) {
  return {{"a", first + 3, 70'001},
          {"b", first + 70'004, 30'000},
          {"end of the first", first + first_bytes - 5000, 5000},
          {"c", second, second_bytes / 3},
          {"d", second + second_bytes - 999, 999}};
}

/// Every rank stores into every storage of every rank, by kernels, and all see it.
void expect_stores_arrive(Control& world, PeerMemory& memory, const std::vector<OwnedBlock>& storages, int seed = 0) {
  const kernels::ExecutionSpace space;
  const int me = world.rank();
  const int size = world.size();
  Control::Bytes mine;
  for (const OwnedBlock& storage : storages) {
    append(mine, memory.offset(storage.address));
    append(mine, storage.bytes);
    fill(storage.address, storage.bytes, 255);
  }
  const std::vector<Control::Bytes> all = world.gather_all(mine);
  const DeviceArena source(2 * kMiB);
  fill(source.data(), source.bytes(), 16 * me + seed);
  for (int peer = 0; peer < size; ++peer) {
    ASSERT_NE(memory.map(peer), nullptr) << memory.note();
    const auto theirs = read_all<std::int64_t>(all[static_cast<std::size_t>(peer)]);
    for (std::size_t i = 0; i < theirs.size(); i += 2) {
      const std::int64_t begin = theirs[i + 1] * me / size;
      const std::int64_t end = theirs[i + 1] * (me + 1) / size;
      kernels::copy_bytes(space, source.data(), memory.at(peer, theirs[i]) + begin, end - begin);
    }
  }
  space.fence();
  memory.fence();
  world.barrier();
  memory.fence();
  for (const OwnedBlock& storage : storages) {
    for (int peer = 0; peer < size; ++peer) {
      const std::int64_t begin = storage.bytes * peer / size;
      const std::int64_t end = storage.bytes * (peer + 1) / size;
      EXPECT_EQ(count(storage.address + begin, end - begin, 16 * peer + seed), end - begin)
          << storage.name << " from rank " << peer;
    }
  }
  world.barrier();
}

std::string told(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return fmt::format("{}: {}", name(error.kind()), error.what());
  }
  return "";
}

TEST(ForeignDeviceMemory, StoresArriveInStoragesOfAnyBlock) {
  const auto world = make_mpi_control();
  // Below 2 MiB CUDA itself cuts blocks; above, each is one of its own.
  for (const std::int64_t bytes : {128 * kMiB / 1024, kMiB, 2 * kMiB, 7 * kMiB + 512}) {
    const Block first(bytes), second(3 * kMiB);
    const auto storages = storages_in(first.data(), bytes, second.data(), 3 * kMiB);
    const auto memory = make_foreign_device_memory(*world, storages);
    EXPECT_EQ(memory->note(), "");
    EXPECT_EQ(make_foreign_memory(*world, storages)->note(), "");
    expect_stores_arrive(*world, *memory, storages);
  }
}

TEST(ForeignDeviceMemory, OfManySmallAllocationsIsMapped) {
  const auto world = make_mpi_control();
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<OwnedBlock> storages;
  for (int i = 0; i < 100; ++i) {
    const std::int64_t bytes = 500 + 777 * i;
    blocks.push_back(std::make_unique<Block>(bytes));
    storages.push_back({fmt::format("storage {}", i), blocks.back()->data() + i % 7, bytes - i % 7});
  }
  const auto memory = make_foreign_device_memory(*world, storages);
  EXPECT_EQ(memory->note(), "");
  expect_stores_arrive(*world, *memory, storages);
}

TEST(ForeignDeviceMemory, ServesSeveralSessionsAtOnce) {
  const auto world = make_mpi_control();
  const Block first(4 * kMiB), second(3 * kMiB);
  const auto storages = storages_in(first.data(), 4 * kMiB, second.data(), 3 * kMiB);
  auto one = make_foreign_device_memory(*world, storages);
  const auto two = make_foreign_device_memory(*world, std::vector<OwnedBlock>{storages[3]});
  auto three = make_foreign_device_memory(*world, storages);
  expect_stores_arrive(*world, *one, storages, 1);
  one.reset();
  expect_stores_arrive(*world, *two, {storages[3]}, 2);
  expect_stores_arrive(*world, *three, storages, 3);
  three.reset();
  expect_stores_arrive(*world, *two, {storages[3]}, 4);
}

TEST(ForeignDeviceMemory, IsOpenedAnewWhenItHasBeenAllocatedAnew) {
  const auto world = make_mpi_control();
  int at_the_same_address = 0;
  for (int round = 0; round < 5; ++round) {
    std::byte* data = allocate(6 * kMiB);
    std::vector<OwnedBlock> storages = storages_in(data, 3 * kMiB, data + 3 * kMiB, 3 * kMiB);
    const auto before = device_identities(storages);
    EXPECT_EQ(device_identities(storages), before);
    auto memory = make_foreign_device_memory(*world, storages);
    expect_stores_arrive(*world, *memory, storages, round);
    memory.reset();
    check(cudaFree(data));
    EXPECT_THAT(told([&] { device_identities(storages); }),
                testing::ContainsRegex("usage: a: its 70001 bytes at 0x[0-9a-f]+ are not memory of a GPU"));
    EXPECT_THAT(told([&] { make_foreign_device_memory(*world, storages); }), HasSubstr("are not memory of a GPU"));
    std::byte* again = allocate(6 * kMiB);
    at_the_same_address += again == data ? 1 : 0;
    storages = storages_in(again, 3 * kMiB, again + 3 * kMiB, 3 * kMiB);
    const auto after = device_identities(storages);
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_NE(before[i], after[i]) << storages[i].name;
    memory = make_foreign_device_memory(*world, storages);
    expect_stores_arrive(*world, *memory, storages, round + 1);
    memory.reset();
    check(cudaFree(again));
  }
  std::printf("rank %d: the same address in %d of 5 rounds\n", world->rank(), at_the_same_address);
}

/// What an engine does that frees before it says so: nothing may be stored into memory that is not the storages'.
TEST(ForeignDeviceMemory, IsNotTakenForMemoryThatWasThereBefore) {
  const auto world = make_mpi_control();
  std::byte* data = allocate(4 * kMiB);
  std::vector<OwnedBlock> storages{{"a", data + 5, 3 * kMiB}};
  auto old = make_foreign_device_memory(*world, storages);
  expect_stores_arrive(*world, *old, storages, 1);
  check(cudaFree(data));
  std::byte* again = allocate(4 * kMiB);
  storages = {{"a", again + 5, 3 * kMiB}};
  {
    const auto memory = make_foreign_device_memory(*world, storages);
    std::int64_t mapped = 1;
    for (int peer = 0; peer < world->size(); ++peer) mapped = memory->map(peer) == nullptr ? 0 : mapped;
    std::printf("rank %d: beside the old memory %s\n", world->rank(), mapped == 1 ? "mapped" : memory->note().c_str());
    if (world->max(1 - mapped) == 0) {
      expect_stores_arrive(*world, *memory, storages, 2);
    } else if (mapped == 0) {
      EXPECT_NE(memory->note(), "");
    }
  }
  old.reset();
  auto memory = make_foreign_device_memory(*world, storages);
  EXPECT_EQ(memory->note(), "");
  expect_stores_arrive(*world, *memory, storages, 3);
  memory.reset();
  check(cudaFree(again));
}

/// Expects that other ranks are told why they cannot map a storage, and that its rank has it all the same.
void expect_unmapped(Control& world, const OwnedBlock& storage, const std::string& reason) {
  const Block block(3 * kMiB);
  const std::vector<OwnedBlock> storages{{"fine", block.data(), 1000}, storage};
  const auto memory = make_foreign_device_memory(world, storages);
  const int me = world.rank();
  for (int peer = 0; peer < world.size(); ++peer) EXPECT_EQ(memory->map(peer) != nullptr, peer == me);
  EXPECT_EQ(memory->at(me, memory->offset(storage.address + 7)), storage.address + 7);
  EXPECT_EQ(memory->at(me, memory->offset(block.data() + 999)), block.data() + 999);
  EXPECT_THAT(memory->note(), HasSubstr(fmt::format("{} lies in {}", storage.name, reason)));
}

TEST(ForeignDeviceMemory, OfMappedPagesIsRefusedWithWhatToSet) {
  const auto world = make_mpi_control();
  MappedPages pages(8 * kMiB);
  const OwnedBlock storage{"model.embed_tokens.weight", pages.data() + 512, 5 * kMiB};
  expect_unmapped(*world, storage, "memory of expandable segments");
  expect_unmapped(*world, storage,
                  "memory of expandable segments or of another allocator of mapped pages (cuMemCreate; vLLM's sleep "
                  "mode), which CUDA IPC cannot share: start with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False");
  const std::vector<OwnedBlock> storages{storage};
  const auto before = device_identities(storages);
  EXPECT_EQ(device_identities(storages), before);
  pages.unmap();  // vLLM: sleep
  EXPECT_THAT(told([&] { device_identities(storages); }),
              testing::ContainsRegex("usage: model.embed_tokens.weight: its [0-9]+ bytes at 0x.* wake it first"));
  EXPECT_THAT(told([&] { make_foreign_device_memory(*world, storages); }), HasSubstr("wake it first"));
  pages.map();  // and wake
  EXPECT_NE(device_identities(storages), before);
  expect_unmapped(*world, storage, "memory of expandable segments");
}

TEST(ForeignDeviceMemory, OfPoolsAndManagedMemoryIsRefusedWithWhatToSet) {
  const auto world = make_mpi_control();
  void* data = nullptr;
  check(cudaMallocAsync(&data, 4 * kMiB, nullptr));
  check(cudaDeviceSynchronize());
  expect_unmapped(*world, {"pooled", static_cast<std::byte*>(data), kMiB}, "memory of a stream-ordered pool");
  check(cudaFreeAsync(data, nullptr));
  check(cudaMallocManaged(&data, 4 * kMiB, cudaMemAttachGlobal));
  expect_unmapped(*world, {"managed", static_cast<std::byte*>(data), kMiB}, "managed memory");
  check(cudaFree(data));
}

TEST(ForeignDeviceMemory, RefusesWhatIsNotOnTheRanksDevice) {
  const auto world = make_mpi_control();
  const auto refused = [&](std::byte* address, std::int64_t bytes) {
    const std::vector<OwnedBlock> storages{{"model.norm.weight", address, bytes}};
    const std::string text = told([&] { make_foreign_device_memory(*world, storages); });
    std::string again = told([&] { device_identities(storages); });
    EXPECT_THAT(text, HasSubstr("usage: "));
    EXPECT_THAT(text, HasSubstr("model.norm.weight: it"));  // of one rank, everywhere
    return again;
  };
  std::vector<std::byte> heap(1000);
  EXPECT_THAT(refused(heap.data(), 1000), HasSubstr("are not memory of a GPU"));
  EXPECT_THAT(refused(nullptr, 1000), HasSubstr("are not memory of a GPU"));
  void* pinned = nullptr;
  check(cudaMallocHost(&pinned, 1000));
  EXPECT_THAT(refused(static_cast<std::byte*>(pinned), 1000), HasSubstr("it lies in main memory"));
  check(cudaFreeHost(pinned));
  const Block block(3 * kMiB);
  EXPECT_THAT(refused(block.data() + kMiB, 2 * kMiB + 1), HasSubstr("go beyond the end of their allocation"));
  int devices = 0, mine = 0;
  check(cudaGetDeviceCount(&devices));
  check(cudaGetDevice(&mine));
  if (world->max(std::int64_t{devices}) > 1) {
    const int other = (mine + 1) % devices;
    check(cudaSetDevice(other));
    std::byte* data = allocate(3 * kMiB);
    check(cudaSetDevice(mine));
    EXPECT_THAT(
        refused(data, 1000),
        HasSubstr(fmt::format("it lies on GPU {}, and refit's kernels run on GPU {} in this process", other, mine)));
    check(cudaFree(data));
  } else {
    std::printf("one GPU: memory of another one is not tried\n");
  }
  EXPECT_EQ(make_foreign_device_memory(*world, std::vector<OwnedBlock>{{"fine", block.data(), 3 * kMiB}})->note(), "");
}

TEST(ForeignDeviceMemory, IsIdentifiedInMicroseconds) {
  const auto world = make_mpi_control();
  const auto measure = [&](const char* what, const std::vector<OwnedBlock>& storages) {
    constexpr int kTimes = 100;
    device_identities(storages);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kTimes; ++i) device_identities(storages);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (world->rank() == 0) std::printf("identities of 1000 storages in %s: %.1f us\n", what, took.count() / kTimes);
    EXPECT_LT(took.count() / kTimes, 20'000);
  };
  std::vector<std::unique_ptr<Block>> blocks;
  blocks.reserve(10);
  for (int i = 0; i < 10; ++i) blocks.push_back(std::make_unique<Block>(20 * kMiB));
  const MappedPages pages(32 * kMiB);
  std::vector<OwnedBlock> together, apart, paged;
  for (int i = 0; i < 1000; ++i) {
    const auto block = static_cast<std::size_t>(i % 10);
    together.push_back({"x", blocks[block]->data() + i * 1024, 1024});
    paged.push_back({"x", pages.data() + i * 1024, 1024});
  }
  measure("10 blocks", together);
  measure("mapped pages", paged);
  std::vector<std::unique_ptr<Block>> small;
  for (int i = 0; i < 1000; ++i) {
    small.push_back(std::make_unique<Block>(1024));
    apart.push_back({"x", small.back()->data(), 1024});
  }
  measure("1000 blocks", apart);
  world->barrier();
}

TEST(ForeignDeviceMemory, LeavesNothingBehind) {
  const auto world = make_mpi_control();
  const Block first(64 * kMiB), second(3 * kMiB);
  const auto storages = storages_in(first.data(), 64 * kMiB, second.data(), 3 * kMiB);
  const auto free_bytes = [] {
    std::size_t available = 0, total = 0;
    check(cudaMemGetInfo(&available, &total));
    return static_cast<std::int64_t>(available);
  };
  make_foreign_device_memory(*world, storages).reset();
  world->barrier();
  const std::int64_t before = free_bytes();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 200; ++i) {
    const auto memory = make_foreign_device_memory(*world, storages);
    EXPECT_EQ(memory->note(), "");
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  if (world->rank() == 0) std::printf("two blocks are mapped and closed in %.2f ms\n", took.count() / 200);
  EXPECT_GE(free_bytes(), before - 64 * kMiB);
  world->barrier();
}

}  // namespace
}  // namespace refit::transport
