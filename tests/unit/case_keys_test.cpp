// The table of keys: every key round-trips through a case file and through --set; bytes, suggestions and numbers.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "app/case_reader.hpp"
#include "case/keys.hpp"
#include "core/nearest.hpp"
#include "core/text.hpp"

namespace refit::app {
namespace {

using cases::case_keys;
using cases::find_key;
using cases::Key;

/// For each key a legal value other than its default, as TOML, where there is one.
const std::map<std::string, std::string> kOther = {
    {"name", "\"n\""},
    {"description", "\"a \\\"quoted\\\" word\""},
    {"model.config", "\"/m/config.json\""},
    {"model.checkpoint", "\"/m\""},
    {"model.family", "\"qwen3\""},
    {"model.layers", "4"},
    {"model.tied_lm_head", "\"present\""},
    {"model.skip", "[\"mtp.*\", \"visual.*\"]"},
    {"adapters.rank", "16"},
    {"adapters.alpha", "32"},
    {"adapters.targets", "[\"q_proj\", \"down_proj\"]"},
    {"adapters.checkpoint", "\"/a\""},
    {"adapters.send", "\"merged\""},
    {"adapters.only", "true"},
    {"m2n.model", "\"/m/model.json\""},
    {"m2n.system", "\"" REFIT_SOURCE_DIR "/inputs/m2n/small.system.json\""},
    {"train.trainer", "\"fsdp\""},
    {"train.layout", "\"TP2xEP4xDP2xPP2\""},
    {"train.first_stage_layers", "3"},
    {"train.last_stage_layers", "2"},
    {"train.stage_layers", "[3, 2]"},
    {"train.hybrid_layer_pattern", "\"M|*\""},
    {"train.make_vocab_size_divisible_by", "128"},
    {"train.precision", "\"fp32\""},
    {"train.mtp", "false"},
    {"train.lora", "\"fused\""},
    {"train.recipe", "\"torchtitan\""},
    {"train.experts", "\"w123\""},
    {"train.shard_dim", "[\"*=1\"]"},
    {"train.dtensors", "\"partial_dtensor\""},
    {"train.virtual_stages", "2"},
    {"train.pipeline_layout", "\"Et|tL\""},
    {"train.account_for_embedding", "true"},
    {"train.account_for_loss", "true"},
    {"train.pipeline_style", "\"v\""},
    {"gen.engine", "\"sglang\""},
    {"gen.layout", "\"TP4xDP2\""},
    {"gen.data_parallel", "\"internal\""},
    {"gen.stage_layers", "[3, 1]"},
    {"gen.mtp", "\"with\""},
    {"gen.derived", "true"},
    {"gen.linear_backend", "\"cutlass\""},
    {"gen.model_class", "\"nvidia\""},
    {"gen.replicate_embedding", "true"},
    {"gen.precision", "\"mxfp8\""},
    {"gen.quantiser", "\"other\""},
    {"gen.mm_encoder_tp", "\"data\""},
    {"gen.moe_backend", "\"flashinfer_cutlass\""},
    {"gen.model_class", "\"nvidia\""},
    {"gen.replicate_embedding", "true"},
    {"gen.kv_cache_dtype", "\"fp8\""},
    {"gen.kv_scales", "\"/s/scales.json\""},
    {"gen.redundant_experts", "4"},
    {"gen.expert_placement", "\"round_robin\""},
    {"gen.attn_dp_size", "2"},
    {"gen.moe_dense_tp_size", "1"},
    {"gen.enable_dp_lm_head", "true"},
    {"gen.ep_num_redundant_experts", "8"},
    {"gen.init_expert_location", "\"" REFIT_SOURCE_DIR "/inputs/cases/small/qwen3-30b-expert-location.json\""},
    {"gen.pp_layer_partition", "[3, 2]"},
    {"gen.moe_runner_backend", "\"triton_kernel\""},
    {"gen.moe_a2a_backend", "\"deepep\""},
    {"gen.enforce_shared_experts_fusion", "true"},
    {"gen.disable_shared_experts_fusion", "true"},
    {"gen.swiglu_interleaved", "true"},
    {"gen.gpu_arch", "\"sm100\""},
    {"refit.bulk", "\"ffn\""},
    {"refit.executor", "\"golden\""},
    {"refit.fan_out", "\"on\""},
    {"refit.mechanism", "\"kernel\""},
    {"refit.commit", "\"stage\""},
    {"refit.stage_bytes", "\"8MiB\""},
    {"refit.communicators", "\"per-stage\""},
    {"refit.streams", "3"},
    {"refit.group_size", "17"},
    {"refit.chunk_bytes", "\"64KiB\""},
    {"refit.ring_chunks", "4"},
    {"refit.small_bytes", "\"1MiB\""},
    {"refit.delta", "\"bitmap\""},
    {"refit.misc_buffer_bytes", "\"1GB\""},
    {"refit.check_agreement", "false"},
    {"run.device", "\"cuda\""},
    {"run.ranks_per_device", "2"},
    {"run.threads", "2"},
    {"run.colocated", "true"},
    {"run.steps", "3"},
    {"run.warmup", "0"},
    {"run.seed", "9223372036854775807"},
    {"run.weight_version", "7"},
    {"run.update", "\"sparse:0.025\""},
    {"run.verify", "\"last\""},
    {"run.timeout_seconds", "2.5"},
    {"run.count_seconds", "0.25"},
    {"run.phase_seconds", "7.5"},
    {"run.probe_seconds", "0.5"},
    {"run.inject", "[\"a\", \"b\"]"},
    {"train.lora", "\"fused\""},
    {"adapters.rank", "8"},
    {"adapters.alpha", "16"},
    {"adapters.targets", "[\"q_proj\", \"up_proj\"]"},
    {"adapters.checkpoint", "\"/lora\""},
    {"adapters.send", "\"merged\""},
    {"adapters.only", "true"},
    {"run.drill", "\"kill engine 1 after refit 2\""},
    {"run.strict_upstream", "\"merged\""},
    {"output.json", "\"r.json\""},
    {"output.csv", "\"r.csv\""},
    {"output.hdf5", "\"r.h5\""},
    {"output.junit", "\"r.xml\""},
    {"output.m2n_metrics", "\"m.json\""},
    {"output.trace", "\"t.json\""},
    {"output.timeline", "\"t.svg\""},
    {"output.dump_train", "\"dt\""},
    {"output.dump_gen", "\"dg\""},
    {"output.force", "true"},
    {"expect.kl_max", "0.5"},
    {"expect.bulk_fraction", "0.95"},
    {"expect.outcome", "\"mismatch\""},
    {"expect.message", "\"text\""},
    {"expect.note", "\"text\""},
    {"expect.figures", "[\"wire.copies <= 8\", \"wire.bytes >= 1\"]"},
    {"expect.mismatch", "[{tensors = \"*.up_proj.weight\", fraction = 0.75}]"},
    {"bug.id", "\"B3\""},
    {"bug.title", "\"t\""},
    {"bug.symptom", "\"s\""},
    {"bug.cause", "\"c\""},
    {"bug.reference", "\"#1\""},
    {"bug.kind", "\"hang\""},
};

/// The key as a line of a case file, with its section's header.
std::string line_of(const std::string& key, const std::string& value) {
  const std::size_t dot = key.find('.');
  if (dot == std::string::npos) return fmt::format("{} = {}\n", key, value);
  return fmt::format("[{}]\n{} = {}\n", key.substr(0, dot), key.substr(dot + 1), value);
}

/// Options that a case with only this key needs: the layouts, and the trainer or engine that reads the key.
std::vector<Option> options_beside(const std::string& key) {
  std::vector<Option> options;
  for (const char* layout : {"train.layout", "gen.layout"}) {
    if (key != layout) options.push_back({layout, "TP1", layout});
  }
  const bool is_of_others = key.starts_with("train.") && cases::Case().train->find_key(key) == nullptr;
  if (is_of_others && key != "train.trainer") options.push_back({"train.trainer", "fsdp", "train.trainer"});
  const cases::Case untouched;
  const bool is_of_default = untouched.engine().find_key(key) != nullptr;
  if (key.starts_with("gen.") && key != "gen.engine" && !is_of_default)
    options.push_back({"gen.engine", kOther.at("gen.engine"), "--set"});
  return options;
}

/// A case with only this key and those options.
cases::Case read_key_from_file(const std::string& key, const std::string& value) {
  const std::string path = ::testing::TempDir() + "refit_key_" + std::to_string(getpid()) + ".toml";
  std::ofstream(path) << line_of(key, value);
  return read_case(path, options_beside(key));
}

TEST(CaseKeys, EveryKeyRoundTripsThroughAFile) {
  ASSERT_EQ(kOther.size(), case_keys().size());
  for (const Key& key : case_keys()) {
    const std::string& value = kOther.at(key.name);
    const bool has_others = key.kind != keys::Kind::word || key.type.find('|') != std::string::npos;
    EXPECT_EQ(key.preset != value, has_others) << key.name;
    const cases::Case c = read_key_from_file(key.name, value);
    EXPECT_EQ(key.get(c), value) << key.name;
    EXPECT_TRUE(c.given.contains(key.name));
  }
}

TEST(CaseKeys, EveryKeyIsAnOption) {
  for (const Key& key : case_keys()) {
    std::vector<Option> options = options_beside(key.name);
    options.push_back({key.name, kOther.at(key.name), "--set"});
    EXPECT_EQ(key.get(read_case("", options)), kOther.at(key.name)) << key.name;
  }
}

TEST(CaseKeys, UpdatesAreWordsOrFractions) {
  using cases::Update;
  EXPECT_EQ(cases::parse_update("perturb"), (Update{Update::Kind::perturb, 1}));
  EXPECT_EQ(cases::parse_update("none"), (Update{Update::Kind::none, 0}));
  EXPECT_EQ(cases::parse_update("sparse:0"), (Update{Update::Kind::sparse, 0}));
  EXPECT_EQ(cases::parse_update("sparse:0.025"), (Update{Update::Kind::sparse, 0.025}));
  EXPECT_EQ(cases::parse_update("sparse:1e-6"), (Update{Update::Kind::sparse, 1e-6}));
  EXPECT_EQ(cases::parse_update("sparse:1"), (Update{Update::Kind::sparse, 1}));
  for (const char* text : {"", "sparse", "sparse:", "sparse:x", "sparse:1.5", "sparse:-0.1", "sparse:-0", "sparse:nan",
                           "sparse:inf", "sparse: 0.1", "sparse:0.1 ", "sparse:0.1x", "sparse:1e999", "Perturb"}) {
    EXPECT_EQ(cases::parse_update(text), std::nullopt) << text;
  }
  for (const char* text : {"perturb", "none", "sparse:0", "sparse:0.025", "sparse:1e-06", "sparse:1"})
    EXPECT_EQ(to_string(*cases::parse_update(text)), text);
}

TEST(CaseKeys, CopiesOfACaseHaveSidesOfTheirOwn) {
  const Key& layout = *find_key("gen.layout");
  cases::Case first;
  const cases::Case second = first;
  EXPECT_EQ(layout.set(first, "TP4"), "");
  EXPECT_EQ(layout.get(first), "\"TP4\"");
  EXPECT_EQ(layout.get(second), "");
  first = second;
  EXPECT_EQ(layout.get(first), "");
}

/// -1 leaves the size to the device; sizes are texts too.
TEST(CaseKeys, SmallBytesIsASize) {
  const Key& key = *find_key("refit.small_bytes");
  struct {
    keys::Value value;
    std::int64_t expected;  ///< -2: refused
  } const table[] = {{std::string("1MiB"), 1 << 20}, {std::int64_t{0}, 0},    {std::int64_t{-1}, -1},
                     {std::int64_t{4096}, 4096},     {std::string("0"), 0},   {std::int64_t{-2}, -2},
                     {std::string("2GiB"), -2},      {std::string("-1"), -2}, {std::string("much"), -2}};
  for (const auto& [value, expected] : table) {
    cases::Case c;
    const std::string problem = key.set(c, value);
    if (expected == -2) {
      EXPECT_EQ(problem, "needs bytes from 0 to 1GiB, or -1, e.g. \"8MiB\"");
      continue;
    }
    EXPECT_EQ(problem, "");
    EXPECT_EQ(c.refit.small_bytes, expected);
  }
  EXPECT_EQ(key.get(cases::Case()), "-1");
}

TEST(CaseKeys, EveryRowHasHelpAndType) {
  for (const Key& key : case_keys()) {
    EXPECT_FALSE(key.help.empty()) << key.name;
    EXPECT_FALSE(key.type.empty()) << key.name;
    EXPECT_EQ(find_key(key.name), &key) << "named twice: " << key.name;
  }
  EXPECT_EQ(find_key("refit.bulc"), nullptr);
}

TEST(Text, ParsesBytes) {
  struct {
    const char* text;
    std::optional<std::int64_t> expected;
  } const table[] = {
      {"8MiB", 8 << 20},
      {"256MiB", 256 << 20},
      {"64KiB", 64 << 10},
      {"1GB", 1'000'000'000},
      {"64 KiB", 64 << 10},
      {"4096", 4096},
      {"12B", 12},
      {"0", 0},
      {"", std::nullopt},
      {"MiB", std::nullopt},
      {"-1", std::nullopt},
      {"8XiB", std::nullopt},
      {"1.5GiB", std::nullopt},
      {"9223372036854775807KiB", std::nullopt},
  };
  for (const auto& row : table) EXPECT_EQ(parse_bytes(row.text), row.expected) << row.text;
}

TEST(Text, PrintsBytesAndGroups) {
  EXPECT_EQ(bytes_text(8 << 20), "8MiB");
  EXPECT_EQ(bytes_text(1'000'000'000), "1GB");
  EXPECT_EQ(bytes_text(1001), "1001");
  EXPECT_EQ(bytes_text(0), "0");
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
  EXPECT_EQ(grouped(-123), "-123");
}

TEST(Text, SuggestsOnlyWhatIsNear) {
  const std::vector<std::string> words = {"refit.bulk", "refit.executor", "run.steps"};
  EXPECT_EQ(nearest("refit.bulc", words), "refit.bulk");
  EXPECT_EQ(nearest("run.step", words), "run.steps");
  EXPECT_EQ(nearest("zzz", words), std::nullopt);
  EXPECT_EQ(suggestion("abc", {"abd", "xyz", "abc", "ab", "ac"}, 3), "; did you mean abc, abd or ab?");
  EXPECT_EQ(suggestion("abc", {"xyz"}, 3), "");
  EXPECT_EQ(suggestion("gen.attn_dp", {"gen.mtp", "gen.attn_dp_size"}), "; did you mean gen.attn_dp_size?");
  EXPECT_EQ(suggestion(std::string(201, 'a'), {std::string(201, 'a')}), "");
}

}  // namespace
}  // namespace refit::app
