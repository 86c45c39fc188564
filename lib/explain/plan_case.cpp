#include "explain/plan_case.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <iostream>
#include <set>

#include "core/clock.hpp"
#include "core/console.hpp"
#include "core/text.hpp"
#include "engine/describe.hpp"
#include "engine/expect.hpp"
#include "engine/faults.hpp"
#include "engine/outputs.hpp"
#include "explain/picture.hpp"
#include "report/matrix_picture.hpp"
#include "report/printers.hpp"
#include "report/table.hpp"
#include "session/staged.hpp"
#include "transport/memory.hpp"

namespace refit::explain {

using cases::Setup;
using pair::explain;
using pair::find_tensors;
using pair::most_cut_tensor;
using pair::note;
using pair::paths_of;
using pair::print_explanation;
namespace {

/// Pairs of ranks up to which every document has the byte matrix (256 x 256); with more it needs a request.
constexpr std::int64_t kPairsWithMatrix = 256 * 256;

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
  for (const double rate : hardware.each_domain_in) rates.each_domain_in.push_back(rate * 1e9);
  for (const double rate : hardware.each_domain_out) rates.each_domain_out.push_back(rate * 1e9);
  rates.memory = hardware.memory * 1e9;
  rates.messages = hardware.messages * 1e9;
  rates.launch_seconds = hardware.launch_seconds;
  rates.memory_is_shared = hardware.memory_is_shared;
  return rates;
}

/// Places all ranks on the devices that the hardware lists.
plan::Placement placed(const Setup& setup, const Hardware& hardware) {
  const std::int64_t ranks = setup.c.world().size();
  if (std::ssize(hardware.devices) != ranks)
    fail_usage("{}: devices lists {}, and the case has {}: one device for each rank, train's first{}", hardware.file,
               hardware.devices.size(), counted(ranks, "rank"),
               setup.c.run.colocated ? " (colocated: for each process)" : "");
  return plan::listed(setup.c.world(), hardware.devices, hardware.devices_per_domain);
}

plan::Machine machine_of(const Setup& setup, const std::optional<Hardware>& given) {
  const Hardware hardware = given.value_or(Hardware{});
  // Ranks of both sides fill hosts and share their memory; a domain of devices belongs to one side alone.
  const auto place = setup.c.run.colocated ? plan::colocated : hardware.memory_is_shared ? plan::filled : plan::apart;
  return {given ? rates_of(hardware) : plan::Rates{},
          hardware.devices.empty()
              ? place(setup.sent().ranks(), setup.gen->ranks(), hardware.ranks_per_device, hardware.devices_per_domain)
              : placed(setup, hardware),
          hardware.broadcast * 1e9};
}

/// Returns the rules of a plan in which no ranks feed each other.
plan::Rules rules_of(const Setup& setup, const plan::Machine& machine) {
  plan::Rules rules;
  rules.colocated = setup.c.run.colocated;
  rules.placement = machine.placement;
  rules.near_domains = plan::choose_near_domains(setup.split.bulk, setup.sent(), *setup.gen, machine.rates, rules);
  return rules;
}

plan::Rules with_fan_out(plan::Rules rules, const plan::FanOutRules& fan_out) {
  rules.fan_out = fan_out;
  return rules;
}

/// Prints path, role, shape and name of every tensor; "none" where gen does not store it, "file" where only gen does.
void print_classes(const Setup& setup) {
  const std::vector<std::string_view> path = paths_of(setup);
  for (const model::Tensor& tensor : setup.model.tensors) {
    print("{:4}  {:20}  {:20}  {}\n", path[static_cast<std::size_t>(tensor.index)], name(tensor.role),
          to_string(tensor.file_shape()), tensor.name);
  }
}

/// Returns the requested tensors; for a picture without a request the one that shows most.
std::vector<const model::Tensor*> tensors_to_explain(const Setup& setup, const PlanOptions& options) {
  if (!options.explain.empty()) return find_tensors(setup, options.explain, "--explain ");
  if (options.picture.empty()) return {};
  const model::Tensor* tensor = most_cut_tensor(setup);
  if (tensor == nullptr) return {};
  return {tensor};
}

/// Returns the gen ranks that feed each other in a run of `direct` on such hardware.
plan::FanOutRules fan_out_of(const Setup& setup, const plan::Machine& machine, const plan::Rules& rules) {
  const cases::FanOut wanted = setup.c.refit.fan_out;
  if (wanted == cases::FanOut::off) return {};
  const bool is_wanted = wanted == cases::FanOut::on;
  const bool has_rates = machine.rates.device_out > 0;  // without them nothing pays
  // Without hardware every rank is a domain: nothing says which of them are near.
  if (is_wanted && !has_rates) return {plan::domains_of_neighbours(setup.gen->ranks(), setup.gen->ranks())};
  if (!has_rates) return {};
  const plan::FanOutRules best = plan::choose_fan_out(setup.split.bulk, setup.sent(), *setup.gen, machine.rates, rules);
  return is_wanted && best.domains.empty() ? plan::any_fan_out(machine.placement) : best;
}

/// Times the plan of the process with the first gen rank, which receives from every stage.
void plan_one_rank(const Setup& setup, const plan::Planner& planner, report::Plan& out) {
  const WorldMap map = setup.c.world();
  const double start = now();
  const plan::RankPlan mine = planner.rank_plan(map.own(map.first_destination()));
  out.seconds = now() - start;
  out.copies = static_cast<std::int64_t>(mine.copies.size());
}

/// Returns what the first rank of each side stores, and takes beside it.
report::RankMemory memory_of_one_rank(const Setup& setup) {
  const auto bytes = [](const layout::LocalLayout& local) { return transport::ArenaMap(local).bytes; };
  const layout::LocalLayout gen = layout::materialise(*setup.gen, setup.model.tensors, Rank{0});
  std::optional<std::int64_t> most;
  if (setup.c.refit.stage_bytes >= 0) most = setup.c.refit.stage_bytes;
  std::int64_t kept = 0;  // each element of a copy that may be sent, and a bit for each
  for (const layout::LocalPiece& piece : layout::materialise(setup.sent(), setup.split.bulk, Rank{0}).pieces) {
    const std::int64_t elements = piece.piece.box.volume();
    kept += elements * byte_size(piece.piece.format.dtype) + ceil_div(elements, std::int64_t{8});
  }
  if (setup.c.refit.commit == cases::Commit::stage) kept *= 2;  // each place has its own
  return {bytes(layout::materialise(*setup.train, setup.model.tensors, Rank{0})), bytes(gen),
          session::staged_bytes(setup.model, gen, most), kept};
}

/// Returns the loads of the bulk path by policy. The first policy has every tensor that any has; tensors are counted
/// together by the set of policies in which they are bulk.
std::vector<plan::Loads> loads_by_policy(const Setup& setup, const std::vector<plan::Split>& splits,
                                         const plan::Rules& rules, plan::Form form) {
  std::vector<std::size_t> policies_of(setup.model.tensors.size(), 0);  // bits, by tensor
  for (std::size_t p = 0; p < splits.size(); ++p)
    for (const model::Tensor& tensor : splits[p].bulk)
      policies_of[static_cast<std::size_t>(tensor.index)] |= std::size_t{1} << p;
  const std::set<std::size_t> distinct(policies_of.begin(), policies_of.end());
  const std::vector<std::size_t> sets(distinct.begin(), distinct.end());
  const auto group_of = [&](const model::Tensor& tensor) {
    const std::size_t policies = policies_of[static_cast<std::size_t>(tensor.index)];
    return static_cast<std::size_t>(std::ranges::find(sets, policies) - sets.begin());
  };
  const plan::Planner planner(splits.front().bulk, setup.sent(), *setup.gen, rules);
  const std::vector<plan::Loads> groups = plan::loads_by_group(planner, rules.placement, form, sets.size(), group_of);
  std::vector<plan::Loads> result(splits.size(), plan::Loads(setup.sent(), setup.gen->ranks()));
  for (std::size_t p = 0; p < splits.size(); ++p)
    for (std::size_t group = 0; group < groups.size(); ++group)
      if ((sets[group] >> p & 1) != 0) result[p] += groups[group];
  return result;
}

/// Returns whether both sides store all of the tensors in equally many bytes.
bool has_one_form(const std::vector<model::Tensor>& tensors, const layout::Layout& source,
                  const layout::Layout& destination) {
  if (destination.engines() > 1) return false;  // their forms may differ
  return std::ranges::all_of(tensors, [&](const model::Tensor& tensor) {
    return byte_size(source.format(tensor).value().dtype) == byte_size(destination.format(tensor).value().dtype);
  });
}

plan::ModelSeconds model_of(const transport::ExecutorRow& row, const session::How& how, const plan::Paths& paths,
                            const plan::Loads& loads, const plan::Machine& machine) {
  return transport::model_seconds(row, paths, loads, machine, how.tuning, how.per_stage, how.misc_buffer_bytes);
}

/// Compares every policy with every executor that any build has, the fastest first. `fan_out`: of direct.
std::vector<report::ModelRow> compare(const Setup& setup, const plan::Machine& machine, const plan::Rules& rules,
                                      const plan::FanOutRules& fan_out) {
  std::vector<cases::Bulk> policies{cases::Bulk::all, cases::Bulk::whitelist, cases::Bulk::blacklist, cases::Bulk::ffn};
  const auto is_listed = [](const model::Tensor& tensor) { return tensor.role == model::Role::listed; };
  if (std::ranges::all_of(setup.model.tensors, is_listed)) policies.resize(1);  // whose names decide nothing
  std::vector<plan::Split> splits;
  for (const cases::Bulk policy : policies) splits.push_back(setup.split_by(policy));
  const std::vector<plan::Loads> sent = loads_by_policy(setup, splits, rules, plan::Form::sent);
  const bool alike = fan_out.domains.empty() && has_one_form(splits.front().bulk, setup.sent(), *setup.gen);
  const std::vector<plan::Loads> stored =
      alike ? sent : loads_by_policy(setup, splits, with_fan_out(rules, fan_out), plan::Form::stored);
  std::vector<report::ModelRow> rows;
  for (std::size_t p = 0; p < policies.size(); ++p) {
    const plan::Paths paths{splits[p].bulk, splits[p].misc, setup.sent(), *setup.gen, setup.c.run.colocated};
    for (const transport::ExecutorRow& row : transport::executors()) {
      if (!row.is_compared) continue;
      const plan::Loads& loads = (row.form == plan::Form::stored ? stored : sent)[p];
      rows.push_back({std::string(name(policies[p])), std::string(row.name),
                      model_of(row, cases::how_of(setup.c), paths, loads, machine)});
    }
  }
  std::ranges::stable_sort(rows, {}, [](const report::ModelRow& row) { return row.model.total; });
  return rows;
}

/// Returns the domains of the ranks, where the hardware says them.
report::MatrixPlaces places_of(const plan::Placement& placement, bool has_domains) {
  report::MatrixPlaces places;
  if (!has_domains) return places;
  for (const plan::Placement::Site& site : placement.source) places.senders.push_back(site.domain);
  for (const plan::Placement::Site& site : placement.destination) places.receivers.push_back(site.domain);
  return places;
}

}  // namespace

int plan(const cases::Case& c, const PlanOptions& options, const std::vector<std::string>& command) {
  std::vector<Explanation> explanations;
  engine::Outputs outputs(c.output.force);
  outputs.add(options.picture, [&](const report::Result& /*result*/) { return to_svg(explanations); });
  outputs.add(options.byte_matrix, [&](const report::Result& found) {
    return report::byte_matrix_text(found.byte_matrix, c.run.colocated);
  });
  report::MatrixPlaces places;
  outputs.add(options.byte_matrix_picture, [&](const report::Result& found) { return report::to_svg(found, places); });
  outputs.add(c.output.json, report::to_json);
  outputs.check();
  const Setup setup(c);
  engine::faults_of(setup);  // for its refusals: a plan tells no lies
  const std::vector<const model::Tensor*> explained = tensors_to_explain(setup, options);
  outputs.remove_older();
  report::Result result = engine::describe(setup, command);
  const plan::Machine machine = machine_of(setup, options.hardware);
  places = places_of(machine.placement, options.hardware.has_value());
  const session::How how = cases::how_of(c);
  const transport::ExecutorRow& row = how.row();
  const plan::Paths paths{setup.split.bulk, setup.split.misc, setup.sent(), *setup.gen, c.run.colocated};
  const plan::Rules rules = rules_of(setup, machine);
  const plan::FanOutRules fan_out =
      row.stores || options.hardware ? fan_out_of(setup, machine, rules) : plan::FanOutRules();
  const plan::Planner planner(setup.split.bulk, setup.sent(), *setup.gen,
                              with_fan_out(rules, row.stores ? fan_out : plan::FanOutRules()));
  result.plan.emplace();
  plan_one_rank(setup, planner, *result.plan);
  result.plan->memory = memory_of_one_rank(setup);

  const double start = now();
  const std::int64_t pairs = std::int64_t{setup.sent().ranks()} * setup.gen->ranks();
  const bool matrix = !options.byte_matrix.empty() || !options.byte_matrix_picture.empty() || pairs <= kPairsWithMatrix;
  plan::Traffic traffic = plan::traffic(planner, machine.placement, {.matrix = matrix, .form = row.form});
  const auto broadcasts = transport::broadcasts_of(row, paths, how.tuning);
  plan::Moved moved = plan::moved_by(paths, traffic.loads, machine.placement, broadcasts, how.per_stage);
  result.plan->world =
      report::PlanWorld{now() - start, traffic.copies, std::move(moved.sent), std::move(moved.received)};
  result.plan->hash = engine::hexadecimal(traffic.hash);
  result.wire = moved.wire;
  if (!options.hardware) result.wire->between_hosts_bytes = result.wire->within_hosts_bytes = std::nullopt;
  if (matrix) result.byte_matrix = plan::byte_matrix(paths, broadcasts, std::move(traffic.matrix));

  const plan::Bound bound =
      plan::lower_bound(paths.tensors(), setup.sent(), *setup.gen, machine.rates, machine.placement);
  result.bound = engine::to_report(bound, options.hardware.has_value());
  if (options.hardware) {
    result.model_seconds = model_of(row, how, paths, traffic.loads, machine);
    result.plan->models = compare(setup, machine, rules, fan_out);
  }
  if (c.refit.executor == cases::ExecutorKind::m2n) {
    const plan::Resharding resharding = plan::make_reshards(setup.split.bulk, setup.sent(), *setup.gen);
    result.m2n = engine::to_report(resharding, setup.model, setup.split.bulk, setup.sent(), *setup.gen);
  }
  engine::judge_plan(setup, result);
  result.plan->peak_bytes = peak_bytes();
  if (options.classify) print_classes(setup);
  if (!explained.empty() && row.broadcasts)
    result.notes.emplace_back("golden broadcasts whole shards; explained are the copies of p2p and direct");
  explanations = explain(setup, planner, explained, row.form);
  if (!options.explain.empty())
    for (const Explanation& explanation : explanations) print_explanation(std::cout, explanation);
  report::print_header(std::cout, result);
  const int judged = result.exit_code;
  outputs.write(result);
  report::print_plan(std::cout, result);
  if (judged != 0) throw Error(ErrorKind::data, result.error->message);  // on stderr too
  return result.exit_code;
}

}  // namespace refit::explain
