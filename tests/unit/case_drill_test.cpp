// run.drill: which engines take part in which refits, and what is wrong with a drill.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "case/drill.hpp"

namespace refit::cases {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Returns for each engine a character per refit: `#` where it takes part, `.` where not.
std::string picture_of(const Drill& drill) {
  std::string text;
  for (std::size_t engine = 0; engine < drill.engines(); ++engine) {
    if (engine > 0) text += ' ';
    for (std::int64_t refit = 1; refit <= drill.refits(); ++refit) text += drill.takes_part(engine, refit) ? '#' : '.';
  }
  return text;
}

/// Returns what befalls engines between refits: "-1@3 +1@4" for engine 1 killed before refit 3 and made before 4.
std::string events(const Drill& drill) {
  std::string text;
  for (std::int64_t refit = 2; refit <= drill.refits(); ++refit) {
    for (std::size_t engine = 0; engine < drill.engines(); ++engine) {
      if (drill.dies(engine, refit)) text += fmt::format(" -{}@{}", engine, refit);
      if (drill.joins(engine, refit))
        text += fmt::format(" {}{}@{}", drill.is_new_life(engine, refit) ? "+" : "late ", engine, refit);
    }
  }
  return text.empty() ? text : text.substr(1);
}

TEST(Drill, SaysWhoTakesPartInWhichRefits) {
  struct Row {
    const char* text;
    std::size_t engines;
    const char *picture, *events;
  };
  const Row rows[] = {
      {"", 2, "##### #####", ""},
      {"kill engine 1 after refit 2; rejoin before refit 4", 2, "##### ##.##", "-1@3 +1@4"},
      {"  kill   engine 1\tafter refit 2 ;rejoin engine 1 before refit 3", 2, "##### #####", "-1@3 +1@3"},
      {"restart engine 1 after refit 2", 2, "##### #####", "-1@3 +1@3"},
      {"join engine 1 before refit 3", 2, "##### ..###", "late 1@3"},
      {"rejoin engine 1 before refit 3", 2, "##### ..###", "late 1@3"},
      {"kill engine 0 after refit 4", 2, "####. #####", "-0@5"},
      {"kill engine 0 after refit 1; kill engine 1 after refit 2; rejoin before refit 4; join engine 0 before refit 5",
       2, "#...# ##.##", "-0@2 -1@3 +1@4 +0@5"},
      {"restart engine 2 after refit 1; restart engine 2 after refit 2; kill engine 2 after refit 4", 3,
       "##### ##### ####.", "-2@2 +2@2 -2@3 +2@3 -2@5"},
      {"join engine 0 before refit 2; kill engine 0 after refit 2; rejoin before refit 5", 2, ".#..# #####",
       "late 0@2 -0@3 +0@5"},
      {"kill engine 0 after refit 2; rejoin before refit 4", 1, "##.##", "-0@3 +0@4"},
  };
  for (const Row& row : rows) {
    const DrillText read = read_drill(row.text, row.engines, 5);
    EXPECT_THAT(read.wrong, IsEmpty()) << row.text;
    EXPECT_EQ(picture_of(read.drill), row.picture) << row.text;
    EXPECT_EQ(events(read.drill), row.events) << row.text;
  }
}

TEST(Drill, KnowsWhenNoEngineIsThere) {
  EXPECT_THAT(read_drill("kill engine 0 after refit 2; rejoin before refit 5", 1, 5).drill.idle(), ElementsAre(3, 4));
  EXPECT_THAT(read_drill("kill engine 0 after refit 2; kill engine 1 after refit 3", 2, 5).drill.idle(),
              ElementsAre(4, 5));
  EXPECT_THAT(read_drill("kill engine 0 after refit 2", 2, 5).drill.idle(), IsEmpty());
  EXPECT_FALSE(read_drill("kill engine 0 after refit 2", 2, 5).drill.has_new_life());
  EXPECT_FALSE(read_drill("join engine 0 before refit 2", 2, 5).drill.has_new_life());
  EXPECT_TRUE(read_drill("restart engine 0 after refit 2", 2, 5).drill.has_new_life());
}

TEST(Drill, RefusesWhatCannotHappen) {
  struct Row {
    const char *text, *wrong;
  };
  const Row rows[] = {
      {"kill engine 2 after refit 1",
       "\"kill engine 2 after refit 1\": there is no engine 2: they are engine 0 to engine 1"},
      {"kill engine 1 after refit 2; kill engine 1 after refit 3",
       "\"kill engine 1 after refit 3\": engine 1 is dead by then: it was killed after refit 2"},
      {"kill engine 1 after refit 2; restart engine 1 after refit 4", "engine 1 is dead by then"},
      {"restart engine 1 after refit 2; rejoin before refit 4", "engine 1 is alive by then"},
      {"kill engine 1 after refit 3; rejoin before refit 3", "so that it can join before refit 4 or later"},
      {"kill engine 1 after refit 3; rejoin before refit 2", "so that it can join before refit 4 or later"},
      {"join engine 1 before refit 4; kill engine 1 after refit 2",
       "engine 1 joins before refit 4 and takes part in it"},
      {"join engine 1 before refit 4; rejoin before refit 5", "engine 1 is alive by then"},
      {"join engine 1 before refit 1", "engine 1 is there from the beginning"},
      {"kill engine 1 after refit 5", "an engine can be killed after refit 1 to 4: there are 5"},
      {"restart engine 1 after refit 5", "an engine can restart after refit 1 to 4"},
      {"kill engine 1 after refit 0", "after refit 1 to 4"},
      {"kill engine 1 after refit 2; rejoin before refit 6", "refits are 1 to 5 (run.warmup + run.steps)"},
      {"join engine 1 before refit 0", "refits are 1 to 5"},
      {"rejoin before refit 3", "says of no engine that it joins"},
      {"join engine 0 before refit 2; join engine 1 before refit 3", "no engine is there for refit 1"},
      {"kil engine 1 after refit 2",
       "\"kil engine 1 after refit 2\": is no clause; there are: kill engine N after refit R"},
      {"kill engine 1", "is no clause"},
      {"kill engine 1 before refit 2", "is no clause"},
      {"kill engine one after refit 2", "is no clause"},
      {"kill engine -1 after refit 2", "is no clause"},
      {"kill engine 1 after refit 2x", "is no clause"},
      {"kill engine 1 after refit 99999999999999999999", "is no clause"},
      {"kill engine 1 after refit 2 rejoin before refit 4", "is no clause"},
      {"kill engine 1 after refit 2;; rejoin before refit 4", "\"\": is no clause"},
      {";", "is no clause"},
      {"kill after refit 2", "is no clause"},
  };
  for (const Row& row : rows)
    EXPECT_THAT(read_drill(row.text, 2, 5).wrong, ElementsAre(HasSubstr(row.wrong))) << row.text;
  // Each mistake is named once; what follows from one is none.
  EXPECT_THAT(read_drill("kill engine 1 after refit 9; rejoin before refit 2; kill engine 7 after refit 1", 2, 5).wrong,
              ElementsAre(HasSubstr("after refit 1 to 4"), HasSubstr("there is no engine 7")));
}

/// Random schedules, written as clauses with those of all engines mixed, are read as what they are.
TEST(Drill, ReadsRandomSchedules) {
  std::mt19937 random(7);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (int round = 0; round < 2000; ++round) {
    const std::size_t engines = 1 + below(4);
    const std::size_t refits = 2 + below(8);
    std::string picture;
    std::vector<std::vector<std::string>> clauses;  // of each engine, in order
    for (std::size_t e = 0; e < engines; ++e) {
      std::string row(refits, '#');
      for (char& refit : row) refit = below(3) == 0 ? '.' : '#';
      if (e == 0) row.front() = '#';
      if (row.find('#') == std::string::npos) row.back() = '#';
      picture += (e == 0 ? "" : " ") + row;
      std::vector<std::string>& mine = clauses.emplace_back();
      for (std::size_t r = 0; r < refits; ++r) {
        const bool was = r == 0 || row[r - 1] == '#';  // an engine is there before the run, if nothing else is said
        const bool is = row[r] == '#';
        if (was && !is && r > 0) mine.push_back(fmt::format("kill engine {} after refit {}", e, r));
        if (is && r > 0 && row[r - 1] == '.') mine.push_back(fmt::format("join engine {} before refit {}", e, r + 1));
        if (was && is && r > 0 && below(4) == 0) mine.push_back(fmt::format("restart engine {} after refit {}", e, r));
      }
    }
    std::string text;
    const auto any_left = [&] { return std::ranges::any_of(clauses, [](const auto& mine) { return !mine.empty(); }); };
    while (any_left()) {
      std::vector<std::string>& mine = clauses[below(engines)];
      if (mine.empty()) continue;
      text += (text.empty() ? "" : "; ") + mine.front();
      mine.erase(mine.begin());
    }
    const DrillText read = read_drill(text, engines, static_cast<std::int64_t>(refits));
    EXPECT_THAT(read.wrong, IsEmpty()) << text;
    EXPECT_EQ(picture_of(read.drill), picture) << text;
  }
}

/// Words in any order are a drill or are refused.
TEST(Drill, SurvivesRandomWords) {
  std::mt19937 random(11);
  const char* words[] = {"kill", "join", "rejoin", "restart", "engine", "after", "before", "refit", ";", "0",
                         "1",    "2",    "9",      "-1",      "",       "\t",    "x",      "1e3",   ";;"};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (auto i = random() % 14; i > 0; --i) text += std::string(words[random() % std::size(words)]) + ' ';
    const DrillText read = read_drill(text, 2, 4);
    const bool begins = read.drill.idle().empty() || read.drill.idle().front() > 1;
    EXPECT_TRUE(begins || !read.wrong.empty()) << text;
  }
}

}  // namespace
}  // namespace refit::cases
