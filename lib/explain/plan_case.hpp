#pragma once
// The command `plan`: works out a case, its costs and its text, without MPI and without memory for weights.

#include <optional>
#include <string>
#include <vector>

#include "case/case.hpp"

namespace refit::explain {

/// The requests to `refit plan` beside the case.
struct Hardware {
  std::string file;  ///< source of the numbers
  std::int64_t ranks_per_device = 1;
  std::vector<std::int64_t> devices;  ///< of each rank, train's first; empty = by ranks_per_device
  std::int64_t devices_per_domain = 1;
  double device_in = 0;  ///< GB/s per device and direction, within a domain
  double device_out = 0;
  double domain_in = 0;  ///< GB/s per domain and direction, to other domains; 0 = as much as its devices
  double domain_out = 0;
  std::vector<double> each_domain_in, each_domain_out;  ///< likewise, by domain; empty = all are alike
  double broadcast = 0;           ///< GB/s of one broadcast that leaves a domain; 0 = as much as its ports
  double memory = 0;              ///< GB/s of a device's memory, read + write; of a host's where it is shared
  double messages = 0;            ///< GB/s of messages between a host's ranks, all together; 0 = half of memory
  bool memory_is_shared = false;  ///< hosts: every rank is a device, and a domain's ranks share its memory
  double launch_seconds = 0;
};

struct PlanOptions {
  bool classify = false;             ///< print each tensor's path
  std::vector<std::string> explain;  ///< globs: print the places and the copies of those tensors' pieces
  std::string picture;               ///< SVG of these tensors, or of the one that shows most; empty = none
  std::string byte_matrix;           ///< file for the rank-by-rank byte matrix; empty = none
  std::string byte_matrix_picture;   ///< likewise, as SVG; empty = none
  std::optional<Hardware> hardware;  ///< absent = bytes without seconds
};

/// Plans and costs a case in this process. Errors: as Error.
int plan(const cases::Case& c, const PlanOptions& options, const std::vector<std::string>& command);

}  // namespace refit::explain
