#include "engine/drilled_job.hpp"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "core/clock.hpp"
#include "core/text.hpp"
#include "layout/joined_layout.hpp"
#include "transport/together.hpp"
#include "verify/joined_results.hpp"

namespace refit::engine {
namespace {

using transport::CollectiveError;
using transport::together;

/// Returns the case with one engine alone, which takes every refit that it lives for.
cases::Case with_engine(const cases::Case& c, std::size_t engine) {
  cases::Case alone = c;
  alone.gen = {c.gen[engine]};
  alone.given.clear();  // the case has been checked
  return alone;
}

/// Adds the seconds of each phase to those of the same name.
void add(const report::NamedSeconds& more, report::NamedSeconds& all) {
  for (const auto& [name, seconds] : more) {
    const auto same = std::ranges::find(all, name, [](const auto& one) { return one.first; });
    if (same == all.end()) {
      all.emplace_back(name, seconds);
    } else {
      same->second += seconds;
    }
  }
}

bool has(const std::vector<std::string>& notes, const std::string& note) {
  return std::ranges::find(notes, note) != notes.end();
}

}  // namespace

DrilledJob::DrilledJob(transport::Control& world, const kernels::ExecutionSpace& space, const Setup& setup,
                       const inject::Faults& faults, transport::Progress& progress)
    : world_(world),
      space_(space),
      setup_(setup),
      faults_(faults),
      progress_(progress),
      limits_(cases::limits_of(setup.c)),
      drill_(setup.c.drill()),
      engines_(setup.c.gen.size()) {
  progress_.begin("prepare", limits_.phase());
  together(world_, [&] {
    std::int32_t first = 0;
    for (std::size_t e = 0; e < engines_.size(); ++e) {
      engines_[e].setup = std::make_unique<Setup>(with_engine(setup_.c, e));
      engines_[e].first_rank = first;
      first += engines_[e].setup->gen->ranks();
      REFIT_ASSERT(engines_[e].setup->model.tensors.size() == setup_.model.tensors.size());
    }
  });
  const OwnRanks own = setup_.c.world().own(world_.rank());
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    Engine& engine = engines_[e];
    const bool is_of_it = own.destination && setup_.gen->engine(*own.destination) == static_cast<std::int32_t>(e);
    engine.world = world_.split(own.source || is_of_it ? 0 : -1);
    if (engine.world) engine.places = transport::places_of(*engine.world);
  }
}

template <typename Collective>
void DrilledJob::among(std::size_t number, const Collective& work) {
  std::optional<CollectiveError> failed;
  if (engines_[number].world) {
    try {
      work();
    } catch (const CollectiveError& error) {
      failed = error;
    }
  } else {
    progress_.begin("wait for another engine", 0);  // whose ranks have limits
  }
  // Rank 0 is in every engine's world.
  transport::Control::Bytes told;
  if (failed) {
    std::string text = failed->what();
    const std::string rank = fmt::format("rank {}: ", failed->rank());
    if (failed->rank() >= 0 && text.starts_with(rank))
      text = fmt::format("rank {}: {}", world_rank(number, failed->rank()), text.substr(rank.size()));
    transport::append(told, failed->kind());
    for (const char c : text) transport::append(told, c);
  }
  told = world_.broadcast(std::move(told), 0);
  if (told.empty()) return;
  const auto kind = transport::read_all<ErrorKind>({told.begin(), told.begin() + sizeof(ErrorKind)}).front();
  const auto text = transport::read_all<char>({told.begin() + sizeof(ErrorKind), told.end()});
  throw CollectiveError(kind, fmt::format("engine {}: {}", number, std::string(text.begin(), text.end())));
}

int DrilledJob::world_rank(std::size_t engine, int rank) const {
  const auto train = static_cast<int>(setup_.c.train_ranks());
  return rank < train ? rank : rank + engines_[engine].first_rank;
}

report::Result DrilledJob::join(std::size_t number, const report::Result& known) {
  Engine& engine = engines_[number];
  report::Result part;
  part.engines = {known.engines[number]};
  const double start = now();
  among(number, [&] {
    engine.job = std::make_unique<Job>(*engine.world, space_, *engine.setup, none_, engine.places, progress_, train_);
    engine.job->prepare(part);
    train_ = engine.job->train();
  });
  engine.join_seconds = world_.max(now() - start);
  engine.version = -1;
  return part;
}

void DrilledJob::kill(std::size_t number) {
  Engine& engine = engines_[number];
  progress_.begin("kill", limits_.phase());
  engine.job.reset();
  engine.is_trusted = false;
}

void DrilledJob::add(std::size_t engine, const report::Result& part, report::Result& result) const {
  result.engines[engine].bytes = part.engines.front().bytes;
  engine::add(part.prepare, result.prepare);
  if (!part.wire) return;  // this rank has no part in the engine
  if (!result.wire) result.wire.emplace();
  if (!result.memory) result.memory.emplace();
  if (!result.schedule) result.schedule.emplace();
  if (!result.load) result.load.emplace();
  result.wire->bytes += part.wire->bytes;
  result.wire->copies += part.wire->copies;
  result.wire->local_bytes += part.wire->local_bytes;
  for (auto plan::Wire::*bytes : {&plan::Wire::between_hosts_bytes, &plan::Wire::within_hosts_bytes})
    (*result.wire).*bytes = ((*result.wire).*bytes).value_or(0) + ((*part.wire).*bytes).value_or(0);
  result.wire->forwarded_bytes += part.wire->forwarded_bytes;
  result.wire->egress_bytes_max += part.wire->egress_bytes_max;
  result.wire->ingress_bytes_max = std::max(result.wire->ingress_bytes_max, part.wire->ingress_bytes_max);
  result.memory->train_bytes_max = std::max(result.memory->train_bytes_max, part.memory->train_bytes_max);
  result.memory->gen_bytes_max = std::max(result.memory->gen_bytes_max, part.memory->gen_bytes_max);
  result.schedule->groups_max += part.schedule->groups_max;
  result.schedule->serial_groups_max += part.schedule->serial_groups_max;
  result.schedule->group_operations_max =
      std::max(result.schedule->group_operations_max, part.schedule->group_operations_max);
  if (part.delta) {
    if (!result.delta) result.delta.emplace(*part.delta).dense_bytes = result.delta->kept_bytes_max = 0;
    result.delta->dense_bytes += part.delta->dense_bytes;
    result.delta->kept_bytes_max += part.delta->kept_bytes_max;
  }
  result.load->bytes_read += part.load->bytes_read;
  result.load->bytes_needed += part.load->bytes_needed;
}

void DrilledJob::add_staging(report::Result& result) {
  std::int64_t bytes = 0;
  for (const Engine& engine : engines_) bytes += engine.job ? engine.job->staging_bytes() : 0;
  bytes = world_.max(bytes);
  if (result.memory) result.memory->staging_bytes_max = std::max(result.memory->staging_bytes_max, bytes);
}

void DrilledJob::prepare(report::Result& result) {
  std::vector<std::pair<std::size_t, report::Result>> parts;
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    if (!drill_.joins(e, 1)) continue;
    parts.emplace_back(e, join(e, result));
    add(e, parts.back().second, result);
    engines_[e].join_seconds.reset();
  }
  add_staging(result);
  // What all engines say is about train, or about all of them.
  for (const auto& [e, part] : parts) {
    for (const std::string& note : part.notes) {
      const bool all = std::ranges::all_of(parts, [&](const auto& other) { return has(other.second.notes, note); });
      const std::string text = all ? note : fmt::format("engine {}: {}", e, note);
      if (!has(result.notes, text)) result.notes.push_back(text);
    }
  }
  result.notes.push_back(
      "run.drill: each engine has a session of its own, and they are refitted one after the other; a killed engine "
      "loses its session, communicators, mappings, weights and version, but its processes live on and wait: MPI ends "
      "the whole job when one of its processes dies");
  if (const std::vector<std::int64_t> idle = drill_.idle(); !idle.empty())
    result.notes.push_back(fmt::format("run.drill: no engine takes part in refit {}", fmt::join(idle, ", ")));
}

void DrilledJob::change_engines(std::int64_t number, report::Result& result) {
  for (Engine& engine : engines_) engine.join_seconds.reset();
  if (number == 1) return;
  for (std::size_t e = 0; e < engines_.size(); ++e)
    if (drill_.dies(e, number)) kill(e);
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    if (!drill_.joins(e, number)) continue;
    const report::Result part = join(e, result);
    const bool is_new = !drill_.is_new_life(e, number);
    if (is_new) add(e, part, result);
    for (const std::string& note : part.notes) {
      const std::string text = fmt::format("engine {}: {}", e, note);
      if (!has(result.notes, note) && !has(result.notes, text)) result.notes.push_back(text);
    }
    engines_[e].is_trusted = !is_new && faults_.trusts_new_engines();
    add_staging(result);
    if (world_.rank() == 0)
      spdlog::info("engine {} {} before refit {}: {}", e, is_new ? "joins" : "rejoins", number,
                   format_seconds(*engines_[e].join_seconds));
  }
}

report::Refit DrilledJob::refit(std::int64_t number) {
  progress_.begin("update", limits_.refit());
  if (train_) update_weights(space_, setup_.c, *train_, number);
  std::vector<std::optional<session::RefitSeconds>> mine(engines_.size());
  double start = -1;  // since this rank's first barrier
  double total = 0;
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    Engine& engine = engines_[e];
    if (!engine.job || engine.is_trusted) continue;
    try {
      mine[e] = engine.job->move(number);
    } catch (const CollectiveError& error) {  // of this engine's ranks alone: it ends the job
      throw Error(error.kind(), error.what(), {error.tensor(), error.rank()});
    }
    const double end = now();
    if (start < 0) start = end - mine[e]->total;
    total = end - start;
  }
  progress_.at("wait for all ranks");
  report::Refit result;
  result.number = number;
  result.warmup = number <= setup_.c.run.warmup;
  result.version.number = setup_.c.run.version(number);
  result.weight_sync = world_.max(total);
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    Engine& engine = engines_[e];
    report::EngineRefit& part = result.engines.emplace_back();
    part.alive = drill_.takes_part(e, number);
    part.join_seconds = engine.join_seconds;
    if (mine[e]) {
      const report::Refit recorded = engine.job->record(number, *mine[e]);
      part.weight_sync = recorded.weight_sync;
      engine::add(recorded.phases, result.phases);
      if (recorded.delta) {
        if (!result.delta) result.delta.emplace();
        result.delta->bytes += recorded.delta->bytes;
        result.delta->changed += recorded.delta->changed;
        result.delta->elements += recorded.delta->elements;
      }
      if (recorded.host_seconds) result.host_seconds = result.host_seconds.value_or(0) + *recorded.host_seconds;
    }
    if (part.alive) engine.version = setup_.c.run.version(number);
    part.version = engine.version;
  }
  return result;
}

/// Has the engines that were refitted say that they hold its version.
void DrilledJob::commit(report::Refit& refit) {
  for (std::size_t e = 0; e < engines_.size(); ++e)
    if (drill_.takes_part(e, refit.number) && !engines_[e].is_trusted)
      among(e, [&] { engines_[e].job->commit(refit); });
  refit.is_committed = true;
}

verify::StepResult DrilledJob::on_side(std::size_t engine, verify::StepResult result) const {
  for (verify::WrongTensor& wrong : result.wrong)
    wrong.gen_rank = Rank{to_int(wrong.gen_rank) + engines_[engine].first_rank};
  return result;
}

std::int64_t DrilledJob::tensors(std::int64_t refit) const {
  const std::vector<layout::EngineLayout> layouts = layout::engines_of(*setup_.gen);
  return std::ranges::count_if(setup_.model.tensors, [&](const model::Tensor& tensor) {
    for (std::size_t e = 0; e < layouts.size(); ++e)
      if (drill_.takes_part(e, refit) && layouts[e].format(tensor)) return true;
    return false;
  });
}

verify::StepResult DrilledJob::verify(std::int64_t number, report::Result& result, const verify::Named& named) {
  const std::int64_t stored = tensors(number);
  std::vector<verify::StepResult> steps(engines_.size());
  for (verify::StepResult& step : steps) step.step = number;
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    if (!drill_.takes_part(e, number)) continue;
    report::Result part;
    among(e, [&] {
      steps[e] = on_side(e, engines_[e].job->verify(number, part, [&](const verify::StepResult& wrong) {
        std::vector<verify::StepResult> known = steps;
        known[e] = on_side(e, wrong);
        named(verify::join_engines(known, stored));
      }));
    });
    for (const std::string& note : part.notes) result.notes.push_back(fmt::format("engine {}: {}", e, note));
  }
  return verify::join_engines(steps, stored);
}

void DrilledJob::dump() const {
  const cases::OutputSection& output = setup_.c.output;
  if (output.dump_train.empty() && output.dump_gen.empty()) return;
  const std::optional<Rank> gen = setup_.c.world().own(world_.rank()).destination;
  double limit = limits_.phase();
  for (const Engine& engine : engines_) limit = std::max(limit, engine.job ? engine.job->phase_limit() : 0);
  progress_.begin("dump", world_.max(limit));
  together(world_, [&] {
    if (train_ && !output.dump_train.empty()) train_->weights->dump(output.dump_train, *setup_.train, train_->rank, {});
    for (const Engine& engine : engines_)
      if (engine.job && gen) engine.job->dump_gen(*setup_.gen, *gen);
  });
}

}  // namespace refit::engine
