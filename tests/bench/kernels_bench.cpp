// The kernels on 256 MiB of bf16, each beside its yardstick in the same run: memcpy for copies, a plain sum for
// readers.
//
// Counter `ratio` is the yardstick's time over the kernel's, the lowest of each taken in turns inside one benchmark and
// in processor time of the calling thread, so that other processes' turns do not count: 1 is as fast as the yardstick,
// 0.5 takes twice its time.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <functional>
#include <vector>

#include "kernels/kernels.hpp"

namespace refit::kernels {
namespace {

constexpr std::int64_t kRows = 16384;
constexpr std::int64_t kColumns = 8192;
constexpr std::int64_t kBytes = kRows * kColumns * 2;
constexpr std::int64_t kHalf = kColumns / 2;

struct Data {
  std::vector<std::byte> source = std::vector<std::byte>(kBytes);
  std::vector<std::byte> destination = std::vector<std::byte>(2 * kBytes);
  ExecutionSpace space;
  Region region{source.data(), DType::bf16, Box::whole({kRows, kColumns}), {kRows, kColumns}, {kColumns, 1}};

  Data() {
    synthesise(space, region, 1, 0.0, 0.02);
    poison(space, destination.data(), 2 * kBytes);
    space.fence();
  }
};

Data& data() {
  static Data instance;
  return instance;
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_of(const std::function<void()>& action) {
  const double start = thread_seconds();
  action();
  return thread_seconds() - start;
}

double lowest(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

void compare(benchmark::State& state, std::int64_t bytes, const std::function<void()>& kernel,
             const std::function<void()>& yardstick) {
  std::vector<double> kernels;
  std::vector<double> yardsticks;
  kernel();
  yardstick();
  for (auto _ : state) {
    yardsticks.push_back(seconds_of(yardstick));
    kernels.push_back(seconds_of(kernel));
    state.SetIterationTime(kernels.back());
  }
  state.counters["ratio"] = lowest(yardsticks) / lowest(kernels);
  state.counters["GB/s"] = static_cast<double>(bytes) / lowest(kernels) / 1e9;
  state.counters["yardstick GB/s"] = static_cast<double>(bytes) / lowest(yardsticks) / 1e9;
}

void plain_copy(std::int64_t bytes) {
  std::memcpy(data().destination.data(), data().source.data(), static_cast<std::size_t>(bytes));
  benchmark::ClobberMemory();
}

/// Every 64-bit word once: what any reader of these bytes must do at least.
void plain_read(std::int64_t bytes) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < bytes; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data().source.data() + i, sizeof(word));
    sum += word;
  }
  benchmark::DoNotOptimize(sum);
}

void compare_copy(benchmark::State& state, const Tile& tile) {
  const CopyTable table(data().space, {&tile, 1});
  const std::int64_t bytes = std::max(table.bytes_read(), table.bytes_written());
  const auto run = [&table] {
    table.run(data().space);
    data().space.fence();
  };
  compare(state, bytes, run, [bytes] { plain_copy(std::min(bytes, kBytes)); });
}

void contiguous(benchmark::State& state) {
  const Extents extent{kRows, kColumns};
  const Extents strides{kColumns, 1};
  compare_copy(state,
               {data().source.data(), data().destination.data(), extent, strides, strides, DType::bf16, DType::bf16});
}

/// Every other piece of state.range(0) columns, packed: half of the matrix.
void strided(benchmark::State& state) {
  const std::int64_t run = state.range(0);
  const Extents extent{kRows * kColumns / run / 2, run};
  compare_copy(
      state,
      {data().source.data(), data().destination.data(), extent, {2 * run, 1}, {run, 1}, DType::bf16, DType::bf16});
}

/// Columns become rows, as where a checkpoint keeps [in, out] and an engine [out, in].
void transposed(benchmark::State& state) {
  compare_copy(state, {data().source.data(),
                       data().destination.data(),
                       {kRows, kColumns},
                       {kColumns, 1},
                       {1, kRows},
                       DType::bf16,
                       DType::bf16});
}

void cast_from_f32(benchmark::State& state) {
  const Extents extent{kRows, kHalf};
  compare_copy(
      state,
      {data().source.data(), data().destination.data(), extent, {kHalf, 1}, {kHalf, 1}, DType::f32, DType::bf16});
}

void cast_to_f32(benchmark::State& state) {
  const Extents extent{kRows, kHalf};
  compare_copy(
      state,
      {data().source.data(), data().destination.data(), extent, {kHalf, 1}, {kHalf, 1}, DType::bf16, DType::f32});
}

void fingerprints(benchmark::State& state, DType as) {
  Sum128 sum;
  const auto run = [&sum, as] { fingerprint(data().space, data().region, as, Transform::none, 7, &sum); };
  compare(state, kBytes, run, [] { plain_read(kBytes); });
  benchmark::DoNotOptimize(sum);
}

void row_sums(benchmark::State& state) {
  std::vector<std::int64_t> rows(kRows, 0);
  const auto run = [&rows] { signed_row_sums(data().space, data().region, 7, rows.data()); };
  compare(state, kBytes, run, [] { plain_read(kBytes); });
}

void updates(benchmark::State& state) {
  const auto run = [] {
    perturb(data().space, data().region, 7, 1);
    data().space.fence();
  };
  compare(state, kBytes, run, [] { plain_copy(kBytes); });
}

BENCHMARK(contiguous)->UseManualTime();
BENCHMARK(strided)->UseManualTime()->Arg(4096)->Arg(512)->Arg(64)->Arg(16);
BENCHMARK(transposed)->UseManualTime();
BENCHMARK(cast_from_f32)->UseManualTime();
BENCHMARK(cast_to_f32)->UseManualTime();
BENCHMARK_CAPTURE(fingerprints, bf16, DType::bf16)->UseManualTime();
BENCHMARK_CAPTURE(fingerprints, bf16_as_f32, DType::f32)->UseManualTime();
BENCHMARK_CAPTURE(fingerprints, bf16_as_f16, DType::f16)->UseManualTime();
BENCHMARK(row_sums)->UseManualTime();
BENCHMARK(updates)->UseManualTime();

}  // namespace
}  // namespace refit::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const refit::kernels::Runtime runtime;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
