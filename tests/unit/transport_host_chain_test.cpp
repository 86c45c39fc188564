// The trees of broadcasts between hosts: one way into every host, and every rank is fed once.

#include <gtest/gtest.h>

#include <set>

#include "transport/host_chain.hpp"

namespace refit::transport {
namespace {

TEST(HostChain, FeedsTheNextHostFirstThenItsOwn) {
  const HostChain chain({7, 7, 3, 3, 9, 9});
  EXPECT_EQ(chain.place(1, 1).children, (std::vector<int>{2, 0}));
  EXPECT_EQ(chain.place(2, 1).children, (std::vector<int>{4, 3}));
  EXPECT_EQ(chain.place(4, 1).children, (std::vector<int>{5}));
  EXPECT_EQ(chain.place(0, 1).parent, 1);
  EXPECT_EQ(chain.place(1, 1).parent, -1);
  EXPECT_EQ(chain.place(1, 5).parent, 0);
  EXPECT_EQ(chain.place(0, 5).parent, 5);
}

TEST(HostChain, BringsEveryByteOnceIntoEveryHost) {
  const std::vector<std::vector<int>> worlds{{0}, {0, 0, 0}, {0, 1}, {0, 1, 0, 1, 2}, {2, 2, 0, 1, 1, 1, 0, 2}};
  for (const std::vector<int>& hosts : worlds) {
    const HostChain chain(hosts);
    const std::set<int> all(hosts.begin(), hosts.end());
    EXPECT_EQ(chain.has_several_hosts(), all.size() > 1);
    const int size = static_cast<int>(hosts.size());
    for (int root = 0; root < size; ++root) {
      std::vector<int> reached(hosts.size(), 0), into(3, 0), out(3, 0);
      for (int rank = 0; rank < size; ++rank) {
        for (const int child : chain.place(rank, root).children) {
          EXPECT_EQ(chain.place(child, root).parent, rank);
          ++reached[static_cast<std::size_t>(child)];
          const int from = hosts[static_cast<std::size_t>(rank)], to = hosts[static_cast<std::size_t>(child)];
          if (from == to) continue;
          ++into[static_cast<std::size_t>(to)];
          ++out[static_cast<std::size_t>(from)];
        }
      }
      int ways = 0;
      for (int rank = 0; rank < size; ++rank) EXPECT_EQ(reached[static_cast<std::size_t>(rank)], rank == root ? 0 : 1);
      for (std::size_t host = 0; host < 3; ++host) {
        EXPECT_LE(into[host], 1);
        EXPECT_LE(out[host], 1);
        ways += into[host];
      }
      EXPECT_EQ(ways, static_cast<int>(all.size()) - 1);
    }
  }
}

}  // namespace
}  // namespace refit::transport
