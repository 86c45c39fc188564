// main of tests that launch kernels.

#include <gmock/gmock.h>

#include "kernels/kernels.hpp"

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  const refit::kernels::Runtime runtime;
  return RUN_ALL_TESTS();
}
