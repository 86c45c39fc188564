// main of tests on MPI: every rank prints its own failures, and every rank's exit code is that of the worst. Listeners
// call no collective, so ranks may fail differently; a rank that waits for one that has failed ends with the test's
// timeout.

#include <gtest/gtest.h>

#include "kernels/kernels.hpp"
#include "mpi/ranks.hpp"
#include "support/rank_printer.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::test_support {

std::unique_ptr<transport::Control> make_control() { return transport::make_mpi_control(); }
std::unique_ptr<transport::Communicator> make_communicator(const std::vector<int>& members, int number, int lanes) {
  return transport::make_mpi_communicator(members, number, lanes);
}
std::unique_ptr<transport::PeerMemory> make_peer_memory(std::int64_t bytes) {
  return transport::make_mpi_peer_memory(bytes);
}

}  // namespace refit::test_support

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const refit::transport::MpiSession session;
  const refit::kernels::Runtime runtime(session.node_rank(), session.node_size());
  refit::test_support::print_as_rank(session.rank());
  const std::int64_t mine = RUN_ALL_TESTS();
  return refit::transport::make_mpi_control()->max(mine) == 0 ? 0 : 1;
}
