#pragma once
// Rules for the NCCL versions that can serve a set of ranks, on plain values, so that they are tested without a GPU.
// Private to the NCCL implementation.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace refit::transport {

/// One rank: the library that it found (NCCL's code, 10000 x major + 100 x minor + patch), its device and its host
/// (each equal exactly for ranks on the same one).
struct NcclMember {
  int version = 0;
  std::uint64_t device = 0;
  std::uint64_t host = 0;
  bool registers_legacy = false;  ///< NCCL_LEGACY_CUDA_REGISTER=1: memory that is not of NCCL's own allocator
};

/// Returns e.g. "2.30.7".
std::string nccl_version_text(int version);

/// Returns true if two members are on one device.
bool share_a_device(std::span<const NcclMember> members);

/// Returns true if NCCL makes use of registered memory that is cudaMalloc's: between hosts, and on one host where all
/// its ranks tell it to. Elsewhere it would try in vain with every message. Memory of ranks that share a device is
/// never registered.
bool uses_registration(std::span<const NcclMember> members);

/// Throws unless every member's library is as new as the headers (major and minor) and can serve ranks that share a
/// device, if any do. Errors (unavailable): the versions.
void check_nccl_members(int header_version, std::span<const NcclMember> members);

/// Returns why no communicator can have windows whose addresses peers are told (ncclGetPeerDevicePointer); empty: NCCL
/// is to be asked. The reason is for the reader, and the same on all ranks.
std::string window_refusal(int header_version, std::span<const NcclMember> members);

/// NCCL's answer to one rank of a communicator: the ranks `first` .. `first` + `size` - 1 of it, this one among them,
/// can load from and store into each other's windows (NCCL's LSA team).
struct NcclTeam {
  bool has_windows = false;
  int first = 0;
  int size = 0;
};

/// Returns the members' indexes in the order in which a communicator has to have them for its teams to be large: a team
/// is of consecutive ranks, so ranks of a host follow each other.
std::vector<int> window_order(std::span<const NcclMember> members);

/// Returns why windows serve these members worse than CUDA IPC would; empty: they do not. `order`: window_order's;
/// `teams`: by rank in the communicator. CUDA IPC maps ranks of one host, so a rank's team has to have all of its host.
std::string window_refusal(std::span<const NcclMember> members, std::span<const int> order,
                           std::span<const NcclTeam> teams);

/// Returns why a window of these sizes, in bytes by rank, cannot be; empty: it can. Before NCCL 2.30.7 every rank maps
/// its peers' memory with its own size.
std::string window_refusal(std::span<const NcclMember> members, std::span<const std::int64_t> sizes);

/// Throws unless the libraries that the ranks found are recent enough for NCCL M2N: `least` or later. Errors
/// (unavailable): both versions.
void check_m2n_versions(int least, std::span<const int> found);

}  // namespace refit::transport
