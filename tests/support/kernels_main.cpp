// The main of every test that runs kernels: one kernel runtime around all tests.

#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/kernels.hpp"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    const refit::kernels::Runtime runtime;
    return RUN_ALL_TESTS();
  } catch (const refit::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
