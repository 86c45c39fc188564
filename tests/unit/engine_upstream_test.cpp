// Refusals before anything runs: impossible layouts with the sizes that would do, and the refusals of strict_upstream.
// Each message names its rule (V: the gate at setup, L: a failure at run time).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/case_reader.hpp"
#include "case/setup.hpp"
#include "core/error.hpp"

namespace refit::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// A case of `settings` ("key=value") on a model of inputs/models.
cases::Case case_of(const std::string& model, const std::vector<std::string>& settings) {
  std::map<std::string, std::string> values = {
      {"model.config", fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, model)},
      {"train.layout", "TP1"},
      {"gen.layout", "TP1"}};
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    values[setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  std::vector<app::Option> options;
  for (const auto& [key, value] : values) options.push_back({key, value, "--set " + key});
  return app::read_case("", options);
}

/// Returns the reason why a case is refused; "" where it is not.
std::string refusal(const std::string& model, const std::vector<std::string>& settings) {
  try {
    const cases::Case c = case_of(model, settings);
    app::check_case(c);
    const cases::Setup setup(c);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
    return error.what();
  }
}

struct Row {
  const char* model;
  std::vector<std::string> settings;
  std::vector<const char*> words;  ///< all in the one message; none: accepted
};

void check(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const std::string shown = row.model + ::testing::PrintToString(row.settings);
    const std::string found = refusal(row.model, row.settings);
    EXPECT_EQ(found.empty(), row.words.empty()) << shown << found;
    for (const char* word : row.words) EXPECT_THAT(found, HasSubstr(word)) << shown;
  }
}

TEST(SetupRules, SaysAllThatIsImpossibleAndWhatWouldDo) {
  check({
      {"qwen3-0.6b-small",
       {"train.layout=TP3", "gen.layout=TP5"},
       {"train: 16 attention heads are not divisible by TP3", "train: 8 KV heads and TP3",
        "train: gate_proj's 1024 rows", "train: legal with all else as it is: TP 1, 2, 4, 8, 16",
        "gen: 16 attention heads are not divisible by TP5 [L14]",
        "gen: down_proj's 1024 columns are not divisible by TP5 [L14]", "gen: legal with all else as it is: TP 1, 2",
        "\n  (docs/layouts.md has the rules by number)"}},
      {"deepseek-v3-small", {"train.layout=PP4"}, {"7 layers do not split over PP4", "[L4]"}},
      {"deepseek-v3-small", {"train.layout=PP4", "train.first_stage_layers=1"}, {}},
      {"nemotron-3-nano-30b-a3b-small",
       {"train.layout=TP16", "gen.layout=TP16"},
       {"train: 8 Mamba groups are not divisible by TP16",
        "gen: 8 Mamba groups are neither 1 nor divisible by TP16 [L14]"}},
      {"qwen3.5-397b-a17b-small", {"train.layout=TP16"}, {"8 linear-attention key heads are not divisible by TP16"}},
      {"mixtral-8x7b-small", {"gen.layout=TP4xEP2"}, {"EP2 must be 1 or the size of the expert group, 4", "[V18]"}},
      {"mixtral-8x7b-small", {"train.layout=TP2xDP3xEP4"}, {"EP4 does not divide the 6 ranks of a stage", "[L1]"}},
      {"mixtral-8x7b-small", {"train.layout=TP2xETP4"}, {}},
      {"mixtral-8x7b-small", {"train.layout=ETP3"}, {"expert_gate's 1024 rows are not divisible by ETP3"}},
      {"mixtral-8x7b-small", {"gen.mtp=true"}, {"the model has no multi-token prediction layer"}},
      {"gpt-oss-20b-small", {"gen.moe_backend=flashinfer_cutlass"}, {"interleaved experts"}},
      {"gpt-oss-20b-small", {"train.layout=TP2xETP2"}, {"experts with biases and ETP2"}},
      {"qwen3-4b-small",
       {"run.strict_upstream=merged", "gen.layout=TP2xPP2"},
       {"gen PP2 is not supported; legal: PP1 [V19] (docs/layouts.md has the rules by number)"}},
      {"qwen3-4b-small", {"gen.layout=TP2xPP2"}, {}},
      {"qwen3-4b-small",
       {"gen.layout=TP2xPP2", "gen.stage_layers=[1, 2]"},
       {"stage_layers has 2 stages with 3 layers"}},
      {"nemotron-3-nano-30b-a3b-small", {"gen.layout=PP2", "gen.stage_layers=[1, 11]"}, {"no layer with experts"}},
      {"deepseek-v3-small", {"gen.layout=PP2", "gen.mtp=with"}, {"a drafter's stage has no rule"}},
  });
}

TEST(SetupRules, CutsNemotronHsStagesByItsPattern) {
  const char* model = "nemotron-3-nano-30b-a3b-small";  // MEM*E-MEM*EM
  const std::string legal = "train.hybrid_layer_pattern=MEM*|E-MEM*E|M";
  check({{model, {"train.layout=PP3", legal}, {}},
         {model, {"train.layout=PP2", legal}, {"hybrid_layer_pattern lists 3 stages with 12 layers; PP2", "[L4]"}},
         {model,
          {"train.layout=PP2", "train.hybrid_layer_pattern=MEM*M|-MEM*EM"},
          {"the model's layers are MEM*E-MEM*EM"}},
         {model, {"train.layout=PP3", legal, "train.first_stage_layers=3"}, {"gives every stage"}},
         {"qwen3-4b-small", {"train.layout=PP2", "train.hybrid_layer_pattern=**|**"}, {"all alike: leave it out"}}});
  const cases::Setup setup(case_of(model, {"train.layout=PP3", legal}));
  const model::Tensor* last = setup.model.find("backbone.layers.11.norm.weight");
  std::vector<layout::Piece> pieces;
  setup.train->pieces(*last, Rank{2}, pieces);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(setup.train->storage(pieces[0].place.storage, Rank{2}).name,
            "decoder.layers.0.mixer.in_proj.layer_norm_weight");
}

TEST(StrictUpstream, RefusesWhatTheOriginalRefused) {
  const std::string strict = "run.strict_upstream=seed";
  const std::string whitelist = "refit.bulk=whitelist";
  check({
      {"qwen3-30b-a3b-small", {strict, whitelist, "train.layout=TP2xEP4", "gen.layout=TP4"}, {}},
      // Every violation in one message.
      {"qwen3-30b-a3b-small",
       {strict, "train.layout=TP2xETP2xPP2", "train.stage_layers=[3, 5]", "gen.layout=TP4xPP2xEP4",
        "gen.precision=fp32"},
       {"ETP2 is not supported; legal: ETP1 [V7]", "legal: first_stage_layers and last_stage_layers [V8]",
        "fp32 is none of bf16 and fp8 [V12]", "legal: equal precisions [L11]", "EP4 must be 1 [V18]", "[V19]"}},
      // Also of sides that neither version knows.
      {"qwen3-30b-a3b-small",
       {strict, "train.trainer=fsdp", "gen.engine=sglang", "gen.layout=TP2xPP2", "gen.precision=fp32"},
       {"the engine must be vllm, not sglang; legal: vllm [V2]",
        "the trainer must be megatron, not fsdp; legal: megatron [V5]", "[V12]", "[L11]", "[V19]"}},
      {"qwen3-30b-a3b-small",
       {strict, whitelist, "gen.layout=TP2xEP2", "gen.redundant_experts=2"},
       {"an engine that balances experts (EPLB) is not supported", "[V3]", "[V18]"}},
      {"deepseek-v3-small",
       {strict, whitelist, "train.layout=PP4", "train.first_stage_layers=1"},
       {"layer 7 of model.layers.7", "[L3]"}},
      {"deepseek-v3-small", {strict, whitelist}, {}},
      {"qwen3-next-80b-a3b-small", {strict, whitelist}, {"compound mapping", "[L6]"}},
      {"qwen3-4b-small",
       {strict, whitelist, "train.make_vocab_size_divisible_by=1000"},
       {"the train vocabulary has 2000 rows, the tensor 1408", "[L12]"}},
      {"qwen3-4b-small", {strict, "refit.bulk=ffn", "train.make_vocab_size_divisible_by=1000"}, {}},
  });
}

TEST(StrictUpstream, NamesOnlyTheSideThatIsUnknown) {
  const std::string strict = "run.strict_upstream=seed";
  EXPECT_THAT(refusal("qwen3-4b-small", {strict, "train.trainer=fsdp"}),
              AllOf(HasSubstr("[V5]"), Not(HasSubstr("[V2]"))));
  EXPECT_THAT(refusal("qwen3-4b-small", {strict, "gen.engine=sglang"}),
              AllOf(HasSubstr("[V2]"), Not(HasSubstr("[V5]"))));
}

TEST(StrictUpstream, RefusesWhatTheMergedVersionRefuses) {
  const std::string strict = "run.strict_upstream=merged";
  const std::string ffn = "refit.bulk=ffn";
  check({
      {"qwen3-30b-a3b-small", {strict, ffn, "train.layout=TP2xEP4", "gen.layout=TP4xEP4"}, {}},
      {"qwen3-30b-a3b-small",
       {strict, ffn, "gen.layout=TP2xDP2xEP4", "gen.data_parallel=internal"},
       {"EP4 must be 1 or TP, 2 [V18]"}},
      {"qwen3-30b-a3b-small",
       {strict, ffn, "gen.layout=TP2xDP2", "gen.data_parallel=internal"},
       {"legal: gen.data_parallel = engines [L12]"}},
      {"qwen3-30b-a3b-small", {strict, ffn, "gen.moe_backend=flashinfer_trtllm"}, {"legal: triton [L12]"}},
      {"mixtral-8x7b-small", {strict, ffn}, {"no layer prefix is known", "[L5]"}},
      {"gpt-oss-20b-small", {strict, ffn}, {"have no expert group on the train side", "[L8]"}},
      {"gpt-oss-20b-small", {strict, "refit.bulk=whitelist"}, {}},
      {"deepseek-v3-small", {strict, ffn, "train.layout=PP4", "train.first_stage_layers=1"}, {}},
      {"qwen3-next-80b-a3b-small", {strict, ffn}, {}},
  });
}

/// refit can do these with newer versions of vLLM; the upstream versions' vLLM cannot.
TEST(StrictUpstream, RefusesWhatItsEnginesCouldNotQuantise) {
  const std::vector<std::string> fp8{"train.precision=fp8", "gen.precision=fp8", "model.layers=1"};
  const auto with = [&](std::vector<std::string> settings) {
    settings.insert(settings.end(), fp8.begin(), fp8.end());
    return settings;
  };
  const std::string seed = "run.strict_upstream=seed";
  const std::string merged = "run.strict_upstream=merged";
  check({
      // Experts of width 768: 384, 192 and 96 a rank.
      {"qwen3-30b-a3b", with({seed, "refit.bulk=whitelist", "gen.layout=TP2"}), {}},
      {"qwen3-30b-a3b", with({"gen.layout=TP4"}), {}},
      {"qwen3-30b-a3b",
       with({seed, "refit.bulk=whitelist", "gen.layout=TP4"}),
       {"seed: 192 of the experts' width 768 a rank are not whole blocks of 128; legal: a smaller gen TP [L14]"}},
      {"qwen3-30b-a3b", with({merged, "refit.bulk=ffn", "gen.layout=TP8"}), {"96 of the experts' width", "[L14]"}},
      {"qwen3-30b-a3b", with({merged, "refit.bulk=ffn", "gen.layout=TP4xEP4"}), {}},
      {"qwen3.5-397b-a17b-small", {"gen.precision=mxfp8"}, {}},
      {"qwen3.5-397b-a17b-small",
       {merged, "refit.bulk=ffn", "gen.precision=mxfp8"},
       {"packed experts cannot become mxfp8", "[L11]"}},
  });
}

/// Blocks of 128 that straddle heads of 64 cannot be split for the fused qkv, though an engine can store them.
TEST(SetupRules, TrainsHeadsOfHalfABlockWithoutFp8) {
  check({
      {"llama-3.2-1b-small", {"gen.precision=fp8"}, {}},
      {"llama-3.2-1b-small", {"train.precision=fp8", "gen.precision=fp8"}, {"k_proj's 64 rows", "[L15]"}},
      {"llama-3.2-1b-small", {"train.precision=mxfp8", "gen.precision=mxfp8"}, {}},
  });
}

}  // namespace
}  // namespace refit::engine
