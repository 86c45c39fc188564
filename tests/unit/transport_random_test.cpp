// Any tensors between any two layouts of 1 to 8 ranks: fused storages, gaps, reversed strides, casts, conversions,
// replicas.

#include <gtest/gtest.h>

#include "support/random_layout.hpp"
#include "transport_models.hpp"

namespace refit::test_support {
namespace {

/// Random tensors with a role, as those of the bulk path have.
model::Model random_model(std::mt19937_64& random) {
  model::Model model;
  model.tensors = random_tensors(random, 12, 12);
  for (model::Tensor& tensor : model.tensors) tensor.role = model::Role::final_norm;
  return model;
}

std::int64_t one_of(std::mt19937_64& random, std::initializer_list<std::int64_t> values) {
  return values.begin()[random() % values.size()];
}

/// Conversions at random: zero-centred values on both sides, or anything from plain ones.
void convert(std::mt19937_64& random, MeshLayout& source, MeshLayout& destination) {
  const bool centred = random() % 2 == 0;
  for (Format& format : source.format_of) {
    if (centred && random() % 2 == 0) format.conversion = Conversion::minus_one;
  }
  for (Format& format : destination.format_of) {
    format.conversion = static_cast<Conversion>(random() % (centred ? 2 : 3));
  }
}

class RandomLayouts : public testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomLayouts, BulkArrivesByEveryExecutor) {
  std::mt19937_64 random(GetParam());
  const model::Model model = random_model(random);
  MeshLayout source = random_layout(random, model.tensors);
  MeshLayout destination = random_layout(random, model.tensors);
  convert(random, source, destination);
  TransportCase job;
  Truth truth(model);
  truth.prepare(source, destination, job.refits + 1);
  job.model = &model;
  job.truth = &truth;
  job.source = &source;
  job.destination = &destination;
  job.bulk = model.tensors;
  job.tuning = {one_of(random, {1, 2}), one_of(random, {1, 3, 1024}), one_of(random, {64, 1000, 1 << 16}),
                one_of(random, {1, 2, 3})};
  for (ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct, ExecutorKind::m2n}) {
    job.executor = executor;
    expect_right(job, to_string(executor));
  }
}

class RandomFanOut : public testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomFanOut, ReplicasFeedEachOther) {
  std::mt19937_64 random(GetParam());
  model::Model model = random_model(random);
  for (model::Tensor& tensor : model.tensors) {  // some large enough to be cut between replicas
    if (tensor.shape.size() > 0 && random() % 3 == 0) tensor.shape[0] *= 1 + 200'000 / tensor.elements();
  }
  MeshLayout source = random_layout(random, model.tensors);
  MeshLayout destination = random_layout(random, model.tensors);
  convert(random, source, destination);
  TransportCase job;
  Truth truth(model);
  truth.prepare(source, destination, job.refits + 1);
  job.model = &model;
  job.truth = &truth;
  job.source = &source;
  job.destination = &destination;
  job.bulk = model.tensors;
  job.executor = ExecutorKind::direct;
  for (const std::int64_t domain_ranks : {2, 8}) {
    job.domain_ranks = domain_ranks;
    expect_right(job, fmt::format("domains of {}", domain_ranks));
  }
}

TEST_P(RandomLayouts, MiscArrivesThroughBuffersOfAnySize) {
  std::mt19937_64 random(GetParam());
  const model::Model model = random_model(random);
  MeshLayout source = random_layout(random, model.tensors);
  MeshLayout destination = random_layout(random, model.tensors);
  convert(random, source, destination);
  TransportCase job;
  Truth truth(model);
  truth.prepare(source, destination, job.refits + 1);
  job.model = &model;
  job.truth = &truth;
  job.source = &source;
  job.destination = &destination;
  for (const model::Tensor& tensor : model.tensors) {
    const bool misc = tensor.elements() < 2000 && random() % 2 == 0;
    (misc ? job.misc : job.bulk).push_back(tensor);
  }
  job.misc_buffer_bytes = one_of(random, {64, 100, 1024, 1 << 20});
  expect_right(job, fmt::format("buffers of {} bytes", job.misc_buffer_bytes));
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomFanOut, testing::Range<std::uint64_t>(0, 12));
INSTANTIATE_TEST_SUITE_P(Seeds, RandomLayouts, testing::Range<std::uint64_t>(0, 60));

}  // namespace
}  // namespace refit::test_support
