#pragma once
// Which NCCL serves which ranks: rules on plain values, so that they are tested without a GPU. Private to the NCCL
// implementation.

#include <cstdint>
#include <span>
#include <string>

namespace refit::transport {

/// One rank: the library that it found (NCCL's code, 10000 x major + 100 x minor + patch) and its device (equal exactly
/// for ranks on the same one).
struct NcclMember {
  int version = 0;
  std::uint64_t device = 0;
};

/// "2.30.7".
std::string nccl_version_text(int version);

/// True if two members are on one device.
bool share_a_device(std::span<const NcclMember> members);

/// Throws unless every member's library is as new as the headers (major and minor) and can serve ranks that share a
/// device, if any do. Errors (unavailable): the versions.
void check_nccl_members(int header_version, std::span<const NcclMember> members);

}  // namespace refit::transport
