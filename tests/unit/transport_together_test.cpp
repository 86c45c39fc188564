// Errors that some ranks see and others do not.

#include <gmock/gmock.h>

#include "support/thread_control.hpp"
#include "transport/together.hpp"

namespace refit::transport {
namespace {

using test_support::run_ranks;
using test_support::ThreadControl;
using test_support::ThreadHub;

constexpr int kRanks = 3;

/// What `together` throws on every rank, as all of them see it, where rank r does `work(r)`; empty where nothing is.
struct Seen {
  std::string text;
  ErrorKind kind = ErrorKind::usage;
  int rank = -2;
};
std::vector<Seen> seen(const std::function<void(int)>& work) {
  const auto hub = std::make_shared<ThreadHub>(kRanks);
  std::vector<Seen> all(kRanks);
  run_ranks(kRanks, [&](int rank) {
    ThreadControl world(hub, rank);
    try {
      together(world, [&] { work(rank); });
    } catch (const CollectiveError& error) {
      all[static_cast<std::size_t>(rank)] = {error.what(), error.kind(), error.rank()};
    }
    world.barrier();  // nobody is left waiting
  });
  return all;
}

TEST(Together, NobodyFails) {
  for (const Seen& one : seen([](int) {})) EXPECT_EQ(one.text, "");
}

TEST(Together, OneFailsAndAllThrowItsErrorWithItsRank) {
  for (const Seen& one : seen([](int rank) {
         if (rank == 1) fail_runtime("no space on /scratch");
       })) {
    EXPECT_EQ(one.text, "rank 1: no space on /scratch");
    EXPECT_EQ(one.kind, ErrorKind::runtime);
    EXPECT_EQ(one.rank, 1);
  }
}

TEST(Together, AllFailAlikeAndNoneIsNamed) {
  for (const Seen& one : seen([](int) { fail_usage("TP 3 does not divide 16 heads"); })) {
    EXPECT_EQ(one.text, "TP 3 does not divide 16 heads");
    EXPECT_EQ(one.kind, ErrorKind::usage);
    EXPECT_EQ(one.rank, -1);
  }
}

TEST(Together, OfDifferentErrorsTheLowestRanksIsThrown) {
  for (const Seen& one : seen([](int rank) {
         if (rank == 2) throw std::bad_alloc();
         if (rank == 1) throw std::runtime_error("a library's words");
       })) {
    EXPECT_EQ(one.text, "rank 1: a library's words");
    EXPECT_EQ(one.kind, ErrorKind::runtime);
  }
  for (const Seen& one : seen([](int rank) {
         if (rank == 2) throw std::bad_alloc();
       }))
    EXPECT_EQ(one.text, "rank 2: out of memory");
}

}  // namespace
}  // namespace refit::transport
