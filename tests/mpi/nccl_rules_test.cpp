// Which NCCL serves which ranks.

#include "transport/nccl_rules.hpp"

#include <gmock/gmock.h>

#include "core/error.hpp"

namespace refit::transport {
namespace {

std::string refusal(int header_version, const std::vector<NcclMember>& members) {
  try {
    check_nccl_members(header_version, members);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unavailable);
    return error.what();
  }
  return "";
}

TEST(NcclRules, VersionsReadLikeNccls) {
  EXPECT_EQ(nccl_version_text(23007), "2.30.7");
  EXPECT_EQ(nccl_version_text(22809), "2.28.9");
}

TEST(NcclRules, TheOldestLibraryOfAllRanksDecides) {
  EXPECT_EQ(refusal(22809, {{22809, 1}, {23203, 2}}), "");
  EXPECT_EQ(refusal(22809, {{22800, 1}, {23203, 2}}), "");  // of one minor version
  const std::string told = refusal(22809, {{23203, 1}, {22705, 2}, {22809, 3}});
  EXPECT_THAT(told, testing::HasSubstr("rank 1 found library 2.27.5"));
  EXPECT_THAT(told, testing::HasSubstr("the headers of 2.28.9"));
}

TEST(NcclRules, RanksShareADeviceFrom230On) {
  EXPECT_FALSE(share_a_device(std::vector<NcclMember>{{23000, 1}, {23000, 2}}));
  EXPECT_TRUE(share_a_device(std::vector<NcclMember>{{23000, 1}, {23000, 2}, {23000, 1}}));
  EXPECT_EQ(refusal(22809, {{23000, 1}, {23203, 1}}), "");
  const std::string told = refusal(22809, {{23000, 1}, {22907, 1}});
  EXPECT_THAT(told, testing::HasSubstr("needs NCCL 2.30.0, and rank 1 found library 2.29.7"));
}

TEST(NcclRules, M2nHasALeastVersion) {
  check_m2n_versions(23005, std::vector{23005, 23203});
  try {
    check_m2n_versions(23005, std::vector{23007, 23004, 23005});
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unavailable);
    EXPECT_STREQ(
        error.what(),
        "NCCL M2N needs NCCL 2.30.5, and rank 1 found library 2.30.4: put a newer one first in LD_LIBRARY_PATH");
  }
}

TEST(NcclRules, MemoryIsRegisteredWhereNcclMakesUseOfIt) {
  const auto uses = [](const std::vector<NcclMember>& members) { return uses_registration(members); };
  EXPECT_FALSE(uses({{23000, 1, 9}, {23000, 2, 9}}));
  EXPECT_TRUE(uses({{23000, 1, 8}, {23000, 2, 9}}));
  EXPECT_TRUE(uses({{23000, 1, 9, true}, {23000, 2, 9, true}}));
  EXPECT_FALSE(uses({{23000, 1, 9, true}, {23000, 2, 9, false}}));
  EXPECT_FALSE(uses({{23000, 1, 8, true}, {23000, 1, 8, true}, {23000, 2, 9, true}}));
}

TEST(NcclRules, WindowsWantHeadersLibrariesAndADeviceForEachRank) {
  const auto why = [](int header, const std::vector<NcclMember>& members) { return window_refusal(header, members); };
  EXPECT_EQ(why(22900, {{22900, 1}, {23007, 2}}), "");
  EXPECT_EQ(why(23007, {{23007, 1}, {23203, 2}, {23007, 3}}), "");
  EXPECT_THAT(why(22809, {{23007, 1}, {23007, 2}}), testing::HasSubstr("headers of NCCL 2.28.9"));
  EXPECT_THAT(why(23007, {{23007, 1}, {22809, 2}}), testing::HasSubstr("NCCL 2.29.0, and rank 1 found 2.28.9"));
  EXPECT_EQ(why(23007, {{23007, 1}, {23007, 2}, {23007, 1}}), "several ranks share a GPU");
  EXPECT_EQ(why(23007, {{23007, 1}}), "there is one rank");
}

TEST(NcclRules, WindowsHaveRanksOfAHostTogether) {
  const auto order = [](const std::vector<std::uint64_t>& hosts) {
    std::vector<NcclMember> members;
    for (const std::uint64_t host : hosts) members.push_back({23007, members.size(), host});
    return window_order(members);
  };
  EXPECT_THAT(order({7, 7, 7}), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(order({9, 3, 9, 3}), testing::ElementsAre(0, 2, 1, 3));
  EXPECT_THAT(order({5, 9, 3, 9, 5, 5}), testing::ElementsAre(0, 4, 5, 1, 3, 2));
}

/// Four ranks on hosts 1 2 1 2: the communicator's ranks are the world's 0 2 1 3.
TEST(NcclRules, WindowsServeWhereTheyMapAllThatCudaIpcWould) {
  const std::vector<NcclMember> members{{23007, 1, 1}, {23007, 2, 2}, {23007, 3, 1}, {23007, 4, 2}};
  const std::vector<int> order = window_order(members);
  const auto why = [&](const std::vector<NcclTeam>& teams) { return window_refusal(members, order, teams); };
  EXPECT_EQ(why({{true, 0, 4}, {true, 0, 4}, {true, 0, 4}, {true, 0, 4}}), "");  // one NVLink domain
  EXPECT_EQ(why({{true, 0, 2}, {true, 0, 2}, {true, 2, 2}, {true, 2, 2}}), "");  // one for each host
  EXPECT_THAT(why({{true, 0, 1}, {true, 1, 1}, {true, 2, 1}, {true, 3, 1}}),
              testing::HasSubstr("teams of 1 ranks map each other, and rank 0 shares a host with more"));
  EXPECT_THAT(why({{true, 0, 2}, {true, 0, 2}, {}, {}}), testing::HasSubstr("none for rank 1: NCCL_WIN_ENABLE=0"));
}

/// Hosts of 3 and 1 ranks: NCCL's teams are of equal size, and one rank each.
TEST(NcclRules, WindowsLeaveUnequalHostsToCudaIpc) {
  const std::vector<NcclMember> members{{23007, 1, 1}, {23007, 2, 1}, {23007, 3, 1}, {23007, 4, 2}};
  const std::vector<NcclTeam> teams{{true, 0, 1}, {true, 1, 1}, {true, 2, 1}, {true, 3, 1}};
  EXPECT_NE(window_refusal(members, window_order(members), teams), "");
}

TEST(NcclRules, WindowsDifferInSizeFrom2307On) {
  const auto why = [](const std::vector<int>& versions, const std::vector<std::int64_t>& sizes) {
    std::vector<NcclMember> members;
    for (const int version : versions) members.push_back({version, members.size(), 1});
    return window_refusal(members, sizes);
  };
  EXPECT_EQ(why({22902, 23004}, {1 << 21, 1 << 21}), "");
  EXPECT_EQ(why({23007, 23203}, {1 << 21, 1 << 22}), "");
  EXPECT_THAT(why({23007, 23004}, {1 << 21, 1 << 22}), testing::HasSubstr("2.30.7, and rank 1 found 2.30.4"));
}

}  // namespace
}  // namespace refit::transport
