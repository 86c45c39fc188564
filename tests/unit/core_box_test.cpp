// Index arithmetic, against tables and plain loops.

#include <gtest/gtest.h>

#include "core/box.hpp"

namespace refit {
namespace {

TEST(IndexArithmetic, RoundsUp) {
  struct Row {
    std::int64_t value, by, quotient, multiple;
  };
  for (const Row& row : {Row{0, 4, 0, 0}, Row{1, 4, 1, 4}, Row{4, 4, 1, 4}, Row{5, 4, 2, 8}, Row{250, 64, 4, 256},
                         Row{256, 64, 4, 256}, Row{7, 1, 7, 7}}) {
    EXPECT_EQ(ceil_div(row.value, row.by), row.quotient) << row.value << " by " << row.by;
    EXPECT_EQ(round_up(row.value, row.by), row.multiple) << row.value << " to " << row.by;
  }
}

TEST(IndexArithmetic, UnravelsInRowMajorOrder) {
  const Box box{{1, 0, 2}, {2, 3, 4}};
  const Extents strides = row_major_strides(box.extent);
  std::int64_t linear = 0;
  for (std::int64_t i = 1; i < 3; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      for (std::int64_t k = 2; k < 6; ++k, ++linear) {
        EXPECT_EQ(unravel(linear, box), (Extents{i, j, k}));
        EXPECT_EQ(unravel(linear, box.extent), (Extents{i - 1, j, k - 2}));
        EXPECT_EQ(offset_of(unravel(linear, box.extent), strides), linear);
      }
    }
  }
  EXPECT_EQ(unravel(0, Shape{}), Extents{});
  EXPECT_EQ(unravel(4, Shape{5}), Extents{4});
}

}  // namespace
}  // namespace refit
