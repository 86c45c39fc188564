// Every executor, every policy, every family: all bytes of gen memory after several refits.

#include "transport_models.hpp"

#include <gtest/gtest.h>

#include <random>

namespace refit::test_support {
namespace {

using plan::Policy;

constexpr ExecutorKind kExecutors[] = {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct,
                                       ExecutorKind::m2n};
constexpr Policy kPolicies[] = {Policy::all, Policy::whitelist, Policy::ffn};

struct Sides {
  const char* model;
  std::vector<std::string> train;
  std::vector<std::string> gen;
};

void PrintTo(const Sides& sides, std::ostream* out) { *out << sides.model; }

class Models : public testing::TestWithParam<Sides> {};

TEST_P(Models, ArriveWholeByEveryExecutorUnderEveryPolicy) {
  for (const std::string& train : GetParam().train) {
    for (const std::string& gen : GetParam().gen) {
      Job job(GetParam().model, train, gen);
      for (ExecutorKind executor : kExecutors) {
        for (Policy policy : kPolicies) {
          TransportCase one = job.make(policy, executor);
          one.tuning.chunk_bytes = 4096;
          one.misc_buffer_bytes = 10'000;
          expect_right(one, fmt::format("{} {} -> {} {} policy {}", GetParam().model, train, gen, to_string(executor),
                                        static_cast<int>(policy)));
        }
      }
    }
  }
}

const std::vector<std::string> kDenseTrain{"TP1", "TP2", "TP4", "PP2", "TP2xPP2"};
const std::vector<std::string> kDenseGen{"TP1", "TP2", "TP4", "TP2xDP2"};

INSTANTIATE_TEST_SUITE_P(Families, Models,
                         testing::Values(Sides{"llama", kDenseTrain, kDenseGen}, Sides{"qwen2", kDenseTrain, kDenseGen},
                                         Sides{"qwen3", kDenseTrain, kDenseGen},
                                         Sides{"qwen3_padvocab", {"TP4"}, {"TP2"}},
                                         Sides{"six_heads", {"TP2", "TP3"}, {"TP3", "TP6"}},
                                         Sides{"qwen3_moe",
                                               {"TP1", "EP2", "TP2xPP2", "TP2xEP2xDP2", "TP2xCP2xEP2"},
                                               {"TP2", "TP4", "TP2xEP2", "TP2xDP2i", "TP2xDP2xEP4i"}}),
                         [](const auto& suite) { return std::string(suite.param.model); });

const std::vector<std::string> kFamilies{"mixtral",     "deepseek_v3",       "gpt_oss",   "qwen3_next",
                                         "qwen3_5_moe", "nemotron_h_latent", "nemotron_h"};

std::string one_of(std::mt19937_64& random, const std::vector<std::string>& texts) {
  return texts[random() % texts.size()];
}

/// A family, two sides, precisions, MoE backend, policy, executor and knobs, all drawn at random; every conversion is
/// met, and the drafter of DeepSeek-V3 too.
class RandomJobs : public testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomJobs, ArriveWhole) {
  std::mt19937_64 random(GetParam());
  const model::Model model = transport_model(kFamilies[GetParam() % kFamilies.size()]);
  const auto precision = [&] { return random() % 3 == 0 ? DType::f32 : DType::bf16; };
  train::megatron::Options train;
  do {
    train = train_options(
        model,
        one_of(random, {"TP1", "TP2", "PP2", "TP2xPP2", "EP2", "EP3", "TP2xEP2xDP2", "TP2xETP2", "TP2xEP3xETP2"}),
        precision());
  } while (!train::megatron::violations(model, train).empty());
  gen::vllm::Options gen;
  do {
    gen =
        gen_options(one_of(random, {"TP1", "TP2", "TP4", "TP2xEP2", "TP4xEP4", "TP2xDP2", "TP2xDP2i", "TP2xDP2xEP4i"}),
                    precision());
    gen.moe_backend = static_cast<gen::vllm::MoeBackend>(random() % 3);
    gen.mtp = static_cast<gen::vllm::Mtp>(random() % 3);
  } while (!gen::vllm::violations(model, gen).empty());
  Job job(model, train, gen);
  constexpr Policy kAll[] = {Policy::all, Policy::whitelist, Policy::blacklist, Policy::ffn};
  TransportCase one = job.make(kAll[random() % 4], kExecutors[random() % std::size(kExecutors)]);
  one.tuning.chunk_bytes = random() % 2 == 0 ? 512 : 1 << 16;
  one.misc_buffer_bytes = random() % 2 == 0 ? 1000 : 1 << 20;
  expect_right(one, fmt::format("{} {} -> {} backend {}{} {}", model.config.family, to_string(train.sizes),
                                to_string(gen.sizes), static_cast<int>(gen.moe_backend),
                                gen.mtp != gen::vllm::Mtp::off ? " mtp" : "", to_string(one.executor)));
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomJobs, testing::Range<std::uint64_t>(0, 70));

/// Megatron's value - 1 becomes the value, A_log becomes -exp(A_log) in float32, by every executor and by misc.
TEST(Conversions, HappenOnceOnEveryPath) {
  for (const auto& [name, tensor, from, to] :
       {std::tuple("qwen3_next", "model.layers.0.linear_attn.norm.weight", Format{DType::bf16, Conversion::minus_one},
                   Format{DType::bf16}),
        std::tuple("nemotron_h", "backbone.layers.0.mixer.A_log", Format{DType::bf16},
                   Format{DType::f32, Conversion::negative_exp})}) {
    Job job(name, "TP2", "TP2");
    for (ExecutorKind executor : kExecutors) {
      for (Policy policy : {Policy::all, Policy::ffn}) {
        const TransportCase one = job.make(policy, executor);
        const model::Tensor& converted = *one.model->find(tensor);
        ASSERT_EQ(one.source->format(converted), from);
        ASSERT_EQ(one.destination->format(converted), to);
        expect_right(one, fmt::format("{} {} policy {}", name, to_string(executor), static_cast<int>(policy)));
      }
    }
  }
}

TEST(Precision, ChangesOnTheWay) {
  for (const auto& [train, gen] : {std::pair(DType::f32, DType::bf16), std::pair(DType::bf16, DType::f32)}) {
    for (const char* name : {"qwen2", "qwen3_moe", "nemotron_h"}) {
      Job job(name, "TP2xPP2", "TP4", train, gen);
      for (ExecutorKind executor : kExecutors) {
        for (Policy policy : kPolicies) {
          TransportCase one = job.make(policy, executor);
          one.tuning.chunk_bytes = 1000;
          one.misc_buffer_bytes = 1000;
          expect_right(one,
                       fmt::format("{} {} {} -> {}", name, to_string(executor), refit::name(train), refit::name(gen)));
        }
      }
    }
  }
}

TEST(QueryGroups, AreCutByTheTrainSide) {
  // 2 KV heads: with TP4 each train rank holds half of a query group.
  Job job("qwen3", "TP4", "TP2");
  for (ExecutorKind executor : kExecutors) expect_right(job.make(Policy::all, executor), to_string(executor));
}

}  // namespace
}  // namespace refit::test_support
