// Setups of cases: models, layouts and paths, without MPI.

#include <gmock/gmock.h>

#include "app/case_reader.hpp"
#include "case/setup.hpp"
#include "engine/faults.hpp"

namespace refit::cases {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Case case_of(const std::string& model, const std::string& train, const std::string& gen,
             std::vector<app::Option> more = {}) {
  std::vector<app::Option> options = {
      {"model.config", std::string(REFIT_SOURCE_DIR "/inputs/models/") + model + "/config.json", ""},
      {"train.layout", train, ""},
      {"gen.layout", gen, ""}};
  options.insert(options.end(), more.begin(), more.end());
  return app::read_case("", options);
}

std::string refusal(const Case& c) {
  try {
    const cases::Setup setup(c);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "";
}

TEST(CaseSetup, HasBothLayoutsAndEveryTensorOnOnePath) {
  const cases::Setup setup(case_of("qwen3-30b-a3b-small", "EP2xTP2", "TP2xDP2", {{"refit.bulk", "ffn", ""}}));
  EXPECT_EQ(setup.train->ranks(), 2);  // EP shares the ranks of TP
  EXPECT_EQ(setup.gen->ranks(), 4);
  EXPECT_GT(setup.split.misc.size(), 0U);
  EXPECT_EQ(setup.split.bulk.size() + setup.split.misc.size(), setup.model.tensors.size());
  EXPECT_EQ(setup.unknown_tensors(), "");
  EXPECT_EQ(&setup.sent(), setup.train.get());
}

TEST(CaseSetup, AnotherPolicyMovesTensorsBetweenPaths) {
  const cases::Setup setup(case_of("qwen3-4b-small", "TP2", "TP2"));
  EXPECT_EQ(setup.split.misc.size(), 0U);
  const plan::Split ffn = setup.split_by(plan::Policy::ffn);
  EXPECT_EQ(ffn.bulk.size() + ffn.misc.size(), setup.model.tensors.size());
  EXPECT_LT(ffn.bulk.size(), setup.split.bulk.size());
}

TEST(CaseSetup, SendsWhatQuantisedWeightsBecome) {
  const cases::Setup setup(
      case_of("qwen3-8b-small", "TP2", "TP2", {{"train.precision", "bf16", ""}, {"gen.precision", "fp8", ""}}));
  ASSERT_NE(setup.quantised, nullptr);
  EXPECT_EQ(&setup.sent(), setup.quantised.get());
  for (std::size_t i = 0; i < setup.split.bulk.size(); ++i) {
    const model::Tensor& tensor = setup.split.bulk[i];
    if (tensor.scales < 0) continue;
    ASSERT_LT(i + 1, setup.split.bulk.size()) << tensor.name;
    EXPECT_EQ(setup.split.bulk[i + 1].index, tensor.scales) << tensor.name;
  }
}

TEST(CaseSetup, RefusesBothSidesAtOnceAndSaysWhatIsLegal) {
  EXPECT_THAT(refusal(case_of("qwen3-4b-small", "TP3", "TP5")),
              AllOf(HasSubstr("this layout is impossible"), HasSubstr("train: legal with all else as it is: TP 1, 2"),
                    HasSubstr("gen: legal with all else as it is: TP 1, 2")));
}

TEST(CaseSetup, RefusesInjectionsThatWouldShowNothingInARun) {
  const auto told = [](std::vector<app::Option> more) {
    const cases::Setup setup(case_of("qwen3-4b-small", "PP2", "TP1", std::move(more)));
    try {
      engine::faults_of_run(setup);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(told({{"run.inject", "stale-refit", ""}}), "");
  EXPECT_THAT(told({{"run.inject", "stale-refit", ""}, {"run.update", "none", ""}}), HasSubstr("two refits"));
  EXPECT_THAT(told({{"run.inject", "stale-refit", ""}, {"run.steps", "1", ""}, {"run.warmup", "0", ""}}),
              HasSubstr("two refits"));
  EXPECT_THAT(told({{"run.inject", "corrupt-replica", ""}}), HasSubstr("a train rank 1 that stores the tensor"));
  const app::Option stale{"run.inject", "B62-stale-engine", ""};
  EXPECT_EQ(told({stale, {"run.drill", "restart engine 0 after refit 2", ""}}), "");
  EXPECT_THAT(told({stale}), HasSubstr("run.drill with an engine that joins again"));
  EXPECT_THAT(told({stale, {"run.drill", "kill engine 0 after refit 2", ""}}),
              HasSubstr("run.drill with an engine that joins again"));
}

}  // namespace
}  // namespace refit::cases
