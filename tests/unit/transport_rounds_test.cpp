// The rounds in which domains hand on: what a rank sends in a round has come in an earlier one.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "transport/rounds.hpp"

namespace refit::transport {
namespace {

using model::Tensor;

plan::Copy copy_of(std::int32_t tensor, const Box& box, std::int16_t hops) {
  plan::Copy copy{tensor, box, {Rank{0}, {}, {DType::bf16}}, {Rank{0}, {}, {DType::bf16}}};
  copy.source.place.strides = copy.destination.place.strides = {box.extent[1], 1};
  copy.hops = hops;
  return copy;
}

/// Boxes that are cut unlike on each hop, between rows or columns: no element goes on before it has come, and all of
/// them move once on each hop.
TEST(Rounds, SendOnWhatHasCome) {
  const std::vector<Tensor> tensors{{0, "a", {40, 6}, DType::bf16, model::Role::unknown, -1, -1},
                                    {1, "b", {5, 90}, DType::bf16, model::Role::unknown, -1, -1},
                                    {2, "c", {2, 3}, DType::bf16, model::Role::unknown, -1, -1}};
  const auto box_of = [](std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
    return Box{{row, column}, {rows, columns}};
  };
  std::vector<plan::Copy> copies;
  for (std::int16_t hop = 0; hop < 3; ++hop) {
    for (const Tensor& tensor : tensors) {
      const std::int64_t rows = tensor.shape[0], columns = tensor.shape[1];
      const std::int64_t cut = hop == 1 ? rows / 2 : 0, across = hop == 2 ? columns / 3 : 0;
      if (cut > 0) copies.push_back(copy_of(tensor.index, box_of(0, cut, 0, columns), hop));
      if (across > 0) copies.push_back(copy_of(tensor.index, box_of(0, rows, 0, across), hop));
      copies.push_back(copy_of(tensor.index, box_of(cut, rows - cut, across, columns - across), hop));
    }
  }
  for (const std::int64_t most_parts : {1, 2, 7, 24}) {
    Tuning tuning;
    tuning.handed_on = {most_parts, 1};
    std::map<std::tuple<std::int32_t, std::int64_t, std::int64_t>, std::map<int, std::int64_t>> rounds;  // by hop
    std::int64_t last = 0;
    for (const auto& [round, copy] : in_rounds(tensors, copies, tuning)) {
      EXPECT_GE(round, last);
      last = round;
      for (std::int64_t row = 0; row < copy.box.extent[0]; ++row) {
        for (std::int64_t column = 0; column < copy.box.extent[1]; ++column) {
          auto& of = rounds[{copy.tensor, copy.box.lower[0] + row, copy.box.lower[1] + column}];
          EXPECT_TRUE(of.emplace(copy.hops, round).second) << "moved twice on hop " << copy.hops;
        }
      }
    }
    EXPECT_EQ(rounds.size(), 40U * 6 + 5 * 90 + 2 * 3);
    for (const auto& [element, of] : rounds) {
      ASSERT_EQ(of.size(), 3U);
      EXPECT_LT(of.at(0), of.at(1));
      EXPECT_LT(of.at(1), of.at(2));
    }
    EXPECT_LE(last, most_parts + 1);
    EXPECT_EQ(last > 2, most_parts > 1);
  }
}

}  // namespace
}  // namespace refit::transport
