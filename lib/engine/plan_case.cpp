#include <sys/resource.h>

#include <chrono>
#include <iostream>

#include "core/console.hpp"
#include "engine/describe.hpp"
#include "engine/engine.hpp"
#include "engine/expect.hpp"
#include "engine/outputs.hpp"
#include "engine/picture.hpp"
#include "report/printers.hpp"
#include "report/table.hpp"

namespace refit::engine {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

plan::Rates rates_of(const Hardware& hardware) {
  plan::Rates rates;
  rates.device_in = hardware.device_in * 1e9;
  rates.device_out = hardware.device_out * 1e9;
  rates.domain_in = hardware.domain_in * 1e9;
  rates.domain_out = hardware.domain_out * 1e9;
  rates.memory = hardware.memory * 1e9;
  rates.launch_seconds = hardware.launch_seconds;
  return rates;
}

plan::Placement placement_of(const Setup& setup, const Hardware& hardware) {
  return plan::apart(setup.sent().ranks(), setup.gen->ranks(), hardware.ranks_per_device, hardware.devices_per_domain);
}

/// Path, role, shape and name of every tensor; "none" where gen does not store it, "file" where only gen does.
void print_classes(const Setup& setup) {
  const std::vector<std::string_view> path = paths_of(setup);
  for (const model::Tensor& tensor : setup.model.tensors) {
    print("{:4}  {:20}  {:20}  {}\n", path[static_cast<std::size_t>(tensor.index)], name(tensor.role),
          to_string(tensor.file_shape()), tensor.name);
  }
}

/// Those that were asked for; for a picture alone one that shows most.
std::vector<const model::Tensor*> tensors_to_explain(const Setup& setup, const PlanOptions& options) {
  if (!options.explain.empty()) return find_tensors(setup, options.explain);
  if (options.picture.empty()) return {};
  const model::Tensor* tensor = most_cut_tensor(setup);
  if (tensor == nullptr) return {};
  return {tensor};
}

/// The gen ranks that feed each other in a run on such hardware; 0 = none.
std::int64_t fan_out_ranks(const Setup& setup, const plan::Rates& rates, const plan::Placement& placement) {
  const RefitSection& refit = setup.c.refit;
  if (refit.executor != ExecutorKind::direct || refit.fan_out == FanOut::off) return 0;
  if (refit.fan_out == FanOut::on) return setup.gen->ranks();
  return plan::choose_fan_out(setup.split.bulk, setup.sent(), *setup.gen, rates, placement);
}

/// The rank whose plan is timed: the first gen rank, which receives from every stage.
void plan_one_rank(const plan::Planner& planner, report::Plan& out) {
  const double start = now();
  const plan::RankPlan mine = planner.rank_plan(Side::destination, Rank{0});
  out.seconds = now() - start;
  out.copies = static_cast<std::int64_t>(mine.copies.size());
  out.peak_bytes = peak_bytes();
}

}  // namespace

int plan(const Case& c, const PlanOptions& options, const std::vector<std::string>& command) {
  std::vector<Explanation> explanations;
  Outputs outputs(c.output.force);
  outputs.add(options.picture, [&](const report::Result& /*result*/) { return to_svg(explanations); });
  outputs.add(options.byte_matrix,
              [](const report::Result& found) { return report::byte_matrix_text(found.byte_matrix); });
  outputs.add(c.output.json, report::to_json);
  outputs.check();
  const Setup setup(c);
  const std::vector<const model::Tensor*> explained = tensors_to_explain(setup, options);
  outputs.remove_older();
  report::Result result = describe(setup, command);
  const plan::Rates rates = options.hardware ? rates_of(*options.hardware) : plan::Rates{};
  const plan::Placement placement = placement_of(setup, options.hardware.value_or(Hardware{}));
  const plan::Planner planner(setup.split.bulk, setup.sent(), *setup.gen, fan_out_ranks(setup, rates, placement));
  result.plan.emplace();
  plan_one_rank(planner, *result.plan);

  const double start = now();
  const plan::Traffic traffic = plan::traffic(planner, setup.model.tensors);
  result.plan->world = report::PlanWorld{now() - start, traffic.copies};
  result.plan->hash = hexadecimal(traffic.hash);
  add_wire(setup, setup.split.bulk, traffic, setup.split.misc, result);

  const plan::Bound bound = plan::lower_bound(setup.model.tensors, setup.sent(), *setup.gen, rates, placement);
  result.bound = to_report(bound, options.hardware.has_value());
  if (options.hardware) {
    plan::Schedule schedule;
    schedule.serial_steps = 1;
    if (c.refit.executor != ExecutorKind::direct) schedule.stages_in_flight = c.refit.streams;
    result.model_seconds = to_report(plan::model_seconds(bound, traffic, schedule, rates));
  }
  if (c.refit.executor == ExecutorKind::m2n) {
    const plan::Resharding resharding = plan::make_reshards(setup.split.bulk, setup.sent(), *setup.gen);
    result.m2n = to_report(resharding, setup.model, setup.split.bulk, setup.sent(), *setup.gen);
  }
  judge_plan(setup, result);
  if (options.classify) print_classes(setup);
  if (!explained.empty() && c.refit.executor == ExecutorKind::golden)
    result.notes.emplace_back("golden broadcasts whole shards; explained are the copies of p2p and direct");
  explanations = explain(setup, planner, explained);
  if (!options.explain.empty())
    for (const Explanation& explanation : explanations) print_explanation(std::cout, explanation);
  report::print_header(std::cout, result);
  const int judged = result.exit_code;
  outputs.write(result);
  report::print_plan(std::cout, result);
  if (judged != 0) throw Error(ErrorKind::data, result.error->message);  // on stderr too
  return result.exit_code;
}

}  // namespace refit::engine
