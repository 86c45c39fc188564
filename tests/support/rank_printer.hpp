#pragma once
// What the ranks of a test print: rank 0 as GoogleTest does, the others their failures alone.

#include <gtest/gtest.h>

#include <cstdio>

namespace refit::test_support {

/// Prints failures of one rank, and nothing else.
class RankPrinter final : public testing::EmptyTestEventListener {
 public:
  explicit RankPrinter(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed()) {
      std::fprintf(stderr, "[rank %d] %s:%d: %s\n", rank_, result.file_name() == nullptr ? "?" : result.file_name(),
                   result.line_number(), result.message());
    }
  }

  int rank_;
};

inline void print_as_rank(int rank) {
  if (rank == 0) return;
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankPrinter(rank));
}

}  // namespace refit::test_support
