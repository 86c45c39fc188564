#include "engine/timeline.hpp"

#include <algorithm>
#include <limits>
#include <map>

#include "transport/bytes.hpp"
#include "transport/location.hpp"

namespace refit::engine {
namespace {

using transport::Control;

constexpr std::int64_t kStepsOfAll = 1 << 20;
constexpr std::int64_t kFewestSteps = 256;
constexpr std::int64_t kMostSteps = 1 << 16;
constexpr int kBarriers = 32;

/// The instants at which a rank entered a barrier and left it, by its host's clock.
struct Passage {
  std::int64_t entered, left;
};

/// A phase on its way to rank 0.
struct SentPhase {
  char name[32];
  std::int64_t begin_ns, end_ns;
};

/// What rank 0 knows of a host: the least and the most by which its clock can be ahead of rank 0's.
struct Host {
  std::size_t number = 0;
  std::int64_t least = std::numeric_limits<std::int64_t>::min();
  std::int64_t most = std::numeric_limits<std::int64_t>::max();

  std::int64_t offset() const { return least + (most - least) / 2; }
};

std::vector<Passage> pass_barriers(Control& world) {
  std::vector<Passage> passages;
  for (int i = 0; i < kBarriers; ++i) {
    Passage passage{transport::now_ns(), 0};
    world.barrier();
    passage.left = transport::now_ns();
    passages.push_back(passage);
  }
  return passages;
}

Control::Bytes bytes_of(const transport::Trace& trace, const std::vector<Passage>& passages) {
  Control::Bytes bytes;
  for (const Passage& passage : passages) transport::append(bytes, passage);
  transport::append(bytes, trace.left_out());
  transport::append(bytes, static_cast<std::int64_t>(trace.phases().size()));
  for (const transport::TracedPhase& phase : trace.phases()) {
    SentPhase sent{{}, phase.begin_ns, phase.end_ns};
    phase.name.copy(sent.name, sizeof(sent.name) - 1);
    transport::append(bytes, sent);
  }
  transport::append(bytes, static_cast<std::int64_t>(trace.steps().size()));
  for (const transport::TracedStep& step : trace.steps()) transport::append(bytes, step);
  return bytes;
}

report::StepKind kind_of(transport::Step step) {
  switch (step) {
    case transport::Step::kernel: return report::StepKind::kernel;
    case transport::Step::engine: return report::StepKind::engine;
    case transport::Step::pack: return report::StepKind::pack;
    case transport::Step::unpack: return report::StepKind::unpack;
    case transport::Step::message: return report::StepKind::message;
    case transport::Step::wait: return report::StepKind::wait;
  }
  return report::StepKind::wait;
}

/// Returns the hosts in the order of their first ranks, with what the ranks' passages say about their clocks.
std::map<std::uint64_t, Host> compare_clocks(const std::vector<std::uint64_t>& places,
                                             const std::vector<std::vector<Passage>>& passages) {
  std::map<std::uint64_t, Host> hosts;
  for (const std::uint64_t place : places) hosts.try_emplace(place, Host{hosts.size()});
  for (std::size_t rank = 0; rank < places.size(); ++rank) {
    if (places[rank] == places.front()) continue;
    Host& host = hosts.at(places[rank]);
    for (std::size_t other = 0; other < places.size(); ++other) {
      if (places[other] != places.front()) continue;
      for (int i = 0; i < kBarriers; ++i) {
        const Passage& there = passages[rank][static_cast<std::size_t>(i)];
        const Passage& here = passages[other][static_cast<std::size_t>(i)];
        host.least = std::max(host.least, there.entered - here.left);
        host.most = std::min(host.most, there.left - here.entered);
      }
    }
  }
  Host& first = hosts.at(places.front());
  first.least = first.most = 0;
  return hosts;
}

}  // namespace

std::int64_t most_steps(int ranks) { return std::clamp(kStepsOfAll / ranks, kFewestSteps, kMostSteps); }

std::shared_ptr<const report::Timeline> gather_timeline(Control& world, const transport::Trace& trace,
                                                        const model::Model& model,
                                                        const std::vector<report::RankInfo>& ranks,
                                                        std::int64_t refit) {
  std::vector<std::uint64_t> places;
  for (const transport::Location& location : transport::gather_all(world, transport::location()))
    places.push_back(location.host);
  const std::vector<Control::Bytes> sent = world.gather(bytes_of(trace, pass_barriers(world)), 0);
  if (world.rank() != 0) return nullptr;

  std::vector<transport::Reader> readers(sent.begin(), sent.end());
  std::vector<std::vector<Passage>> passages(sent.size());
  for (std::size_t rank = 0; rank < sent.size(); ++rank)
    for (int i = 0; i < kBarriers; ++i) passages[rank].push_back(readers[rank].take<Passage>());
  const std::map<std::uint64_t, Host> hosts = compare_clocks(places, passages);

  auto timeline = std::make_shared<report::Timeline>();
  timeline->refit = refit;
  timeline->hosts.resize(hosts.size());
  for (const auto& [place, host] : hosts)
    timeline->hosts[host.number] = {"", static_cast<double>(host.offset()) / 1e9,
                                    static_cast<double>(host.most - host.least) / 2e9};
  std::int64_t start = std::numeric_limits<std::int64_t>::max();
  std::vector<std::vector<SentPhase>> phases(sent.size());
  for (std::size_t rank = 0; rank < sent.size(); ++rank) {
    report::TimelineRank& of = timeline->ranks.emplace_back();
    const Host& host = hosts.at(places[rank]);
    of.rank = static_cast<std::int64_t>(rank);
    of.host = host.number;
    of.left_out = readers[rank].take<std::int64_t>();
    for (auto count = readers[rank].take<std::int64_t>(); count > 0; --count) {
      SentPhase& phase = phases[rank].emplace_back(readers[rank].take<SentPhase>());
      start = std::min(start, phase.begin_ns - host.offset());
    }
  }
  for (const report::RankInfo& info : ranks) {
    report::TimelineRank& of = timeline->ranks[static_cast<std::size_t>(info.rank)];
    of.group += (of.group.empty() ? "" : "+") + info.group;
    timeline->hosts[of.host].name = info.host;
  }
  for (std::size_t rank = 0; rank < sent.size(); ++rank) {
    report::TimelineRank& of = timeline->ranks[rank];
    const std::int64_t zero = start + hosts.at(places[rank]).offset();
    const auto seconds = [zero](std::int64_t ns) { return static_cast<double>(ns - zero) / 1e9; };
    for (const SentPhase& phase : phases[rank])
      of.phases.push_back({phase.name, seconds(phase.begin_ns), seconds(phase.end_ns)});
    for (auto count = readers[rank].take<std::int64_t>(); count > 0; --count) {
      const auto step = readers[rank].take<transport::TracedStep>();
      of.steps.push_back({kind_of(step.step), seconds(step.begin_ns), seconds(step.end_ns), step.bytes,
                          step.tensor < 0 ? "" : model[step.tensor].name, step.peer});
    }
  }
  return timeline;
}

}  // namespace refit::engine
