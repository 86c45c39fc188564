#pragma once
// The ranks of a test's executable: on MPI (mpi_main.cpp), or processes that talk over sockets (socket_main.cpp).

#include <memory>
#include <vector>

#include "transport/communicator.hpp"

namespace refit::test_support {

/// Makes a control plane of all ranks. Collective.
std::unique_ptr<transport::Control> make_control();
/// Makes a communicator of some ranks (ascending). Collective over them; `number` tells apart those that exist at a
/// time.
std::unique_ptr<transport::Communicator> make_communicator(const std::vector<int>& members, int number, int lanes);
/// Makes an arena of `bytes` on this rank that the others map. Collective.
std::unique_ptr<transport::PeerMemory> make_peer_memory(std::int64_t bytes);

}  // namespace refit::test_support
