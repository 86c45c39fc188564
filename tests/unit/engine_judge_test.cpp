// The verdict on a run in which engines come and go: one that is there at the end and holds older weights fails it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/case_reader.hpp"
#include "engine/expect.hpp"

namespace refit::engine {
namespace {

/// The error of a run whose last refit, the third, has these engines; empty: it passed.
std::string verdict_of(const std::vector<report::EngineRefit>& engines) {
  std::vector<app::Option> options;
  options.push_back({"model.config", REFIT_SOURCE_DIR "/inputs/models/qwen3-4b-small/config.json", ""});
  options.push_back({"train.layout", "TP2", ""});
  options.push_back({"gen.layout", "TP2+TP1", ""});
  const cases::Setup setup(app::read_case("", options));
  report::Result result;
  result.engines = {{{"vllm", "TP2", 2, "bf16"}, 0, {}, {}, {}}, {{"vllm", "TP1", 1, "bf16"}, 2, {}, {}, {}}};
  result.payload.emplace();
  for (std::int64_t number = 1; number <= 3; ++number) {
    report::Refit& refit = result.refits.emplace_back();
    refit.number = number;
    refit.version.number = number;
    refit.engines =
        number < 3 ? std::vector<report::EngineRefit>{{true, 0.5, {}, number}, {true, 0.5, {}, number}} : engines;
  }
  judge(setup, result);
  EXPECT_EQ(result.exit_code, result.error ? 1 : 0);
  return result.error ? result.error->message : "";
}

TEST(Judge, NamesAnEngineThatHoldsOlderWeightsThanTheLastRefits) {
  EXPECT_EQ(verdict_of({{true, 0.5, {}, 3}, {true, 0.5, {}, 3}}), "");
  EXPECT_EQ(verdict_of({{true, 0.5, {}, 3}, {false, {}, {}, 2}}), "");  // dead, and known to be
  EXPECT_EQ(verdict_of({{true, 0.5, {}, 3}, {true, {}, {}, 2}}),
            "engine 1 (TP1) holds version 2 and would serve it: the last refit was 3");
  EXPECT_EQ(
      verdict_of({{true, {}, {}, 1}, {true, {}, 0.25, 0}}),
      "engine 0 (TP2) holds version 1 and would serve it: the last refit was 3; engine 1 (TP1) holds version 0 and "
      "would serve it: the last refit was 3");
}

}  // namespace
}  // namespace refit::engine
