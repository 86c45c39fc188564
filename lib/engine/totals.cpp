#include "engine/totals.hpp"

#include "engine/together.hpp"
#include "transport/bytes.hpp"

namespace refit::engine {
namespace {

using transport::Control;

/// This process's place on its side.
std::pair<Side, Rank> place_of(const Control& world, const Paths& paths) {
  const std::int32_t train_ranks = paths.source.ranks();
  const bool is_train = world.rank() < train_ranks;
  return {is_train ? Side::source : Side::destination, Rank{world.rank() - (is_train ? 0 : train_ranks)}};
}

/// All ranks' loads, at rank 0; zeros elsewhere.
plan::Loads gather_loads(Control& world, const Paths& paths, const std::vector<plan::Copy>& copies,
                         const plan::Placement& placement, plan::Form form) {
  const auto [side, rank] = place_of(world, paths);
  Control::Bytes mine;
  for (const plan::PortLoad& load : plan::loads_of(copies, side, rank, paths.source, placement, form))
    transport::append(mine, load);
  plan::Loads loads(paths.source, paths.destination.ranks());
  const std::vector<Control::Bytes> all = world.gather(mine, 0);
  const auto train_ranks = static_cast<std::size_t>(paths.source.ranks());
  for (std::size_t r = 0; r < all.size(); ++r) {
    const bool is_train = r < train_ranks;
    loads.put(is_train ? Side::source : Side::destination,
              Rank{static_cast<std::int32_t>(r - (is_train ? 0 : train_ranks))},
              transport::read_all<plan::PortLoad>(all[r]));
  }
  return loads;
}

/// Rank 0's values, everywhere.
void share(Control& world, Totals& totals) {
  Control::Bytes values, words;
  report::ModelSeconds& model = totals.model;
  const std::vector<double*> seconds{&model.total,   &model.wire,    &model.schedule,
                                     &model.staging, &model.latency, &model.misc};
  transport::append(values, totals.wire);
  for (const double* value : seconds) transport::append(words, *value);
  const auto wire = transport::read_all<report::Wire>(world.broadcast(std::move(values), 0));
  const auto shared = transport::read_all<double>(world.broadcast(std::move(words), 0));
  totals.wire = wire.front();
  for (std::size_t i = 0; i < seconds.size(); ++i) *seconds[i] = shared[i];
  for (std::string* text : {&model.term, &model.port}) {
    Control::Bytes bytes;
    for (const char c : *text) transport::append(bytes, c);
    const auto letters = transport::read_all<char>(world.broadcast(std::move(bytes), 0));
    text->assign(letters.begin(), letters.end());
  }
}

}  // namespace

Totals totals_of(Control& world, const RefitSection& refit, const Paths& paths, const std::vector<plan::Copy>& copies,
                 const plan::Machine& machine) {
  const plan::Loads loads = gather_loads(world, paths, copies, machine.placement, form_of(refit.executor));
  Totals totals;
  together(world, [&] {
    if (world.rank() != 0) return;
    totals.wire = moved_by(refit, paths, loads, machine.placement).wire;
    totals.model = to_report(model_seconds(refit.executor, refit, paths, loads, machine));
  });
  share(world, totals);
  return totals;
}

report::ByteMatrix gather_byte_matrix(Control& world, const RefitSection& refit, const Paths& paths,
                                      const std::vector<plan::Copy>& copies) {
  const auto [side, rank] = place_of(world, paths);
  const auto train_ranks = static_cast<std::size_t>(paths.source.ranks());
  std::vector<std::int64_t> column(side == Side::destination ? train_ranks : 0, 0);
  for (const plan::Copy& copy : copies) {
    const bool mine = side == Side::destination && copy.fan_out != plan::FanOut::forwarded;
    if (mine)
      column[static_cast<std::size_t>(to_int(copy.source.rank))] += plan::bytes_of(copy, form_of(refit.executor));
  }
  Control::Bytes bytes;
  for (const std::int64_t value : column) transport::append(bytes, value);
  const std::vector<Control::Bytes> all = world.gather(bytes, 0);
  if (all.empty()) return {};
  report::ByteMatrix matrix(train_ranks);
  for (std::size_t r = train_ranks; r < all.size(); ++r) {
    const auto received = transport::read_all<std::int64_t>(all[r]);
    for (std::size_t from = 0; from < train_ranks; ++from) matrix[from].push_back(received[from]);
  }
  return byte_matrix(refit, paths, std::move(matrix));
}

}  // namespace refit::engine
