// The lower bound against numbers worked out by hand and against the published table.

#include <gtest/gtest.h>

#include "gen/vllm.hpp"
#include "plan/cost.hpp"
#include "train/megatron.hpp"

namespace refit::plan {
namespace {

struct Row {
  const char *model, *train, *gen;
  Rates rates;
  const char* expected;  ///< milliseconds
  const char* term;
};

Rates ports(double rate, std::int64_t devices_per_domain = 1, double domain_rate = 0) {
  Rates rates;
  rates.device_in = rates.device_out = rate;
  rates.devices_per_domain = devices_per_domain;
  rates.domain_in = rates.domain_out = domain_rate;
  return rates;
}

Bound bound_of(const Row& row) {
  const auto config = model::read_config(fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, row.model));
  const auto model = build_model(config, false);
  train::Options train_options;
  train_options.sizes = layout::with_data_parallel(layout::parse_parallelism(row.train));
  gen::Options gen_options;
  gen_options.sizes = layout::parse_parallelism(row.gen);
  EXPECT_TRUE(train::violations(model, train_options).empty());
  EXPECT_TRUE(gen::violations(model, gen_options).empty());
  const auto train = train::make_layout(model, train_options);
  const auto gen = gen::make_layout(model, gen_options);
  return lower_bound(model.tensors, *train, *gen, row.rates);
}

TEST(Bound, IsAsPublished) {
  const Row rows[] = {{"qwen3-8b", "TP2", "TP2", ports(370e9), "22.1", "ingress"},
                      {"qwen3-8b", "TP2", "DP2", ports(370e9), "44.3", "ingress"},
                      {"qwen3-8b", "DP2", "TP2", ports(370e9), "22.1", "ingress"},
                      {"qwen3-8b", "TP1", "DP3", ports(370e9, 3), "44.3", "ingress"},
                      {"qwen3-8b", "TP1", "DP3", ports(370e9), "132.8", "egress"},
                      {"qwen3-8b", "PP2", "TP2", ports(370e9), "22.1", "egress"},
                      {"qwen3-0.6b", "TP2", "TP2", ports(370e9), "1.6", "ingress"},
                      // 82.5 is half of the 61.1 GB; routers and norms, 25 MB, go whole to both.
                      {"qwen3-30b-a3b", "EP2", "TP2", ports(370e9), "82.6", "ingress"},
                      // 50 GB/s of network for every GPU.
                      {"qwen3-4b", "DP8", "TP8", ports(50e9), "20.1", "ingress"},
                      {"qwen3-30b-a3b", "EP8xPP2xDP8", "TP8xDP2", ports(370e9, 8, 400e9), "152.7", "egress"},
                      // A domain of two train devices sends the whole model to both gen domains.
                      {"qwen3-8b", "TP2", "TP2xDP2", ports(370e9, 2, 400e9), "81.9", "egress"}};
  for (const Row& row : rows) {
    const Bound bound = bound_of(row);
    EXPECT_EQ(fmt::format("{:.1f}", 1e3 * bound.total()), row.expected)
        << row.model << ' ' << row.train << " -> " << row.gen;
    EXPECT_EQ(bound.term(), row.term) << row.model << ' ' << row.train << " -> " << row.gen;
  }
}

}  // namespace
}  // namespace refit::plan
