#include "transport_models.hpp"

#include <gtest/gtest.h>

#include "unit/layout_models.hpp"

namespace refit::test_support {
namespace {

/// family, V, H, I, nh, nkv, hd, E, I of an expert, tied
struct Numbers {
  const char* name;
  const char* family;
  std::int64_t vocab, hidden, intermediate, heads, kv_heads, head_dim, experts, expert_intermediate;
  bool tied;
};
constexpr Numbers kModels[] = {
    {"llama", "llama", 320, 64, 176, 8, 4, 16, 0, 0, true},
    {"qwen2", "qwen2", 192, 96, 160, 12, 4, 8, 0, 0, false},
    {"qwen3", "qwen3", 256, 80, 144, 8, 2, 16, 0, 0, false},
    {"qwen3_padvocab", "qwen3", 250, 48, 112, 8, 4, 16, 0, 0, false},
    {"qwen3_moe", "qwen3_moe", 192, 64, 112, 8, 4, 16, 8, 40, false},
    {"six_heads", "llama", 192, 48, 96, 12, 6, 8, 0, 0, false},
};

model::Model with_unknown(model::Model model) {
  const auto index = static_cast<std::int32_t>(model.tensors.size());
  model.tensors.push_back({index, "model.position_ids", {5, 7}, DType::i64, model::Role::unknown, -1, -1});
  return model;
}

void require(const std::vector<std::string>& violations) {
  if (!violations.empty()) fail_usage("{}", fmt::join(violations, "; "));
}

}  // namespace

model::Model transport_model(const std::string& name) {
  for (const Numbers& numbers : kModels) {
    if (name != numbers.name) continue;
    model::Config config;
    config.family = numbers.family;
    config.vocab_size = numbers.vocab;
    config.hidden_size = numbers.hidden;
    config.layers = 2;
    config.intermediate_size = numbers.intermediate;
    config.attention_heads = numbers.heads;
    config.kv_heads = numbers.kv_heads;
    config.head_dim = numbers.head_dim;
    config.experts = numbers.experts;
    config.expert_intermediate_size = numbers.expert_intermediate;
    config.tied = numbers.tied;
    config.attention_bias = config.family == "qwen2";
    return with_unknown(build_model(config, false));
  }
  return with_unknown(layout::small_model(name));
}

train::megatron::Options train_options(const model::Model& model, const std::string& sizes, DType precision) {
  train::megatron::Options options;
  options.sizes = layout::parse_parallelism(sizes);
  options.precision = precision;
  if (model.config.vocab_size % 64 != 0) options.make_vocab_size_divisible_by = 16;
  return options;
}

gen::vllm::Options gen_options(const std::string& sizes, DType precision) {
  gen::vllm::Options options;
  options.internal_data_parallel = sizes.ends_with("i");
  options.sizes = layout::parse_parallelism(options.internal_data_parallel ? sizes.substr(0, sizes.size() - 1) : sizes);
  options.precision = precision;
  return options;
}

Job::Job(const std::string& model, const std::string& train, const std::string& gen, DType train_precision,
         DType gen_precision)
    : Job(transport_model(model), train_options(transport_model(model), train, train_precision),
          gen_options(gen, gen_precision)) {}

Job::Job(model::Model model, const train::megatron::Options& train, const gen::vllm::Options& gen)
    : model_(std::move(model)), train_options_(train), gen_options_(gen), truth_(model_) {
  require(train::megatron::violations(model_, train_options_));
  require(gen::vllm::violations(model_, gen_options_));
  train_ = train::megatron::make_layout(model_, train_options_);
  gen_ = gen::vllm::make_layout(model_, gen_options_);
}

TransportCase Job::make(plan::Policy policy, ExecutorKind executor) {
  const plan::Split split = plan::split(model_, policy, *train_, *gen_, train_options_.sizes.tp, gen_options_.sizes.tp);
  TransportCase job;
  job.model = &model_;
  job.truth = &truth_;
  job.source = train_.get();
  job.destination = gen_.get();
  job.bulk = split.bulk;
  job.misc = split.misc;
  job.executor = executor;
  truth_.prepare(*train_, *gen_, job.refits + 1);
  return job;
}

std::vector<RankOutcome> expect_right(const TransportCase& job, const std::string& what) {
  const std::vector<RankOutcome> outcomes = run_threads(job);
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    EXPECT_EQ(outcomes[rank].mismatch, "") << what << ", world rank " << rank;
  }
  return outcomes;
}

}  // namespace refit::test_support
