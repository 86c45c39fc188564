#include "transport/pair_rates.hpp"

#include <algorithm>
#include <deque>

#include "core/clock.hpp"
#include "transport/bytes.hpp"
#include "transport/transfers.hpp"

namespace refit::transport {
namespace {

constexpr double kLong = 0.5;  ///< seconds of a message that is not repeated
/// Seconds of a message that shows its link's rate on one lane already: it waits for nothing but the link.
constexpr double kFull = 0.05;
constexpr int kBatches = 3;          ///< repetitions, of which the best counts
constexpr double kTimes = 1000;      ///< most transfers of a repetition
constexpr std::int64_t kSlots = 16;  ///< messages that are under way on a lane, at most, while memory suffices
constexpr std::int64_t kLeastPart = 256 << 10;  ///< of a message that is spread over lanes

/// How one rank gets at another's memory.
constexpr std::byte kStores{1}, kEngines{2};

}  // namespace

const char* name(Mechanism mechanism) {
  switch (mechanism) {
    case Mechanism::stores: return "stores";
    case Mechanism::engines: return "engines";
    case Mechanism::messages: return "messages";
  }
  return "";
}

PairRates::PairRates(const PairMeans& means, std::int64_t most_bytes, double seconds)
    : means_(means), most_bytes_(most_bytes), seconds_(seconds), source_(touched(most_bytes)) {
  if (means.peers != nullptr) {
    kernels::poison(means.space, means.peers->local(), most_bytes);
    means.space.fence();
  }
  if (means.communicator != nullptr) inbox_ = touched(most_bytes);
  const std::byte how = kStores | (kernels::EngineTable::is_available() ? kEngines : std::byte{0});
  Control::Bytes mine;
  for (int rank = 0; rank < means.world.size(); ++rank) {
    const bool is_mapped = means.peers != nullptr && means.peers->map(rank) != nullptr;
    mine.push_back(is_mapped ? how : std::byte{0});
  }
  reached_ = means.world.gather_all(mine);
}

bool PairRates::serves(Mechanism mechanism, const Flow& flow) const {
  if (flow.from == flow.to) return false;
  if (mechanism == Mechanism::messages) return means_.communicator != nullptr;
  const std::byte how = reached_[static_cast<std::size_t>(flow.from)][static_cast<std::size_t>(flow.to)];
  return (how & (mechanism == Mechanism::stores ? kStores : kEngines)) != std::byte{0};
}

std::vector<double> PairRates::timed(Mechanism mechanism, const std::vector<Flow>& flows, bool active, const Run& run) {
  const auto took = [&](int times) {
    means_.world.barrier();
    const double start = now();
    if (active) run(times);
    return (now() - start) / times;
  };
  double first = took(1);  // connects, or touches memory that is mapped here
  double slowest = means_.world.max(first);
  if (slowest < kLong || mechanism != Mechanism::messages) {
    first = took(1);
    slowest = means_.world.max(first);
  }
  Control::Bytes mine;
  append(mine, first);
  if (slowest < seconds_) {
    const auto times = static_cast<int>(std::clamp(seconds_ / kBatches / std::max(slowest, 1e-9), 1.0, kTimes));
    for (int batch = 0; batch < kBatches; ++batch) append(mine, took(times));
  }
  std::vector<std::vector<double>> by_rank;
  for (const Control::Bytes& bytes : means_.world.gather_all(mine)) by_rank.push_back(read_all<double>(bytes));
  std::vector<double> best;
  for (const Flow& flow : flows) {
    const std::vector<double>& from = by_rank[static_cast<std::size_t>(flow.from)];
    const std::vector<double>& to = by_rank[static_cast<std::size_t>(flow.to)];
    double least = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
      const double slower = std::max(from[i], to[i]);
      least = i == 0 ? slower : std::min(least, slower);
    }
    best.push_back(least);
  }
  return best;
}

bool PairRates::sends(const std::vector<Flow>& flows) const {
  return std::ranges::any_of(flows, [&](const Flow& flow) { return flow.from == means_.world.rank(); });
}

std::vector<double> PairRates::timed_stores(Mechanism mechanism, const std::vector<Flow>& flows, std::int64_t bytes,
                                            bool one_by_one) {
  const auto mine = std::ranges::find(flows, means_.world.rank(), &Flow::from);
  std::byte* target = mine == flows.end() ? nullptr : means_.peers->map(mine->to);
  const kernels::ExecutionSpace& space = means_.space;
  const auto repeat = [&](int times, const auto& start) {
    for (int i = 0; i < times; ++i) {
      start();
      if (one_by_one) space.fence();
    }
    space.fence();
  };
  if (mechanism == Mechanism::stores) {
    const Repeated copy(space, {source_.data(), bytes}, {target, target == nullptr ? 0 : bytes}, bytes);
    return timed(mechanism, flows, target != nullptr,
                 [&](int times) { repeat(times, [&] { copy.table.run(space); }); });
  }
  const kernels::EngineTable table =
      engine_copies(source_.data(), target, bytes, kernels::EngineSizes().most_bytes, bytes);
  return timed(mechanism, flows, target != nullptr, [&](int times) {
    repeat(times, [&] {
      table.begin(space);
      table.finish(space);
    });
  });
}

std::vector<double> PairRates::timed_messages(const std::vector<Flow>& flows, std::int64_t bytes, int lanes) {
  std::vector<int> senders, receivers;
  for (const Flow& flow : flows) {
    senders.push_back(flow.from);
    receivers.push_back(flow.to);
  }
  const bool receives = std::ranges::count(receivers, means_.world.rank()) > 0;
  const std::int64_t slots = std::clamp<std::int64_t>(most_bytes_ / bytes, 1, kSlots);
  std::deque<Posts> posts;
  for (std::int64_t slot = 0; slot < slots; ++slot)
    posts.emplace_back(*means_.communicator, lanes, senders, receivers, source_.data() + slot * bytes,
                       inbox_.data() + slot * bytes, bytes);
  return timed(Mechanism::messages, flows, receives || sends(flows), [&](int times) {
    for (int i = 0; i < times; ++i) {
      Posts& next = posts[static_cast<std::size_t>(i % slots)];
      if (i >= slots) next.wait();
      next.start();
    }
    for (int i = 0; i < std::min(static_cast<int>(slots), times); ++i) posts[static_cast<std::size_t>(i)].wait();
  });
}

std::vector<double> PairRates::rates(Mechanism mechanism, const std::vector<Flow>& flows, std::int64_t bytes) {
  std::vector<double> seconds;
  if (mechanism != Mechanism::messages) {
    seconds = timed_stores(mechanism, flows, bytes, false);
  } else {
    seconds = timed_messages(flows, bytes, 1);
    const bool is_full = *std::ranges::max_element(seconds) >= kFull;
    if (means_.lanes > 1 && bytes >= means_.lanes * kLeastPart && !is_full) {
      const std::vector<double> on_all = timed_messages(flows, bytes, means_.lanes);
      for (std::size_t i = 0; i < seconds.size(); ++i) seconds[i] = std::min(seconds[i], on_all[i]);
    }
  }
  for (double& each : seconds) each = static_cast<double>(bytes) / each;
  return seconds;
}

double PairRates::seconds_of_one(Mechanism mechanism, const Flow& flow, std::int64_t bytes) {
  if (mechanism != Mechanism::messages) return timed_stores(mechanism, {flow}, bytes, true).front();
  const int self = means_.world.rank();
  Posts there(*means_.communicator, 1, {flow.from}, {flow.to}, source_.data(), inbox_.data(), bytes);
  Posts back(*means_.communicator, 1, {flow.to}, {flow.from}, source_.data(), inbox_.data(), bytes);
  const std::vector<double> both =
      timed(Mechanism::messages, {flow}, self == flow.from || self == flow.to, [&](int times) {
        for (int i = 0; i < times; ++i) {
          there.run();
          back.run();
        }
      });
  return both.front() / 2;
}

}  // namespace refit::transport
