#pragma once
// The way of a broadcast between hosts: from host to host, and on each of them from one rank to the others.

#include <vector>

namespace refit::transport {

/// A tree over the ranks of a communicator for any root: the root's host first, then the others in turn, each fed by
/// the one before it, so that every link brings each byte in once and sends it on once. A host's first rank (on the
/// root's host the root) feeds its others.
///
/// Example: ranks 0 to 5 on hosts A A B B C C, root 1: 1 feeds 0 and 2, 2 feeds 3 and 4, 4 feeds 5.
class HostChain {
 public:
  /// `hosts`: by rank; equal numbers are one host.
  explicit HostChain(std::vector<int> hosts);
  bool has_several_hosts() const { return order_.size() > 1; }

  struct Place {
    int parent = -1;            ///< -1: the root
    std::vector<int> children;  ///< the next host's first
  };
  Place place(int rank, int root) const;

 private:
  std::vector<int> hosts_;               ///< numbers of `order_`, by rank
  std::vector<std::vector<int>> order_;  ///< ranks of every host, ascending
};

}  // namespace refit::transport
