// main of tests on MPI: every rank prints its own failures, and every rank's exit code is that of the worst. Listeners
// call no collective, so ranks may fail differently; a rank that waits for one that has failed ends with the test's
// timeout.

#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/kernels.hpp"
#include "transport/mpi/mpi.hpp"

namespace {

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

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const refit::transport::MpiSession session;
  const refit::kernels::Runtime runtime(session.node_rank(), session.node_size());
  if (session.rank() != 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new RankPrinter(session.rank()));
  }
  const std::int64_t mine = RUN_ALL_TESTS();
  return refit::transport::make_mpi_control()->max(mine) == 0 ? 0 : 1;
}
