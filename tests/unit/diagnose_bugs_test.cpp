// Lies about gen's layout are named after themselves, from the pattern that they leave and no other fact; and what
// contents are recognised by.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "diagnose/matrix.hpp"
#include "inject/faults.hpp"
#include "unit/diagnose_world.hpp"

namespace refit::diagnose {
namespace {

struct Row {
  const char* bug;
  const char* model;
  std::vector<std::string> settings;
};

TEST(NamedBugs, LiesAboutGenAreNamed) {
  const std::vector<Row> rows{
      {"swap-gate-up", "qwen3-4b-small", {"model.layers=2", "gen.layout=TP2"}},
      {"swap-gate-up", "qwen3-30b-a3b-small", {"model.layers=1", "gen.layout=TP4"}},
      {"B1-contiguous-w13", "qwen3-30b-a3b-small", {"model.layers=1", "gen.layout=TP2"}},
      {"B1-contiguous-w13", "qwen3-30b-a3b-small", {"model.layers=2", "gen.layout=TP4"}},
      {"B22-canonical-w13", "qwen3-30b-a3b-small", {"model.layers=1", "gen.layout=TP2"}},
  };
  const std::string right = testing::TempDir() + "refit_bugs_right";
  const std::string wrong = testing::TempDir() + "refit_bugs_wrong";
  for (const Row& row : rows) {
    World world(case_of(row.model, row.settings));
    world.dump(right);
    const cases::Case& c = world.setup().c;
    const inject::Faults faults({row.bug}, c.train->sizes(), c.gen_sizes());
    world.bring(*faults.distort_gen(*world.setup().gen, world.setup().model));
    world.dump(wrong);
    const Diagnosis found = diagnose({c, false, wrong, "", right});
    ASSERT_EQ(found.bugs.size(), 1U) << row.bug << to_text(found);
    EXPECT_EQ(found.bugs.front().name, row.bug) << to_text(found);
  }
}

TEST(NamedBugs, AHalfOfAPatternIsNoBug) {
  World world(case_of("qwen3-4b-small", {"model.layers=2", "gen.layout=TP2"}));
  const std::string right = testing::TempDir() + "refit_half_right";
  const std::string wrong = testing::TempDir() + "refit_half_wrong";
  world.dump(right);
  for (std::int64_t i = 0; i < 256 * 128; ++i) {  // gate and up of layer 0 exchanged, as if by swap-gate-up
    std::swap(world.at(1, "model.layers.0.mlp.gate_proj.weight", 256 + i / 128, i % 128),
              world.at(1, "model.layers.0.mlp.up_proj.weight", 256 + i / 128, i % 128));
  }
  world.dump(wrong);
  const Diagnosis found = diagnose({world.setup().c, false, wrong, "", right});
  EXPECT_EQ(found.findings.size(), 2U) << to_text(found);
  EXPECT_THAT(found.bugs, testing::IsEmpty()) << to_text(found);
}

TEST(NamedBugs, EqualDumpsHaveNone) {
  World world(case_of("qwen3-30b-a3b-small", {"model.layers=1", "gen.layout=TP2xDP2"}));
  const std::string right = testing::TempDir() + "refit_equal";
  world.dump(right);
  const Diagnosis found = diagnose({world.setup().c, false, right, "", right});
  EXPECT_TRUE(found.equal()) << to_text(found);
  EXPECT_EQ(found.elements_wrong, 0);
  EXPECT_GT(found.elements, 0);
}

TEST(Matrix, ShapesAsRowsAndColumns) {
  struct Shaped {
    Shape shape;
    Box box;
    std::vector<std::int64_t> rows, columns;
  };
  const std::vector<Shaped> table{
      {{3, 16}, {{1, 14}, {2, 2}}, {1, 2}, {14, 15}},
      {{5}, {{1}, {3}}, {0}, {1, 2, 3}},
      {{6, 1, 4}, {{2, 0, 0}, {2, 1, 4}}, {0}, {8, 9, 10, 11, 12, 13, 14, 15}},  // narrow rows are one
      {{2, 3, 20}, {{0, 1, 4}, {2, 1, 2}}, {1, 4}, {4, 5}},                      // of experts
      {{2, 2, 8, 2}, {{1, 0, 3, 0}, {1, 2, 2, 2}}, {2, 3}, {6, 7, 8, 9}},        // gate and up alternate
  };
  for (const Shaped& row : table) {
    EXPECT_EQ(rows_of(row.shape, row.box), row.rows) << to_string(row.shape);
    EXPECT_EQ(columns_of(row.shape, row.box), row.columns) << to_string(row.shape);
  }
}

TEST(Matrix, RunHashesAreThoseOfEachRun) {
  std::vector<Bits> row;
  for (Bits i = 0; i < 50; ++i) row.push_back(i * i % 23);
  for (const std::int64_t length : {kRun, kShortRun}) {
    const std::vector<std::uint64_t> hashes = run_hashes(row, length);
    ASSERT_EQ(std::ssize(hashes), 51 - length);
    for (std::size_t i = 0; i < hashes.size(); ++i)
      EXPECT_EQ(hashes[i], hash_run(std::span(row).subspan(i, static_cast<std::size_t>(length)))) << i;
  }
  EXPECT_THAT(run_hashes(std::span(row).first(3), kShortRun), testing::IsEmpty());
}

TEST(Matrix, RunsOfFewValuesTellNothing) {
  EXPECT_FALSE(is_telling(std::vector<Bits>(16, 0x3F80)));
  EXPECT_FALSE(is_telling(std::vector<Bits>{1, 2, 3, 1, 2, 3, 1, 2}));
  EXPECT_TRUE(is_telling(std::vector<Bits>{1, 2, 3, 1, 2, 4}));
  EXPECT_TRUE(is_telling(std::vector<Bits>{9, 8, 7, 6}));
}

}  // namespace
}  // namespace refit::diagnose
