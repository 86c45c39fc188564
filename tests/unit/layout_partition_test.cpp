// One-dimensional partitions and parallel sizes, against tables.

#include <gtest/gtest.h>

#include "core/box.hpp"
#include "core/error.hpp"
#include "layout/parallelism.hpp"
#include "layout/partition.hpp"

namespace refit::layout {
namespace {

struct Split {
  std::int64_t size;
  std::vector<std::int64_t> chunks, balanced;
};

const Split kSplits[] = {{10, {3, 3, 3, 1}, {3, 3, 2, 2}},
                         {5, {2, 2, 1, 0}, {2, 1, 1, 1}},
                         {7, {3, 3, 1}, {3, 2, 2}},
                         {9, {3, 3, 3, 0}, {3, 2, 2, 2}},
                         {13, {2, 2, 2, 2, 2, 2, 1, 0}, {2, 2, 2, 2, 2, 1, 1, 1}},
                         {6, {2, 2, 2, 0}, {2, 2, 1, 1}},
                         {3, {1, 1, 1, 0, 0}, {1, 1, 1, 0, 0}}};

TEST(Partition, ChunksAndBalancedParts) {
  for (const Split& split : kSplits) {
    const auto parts = static_cast<std::int64_t>(split.chunks.size());
    std::int64_t chunk_begin = 0, balanced_begin = 0;
    for (std::int64_t i = 0; i < parts; ++i) {
      const std::int64_t chunk = split.chunks[static_cast<std::size_t>(i)];
      const std::int64_t balanced = split.balanced[static_cast<std::size_t>(i)];
      EXPECT_EQ(chunk_part(split.size, parts, i), (Range{chunk_begin, chunk})) << split.size << " part " << i;
      EXPECT_EQ(balanced_part(split.size, parts, i), (Range{balanced_begin, balanced})) << split.size << " part " << i;
      for (std::int64_t e = 0; e < balanced; ++e) EXPECT_EQ(balanced_owner(split.size, parts, balanced_begin + e), i);
      chunk_begin += chunk;
      balanced_begin += balanced;
    }
  }
}

TEST(Partition, EvenPartsMustDivide) {
  EXPECT_EQ(even_part(12, 4, 0), (Range{0, 3}));
  EXPECT_EQ(even_part(12, 4, 3), (Range{9, 3}));
  EXPECT_THROW(even_part(10, 4, 0), Error);
  EXPECT_THROW(even_part(12, 4, 4), Error);
}

TEST(Partition, Clipped) {
  EXPECT_EQ(clip({192, 64}, 250), (Range{192, 58}));
  EXPECT_EQ(clip({128, 128}, 128).count, 0);
  EXPECT_EQ(clip({256, 128}, 250).count, 0);
  EXPECT_EQ(clip({0, 64}, 250).count, 64);
}

TEST(Partition, VocabularyParts) {
  // 50,257 rows padded to 50,304 over 4: the last part has 47 rows of padding.
  const Range last = even_part(round_up(50257, 64), 4, 3);
  EXPECT_EQ(last, (Range{37728, 12576}));
  EXPECT_EQ(clip(last, 50257), (Range{37728, 12529}));
  EXPECT_EQ(clip(even_part(512, 4, 1), 250), (Range{128, 122}));
  EXPECT_EQ(clip(even_part(512, 4, 2), 250).count, 0);
}

TEST(Parallelism, IsReadInAnyOrder) {
  const Parallelism expected{1, 1, 8, 1, 8, 2};
  for (const char* text : {"EP8xPP2xDP8", "DP8,PP2,EP8", " pp2 , ep8 X dp8", "TP1xEP8xDP8xPP2"}) {
    EXPECT_EQ(parse_parallelism(text), expected) << text;
  }
  EXPECT_EQ(to_string(expected), "EP8xDP8xPP2");
  EXPECT_EQ(expected.ranks(), 16);
  EXPECT_EQ(to_string(Parallelism{}), "TP1");
  EXPECT_EQ(parse_parallelism("TP3"), (Parallelism{3, 1, 1, 1, 0, 1}));
  const Parallelism tensor_parallel_experts{4, 1, 2, 2, 0, 1};
  EXPECT_EQ(parse_parallelism("etp2xep2xtp4"), tensor_parallel_experts);
  EXPECT_EQ(to_string(tensor_parallel_experts), "TP4xEP2xETP2");
  EXPECT_EQ(tensor_parallel_experts.ranks(), 4);
  EXPECT_EQ(parse_parallelism("TP4096xEP4096xETP4096").ranks(), 4096);  // within the most ranks
}

TEST(Parallelism, RefusesWhatItCannotRead) {
  const std::pair<const char*, const char*> rows[] = {{"TP2xTP4", "names TP twice"},
                                                      {"ETP2xETP2", "names ETP twice"},
                                                      {"TP0", "needs a number from 1 to 65536"},
                                                      {"TP65537", "needs a number from 1 to 65536"},
                                                      {"TP", "needs a number"},
                                                      {"TP-1", "is none of TP, CP, EP, ETP, DP, PP with a number"},
                                                      {"TP2x", "\"\" is none of TP, CP, EP, ETP, DP, PP"},
                                                      {"", "is none of"},
                                                      {"SP2", "\"SP2\" is none of"},
                                                      {"FSDP2", "train.trainer = \"fsdp\" has that axis"},
                                                      {"TP2 PP2", "needs a number"},
                                                      {"TP4096xDP4096", "has more than 1048576 ranks"}};
  for (const auto& [text, part] : rows) {
    try {
      parse_parallelism(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << text;
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("\"" + std::string(text) + "\""), std::string::npos) << error.what();
    }
  }
}

TEST(Parallelism, AbsentDataParallelIsTheSmallestThatFitsTheExperts) {
  const std::pair<const char*, std::int64_t> rows[] = {
      {"TP2", 1},     {"EP8", 8},  {"TP2xEP4", 2},  {"TP4xEP6", 3},      {"TP8xEP4", 1},     {"TP2xCP2xEP4", 1},
      {"EP8xDP2", 2}, {"ETP4", 4}, {"TP2xETP4", 2}, {"TP2xEP3xETP2", 3}, {"TP4xEP2xETP2", 1}};
  for (const auto& [text, dp] : rows) EXPECT_EQ(with_data_parallel(parse_parallelism(text)).dp, dp) << text;
}

}  // namespace
}  // namespace refit::layout
