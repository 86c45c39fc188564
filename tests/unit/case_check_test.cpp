// Refusals of cases: contradictions, keys that mean nothing, and features that this build does not have.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/case_reader.hpp"
#include "core/error.hpp"

namespace refit::app {
namespace {

using ::testing::HasSubstr;

/// A case of `settings` ("key=value") over a legal base.
cases::Case case_of(const std::vector<std::string>& settings) {
  std::map<std::string, std::string> values = {
      {"model.config", "/m/config.json"}, {"train.layout", "TP2"}, {"gen.layout", "TP2"}};
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    values[setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  std::vector<Option> options;
  for (const auto& [key, value] : values) options.push_back({key, value, "--set " + key});
  return read_case("", options);
}

struct Row {
  std::vector<std::string> settings;
  ErrorKind kind;
  const char* message;
};

void expect_refused(const Row& row) {
  const std::string shown = ::testing::PrintToString(row.settings);
  try {
    check_case(case_of(row.settings));
    ADD_FAILURE() << "accepted: " << shown;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), row.kind) << shown;
    EXPECT_THAT(error.what(), HasSubstr(row.message)) << shown;
  }
}

TEST(CaseCheck, RefusesContradictions) {
  constexpr auto kUsage = ErrorKind::usage;
  const std::vector<Row> rows = {
      {{"model.checkpoint=/d"}, kUsage, "model.config: give either this or model.checkpoint"},
      {{"train.layout=PP2", "train.stage_layers=[1, 2]", "train.first_stage_layers=1"}, kUsage, "gives every stage"},
      {{"train.layout=PP2", "train.hybrid_layer_pattern=M|*", "train.stage_layers=[1, 1]"},
       kUsage,
       "train.hybrid_layer_pattern: gives every stage"},
      {{"train.layout=PP2", "train.hybrid_layer_pattern=M|*", "train.last_stage_layers=1"},
       kUsage,
       "train.hybrid_layer_pattern: gives every stage"},
      {{"gen.layout=TP2xETP2"}, kUsage, "weights have no CP and ETP"},
      {{"train.first_stage_layers=3"}, kUsage, "means nothing without PP"},
      {{"train.account_for_loss=true"}, kUsage, "train.account_for_loss: means nothing without PP"},
      {{"train.layout=PP2", "train.pipeline_layout=Et|tL", "train.first_stage_layers=1"},
       kUsage,
       "train.pipeline_layout: gives every stage; leave out first_stage_layers and last_stage_layers"},
      {{"train.layout=PP2", "train.pipeline_layout=Et|tL", "train.account_for_loss=true"},
       kUsage,
       "train.pipeline_layout: gives every stage; leave out account_for_embedding and account_for_loss"},
      {{"train.layout=PP2", "train.account_for_embedding=true", "train.last_stage_layers=1"},
       kUsage,
       "train.account_for_embedding: splits layers in another way than first_stage_layers and last_stage_layers; "
       "leave"},
      {{"train.layout=PP2", "train.account_for_loss=true", "train.last_stage_layers=1"},
       kUsage,
       "train.account_for_loss: splits layers in another way"},
      {{"train.layout=PP2", "train.pipeline_layout=Et|(tt|L"},
       kUsage,
       "train.pipeline_layout: \"Et|(tt|L\": character 4, \"(\", opens a bracket that is not closed"},
      {{"train.trainer=fsdp", "train.layout=FSDP2", "train.pipeline_layout=EtL"}, kUsage, "train.pipeline_layout"},
      {{"run.phase_seconds=5", "run.timeout_seconds=0"}, kUsage, "run.phase_seconds: means nothing with"},
      {{"run.strict_upstream=merged", "gen.layout=TP2xPP2"}, kUsage, "gen PP2 is not supported; legal: PP1 [V19]"},
      {{"gen.layout=PP2", "gen.stage_layers=[-1, 3]"}, kUsage, "gen.stage_layers has an entry that is negative"},
      {{"gen.layout=TP2xCP2"}, kUsage, "weights have no CP and ETP"},
      {{"gen.attn_dp_size=2"}, kUsage, "gen.attn_dp_size: means nothing with gen.engine = \"vllm\""},
      {{"gen.engine=sglang", "gen.kv_cache_dtype=fp8"},
       kUsage,
       "gen.kv_cache_dtype: means nothing with gen.engine = \"sglang\""},
      {{"gen.engine=sglang", "gen.moe_backend=triton"}, kUsage, "gen.moe_backend: means nothing with gen.engine"},
      {{"gen.engine=sglang", "gen.layout=TP2xCP2"}, kUsage, "SGLang gen CP and ETP must be 1"},
      {{"gen.engine=sglang", "gen.pp_layer_partition=[1, 2]"}, kUsage, "means nothing without PP"},
      {{"gen.engine=sglang", "gen.derived=true", "gen.precision=fp8"}, kUsage, "w_kc and w_vc of weights in fp8"},
      {{"gen.quantiser=nemo_rl"}, kUsage, "gen.quantiser: means nothing with gen.precision = \"bf16\""},
      {{"gen.quantiser=te", "train.precision=fp8", "gen.precision=fp8"},
       kUsage,
       "gen.quantiser: means nothing with train.precision = \"fp8\": what is quantised already is copied"},
      {{"gen.quantiser=nemo", "gen.precision=fp8"},
       kUsage,
       "\"nemo\" is unknown; use one of those for gen.precision = \"fp8\": nemo_rl, nemo_rl_pow2, te, te_pow2, vllm, "
       "vllm_ue8m0"},
      {{"gen.quantiser=mxfp8", "gen.precision=fp8"},
       kUsage,
       "\"mxfp8\" is unknown; use one of those for gen.precision = \"fp8\""},
      {{"gen.quantiser=te", "gen.precision=mxfp8"},
       kUsage,
       "\"te\" is not one of those for gen.precision = \"mxfp8\": nemo_rl, vllm"},
      {{"gen.kv_cache_dtype=auto", "gen.precision=fp32"}, kUsage, "means nothing with gen.precision = \"fp32\""},
      {{"gen.kv_cache_dtype=fp8_e5m2", "gen.precision=fp8"}, kUsage, "gen.kv_cache_dtype"},
      {{"gen.kv_cache_dtype=fp8"}, kUsage, "gen.kv_cache_dtype: means nothing with gen.precision = \"bf16\""},
      {{"gen.kv_scales=x.json"}, kUsage, "gen.kv_scales: means nothing with gen.precision = \"bf16\""},
      {{"gen.kv_scales=x.json", "gen.precision=mxfp8"},
       kUsage,
       "gen.kv_scales: means nothing with gen.kv_cache_dtype = \"auto\""},
      {{"refit.executor=golden", "refit.chunk_bytes=1MiB"}, kUsage, "refit.chunk_bytes: means nothing"},
      {{"refit.executor=direct", "refit.group_size=2"}, kUsage, "refit.group_size: means nothing"},
      {{"refit.executor=direct", "refit.ring_chunks=2"}, kUsage, "refit.ring_chunks: means nothing"},
      {{"refit.executor=direct", "refit.streams=2"}, kUsage, "refit.streams: means nothing"},
      {{"refit.executor=direct", "refit.communicators=single"}, kUsage, "refit.communicators: means nothing"},
      {{"run.ranks_per_device=1"}, kUsage, "run.ranks_per_device: means nothing"},
      {{"run.verify=off", "expect.kl_max=0"}, kUsage, "expect.kl_max: needs run.verify"},
      {{"run.verify=off", "expect.outcome=mismatch"}, kUsage, "is never found"},
      {{"expect.message=x"}, kUsage, "expect.message: needs expect.outcome"},
      {{"expect.outcome=error", "expect.note=x"}, kUsage, "expect.note: needs expect.outcome"},
      {{"expect.outcome=timeout", "expect.figures=[\"wire.bytes <= 1\"]"}, kUsage, "expect.figures: needs"},
      {{"expect.figures=[\"wire.bytes < 1\"]"}, kUsage, "\"wire.bytes < 1\" is not of the form"},
      {{"expect.figures=[\"wire.bytes <= 1 MB\"]"}, kUsage, "is not of the form"},
      {{"expect.figures=[\"wire.byte <= 1\"]"}, kUsage, "unknown figure \"wire.byte\"; known: delta."},
      {{"expect.mismatch=[{tensors = \"*\", fraction = 1.0}]"}, kUsage, "expect.mismatch: needs expect.outcome"},
      {{"output.json=r", "output.csv=r"}, kUsage, "output.csv: \"r\" is also the file of output.json"},
  };
  for (const Row& row : rows) expect_refused(row);
}

/// Each refusal names its engine, and weights go to all engines in one form.
TEST(CaseCheck, RefusesEnginesByName) {
  constexpr auto kUsage = ErrorKind::usage;
  const std::vector<Row> rows = {
      {{"gen.layout=TP2+TP2xCP2"}, kUsage, "engine 1: gen.layout: TP2xCP2: vLLM's weights have no CP and ETP"},
      {{"gen.layout=TP2+TP2", "gen.1.attn_dp_size=2"},
       kUsage,
       "--set gen.1.attn_dp_size: engine 1: gen.attn_dp_size: means nothing with gen.engine = \"vllm\""},
      {{"gen.layout=TP2+TP2", "gen.attn_dp_size=2"},
       kUsage,
       "engine 1: gen.attn_dp_size: means nothing with gen.engine"},
      {{"gen.layout=TP2+TP2", "gen.1.engine=sglang", "gen.1.pp_layer_partition=[1, 2]"},
       kUsage,
       "engine 1: gen.pp_layer_partition: means nothing without PP"},
      {{"gen.layout=TP2+TP1", "gen.1.precision=fp8"}, kUsage, "engine 1: gen.precision: is not that of engine 0"},
      {{"gen.layout=TP2+TP1", "gen.precision=fp8", "gen.1.quantiser=te"},
       kUsage,
       "engine 1: gen.quantiser: is not that of engine 0"},
      {{"gen.layout=TP2+TP1", "gen.precision=fp8", "gen.1.kv_cache_dtype=fp8"},
       kUsage,
       "engine 1: gen.kv_cache_dtype: is not that of engine 0, or has other scales (gen.kv_scales): give all engines"},
      {{"gen.layout=TP2+TP1", "gen.precision=fp8", "gen.0.kv_cache_dtype=fp8", "gen.1.engine=sglang"},
       kUsage,
       "give no engine an FP8 KV cache, which not all of them have"},
      {{"gen.layout=TP2+TP1", "run.strict_upstream=merged"}, kUsage, "merged: it refits one engine, not 2; legal: off"},
      {{"gen.layout=TP2+TP1", "refit.executor=m2n"},
       kUsage,
       "one gen mesh, and there are 2 engines; use p2p or direct"},
      {{"gen.layout=TP2+TP1", "run.strict_upstream=seed"}, kUsage, "seed: it refits one engine, not 2; legal: off"},
  };
  for (const Row& row : rows) expect_refused(row);
  for (const auto& settings : {std::vector<std::string>{"gen.layout=TP2+DP4"},
                               {"gen.layout=TP4+TP2+TP1", "gen.engine=sglang"},
                               {"gen.layout=TP4+TP2", "gen.precision=fp8", "gen.quantiser=te"},
                               {"gen.layout=TP4+TP2", "gen.1.engine=sglang", "gen.derived=true"}}) {
    EXPECT_THAT(cases::violations(case_of(settings)), ::testing::IsEmpty()) << ::testing::PrintToString(settings);
  }
}

TEST(CaseCheck, RefusesDrillsThatCannotBe) {
  constexpr auto kUsage = ErrorKind::usage;
  const std::string drill = "run.drill=restart engine 0 after refit 2";
  const std::vector<Row> rows = {
      {{"run.drill=kill engine 1 after refit 2"},
       kUsage,
       "run.drill: \"kill engine 1 after refit 2\": there is no engine 1"},
      {{drill, "run.steps=1", "run.warmup=1"}, kUsage, "an engine can restart after refit 1 to 1: there are 2"},
      {{drill, "run.colocated=true"}, kUsage, "run.drill: needs train and gen ranks that are apart"},
      {{drill, "refit.executor=m2n"}, kUsage, "run.drill: executor m2n"},
      {{drill, "run.inject=[\"skip-send\"]"},
       kUsage,
       "goes with no injected bug but B62-stale-engine, and skip-send is"},
  };
  for (const Row& row : rows) expect_refused(row);
  for (const auto& settings :
       {std::vector<std::string>{drill},
        {drill, "run.steps=2", "run.warmup=1"},
        {drill, "run.inject=[\"B62-stale-engine\"]"},
        {"run.drill=kill engine 1 after refit 2; join engine 0 before refit 3", "gen.layout=TP2+TP1"}})
    EXPECT_THAT(cases::violations(case_of(settings)), ::testing::IsEmpty()) << ::testing::PrintToString(settings);
}

TEST(CaseCheck, RefusesWhatThisBuildDoesNotKnow) {
  constexpr auto kUsage = ErrorKind::usage;
  const std::vector<Row> rows = {
      {{"train.precision=fp8"}, kUsage, "train.precision: fp8 weights are copied as they are: fp8 -> bf16"},
      {{"train.precision=mxfp8", "gen.precision=fp32"}, kUsage, "set gen.precision = mxfp8, or train.precision = bf16"},
      {{"train.precision=fp8", "gen.precision=mxfp8"}, kUsage, "fp8 -> mxfp8 is not possible"},
      {{"train.precision=mxfp8", "gen.precision=fp8"}, kUsage, "mxfp8 -> fp8 is not possible"},
      {{"run.device=cuda"}, ErrorKind::unavailable, "run.device: this build has no CUDA"},
  };
  for (const Row& row : rows) expect_refused(row);
}

TEST(CaseCheck, KnowsTheExecutorsOfThisBuild) {
  const cases::Case c = case_of({"refit.executor=m2n", "refit.streams=4", "refit.group_size=64"});
  check_case(c);  // can be planned anywhere
  try {
    cases::require_executor(c);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unavailable);
    EXPECT_THAT(error.what(), testing::HasSubstr("this build has no NCCL M2N"));
  }
}

TEST(CaseCheck, RefusesWhatTheUpstreamVersionsRefuse) {
  constexpr auto kUsage = ErrorKind::usage;
  const std::vector<Row> rows = {
      {{"run.strict_upstream=seed", "train.layout=TP2xETP2"}, kUsage, "strict_upstream = seed: ETP2 is not supported"},
      {{"run.strict_upstream=merged", "train.layout=PP2", "train.stage_layers=[1, 2]"}, kUsage, "[V8]"},
      {{"run.strict_upstream=merged", "train.layout=PP2", "train.pipeline_layout=Et|tL"}, kUsage, "[V8]"},
      {{"run.strict_upstream=seed", "gen.redundant_experts=2"},
       kUsage,
       "gen.redundant_experts: strict_upstream = seed"},
      {{"run.strict_upstream=seed", "train.layout=PP2", "train.virtual_stages=2"}, kUsage, "[V9]"},
      {{"run.strict_upstream=merged", "train.layout=PP2", "train.account_for_embedding=true"}, kUsage, "[V10]"},
      {{"run.strict_upstream=merged", "train.layout=PP2", "train.account_for_loss=true"}, kUsage, "[V11]"},
      {{"run.strict_upstream=seed", "train.precision=fp32", "gen.precision=fp32"}, kUsage, "[V12]"},
      {{"run.strict_upstream=merged", "train.precision=fp32"}, kUsage, "fp32 bytes cannot be copied into bf16"},
      {{"run.strict_upstream=seed", "gen.layout=TP2xEP2"}, kUsage, "EP2 must be 1 [V18]"},
      {{"run.strict_upstream=merged", "gen.layout=TP2xDP2xEP4", "gen.data_parallel=internal"},
       kUsage,
       "EP4 must be 1 or TP, 2 [V18]"},
  };
  for (const Row& row : rows) expect_refused(row);
  EXPECT_NO_THROW(check_case(case_of({"run.strict_upstream=merged", "gen.layout=TP2xEP2"})));
}

/// The numbers of the rules that refuse a pair of precisions, "V13 V14"; "cache" where the KV cache cannot be FP8.
std::string rules_against(const std::string& version, const std::string& train, const std::string& gen,
                          std::vector<std::string> more = {}) {
  for (const auto& [key, value] :
       {std::pair("run.strict_upstream=", version), {"train.precision=", train}, {"gen.precision=", gen}}) {
    more.push_back(key + value);
  }
  std::string rules;
  for (const std::string& text : cases::violations(case_of(more))) {
    const std::size_t begin = text.rfind('[') + 1;
    const bool is_cache = text.find("gen.kv_cache_dtype: means nothing") != std::string::npos;
    rules += (rules.empty() ? "" : " ") + (is_cache ? "cache" : text.substr(begin, text.rfind(']') - begin));
  }
  return rules;
}

TEST(CaseCheck, UpstreamVersionsKnowSomePairsOfPrecisions) {
  struct Pair {
    const char *train, *gen, *seed, *merged;
  };
  constexpr Pair kPairs[] = {
      {"bf16", "bf16", "", ""},
      {"bf16", "fp32", "V12 L11", "V12 L11"},
      {"bf16", "fp8", "V16", "V16"},  // nothing in these versions quantises blocks on the way
      {"bf16", "mxfp8", "V16", ""},   // the merged version quantises this
      {"fp32", "bf16", "L11", "L11"},
      {"fp32", "fp32", "V12", "V12"},
      {"fp32", "fp8", "V16", "V16"},
      {"fp32", "mxfp8", "V16", "V15"},
      {"fp8", "bf16", "V17", "V17"},
      {"fp8", "fp32", "V12 V17", "V12 V17"},
      {"fp8", "fp8", "", ""},
      {"fp8", "mxfp8", "", "V13"},  // the original knows no is_mx
      {"mxfp8", "bf16", "V17", "V17"},
      {"mxfp8", "fp32", "V12 V17", "V12 V17"},
      {"mxfp8", "fp8", "V14", "V14"},
      {"mxfp8", "mxfp8", "V14", "V13 V14"},
      {"bf16", "fp16", "V12 L11", "V12 L11"},
      {"fp16", "fp16", "V12", "V12"},
      {"fp16", "bf16", "L11", "L11"},
      {"fp16", "mxfp8", "V16", "V15"},
  };
  for (const Pair& pair : kPairs) {
    EXPECT_EQ(rules_against("seed", pair.train, pair.gen), pair.seed) << pair.train << pair.gen;
    EXPECT_EQ(rules_against("merged", pair.train, pair.gen), pair.merged) << pair.train << pair.gen;
    EXPECT_EQ(rules_against("off", pair.train, pair.gen), "");
    for (const char* version : {"off", "seed", "merged"}) {  // an FP8 cache goes with FP8 weights, and changes no rule
      const bool fp8 = std::string_view(pair.gen).ends_with("fp8");
      const std::string rules = rules_against(version, pair.train, pair.gen);
      const std::string with_cache = rules_against(version, pair.train, pair.gen, {"gen.kv_cache_dtype=fp8"});
      EXPECT_EQ(with_cache, fp8 ? rules : rules.empty() ? "cache" : "cache " + rules) << version << pair.gen;
    }
  }
}

TEST(CaseCheck, APairThatChangesPrecisionHasAQuantiser) {
  const auto of = [](const std::vector<std::string>& settings) { return cases::quantiser_of(case_of(settings)); };
  EXPECT_EQ(of({}), std::nullopt);
  EXPECT_EQ(of({"train.precision=fp8", "gen.precision=fp8"}), std::nullopt);
  EXPECT_EQ(of({"gen.precision=fp8"}), Library::nemo_rl);
  EXPECT_EQ(of({"gen.precision=mxfp8"}), Library::vllm);
  EXPECT_EQ(of({"gen.precision=mxfp8", "gen.quantiser=mxfp8_nemo_rl"}), Library::nemo_rl);  // once a word of its own
  EXPECT_EQ(of({"gen.precision=fp8", "gen.quantiser=vllm_ue8m0"}), Library::vllm_ue8m0);
}

TEST(CaseCheck, AcceptsWhatMakesSense) {
  const std::vector<std::vector<std::string>> rows = {
      {},
      {"refit.executor=golden", "refit.streams=3", "refit.communicators=per-stage"},
      {"refit.executor=p2p", "refit.chunk_bytes=64KiB", "refit.ring_chunks=4", "refit.group_size=7", "refit.streams=1"},
      {"train.layout=PP2", "train.first_stage_layers=1", "train.last_stage_layers=2"},
      {"gen.layout=TP2xEP2xDP2"},
      {"train.layout=TP4xEP2xETP2", "gen.mtp=true", "gen.moe_backend=flashinfer_trtllm"},
      {"refit.bulk=blacklist"},
      {"train.layout=PP2", "train.hybrid_layer_pattern=M|*"},
      {"gen.layout=TP2xEP4xDP2", "gen.data_parallel=internal"},
      {"train.precision=fp32", "gen.precision=bf16"},
      {"train.precision=bf16", "gen.precision=fp16"},
      {"train.trainer=fsdp", "train.layout=FSDP2", "train.precision=fp16", "gen.engine=sglang", "gen.precision=fp16"},
      {"train.precision=fp8", "gen.precision=fp8"},
      {"train.precision=mxfp8", "gen.precision=mxfp8"},
      {"gen.precision=fp8", "gen.quantiser=te_pow2"},
      {"train.precision=fp32", "gen.precision=fp8"},
      {"gen.precision=mxfp8", "gen.quantiser=mxfp8_nemo_rl"},
      {"expect.outcome=mismatch", "expect.mismatch=[{tensors = \"*\", fraction = 1.0}]"},
      {"expect.outcome=error", "expect.message=words"},
  };
  for (const auto& row : rows) EXPECT_NO_THROW(check_case(case_of(row))) << ::testing::PrintToString(row);
}

TEST(CaseCheck, ReportsAllViolationsTogetherWithTheirPlace) {
  const cases::Case c = case_of({"gen.layout=CP2", "refit.streams=2", "run.verify=off", "expect.kl_max=0"});
  const std::vector<std::string> found = cases::violations(c);
  ASSERT_EQ(found.size(), 3U);
  EXPECT_THAT(found[0], ::testing::StartsWith("--set gen.layout: gen.layout: "));
  EXPECT_THAT(found[1], ::testing::StartsWith("--set refit.streams: refit.streams: "));
}

TEST(CaseCheck, KeysOfExpertsMeanNothingForADenseModel) {
  model::Model dense, experts;
  experts.config.experts = 8;
  EXPECT_NO_THROW(pair::validate_for_model(case_of({"gen.moe_backend=triton"}), experts));
  EXPECT_NO_THROW(pair::validate_for_model(case_of({}), dense));
  EXPECT_THROW(pair::validate_for_model(case_of({"gen.moe_backend=triton"}), dense), Error);
}

TEST(CaseCheck, KeysOfTheClassForNvidiasGpusAreForTheModelsThatHaveOne) {
  const cases::Case both = case_of({"gen.model_class=nvidia", "gen.replicate_embedding=true"});
  EXPECT_NO_THROW(check_case(both));
  model::Model model;
  for (const char* family : {"deepseek_v32", "glm_moe_dsa"}) {
    model.config.family = family;
    EXPECT_NO_THROW(pair::validate_for_model(both, model)) << family;
  }
  model.config.family = "qwen3";
  try {
    pair::validate_for_model(both, model);
    ADD_FAILURE() << "qwen3";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("gen.model_class: means nothing for family qwen3"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("gen.replicate_embedding: means nothing for family qwen3"));
  }
  const std::vector<std::string> found = cases::violations(case_of({"gen.replicate_embedding=true"}));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_THAT(found[0], ::testing::HasSubstr("means nothing with gen.model_class = \"portable\""));
}

}  // namespace
}  // namespace refit::app
