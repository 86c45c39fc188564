// Which mechanism maps the memory of devices, and what happens where one rank fails: with a stand-in for CUDA and NCCL.

#include <gmock/gmock.h>

#include "core/error.hpp"
#include "mpi/fake_gpu.hpp"
#include "transport/bytes.hpp"
#include "transport/cuda.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

using test_support::fake_gpu;
using test_support::FakeGpu;
using testing::AllOf;
using testing::HasSubstr;

constexpr double kTimeoutSeconds = 20;
constexpr const char* kByWindows = "device memory is mapped by NCCL windows";

/// Three ranks; the last one is the odd one.
class Windows : public testing::Test {
 protected:
  Windows() { fake_gpu() = {}; }
  ~Windows() override {
    windows.reset();
    EXPECT_EQ(fake_gpu().communicators, 0);
    EXPECT_EQ(fake_gpu().windows, 0);
    EXPECT_EQ(fake_gpu().allocations, 0);
  }

  bool is_last() const { return world->rank() == world->size() - 1; }
  std::unique_ptr<PeerMemory> make(std::int64_t bytes) { return make_cuda_peer_memory(*world, bytes, windows); }
  /// Returns the text of the error that `make` must throw, and that all ranks must have in common.
  std::string refusal(std::int64_t bytes) {
    std::string told;
    try {
      make(bytes);
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::runtime);
      told = error.what();
    }
    expect_common(told);
    return told;
  }
  void expect_common(const std::string& text) {
    Control::Bytes bytes;
    append_text(bytes, text);
    for (const Control::Bytes& other : world->gather_all(bytes)) EXPECT_EQ(other, bytes);
  }
  /// Expects memory that is mapped by CUDA IPC instead of windows for the same reason everywhere; returns the reason.
  std::string expect_ipc(std::int64_t bytes) {
    const auto memory = make(bytes);
    for (int rank = 0; rank < world->size(); ++rank)
      EXPECT_EQ(memory->map(rank), rank == world->rank() ? memory->local() : test_support::fake_ipc());
    EXPECT_EQ(memory->note(), "");
    expect_common(memory->mechanism());
    EXPECT_EQ(fake_gpu().communicators, 0);
    const std::string begin = "device memory is mapped by CUDA IPC, not by NCCL windows: ";
    EXPECT_THAT(memory->mechanism(), testing::StartsWith(begin));
    return memory->mechanism().substr(begin.size());
  }

  std::unique_ptr<Control> world = make_mpi_control();
  std::shared_ptr<NcclWindows> windows = make_nccl_windows(kTimeoutSeconds);
};

TEST_F(Windows, AreNotAskedForWithoutNeed) {
  const auto memory = make_cuda_peer_memory(*world, 4096);
  EXPECT_EQ(memory->mechanism(), "device memory is mapped by CUDA IPC");
  EXPECT_EQ(fake_gpu().communicators, 0);
}

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 29, 0)

TEST_F(Windows, MapAllThatIsNotEmptyAndShareACommunicator) {
  const auto arena = make(world->rank() == 0 ? 0 : world->rank() * 5'000'000);
  const auto flags = make(8);
  EXPECT_EQ(fake_gpu().communicators, 1);
  EXPECT_EQ(fake_gpu().windows, 2);
  for (const PeerMemory* memory : {arena.get(), flags.get()}) {
    EXPECT_EQ(memory->mechanism(), kByWindows);
    EXPECT_EQ(memory->note(), "");
    for (int rank = 0; rank < world->size(); ++rank) {
      if (memory == arena.get() && rank == 0) {
        EXPECT_EQ(memory->map(rank), nullptr);
      } else if (rank == world->rank()) {
        EXPECT_NE(memory->map(rank), test_support::fake_window(rank));  // its own address
        EXPECT_EQ(memory->map(rank), memory->local());
      } else {
        EXPECT_EQ(memory->map(rank), test_support::fake_window(rank));
      }
    }
  }
}

TEST_F(Windows, NameTheFirstRankThatHasNoAddress) {
  if (is_last()) fake_gpu().out_of_reach = {0, 1};
  const auto memory = make(4096);
  EXPECT_EQ(memory->mechanism(), kByWindows);
  if (is_last()) {
    EXPECT_EQ(memory->map(0), nullptr);
    EXPECT_THAT(memory->note(), AllOf(HasSubstr("of 2 of 3 ranks cannot be mapped by world rank 2"),
                                      HasSubstr("the first: world rank 0, it is in another NVLink domain")));
  } else {
    EXPECT_EQ(memory->note(), "");
  }
}

TEST_F(Windows, AreRefusedWhereNcclHasNoneForARank) {
  fake_gpu().has_windows = !is_last();
  EXPECT_THAT(expect_ipc(4096), HasSubstr("NCCL has none for rank 2: NCCL_WIN_ENABLE=0"));
}

TEST_F(Windows, AreRefusedWhereTeamsAreSmallerThanTheHost) {
  fake_gpu().team_size = 1;
  EXPECT_THAT(expect_ipc(4096), HasSubstr("teams of 1 ranks"));
}

TEST_F(Windows, AreRefusedWhereALibraryIsTooOld) {
  if (is_last()) fake_gpu().nccl_version = 22809;
  EXPECT_THAT(expect_ipc(4096), HasSubstr("rank 2 found 2.28.9"));
}

TEST_F(Windows, OfAnOlderLibraryAreOfOneSize) {
  fake_gpu().nccl_version = 23004;
  EXPECT_EQ(make(4096)->mechanism(), kByWindows);
  const std::string told = refusal(world->rank() * 5'000'000);  // what is made already stays
  EXPECT_THAT(told, HasSubstr("different sizes"));
  windows = make_nccl_windows(kTimeoutSeconds);
  EXPECT_THAT(expect_ipc((world->rank() + 1) * 5'000'000), HasSubstr("has to be 2.30.7, and rank 0 found 2.30.4"));
}

TEST_F(Windows, GiveWayToCudaIpcWhereARankCannotConnect) {
  if (is_last()) fake_gpu().creates = ncclSystemError;
  EXPECT_THAT(expect_ipc(4096), AllOf(HasSubstr("rank 2: NCCL: "), HasSubstr("system error (made to fail)")));
}

TEST_F(Windows, GiveWayToCudaIpcWhereARankCannotRegister) {
  if (is_last()) fake_gpu().registers = ncclSystemError;
  EXPECT_THAT(expect_ipc(4096), AllOf(HasSubstr("rank 2: NCCL: "), HasSubstr("system error (made to fail)")));
  fake_gpu().registers = ncclSuccess;
  EXPECT_THAT(expect_ipc(4096), HasSubstr("made to fail"));  // one mechanism for all memory
}

TEST_F(Windows, OfLaterMemoryThatFailAreAnErrorOfAllRanks) {
  const auto arena = make(4096);
  if (is_last()) fake_gpu().registers = ncclSystemError;
  EXPECT_THAT(refusal(8), AllOf(HasSubstr("NCCL windows: rank 2: "), HasSubstr("NCCL_WIN_ENABLE=0")));
  EXPECT_EQ(arena->mechanism(), kByWindows);
}

TEST_F(Windows, MemoryThatOneRankCannotAllocateIsAnErrorOfAll) {
  fake_gpu().allocates = !is_last();
  EXPECT_THAT(refusal(std::int64_t{3} << 30), AllOf(HasSubstr("world rank 2 cannot allocate 3.00 GiB")));
  fake_gpu().allocates = true;
  EXPECT_EQ(make(4096)->mechanism(), kByWindows);
}

#else

TEST_F(Windows, NeedNewerHeaders) { EXPECT_THAT(expect_ipc(4096), HasSubstr("headers of NCCL 2.2")); }

#endif

}  // namespace
}  // namespace refit::transport
