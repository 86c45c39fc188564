// Layouts as cases write them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "layout/parallelism.hpp"

namespace refit::layout {
namespace {

using ::testing::HasSubstr;

struct Good {
  const char* text;
  Parallelism expected;  // tp, cp, ep, etp, dp, pp
  const char* printed;
};

constexpr Good kGood[] = {
    {"TP2xPP2", {2, 1, 1, 1, 0, 2}, "TP2xPP2"},
    {"PP2xTP2", {2, 1, 1, 1, 0, 2}, "TP2xPP2"},
    {"TP3, DP2", {3, 1, 1, 1, 2, 1}, "TP3xDP2"},
    {" tp3 ,dp2 ", {3, 1, 1, 1, 2, 1}, "TP3xDP2"},
    {"EP8xPP2xDP8", {1, 1, 8, 1, 8, 2}, "EP8xDP8xPP2"},
    {"TP2XCP2xEP4", {2, 2, 4, 1, 0, 1}, "TP2xCP2xEP4"},
    {"TP1", {1, 1, 1, 1, 0, 1}, "TP1"},
    {"DP1", {1, 1, 1, 1, 1, 1}, "TP1"},
    {"ETP2xTP4xEP2", {4, 1, 2, 2, 0, 1}, "TP4xEP2xETP2"},
    {"TP65536", {65536, 1, 1, 1, 0, 1}, "TP65536"},
};

TEST(Parallelism, ParsesAndPrints) {
  for (const Good& good : kGood) {
    EXPECT_EQ(parse_parallelism(good.text), good.expected) << good.text;
    EXPECT_EQ(to_string(good.expected), good.printed);
    EXPECT_EQ(to_string(parse_parallelism(good.printed)), good.printed);
  }
}

struct Bad {
  const char* text;
  const char* message;
};

constexpr Bad kBad[] = {
    {"", "none of TP"},
    {"TP", "number from 1"},
    {"TP0", "number from 1"},
    {"TP-1", "none of TP"},
    {"TP2.5", "number from 1"},
    {"TP65537", "number from 1"},
    {"TP99999999999999999999", "number from 1"},
    {"XP2", "none of TP"},
    {"TP2xTP2", "names TP twice"},
    {"TP2xx", "none of TP"},
    {"TP2xPP2x", "none of TP"},
    {"2", "none of TP"},
    {"TP2 PP2", "number from 1"},
    {"ETP", "number from 1"},
    {"EETP2", "none of TP"},
    {"TP65536xDP65536", "ranks"},
};

TEST(Parallelism, RefusesWithAReason) {
  for (const Bad& bad : kBad) {
    try {
      parse_parallelism(bad.text);
      ADD_FAILURE() << "\"" << bad.text << "\" was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr(bad.message)) << bad.text;
      EXPECT_THAT(error.what(), HasSubstr(bad.text));
    }
  }
}

TEST(Parallelism, AbsentDataParallelIsTheSmallestThatLetsEpDivide) {
  EXPECT_EQ(with_data_parallel(parse_parallelism("TP2")).dp, 1);
  EXPECT_EQ(with_data_parallel(parse_parallelism("TP2xEP8")).dp, 4);
  EXPECT_EQ(with_data_parallel(parse_parallelism("TP3xEP8")).dp, 8);
  EXPECT_EQ(with_data_parallel(parse_parallelism("TP4xCP2xEP12")).dp, 3);
  EXPECT_EQ(with_data_parallel(parse_parallelism("EP8xDP16")).dp, 16);
  EXPECT_EQ(with_data_parallel(parse_parallelism("TP2xEP2xETP2")).dp, 2);
}

TEST(Parallelism, CountsRanks) {
  EXPECT_EQ(parse_parallelism("TP2xCP3xEP6xDP4xPP5").ranks(), 120);
  EXPECT_EQ(parse_parallelism("TP2xPP2").ranks(), 4);
  EXPECT_EQ(parse_parallelism("TP4xEP2xETP2xPP3").ranks(), 12);  // EP and ETP share the ranks of the others
}

}  // namespace
}  // namespace refit::layout
