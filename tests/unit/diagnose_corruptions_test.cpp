// Corruptions at random places get the description of their kind, and the name of no bug.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "unit/diagnose_world.hpp"

namespace refit::diagnose {
namespace {

const std::string kGate = "model.layers.1.mlp.gate_proj.weight";  // [512, 128]: 256 rows on each of 2 ranks
const std::string kUp = "model.layers.0.mlp.up_proj.weight";
const std::string kDown = "model.layers.1.mlp.down_proj.weight";  // [128, 512]: 256 columns on each

/// A rectangle of a tensor on a rank, at a random place.
struct Patch {
  std::int32_t rank;
  std::int64_t row, column, rows, columns;

  std::string text() const { return fmt::format("[{}:{}, {}:{}]", row, row + rows, column, column + columns); }
};

class Corruption {
 public:
  explicit Corruption(unsigned seed)
      : random_(seed), world_(case_of("qwen3-4b-small", {"model.layers=2", "gen.layout=TP2"})) {
    world_.dump(folder("right"));
  }

  World& world() { return world_; }
  /// Makes the present contents the right ones.
  void accept() { world_.dump(folder("right")); }

  std::int64_t number(std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random_);
  }

  Patch patch(const std::string& name, std::int64_t rows, std::int64_t columns) {
    const auto rank = static_cast<std::int32_t>(number(0, 1));
    const Box& box = world_.piece(rank, name).box;
    return {rank, box.lower[0] + number(0, box.extent[0] - rows), box.lower[1] + number(0, box.extent[1] - columns),
            rows, columns};
  }

  /// Sets all elements of a patch: value(row, column) of rows and columns counted within it.
  void set(const std::string& name, const Patch& p,
           const std::function<std::uint16_t(std::int64_t, std::int64_t)>& value) {
    std::vector<std::uint16_t> values;
    for (std::int64_t i = 0; i < p.rows; ++i) {
      for (std::int64_t j = 0; j < p.columns; ++j) values.push_back(value(i, j));
    }
    auto next = values.begin();
    for (std::int64_t i = 0; i < p.rows; ++i) {
      for (std::int64_t j = 0; j < p.columns; ++j) world_.at(p.rank, name, p.row + i, p.column + j) = *next++;
    }
  }

  std::vector<Finding> findings() {
    world_.dump(folder("wrong"));
    Request request{world_.setup().c, false, folder("wrong"), "", folder("right")};
    const Diagnosis found = diagnose(request);
    EXPECT_THAT(found.bugs, ::testing::IsEmpty()) << to_text(found);
    return found.findings;
  }

 private:
  static std::string folder(const std::string& name) { return testing::TempDir() + "refit_diagnose_" + name; }

  std::mt19937 random_;
  World world_;
};

/// Expects one finding about one place.
void expect(const std::vector<Finding>& findings, const char* kind, const std::string& tensor, const std::string& place,
            std::int32_t rank, const std::string& source = "", const std::string& source_place = "") {
  ASSERT_EQ(findings.size(), 1U) << (findings.empty() ? "" : findings[1].text);
  const Finding& finding = findings.front();
  EXPECT_EQ(finding.kind, kind) << finding.text;
  EXPECT_EQ(finding.tensors, std::set<std::string>{tensor}) << finding.text;
  EXPECT_EQ(finding.gen_ranks, std::set<std::int32_t>{rank}) << finding.text;
  EXPECT_EQ(finding.place, place) << finding.text;
  EXPECT_EQ(finding.source, source) << finding.text;
  EXPECT_EQ(finding.source_place, source_place) << finding.text;
}

void expect(const std::vector<Finding>& findings, const char* kind, const std::string& tensor, const Patch& patch,
            const std::string& source = "", const std::string& source_place = "") {
  expect(findings, kind, tensor, patch.text(), patch.rank, source, source_place);
}

class Corruptions : public testing::TestWithParam<unsigned> {
 protected:
  Corruption c{GetParam()};
};

TEST_P(Corruptions, BlockOfAnotherTensor) {
  const Patch to = c.patch(kGate, 40, 50);
  const Patch from = c.patch(kUp, 40, 50);
  c.set(kGate, to, [&](auto i, auto j) { return c.world().at(from.rank, kUp, from.row + i, from.column + j); });
  expect(c.findings(), "moved", kGate, to, kUp, from.text());
}

TEST_P(Corruptions, TransposedBlock) {
  const Patch to = c.patch(kGate, 32, 60);
  const Patch from = c.patch(kDown, 60, 32);
  c.set(kGate, to, [&](auto i, auto j) { return c.world().at(from.rank, kDown, from.row + j, from.column + i); });
  expect(c.findings(), "transposed", kGate, to, kDown, from.text());
}

TEST_P(Corruptions, FlippedBit) {
  const Patch to = c.patch(kDown, 1, 1);
  const auto bit = c.number(0, 15);
  c.set(kDown, to, [&](auto, auto) {
    return static_cast<std::uint16_t>(c.world().at(to.rank, kDown, to.row, to.column) ^ (1 << bit));
  });
  const auto findings = c.findings();
  expect(findings, "flipped", kDown, to);
  EXPECT_THAT(findings.front().text, testing::HasSubstr(fmt::format("bit {} of", bit)));
}

TEST_P(Corruptions, ZeroRows) {
  Patch to = c.patch(kGate, 3, 128);
  c.set(kGate, to, [](auto, auto) { return std::uint16_t{0}; });
  expect(c.findings(), "zero", kGate, to);
}

TEST_P(Corruptions, UnwrittenColumns) {
  const Patch to = c.patch(kDown, 128, 7);
  c.set(kDown, to, [](auto, auto) { return std::uint16_t{0xFFFF}; });
  expect(c.findings(), "unwritten", kDown, to);
}

TEST_P(Corruptions, OneValue) {
  const Patch to = c.patch(kGate, 20, 20);
  c.set(kGate, to, [](auto, auto) { return std::uint16_t{0x3F80}; });
  expect(c.findings(), "constant", kGate, to);
}

TEST_P(Corruptions, OneFactor) {
  const Patch to = c.patch(kGate, 30, 30);
  c.set(kGate, to, [&](auto i, auto j) {  // x 4: exponents begin at bit 7
    return static_cast<std::uint16_t>(c.world().at(to.rank, kGate, to.row + i, to.column + j) + (2U << 7));
  });
  const auto findings = c.findings();
  expect(findings, "factor", kGate, to);
  EXPECT_THAT(findings.front().text, testing::HasSubstr("is 4 times"));
}

TEST_P(Corruptions, Noise) {
  const Patch to = c.patch(kGate, 9, 30);
  c.set(kGate, to, [&](auto, auto) { return static_cast<std::uint16_t>(c.number(0x4000, 0x7000)); });
  expect(c.findings(), "unknown", kGate, to);
}

TEST_P(Corruptions, ExchangedColumns) {
  const Patch a = c.patch(kGate, 256, 1);
  const Patch b{a.rank, a.row, (a.column + c.number(1, 127)) % 128, 256, 1};
  for (std::int64_t i = 0; i < a.rows; ++i)
    std::swap(c.world().at(a.rank, kGate, a.row + i, a.column), c.world().at(a.rank, kGate, a.row + i, b.column));
  auto findings = c.findings();
  ASSERT_EQ(findings.size(), 2U);
  if (findings[0].place != a.text()) std::swap(findings[0], findings[1]);
  expect({findings[0]}, "moved", kGate, a, kGate, b.text());
  expect({findings[1]}, "moved", kGate, b, kGate, a.text());
}

TEST_P(Corruptions, ShiftedRows) {
  const Patch to = c.patch(kGate, 100, 128);
  const std::int64_t shift = to.row % 256 >= 30 ? -30 : 30;
  c.set(kGate, to, [&](auto i, auto j) { return c.world().at(to.rank, kGate, to.row + i + shift, j); });
  Patch from = to;
  from.row += shift;
  expect(c.findings(), "moved", kGate, to, kGate, from.text());
}

TEST_P(Corruptions, ContentThatStandsTwiceIsNotUnique) {
  const std::string other = "model.layers.1.mlp.up_proj.weight";
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    for (std::int64_t i = 0; i < 256 * 128; ++i) {
      const std::int64_t row = rank * 256 + i / 128;
      c.world().at(rank, kUp, row, i % 128) = c.world().at(rank, other, row, i % 128);
    }
  }
  c.accept();
  const Patch to = c.patch(kGate, 40, 50);
  const Patch from = c.patch(kUp, 40, 50);
  c.set(kGate, to, [&](auto i, auto j) { return c.world().at(from.rank, kUp, from.row + i, from.column + j); });
  const auto findings = c.findings();
  expect(findings, "moved", kGate, to, other, from.text());  // of the same layer
  EXPECT_FALSE(findings.front().unique);
  EXPECT_THAT(findings.front().text, testing::HasSubstr("not unique"));
}

TEST_P(Corruptions, OnesComeFromNowhere) {
  const std::string norm = "model.layers.0.input_layernorm.weight";
  const std::string others[] = {"model.layers.1.input_layernorm.weight", "model.norm.weight"};
  for (const std::string& name : others) {
    for (std::int64_t i = 0; i < 128; ++i) c.world().at(0, name, i) = c.world().at(1, name, i) = 0x3F80;
  }
  c.accept();
  for (std::int64_t i = 0; i < 128; ++i) c.world().at(1, norm, i) = 0x3F80;
  const auto findings = c.findings();
  expect(findings, "constant", norm, "[0:128]", 1);
  EXPECT_THAT(findings.front().text, testing::HasSubstr("where that comes from cannot be told"));
}

INSTANTIATE_TEST_SUITE_P(Seeds, Corruptions, testing::Values(1U, 2U));

}  // namespace
}  // namespace refit::diagnose
