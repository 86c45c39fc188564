#pragma once
// The bytes that move in one refit, on both paths: by rank, and in total.

#include <cstdint>
#include <optional>
#include <vector>

#include "plan/model.hpp"

namespace refit::plan {

/// The tensors of both paths, between two layouts. Borrows all.
struct Paths {
  const std::vector<Tensor>& bulk;
  const std::vector<Tensor>& misc;
  const Layout& source;
  const Layout& destination;
  bool colocated = false;  ///< rank r of either side is one process

  WorldMap world() const { return {source.ranks(), destination.ranks(), colocated}; }
  /// Returns the tensors of both paths in the model's order: all that a refit moves.
  std::vector<Tensor> tensors() const;
};

/// Totals of the bytes that really move in one refit.
struct Wire {
  std::int64_t bytes = 0;
  std::int64_t copies = 0;
  std::int64_t egress_bytes_max = 0;   ///< of the busiest sender
  std::int64_t ingress_bytes_max = 0;  ///< of the busiest receiver
  std::int64_t local_bytes = 0;        ///< copies whose two ends are one device
  std::int64_t forwarded_bytes = 0;    ///< from destination rank to destination rank (fan-out)
  /// On the links between hosts: a broadcast enters each host once, and what misc gathers counts, too. Not known:
  /// nothing says where ranks are.
  std::optional<std::int64_t> between_hosts_bytes;
  std::optional<std::int64_t> within_hosts_bytes;  ///< likewise, between devices of one host
  std::int64_t self_bytes = 0;                     ///< from colocated ranks to themselves: in none of the above
  std::int64_t self_copies = 0;
};

/// Bytes of one refit, without those from a rank to itself.
struct Moved {
  Wire wire;
  std::vector<std::int64_t> sent;      ///< by source rank, to destination ranks
  std::vector<std::int64_t> received;  ///< by destination rank, forwards included
};

/// Counts the bytes of the bulk path, and of misc, which go from source rank 0 to every destination rank. Bulk consists
/// of `broadcasts` where they are given: every shard goes from its first holder to all ranks of its communicator, which
/// is the source stage's where `per_stage`. Else it consists of the planned copies, whose `loads` these are.
Moved moved_by(const Paths& paths, const Loads& loads, const Placement& placement,
               const std::optional<Broadcasts>& broadcasts, bool per_stage);

/// [source rank][destination rank] -> bytes of one refit, counted from holders.
using ByteMatrix = std::vector<std::vector<std::int64_t>>;

/// Returns the byte matrix; what ranks keep for themselves is not in it. `planned`: bytes of the planned copies.
/// `broadcasts`: as above.
ByteMatrix byte_matrix(const Paths& paths, const std::optional<Broadcasts>& broadcasts, ByteMatrix planned);

/// Returns the bytes of the misc path, which carries repeated scales as often as layouts see them.
std::int64_t misc_stream_bytes(const std::vector<Tensor>& misc, const Layout& source);

}  // namespace refit::plan
