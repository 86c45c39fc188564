#include "transport/nccl_rules.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"

namespace refit::transport {
namespace {

/// The first release that serves several ranks on one device.
constexpr int kSharedDevices = 23000;

}  // namespace

std::string nccl_version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

bool share_a_device(std::span<const NcclMember> members) {
  std::set<std::uint64_t> devices;
  for (const NcclMember& member : members) devices.insert(member.device);
  return devices.size() < members.size();
}

bool uses_registration(std::span<const NcclMember> members) {
  if (share_a_device(members)) return false;
  std::set<std::uint64_t> hosts;
  for (const NcclMember& member : members) hosts.insert(member.host);
  return hosts.size() > 1 || std::ranges::all_of(members, &NcclMember::registers_legacy);
}

void check_nccl_members(int header_version, std::span<const NcclMember> members) {
  const auto oldest = std::ranges::min_element(members, {}, &NcclMember::version);
  const auto rank = oldest - members.begin();
  if (oldest->version / 100 < header_version / 100) {
    fail_unavailable(
        "NCCL: rank {} found library {}, and refit is built with the headers of {}: put that library or a newer one "
        "first in LD_LIBRARY_PATH, or build with its own headers (NCCL_ROOT)",
        rank, nccl_version_text(oldest->version), nccl_version_text(header_version));
  }
  if (share_a_device(members) && oldest->version < kSharedDevices) {
    fail_unavailable(
        "NCCL: several ranks share a GPU, which needs NCCL {}, and rank {} found library {}: start one rank for each "
        "GPU, or use a newer NCCL",
        nccl_version_text(kSharedDevices), rank, nccl_version_text(oldest->version));
  }
}

void check_m2n_versions(int least, std::span<const int> found) {
  const auto oldest = std::ranges::min_element(found);
  if (*oldest >= least) return;
  fail_unavailable("NCCL M2N needs NCCL {}, and rank {} found library {}: put a newer one first in LD_LIBRARY_PATH",
                   nccl_version_text(least), oldest - found.begin(), nccl_version_text(*oldest));
}

}  // namespace refit::transport
