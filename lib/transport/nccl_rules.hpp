#pragma once
// Rules for the NCCL versions that can serve a set of ranks, on plain values, so that they are tested without a GPU.
// Private to the NCCL implementation.

#include <cstdint>
#include <span>
#include <string>

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

/// Throws unless the libraries that the ranks found are recent enough for NCCL M2N: `least` or later. Errors
/// (unavailable): both versions.
void check_m2n_versions(int least, std::span<const int> found);

}  // namespace refit::transport
