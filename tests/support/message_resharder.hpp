#pragma once
// The contract of NCCL M2N's operation, by messages of any communicator: each rank of the destination's mesh gets its
// shard, element by element, from the first ranks of the source's mesh that have it. Meshes are read independently
// here, after nccl_m2n.h, not through lib/plan.

#include "transport/m2n/m2n.hpp"

namespace refit::test_support {

std::unique_ptr<transport::Resharder> make_message_resharder(const transport::Routes& routes);

}  // namespace refit::test_support
