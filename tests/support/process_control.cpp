#include "support/process_control.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "core/error.hpp"

namespace refit::test_support {
namespace {

constexpr std::size_t kSlotBytes = std::size_t{1} << 20;
constexpr auto kDeadline = std::chrono::seconds(60);

/// Memory that all ranks share: a counter that they meet at, and what each has to say.
struct Meeting {
  std::atomic<std::int64_t> arrivals{0};
  std::atomic<bool> failed{false};
  std::byte slots[1][kSlotBytes];  // as many as ranks

  static std::size_t bytes(int ranks) { return sizeof(Meeting) + static_cast<std::size_t>(ranks) * kSlotBytes; }
  std::byte* slot(int rank) { return slots[0] + static_cast<std::size_t>(rank) * kSlotBytes; }
};

class ProcessControl final : public transport::Control {
 public:
  ProcessControl(Meeting& meeting, int rank, int size) : meeting_(meeting), rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void barrier() override {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t arrival = meeting_.arrivals.fetch_add(1);
    const std::int64_t all = (arrival / size_ + 1) * size_;
    while (meeting_.arrivals.load() < all) {
      if (meeting_.failed.load()) fail_runtime("another rank of this test has failed");
      if (std::chrono::steady_clock::now() - start > kDeadline) fail_runtime("another rank of this test does not come");
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  std::vector<Bytes> exchange(const std::vector<Bytes>& to) override {
    std::byte* out = meeting_.slot(rank_);
    std::size_t used = 0;
    for (const Bytes& bytes : to) {
      const std::size_t size = bytes.size();
      if (used + sizeof(size) + size > kSlotBytes) fail_runtime("the messages of a rank are too long for this test");
      std::memcpy(out + used, &size, sizeof(size));
      if (size > 0) std::memcpy(out + used + sizeof(size), bytes.data(), size);
      used += sizeof(size) + size;
    }
    barrier();
    std::vector<Bytes> result;
    for (int from = 0; from < size_; ++from) {
      const std::byte* in = meeting_.slot(from);
      for (int rank = 0; rank <= rank_; ++rank) {
        std::size_t size = 0;
        std::memcpy(&size, in, sizeof(size));
        in += sizeof(size);
        if (rank == rank_) result.emplace_back(in, in + size);
        in += size;
      }
    }
    barrier();
    return result;
  }

  std::vector<Bytes> gather(const Bytes& mine, int root) override {
    std::vector<Bytes> all = gather_all(mine);
    return rank_ == root ? all : std::vector<Bytes>{};
  }
  Bytes broadcast(Bytes bytes, int root) override { return gather_all(bytes)[static_cast<std::size_t>(root)]; }
  double max(double value) override {
    return combined(value, [](double a, double b) { return std::max(a, b); });
  }
  std::int64_t sum(std::int64_t value) override {
    return combined(value, [](std::int64_t a, std::int64_t b) { return a + b; });
  }
  std::int64_t max(std::int64_t value) override {
    return combined(value, [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
  }
  void reduce_sum(std::span<std::int64_t>, int) override { fail_absent(); }
  void max(std::span<std::uint32_t>) override { fail_absent(); }
  std::unique_ptr<transport::Exchange> make_exchange(std::span<const transport::Message>) override { fail_absent(); }
  std::unique_ptr<transport::Control> split(int) override { fail_absent(); }

 private:
  [[noreturn]] static void fail_absent() { fail_runtime("no test with processes has needed this"); }

  template <typename T, typename Combine>
  T combined(T value, const Combine& combine) {
    Bytes mine(sizeof(T));
    std::memcpy(mine.data(), &value, sizeof(T));
    const std::vector<Bytes> all = gather_all(mine);
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      T other{};
      std::memcpy(&other, all[rank].data(), sizeof(T));
      value = rank == 0 ? other : combine(value, other);
    }
    return value;
  }

  Meeting& meeting_;
  int rank_, size_;
};

pid_t start(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t process = fork();
  if (process != 0) return process;
  int code = 1;
  try {
    code = body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  std::fflush(nullptr);
  _exit(code);
}

int ended(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

}  // namespace

int run_process(const std::function<int()>& body) {
  int status = 0;
  waitpid(start(body), &status, 0);
  return ended(status);
}

void run_processes(int ranks, const std::function<void(transport::Control&)>& body) {
  const std::size_t bytes = Meeting::bytes(ranks);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto& meeting = *new (memory) Meeting;
  std::vector<pid_t> processes;
  processes.reserve(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    processes.push_back(start([&] {
      ProcessControl world(meeting, rank, ranks);
      try {
        body(world);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
      if (testing::Test::HasFailure()) meeting.failed = true;
      return testing::Test::HasFailure() ? 1 : 0;
    }));
  }
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t left = processes.size(); left > 0;) {
    for (std::size_t rank = 0; rank < processes.size(); ++rank) {
      int status = 0;
      if (processes[rank] == 0 || waitpid(processes[rank], &status, WNOHANG) == 0) continue;
      EXPECT_EQ(ended(status), 0) << "the process of rank " << rank;
      if (status != 0) meeting.failed = true;
      processes[rank] = 0;
      --left;
    }
    if (std::chrono::steady_clock::now() - begin > 2 * kDeadline) {
      ADD_FAILURE() << left << " processes do not end";
      for (const pid_t process : processes)
        if (process != 0) kill(process, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  munmap(memory, bytes);
}

}  // namespace refit::test_support
