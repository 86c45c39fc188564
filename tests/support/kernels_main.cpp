// The main of every test that runs kernels: one kernel runtime around all tests.

#include <gtest/gtest.h>

#include "kernels/kernels.hpp"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const refit::kernels::Runtime runtime;
  return RUN_ALL_TESTS();
}
