// The executors over real processes: communicators, control plane and memory that they share.

#include <gtest/gtest.h>

#include <algorithm>

#include "mpi/ranks.hpp"
#include "support/allocations.hpp"
#include "support/random_transport.hpp"
#include "unit/transport_models.hpp"

namespace refit::test_support {
namespace {

struct Sides {
  const char* model;
  const char* train;
  const char* gen;
};

/// What `ranks` ranks can be.
std::vector<Sides> sides(int ranks) {
  switch (ranks) {
    case 2: return {{"llama", "TP1", "TP1"}, {"qwen3_moe", "TP1", "TP1"}};
    case 3:
      return {{"qwen2", "PP2", "TP1"}, {"qwen3", "TP1", "TP2"}, {"qwen3_moe", "EP2", "TP1"}, {"gpt_oss", "EP2", "TP1"}};
    case 4:
      return {{"qwen3", "PP2", "TP2"},
              {"qwen3_moe", "TP2", "TP2xEP2"},
              {"llama", "TP2", "DP2"},
              {"nemotron_h", "TP2", "TP2"}};
    case 6:
      return {{"qwen3", "TP2xPP2", "TP2"},
              {"qwen3_moe", "EP2", "TP4"},
              {"six_heads", "TP3", "TP3"},
              {"qwen3_next", "TP2xPP2", "TP2"}};
    case 8:
      return {{"qwen2", "TP4", "TP4"},
              {"qwen3_moe", "TP2xPP2", "TP2xDP2i"},
              {"deepseek_v3", "TP2xETP2xPP2", "TP2xDP2xEP4i"}};
    default: return {};
  }
}

/// Returns this rank's outcome.
RankOutcome run_and_expect(const TransportCase& job, transport::Control& world, const std::string& what) {
  RankServices services;
  services.allocations = allocations;
  services.world = &world;
  services.communicator = [&, tag = 0](transport::Purpose /*purpose*/, const std::vector<int>& members) mutable {
    ++tag;
    const bool mine = std::ranges::binary_search(members, world.rank());
    return mine ? make_communicator(members, tag, static_cast<int>(job.tuning.streams)) : nullptr;
  };
  services.peer_memory = make_peer_memory;
  const RankOutcome outcome = run_rank(job, services);
  EXPECT_EQ(outcome.mismatch, "") << what;
  EXPECT_EQ(outcome.unmapped_peers, 0) << what;
  // m2n's operation is a test's here, and a delta's messages are made in each refit.
  if (job.executor != ExecutorKind::m2n && job.tuning.delta == transport::Delta::off) {
    EXPECT_EQ(outcome.allocations, 0) << what;
  }
  if (job.executor == ExecutorKind::p2p) {
    EXPECT_LE(outcome.staging_bytes, job.tuning.streams * job.tuning.ring_chunks * job.tuning.chunk_bytes) << what;
  }
  return outcome;
}

TEST(RanksExecutors, MoveEveryByte) {
  const auto world = make_control();
  for (const Sides& one : sides(world->size())) {
    for (DType gen_precision : {DType::bf16, DType::f32}) {
      Job job(one.model, one.train, one.gen, DType::bf16, gen_precision);
      for (ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct, ExecutorKind::m2n}) {
        for (plan::Policy policy : {plan::Policy::all, plan::Policy::ffn}) {
          TransportCase task = job.make(policy, executor);
          task.per_stage = policy == plan::Policy::all;
          task.tuning = {2, 64, 30'000, 2};
          if (policy == plan::Policy::all) task.tuning.engines = {500, 2000, 16, 1000, 10'000, 3, 600};
          task.misc_buffer_bytes = 60'000;
          const std::string what = fmt::format("{} {} -> {} {}", one.model, one.train, one.gen, to_string(executor));
          const RankOutcome outcome = run_and_expect(task, *world, what);
          // On hosts every rank is a device: copies that keep their bits go to others.
          const bool by_engines = executor == ExecutorKind::direct && policy == plan::Policy::all;
          if (by_engines && gen_precision == DType::bf16) {
            EXPECT_GT(world->sum(outcome.engine_bytes), 0) << what;
          }
        }
      }
    }
  }
}

/// One holder and `replicas`.
MeshLayout replicas(const std::vector<model::Tensor>& tensors, std::int64_t count, DType dtype) {
  MeshLayout layout;
  layout.tensors = tensors;
  layout.mesh = {count};
  layout.cuts.resize(tensors.size());
  layout.format_of = {dtype};
  layout.storage_of.assign(tensors.size(), 0);
  layout.reversed.assign(tensors.size(), false);
  return layout;
}

TEST(RanksExecutors, ReplicasFeedEachOther) {
  const auto world = make_control();
  if (world->size() < 3) GTEST_SKIP() << "needs two replicas";
  model::Model model;
  for (const Shape& shape : {Shape{100, 70}, Shape{1, 30'000}, Shape{4}, Shape{3, 5, 901}}) {
    const auto index = static_cast<std::int32_t>(model.tensors.size());
    model.tensors.push_back({index, fmt::format("t{}", index), shape, DType::bf16, model::Role::final_norm, -1, -1});
  }
  const MeshLayout source = replicas(model.tensors, 1, DType::bf16);
  const MeshLayout destination = replicas(model.tensors, world->size() - 1, DType::f32);
  TransportCase job;
  job.refits = 3;
  Truth truth(model);
  truth.prepare(source, destination, job.refits + 1);
  job.model = &model;
  job.truth = &truth;
  job.source = &source;
  job.destination = &destination;
  job.bulk = model.tensors;
  job.executor = ExecutorKind::direct;
  job.domain_ranks = destination.ranks();
  job.striping.min_bytes = 100;
  job.tuning.fan_out_chunk_bytes = 1000;
  run_and_expect(job, *world, "one holder, all others replicas");
}

/// Every executor, fan-out and precision, with sizes from a few bytes upwards; nothing is allocated in a refit.
TEST(RanksExecutors, RandomJobsArrive) {
  const auto world = make_control();
  if (world->size() < 2) GTEST_SKIP() << "needs two sides";
  const RandomCases cases(1);
  for (const Precisions precisions : all_precisions()) {
    for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
      const RandomTransport random(seed, precisions, world->size());
      for (TransportCase job : random.jobs()) {
        job.passes_on = false;  // all ranks here map each other
        run_and_expect(job, *world, random.describe(job));
      }
    }
  }
}

/// Deltas of every kind between any layouts, apart and colocated.
TEST(RanksExecutors, RandomDeltasArrive) {
  const auto world = make_control();
  const RandomCases cases(2);
  for (const Precisions precisions : all_precisions()) {
    for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
      const bool colocated = world->size() == 1 || seed % 2 == 1;
      const RandomTransport random(seed, precisions, world->size(), colocated, Changes::sparse);
      for (const TransportCase& job : random.deltas()) run_and_expect(job, *world, random.describe(job));
    }
  }
}

/// Sides that colocated ranks can be: alike, unlike, and with more ranks on either side.
std::vector<Sides> colocated_sides(int ranks) {
  switch (ranks) {
    case 1: return {{"qwen3_moe", "TP1", "TP1"}};
    case 2: return {{"llama", "TP2", "TP2"}, {"qwen3_moe", "EP2", "TP1"}, {"qwen2", "TP1", "DP2"}};
    case 3: return {{"qwen2", "PP2", "DP3"}, {"six_heads", "TP3", "DP2"}};
    case 4: return {{"qwen3", "TP2xPP2", "TP2xDP2"}, {"qwen3_moe", "EP4", "TP4"}};
    case 6: return {{"six_heads", "TP3xPP2", "TP2xDP3"}};
    case 8: return {{"qwen3_moe", "EP4xPP2", "TP2xDP2"}};
    default: return {};
  }
}

TEST(RanksExecutors, MoveEveryByteBetweenColocatedRanks) {
  const auto world = make_control();
  for (const Sides& one : colocated_sides(world->size())) {
    Job job(one.model, one.train, one.gen, DType::bf16, DType::f32);
    for (ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct}) {
      for (plan::Policy policy : {plan::Policy::all, plan::Policy::ffn}) {
        TransportCase task = job.make(policy, executor);
        task.colocated = true;
        task.per_stage = policy == plan::Policy::all;
        task.tuning = {2, 64, 30'000, 2};
        task.misc_buffer_bytes = 60'000;
        run_and_expect(task, *world,
                       fmt::format("{} {} -> {} {}, colocated", one.model, one.train, one.gen, to_string(executor)));
      }
    }
  }
}

TEST(RanksExecutors, RandomColocatedJobsArrive) {
  const auto world = make_control();
  const RandomCases cases(1);
  for (const Precisions precisions : all_precisions()) {
    for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
      const RandomTransport random(seed, precisions, world->size(), true);
      for (TransportCase job : random.jobs()) {
        job.passes_on = false;  // all ranks here map each other
        run_and_expect(job, *world, random.describe(job));
      }
    }
  }
}

}  // namespace
}  // namespace refit::test_support
