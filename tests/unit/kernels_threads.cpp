// Ranks may be threads of one process: all kernels run from several threads at the same time.

#include <gtest/gtest.h>

#include <thread>

#include "kernels/kernels.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

struct Outcome {
  Sum128 print;
  std::vector<std::int64_t> rows;
  Bytes copy;
  Difference difference;
  bool operator==(const Outcome& other) const {
    return print == other.print && rows == other.rows && copy == other.copy &&
           difference.count == other.difference.count;
  }
};

Outcome work(std::uint64_t key) {
  const ExecutionSpace space;
  const Shape shape{64, 4099};
  const Extents strides{4099, 1};
  Bytes memory(64 * 4099 * 2);
  const Region region{memory.data(), DType::bf16, Box::whole(shape), shape, strides};
  Outcome result;
  result.copy.resize(memory.size());
  result.rows.assign(64, 0);
  synthesise(space, region, key, 0.0, 0.02);
  const Tile tile{memory.data(), result.copy.data(), shape, strides, strides, DType::bf16, DType::bf16};
  const CopyTable table(space, {&tile, 1});
  for (std::int64_t step = 0; step < 10; ++step) {
    perturb(space, region, key, step);
    table.run(space);
    fingerprint(space, region, DType::bf16, Transform::none, key, &result.print);
    signed_row_sums(space, region, key, result.rows.data());
    const Difference difference = count_differences(space, region, result.copy.data());
    result.difference.count += difference.count;
  }
  return result;
}

TEST(Threads, FourAtOnceFindWhatOneFinds) {
  std::vector<Outcome> alone;
  for (std::uint64_t key = 0; key < 4; ++key) alone.push_back(work(key));
  std::vector<Outcome> together(4);
  std::vector<std::thread> threads;
  for (std::uint64_t key = 0; key < 4; ++key) {
    threads.emplace_back([&together, key] { together[key] = work(key); });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t key = 0; key < 4; ++key) {
    EXPECT_TRUE(together[key] == alone[key]) << key;
    EXPECT_EQ(alone[key].difference.count, 0);
  }
  EXPECT_FALSE(alone[0] == alone[1]);
}

TEST(Runtime, NeighboursShareADevice) {
  struct Row {
    int local_rank, local_ranks, devices, expected;
  };
  for (const Row& row : {Row{0, 1, 8, 0}, Row{3, 4, 8, 3}, Row{7, 8, 8, 7}, Row{3, 8, 4, 1}, Row{4, 8, 4, 2},
                         Row{7, 8, 4, 3}, Row{2, 3, 2, 1}, Row{5, 6, 1, 0}}) {
    EXPECT_EQ(device_of(row.local_rank, row.local_ranks, row.devices), row.expected);
  }
}

TEST(Runtime, NamesItsBackend) { EXPECT_EQ(Runtime::version().rfind("Kokkos ", 0), 0U); }

}  // namespace
}  // namespace refit::kernels
