// Ranks may be threads of one process: all kernels run from several threads at the same time.

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>
#include <tuple>

#include "kernels/kernels.hpp"
#include "kernels/parts.hpp"
#include "kernels/thread_team.hpp"
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

Outcome work(std::uint64_t key, std::int64_t threads = 1) {
  const ExecutionSpace space(threads);
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

TEST(Threads, OfATeamFindWhatOneFinds) {
  if (Runtime::has_device()) GTEST_SKIP() << "of hosts";
  for (std::uint64_t key = 0; key < 2; ++key) {
    const Outcome alone = work(key);
    for (const std::int64_t threads : {2, 3, 8}) EXPECT_TRUE(work(key, threads) == alone) << threads;
  }
}

/// Items of a team of one thread are in order, and those of a larger one each done once, by kernels of any length.
TEST(Threads, DoEveryItemOnce) {
  struct Counts {
    std::vector<int> of_item;
  };
  const auto count = [](const void* of, std::int64_t item) {
    ++(*static_cast<Counts* const*>(of))->of_item[static_cast<std::size_t>(item)];
  };
  for (const std::int64_t threads : {2, 5}) {
    ThreadTeam team(threads);
    for (std::int64_t items = 0; items < 200; ++items) {
      Counts counts{std::vector<int>(static_cast<std::size_t>(items), 0)};
      Counts* const pointer = &counts;
      team.run(items, count, &pointer);
      ASSERT_EQ(counts.of_item, std::vector<int>(static_cast<std::size_t>(items), 1)) << threads << " threads";
    }
  }
}

/// Results of items that share a word, a scale or a count do not depend on threads.
TEST(Threads, OfATeamQuantiseAndCountWhatOneDoes) {
  if (Runtime::has_device()) GTEST_SKIP() << "of hosts";
  constexpr std::int64_t kRows = 512, kColumns = 640;
  Bytes memory(kRows * kColumns * 2);
  const Region region{memory.data(), DType::bf16, Box::whole({kRows, kColumns}), {kRows, kColumns}, {kColumns, 1}};
  synthesise(ExecutionSpace(), region, 7, 0.0, 0.02);
  const auto results = [&](std::int64_t threads) {
    const ExecutionSpace space(threads);
    std::vector<std::uint32_t> words(kRows + 1, 0);
    Bytes values(kRows * kColumns), scales(kRows * kColumns);
    Part part{.source = memory.data(), .rows = kRows, .columns = kColumns, .source_strides = {kColumns, 1}};
    part.format = StoredFormat::fp8_channel;
    part.library = Library::vllm;
    part.amax = words.data();
    part.values = values.data();
    part.scales = scales.data();
    Part whole = part;
    whole.format = StoredFormat::fp8_tensor;
    whole.amax = words.data() + kRows;
    whole.values = nullptr;
    whole.scales = nullptr;
    const Part parts[] = {part, whole};
    const PartTable table(space, parts);
    table.raise_amax(space);
    table.quantise(space);
    std::vector<std::uint32_t> maxima(kRows / 128 * kColumns / 128, 0);
    Tile tile{memory.data(), nullptr,     {kRows, kColumns}, {kColumns, 1},
              {kColumns, 1}, DType::bf16, DType::f8_e4m3,    Transform::quantise};
    Blocks& blocks = tile.blocks.emplace();
    blocks.rows = kRows;
    blocks.columns = kColumns;
    blocks.maxima = maxima.data();
    blocks.maxima_strides = {kColumns / 128, 1};
    const TableSizes sizes{.item_bytes = 4096, .quantised_elements = 128 * 128};
    CopyTable(space, {&tile, 1}, sizes).run(space);
    space.fence();
    const Bytes zeros(memory.size());
    return std::tuple(words, values, scales, maxima, count_differences(space, region, zeros.data()).count,
                      count_overflows(space, region, DType::f16).count);
  };
  const auto alone = results(1);
  EXPECT_NE(std::get<0>(alone).back(), 0U);
  for (int turn = 0; turn < 4; ++turn) EXPECT_TRUE(results(2 + turn) == alone);
}

TEST(Runtime, UsesAsManyCoresAsItMay) {
  cpu_set_t mine;
  ASSERT_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
  EXPECT_EQ(usable_cores(), CPU_COUNT(&mine));
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
