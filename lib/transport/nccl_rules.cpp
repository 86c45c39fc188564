#include "transport/nccl_rules.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "core/error.hpp"

namespace refit::transport {
namespace {

/// The first release that serves several ranks on one device.
constexpr int kSharedDevices = 23000;

/// The first release with ncclGetPeerDevicePointer.
constexpr int kWindowAddresses = 22900;

/// The first release whose windows may differ in size between ranks.
constexpr int kWindowsOfAnySize = 23007;

const NcclMember& oldest_of(std::span<const NcclMember> members) {
  return *std::ranges::min_element(members, {}, &NcclMember::version);
}

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
  const NcclMember* oldest = &oldest_of(members);
  const auto rank = oldest - members.data();
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

std::string window_refusal(int header_version, std::span<const NcclMember> members) {
  if (members.size() < 2) return "there is one rank";
  if (header_version < kWindowAddresses) {
    return fmt::format("refit is built with the headers of NCCL {}, and windows need {}",
                       nccl_version_text(header_version), nccl_version_text(kWindowAddresses));
  }
  const NcclMember& oldest = oldest_of(members);
  if (oldest.version < kWindowAddresses) {
    return fmt::format("windows need NCCL {}, and rank {} found {}", nccl_version_text(kWindowAddresses),
                       &oldest - members.data(), nccl_version_text(oldest.version));
  }
  if (share_a_device(members)) return "several ranks share a GPU";
  return {};
}

std::vector<int> window_order(std::span<const NcclMember> members) {
  std::map<std::uint64_t, std::vector<int>> of_host;
  std::vector<std::uint64_t> hosts;  // in order of appearance, so that all ranks find the same
  for (std::size_t rank = 0; rank < members.size(); ++rank) {
    std::vector<int>& ranks = of_host[members[rank].host];
    if (ranks.empty()) hosts.push_back(members[rank].host);
    ranks.push_back(static_cast<int>(rank));
  }
  std::vector<int> order;
  for (const std::uint64_t host : hosts) order.insert(order.end(), of_host[host].begin(), of_host[host].end());
  return order;
}

std::string window_refusal(std::span<const NcclMember> members, std::span<const int> order,
                           std::span<const NcclTeam> teams) {
  const auto host = [&](std::size_t position) { return members[static_cast<std::size_t>(order[position])].host; };
  for (std::size_t position = 0; position < teams.size(); ++position) {
    const NcclTeam& team = teams[position];
    if (!team.has_windows) {
      return fmt::format(
          "NCCL has none for rank {}: NCCL_WIN_ENABLE=0, NCCL_CUMEM_ENABLE=0, a library older than the headers, GPUs "
          "without peer access, or several NVLink domains (NCCL_DEBUG=INFO tells more)",
          order[position]);
    }
    const auto first = static_cast<std::size_t>(team.first);
    const std::size_t end = first + static_cast<std::size_t>(team.size);
    for (std::size_t other = 0; other < teams.size(); ++other) {
      if (host(other) != host(position) || (other >= first && other < end)) continue;
      return fmt::format("NCCL lets teams of {} ranks map each other, and rank {} shares a host with more", team.size,
                         order[position]);
    }
  }
  return {};
}

std::string window_refusal(std::span<const NcclMember> members, std::span<const std::int64_t> sizes) {
  const NcclMember& oldest = oldest_of(members);
  if (oldest.version >= kWindowsOfAnySize ||
      std::ranges::adjacent_find(sizes, std::ranges::not_equal_to()) == sizes.end())
    return {};
  return fmt::format("ranks need windows of different sizes, for which NCCL has to be {}, and rank {} found {}",
                     nccl_version_text(kWindowsOfAnySize), &oldest - members.data(), nccl_version_text(oldest.version));
}

void check_m2n_versions(int least, std::span<const int> found) {
  const auto oldest = std::ranges::min_element(found);
  if (*oldest >= least) return;
  fail_unavailable("NCCL M2N needs NCCL {}, and rank {} found library {}: put a newer one first in LD_LIBRARY_PATH",
                   nccl_version_text(least), oldest - found.begin(), nccl_version_text(*oldest));
}

}  // namespace refit::transport
