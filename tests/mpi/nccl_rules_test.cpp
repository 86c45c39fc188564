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

}  // namespace
}  // namespace refit::transport
