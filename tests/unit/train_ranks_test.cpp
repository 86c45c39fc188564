// Every rank of every table that Megatron-Core's parallel_state gave (tests/data/rank_tables.json).

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "train/megatron/layout.hpp"

namespace refit::train::megatron {
namespace {

using nlohmann::json;

TEST(TrainRanks, HaveMegatronsCoordinatesInAllTables) {
  std::ifstream file(std::string(REFIT_SOURCE_DIR) + "/tests/data/rank_tables.json");
  const json tables = json::parse(file).at("tables");
  EXPECT_EQ(tables.size(), 27u);
  for (const json& table : tables) {
    const json& sizes = table.at("sizes");  // an ETP that was not asked for (null) is TP there
    const auto size = [&](const char* axis) { return sizes.at(axis).get<std::int64_t>(); };
    const layout::Parallelism parallelism{size("tp"), size("cp"), size("ep"), size("etp"), size("dp"), size("pp")};
    ASSERT_EQ(parallelism.ranks(), table.at("requested").at("world").get<std::int64_t>());
    ASSERT_EQ(table.at("ranks").size(), static_cast<std::size_t>(parallelism.ranks()));
    for (const json& rank : table.at("ranks")) {
      const auto at = [&](const char* axis) { return rank.at(axis).get<std::int64_t>(); };
      const Coordinates expected{at("tp"), at("cp"), at("dp"), at("etp"), at("ep"), at("edp"), at("pp")};
      EXPECT_EQ(coordinates(parallelism, Rank{rank.at("rank").get<std::int32_t>()}), expected)
          << sizes << " rank " << rank.at("rank");
    }
  }
}

}  // namespace
}  // namespace refit::train::megatron
