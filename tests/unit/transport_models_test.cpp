// Every executor, every policy, every family: all bytes of gen memory after several refits.

#include "transport_models.hpp"

#include <gtest/gtest.h>

namespace refit::test_support {
namespace {

using plan::Policy;

constexpr ExecutorKind kExecutors[] = {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct};
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

TEST(Precision, ChangesOnTheWay) {
  for (const auto& [train, gen] : {std::pair(DType::f32, DType::bf16), std::pair(DType::bf16, DType::f32)}) {
    for (const char* name : {"qwen2", "qwen3_moe"}) {
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
