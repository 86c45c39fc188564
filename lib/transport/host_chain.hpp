#pragma once
// The ranks' places in broadcasts between hosts, whose order is that of plan::Chain: from host to host, and on each of
// them from one rank to the others.

#include <map>
#include <vector>

#include "plan/chain.hpp"

namespace refit::transport {

/// A tree over the ranks of a communicator for any root. Each host's first rank (on the root's host the root) feeds the
/// next host's, and then its own host's others, so that every link brings each byte in once and sends it on once.
///
/// Example: ranks 0 to 5 on hosts A A B B C C, root 1: 1 feeds 2 and 0, 2 feeds 4 and 3, 4 feeds 5.
class HostChain {
 public:
  /// `hosts`: by rank; equal numbers are one host.
  explicit HostChain(const std::vector<int>& hosts);
  bool has_several_hosts() const { return chain_.domains() > 1; }

  struct Place {
    int parent = -1;            ///< -1: the root
    std::vector<int> children;  ///< the next host's first
  };
  Place place(int rank, int root) const;

 private:
  std::vector<int> hosts_;                 ///< by rank
  std::map<int, std::vector<int>> ranks_;  ///< by host, ascending
  plan::Chain chain_;
};

}  // namespace refit::transport
