// Planning Qwen3-235B-A22B, TP4 x DP4 x PP8 with EP16 on 128 train ranks -> TP8 x DP16 on 128 gen ranks: one rank's
// plan, the world's totals, the lower bound. `peak_mb` is the process's largest memory so far, model included.

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include "gen/vllm/layout.hpp"
#include "plan/cost.hpp"
#include "plan/traffic.hpp"
#include "train/megatron/layout.hpp"

namespace refit::plan {
namespace {

struct World {
  model::Model model =
      build_model(model::read_config(REFIT_SOURCE_DIR "/inputs/models/qwen3-235b-a22b/config.json"), false);
  std::unique_ptr<Layout> train;
  std::unique_ptr<Layout> gen;

  World() {
    train::megatron::Options train_options;
    train_options.sizes = layout::parse_parallelism("TP4xEP16xDP4xPP8");
    train_options.first_stage_layers = train_options.last_stage_layers = 11;
    train = train::megatron::make_layout(model, train_options);
    gen::vllm::Options gen_options;
    gen_options.sizes = layout::parse_parallelism("TP8xDP16");
    gen = gen::vllm::make_layout(model, gen_options);
  }
};

const World& world() {
  static const World instance;
  return instance;
}

double peak_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

void rank_plan(benchmark::State& state) {
  const Planner planner(world().model.tensors, *world().train, *world().gen);
  const Side side = state.range(0) == 0 ? Side::source : Side::destination;
  std::size_t copies = 0;
  for (auto _ : state) copies = planner.rank_plan(side, Rank{static_cast<std::int32_t>(state.range(1))}).copies.size();
  state.counters["copies"] = static_cast<double>(copies);
  state.counters["peak_mb"] = peak_mb();
}
BENCHMARK(rank_plan)
    ->ArgNames({"gen", "rank"})
    ->Args({0, 0})
    ->Args({0, 67})
    ->Args({1, 0})
    ->Unit(benchmark::kMillisecond);

void world_totals(benchmark::State& state) {
  const Planner planner(world().model.tensors, *world().train, *world().gen);
  std::int64_t copies = 0;
  for (auto _ : state) copies = traffic(planner).copies;
  state.counters["copies"] = static_cast<double>(copies);
  state.counters["peak_mb"] = peak_mb();
}
BENCHMARK(world_totals)->Unit(benchmark::kMillisecond);

/// The same with every rank of either side on one of 16 nodes of eight GPUs: holders are chosen by nodes.
void world_totals_colocated(benchmark::State& state) {
  const Placement placement = colocated(world().train->ranks(), world().gen->ranks(), 1, 8);
  Rules rules;
  rules.colocated = true;
  rules.placement = placement;
  const Planner planner(world().model.tensors, *world().train, *world().gen, rules);
  for (auto _ : state) benchmark::DoNotOptimize(traffic(planner, placement).copies);
}
BENCHMARK(world_totals_colocated)->Unit(benchmark::kMillisecond);

void bound(benchmark::State& state) {
  const Placement placement = apart(world().train->ranks(), world().gen->ranks());
  for (auto _ : state) {
    benchmark::DoNotOptimize(lower_bound(world().model.tensors, *world().train, *world().gen, {}, placement));
  }
}
BENCHMARK(bound)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace refit::plan

BENCHMARK_MAIN();
