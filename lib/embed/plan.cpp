#include "embed/plan.hpp"

#include <fmt/ranges.h>

#include <filesystem>
#include <sstream>

#include "core/error.hpp"
#include "pair/explanation.hpp"
#include "plan/traffic.hpp"

namespace refit::embed {
namespace {

/// Returns the config.json that a path means: the file, or the folder that holds it.
std::string config_file(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? (std::filesystem::path(path) / "config.json").string() : path;
}

model::Model load_model(const std::string& config, const pair::Sides& sides, const PlanOptions& options) {
  model::Config read = model::read_config(config, "", options.layers);
  pair::keep_as_train(sides, read);
  model::Model model = model::build_model(read, false);
  pair::quantise_for(sides, model);
  return model;
}

/// Every rank as a device of one domain: the places of processes are not known yet.
plan::Placement placement_of(const WorldMap& map) {
  const auto place = map.colocated ? plan::colocated : plan::apart;
  return place(map.source, map.destination, 1, std::max(map.source, map.destination));
}

}  // namespace

Plan::Plan(const std::string& config, const std::string& train, const std::vector<std::string>& engines,
           const char* options)
    : config_(config_file(config)),
      asked_(fmt::format("{} -> {} ({})", train, fmt::join(engines, " + "), options == nullptr ? "" : options)),
      sides_(parse_sides(train, engines)),
      options_(parse_plan_options(options)) {
  if (options_.colocated && engines.size() > 1)
    fail_usage("plan options: colocated: one engine can share train's ranks, and there are {}", engines.size());
  pair_.model = load_model(config_, sides_, options_);
  pair_.match(sides_, options_.policy, config_);
}

refit_plan_sizes Plan::sizes() const {
  const session::Exchange exchange = pair_.exchange(options_.colocated);
  const plan::Placement placement = placement_of(world());
  const plan::Planner planner(pair_.split.bulk, pair_.sent(), *pair_.gen, {.colocated = options_.colocated});
  const plan::Traffic traffic = plan::traffic(planner, placement, {.hash = false});
  const plan::Moved moved = plan::moved_by(exchange.paths, traffic.loads, placement, std::nullopt, false);
  refit_plan_sizes sizes{};
  sizes.ranks = world().size();
  sizes.train_ranks = world().source;
  sizes.gen_ranks = world().destination;
  sizes.tensors = std::ssize(pair_.split.bulk) + std::ssize(pair_.split.misc);
  sizes.payload_bytes = pair_.split.payload.bulk_bytes + pair_.split.payload.misc_bytes;
  sizes.misc_bytes = pair_.split.payload.misc_bytes;
  sizes.wire_bytes = moved.wire.bytes;
  sizes.copies = moved.wire.copies;
  sizes.egress_bytes_max = moved.wire.egress_bytes_max;
  sizes.ingress_bytes_max = moved.wire.ingress_bytes_max;
  return sizes;
}

const std::vector<refit_tensor>& Plan::storages(Side side, std::int32_t rank) const {
  const layout::Layout& layout = this->side(side);
  if (rank < 0 || rank >= layout.ranks())
    fail_usage("{} has ranks 0 to {}, and no rank {}", side == Side::source ? "train" : "gen", layout.ranks() - 1,
               rank);
  const auto [at, is_new] = storages_.try_emplace({side, rank});
  Storages& mine = at->second;
  if (!is_new) return mine.list;
  mine.storages = layout::materialise(layout, pair_.model.tensors, Rank{rank}).storages;
  for (const layout::Storage& storage : mine.storages) {
    mine.names.push_back(storage.title());
    mine.dtypes.emplace_back(name(storage.dtype));
  }
  for (std::size_t i = 0; i < mine.storages.size(); ++i) {
    const Shape& shape = mine.storages[i].shape;
    mine.list.push_back({mine.names[i].c_str(), nullptr, shape.begin(), nullptr,
                         static_cast<std::int32_t>(shape.size()), mine.dtypes[i].c_str()});
  }
  return mine.list;
}

std::string Plan::explain(const std::string& glob) const {
  const plan::Planner planner(pair_.split.bulk, pair_.sent(), *pair_.gen, {.colocated = options_.colocated});
  std::ostringstream out;
  for (const pair::Explanation& one :
       pair::explain(pair_, planner, pair::find_tensors(pair_, {glob}), plan::Form::sent))
    pair::print_explanation(out, one);
  return out.str();
}

double Plan::bound(double send, double receive) const {
  if (!(send > 0) || !(receive > 0)) fail_usage("a bound needs rates above 0, in bytes per second");
  plan::Rates rates;
  rates.device_out = send;
  rates.device_in = receive;
  return plan::lower_bound(pair_.model.tensors, pair_.sent(), *pair_.gen, rates, placement_of(world())).total();
}

std::string Plan::meaning() const {
  const auto keys_of = [](const layout::SideSpec& side) {
    std::string keys = fmt::format("{}\n", side.row().name);
    for (const layout::SideKey& key : side.row().keys()) keys += fmt::format("{}={}\n", key.name, key.get(side));
    return keys;
  };
  std::string text = keys_of(*sides_.train);
  for (const layout::Side& engine : sides_.gen) text += keys_of(*engine);
  text += fmt::format("policy={} colocated={}\n", name(options_.policy), options_.colocated);
  for (const model::Tensor& tensor : pair_.model.tensors)
    text += fmt::format("{} {} {}\n", tensor.name, to_string(tensor.shape), name(tensor.dtype));
  return text;
}

}  // namespace refit::embed
