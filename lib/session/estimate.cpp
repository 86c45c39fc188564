#include "session/estimate.hpp"

#include "transport/bytes.hpp"
#include "transport/together.hpp"

namespace refit::session {
namespace {

using transport::Control;

/// Gathers all ranks' loads at rank 0; zeros elsewhere.
plan::Loads gather_loads(Control& world, const plan::Paths& paths, const std::vector<plan::Copy>& copies,
                         const plan::Placement& placement, plan::Form form) {
  const WorldMap map = paths.world();
  Control::Bytes mine;
  for (const plan::PortLoad& load : plan::loads_of(copies, map.own(world.rank()), paths.source, placement, form))
    transport::append(mine, load);
  plan::Loads loads(paths.source, paths.destination.ranks());
  const std::vector<Control::Bytes> all = world.gather(mine, 0);
  for (std::size_t r = 0; r < all.size(); ++r)
    loads.put(map.own(static_cast<std::int32_t>(r)), transport::read_all<plan::PortLoad>(all[r]));
  return loads;
}

/// Shares rank 0's values with all ranks.
void share(Control& world, Estimate& estimate) {
  Control::Bytes values, words;
  plan::ModelSeconds& model = estimate.model;
  const std::vector<double*> seconds{&model.total,   &model.wire,    &model.schedule,
                                     &model.staging, &model.latency, &model.misc};
  transport::append(values, estimate.wire);
  for (const double* value : seconds) transport::append(words, *value);
  const auto wire = transport::read_all<plan::Wire>(world.broadcast(std::move(values), 0));
  const auto shared = transport::read_all<double>(world.broadcast(std::move(words), 0));
  estimate.wire = wire.front();
  for (std::size_t i = 0; i < seconds.size(); ++i) *seconds[i] = shared[i];
  for (std::string* text : {&model.term, &model.port}) {
    Control::Bytes bytes;
    for (const char c : *text) transport::append(bytes, c);
    const auto letters = transport::read_all<char>(world.broadcast(std::move(bytes), 0));
    text->assign(letters.begin(), letters.end());
  }
}

/// Gathers the byte matrix of the planned copies at rank 0; empty elsewhere.
plan::ByteMatrix gather_byte_matrix(Control& world, const plan::Paths& paths, const std::vector<plan::Copy>& copies,
                                    plan::Form form) {
  const OwnRanks own = paths.world().own(world.rank());
  const auto train_ranks = static_cast<std::size_t>(paths.source.ranks());
  std::vector<std::int64_t> column(own.destination ? train_ranks : 0, 0);
  for (const plan::Copy& copy : copies) {
    const bool counts = !copy.is_from_taker() && !copy.to_self;
    if (counts && plan::receives(own, copy))
      column[static_cast<std::size_t>(to_int(copy.source.rank))] += plan::bytes_of(copy, form);
  }
  Control::Bytes bytes;
  for (const std::int64_t value : column) transport::append(bytes, value);
  const std::vector<Control::Bytes> all = world.gather(bytes, 0);
  if (all.empty()) return {};
  plan::ByteMatrix matrix(train_ranks);
  for (std::size_t r = 0; r < all.size(); ++r) {
    const auto received = transport::read_all<std::int64_t>(all[r]);
    if (received.empty()) continue;
    for (std::size_t from = 0; from < train_ranks; ++from) matrix[from].push_back(received[from]);
  }
  return matrix;
}

}  // namespace

void count(Control& world, const Exchange& exchange, const How& how, const std::vector<plan::Copy>& copies,
           const plan::Placement& placement, Estimate& estimate) {
  const transport::ExecutorRow& row = how.row();
  const plan::Paths& paths = exchange.paths;
  const plan::Loads loads = gather_loads(world, paths, copies, placement, row.form);
  plan::ByteMatrix planned;
  if (how.byte_matrix) planned = gather_byte_matrix(world, paths, copies, row.form);
  transport::together(world, [&] {
    if (world.rank() != 0) return;
    const auto broadcasts = transport::broadcasts_of(row, paths, how.tuning);
    estimate.wire = plan::moved_by(paths, loads, placement, broadcasts, how.per_stage).wire;
    estimate.model = transport::model_seconds(row, paths, loads, plan::Machine{estimate.rates, placement}, how.tuning,
                                              how.per_stage, how.misc_buffer_bytes);
    if (how.byte_matrix) estimate.byte_matrix = plan::byte_matrix(paths, broadcasts, std::move(planned));
  });
  share(world, estimate);
}

}  // namespace refit::session
