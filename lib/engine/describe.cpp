#include "engine/describe.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <tuple>

#include "case/keys.hpp"
#include "core/clock.hpp"
#include "core/key_rows.hpp"
#include "kernels/kernels.hpp"
#include "layout/joined_layout.hpp"
#include "plan/traffic.hpp"
#include "report/environment.hpp"
#include "transport/cuda.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/nccl.hpp"

namespace refit::engine {
namespace {

/// Returns a key's value as a result has it: numbers and truths as such, all else as text.
template <typename Key, typename Owner>
report::SettingValue value_of(const Key& key, const Owner& owner) {
  const std::string text = key.get(owner);
  if (key.kind == keys::Kind::boolean) return text == "true";
  if (key.kind == keys::Kind::integer) return std::int64_t{std::stoll(text)};
  return text.starts_with('"') ? keys::unquoted(text) : text;
}

/// Returns the settings of a side under its keys' names: those that it lists itself, and all keys but layout and
/// precision that do not have their defaults.
report::Settings settings_of(const layout::SideSpec& side, bool quantises) {
  report::Settings settings;
  std::set<std::string> listed = {"layout", "precision"};
  for (const auto& [name, value] : side.settings(quantises)) {
    listed.insert(name);
    settings.emplace_back(name, value);
  }
  if (side.row().keys().empty()) return settings;
  const std::unique_ptr<layout::SideSpec> untouched = side.row().make();
  for (const layout::SideKey& key : side.row().keys()) {
    const std::string name = key.name.substr(key.name.find('.') + 1);
    if (key.get(side) != key.get(*untouched) && listed.insert(name).second)
      settings.emplace_back(name, value_of(key, side));
  }
  return settings;
}

report::Settings settings_of(const Case& c) {
  report::Settings settings{{"bulk", std::string(name(c.refit.bulk))},
                            {"executor", std::string(name(c.refit.executor))},
                            {"device", std::string(name(c.run.device))},
                            {"misc_buffer_bytes", c.refit.misc_buffer_bytes},
                            {"check_agreement", c.refit.check_agreement},
                            {"steps", c.run.steps},
                            {"warmup", c.run.warmup},
                            {"seed", c.run.seed},
                            {"update", to_string(c.run.update)},
                            {"verify", std::string(name(c.run.verify))},
                            {"timeout_seconds", c.run.timeout_seconds}};
  const bool quantises = cases::quantiser_of(c).has_value();
  for (const auto& [key, value] : settings_of(*c.train, quantises)) settings.emplace_back("train." + key, value);
  for (std::size_t e = 0; e < c.gen.size(); ++e) {
    for (const auto& [key, value] : settings_of(*c.gen[e], quantises))
      settings.emplace_back(c.gen.size() == 1 ? key : cases::key_of_engine("gen." + key, e, c.gen.size()), value);
  }
  for (const cases::Key& key : cases::case_keys()) {
    const bool is_shown = key.name.starts_with("adapters.") && key.kind != keys::Kind::input;
    if (is_shown && key.get(c) != key.preset) settings.emplace_back(key.name, value_of(key, c));
  }
  if (c.run.threads != 1) settings.emplace_back("threads", c.run.threads);
  if (c.run.colocated) settings.emplace_back("colocated", true);
  if (!c.run.drill.empty()) settings.emplace_back("drill", c.run.drill);
  if (c.run.strict_upstream != cases::Strict::off)
    settings.emplace_back("strict_upstream", std::string(name(c.run.strict_upstream)));
  const std::vector<std::string_view>& options = transport::row_of(c.refit.executor).options;
  const auto means = [&](std::string_view option) { return std::ranges::find(options, option) != options.end(); };
  if (means("mechanism") && c.refit.mechanism != cases::Mechanism::automatic)
    settings.emplace_back("mechanism", std::string(name(c.refit.mechanism)));
  if (means("fan_out") && c.refit.fan_out != cases::FanOut::automatic)
    settings.emplace_back("fan_out", std::string(name(c.refit.fan_out)));
  if (means("delta") && c.refit.delta != cases::Delta::off)
    settings.emplace_back("delta", std::string(name(c.refit.delta)));
  if (c.refit.commit != cases::Commit::in_place) settings.emplace_back("commit", std::string(name(c.refit.commit)));
  if (c.refit.stage_bytes >= 0) settings.emplace_back("stage_bytes", c.refit.stage_bytes);
  if (c.run.weight_version != cases::RunSection().weight_version)
    settings.emplace_back("weight_version", c.run.weight_version);
  if (means("communicators")) settings.emplace_back("communicators", std::string(name(c.refit.communicators)));
  for (const auto& [option, value] : {std::pair("streams", c.refit.streams),
                                      {"group_size", c.refit.group_size},
                                      {"chunk_bytes", c.refit.chunk_bytes},
                                      {"ring_chunks", c.refit.ring_chunks},
                                      {"small_bytes", c.refit.small_bytes}}) {
    if (means(option)) settings.emplace_back(option, value);
  }
  if (c.run.count_seconds != cases::RunSection().count_seconds)
    settings.emplace_back("count_seconds", c.run.count_seconds);
  if (c.run.phase_seconds != cases::RunSection().phase_seconds)
    settings.emplace_back("phase_seconds", c.run.phase_seconds);
  if (c.run.probe_seconds != cases::RunSection().probe_seconds)
    settings.emplace_back("probe_seconds", c.run.probe_seconds);
  if (!c.run.inject.empty()) settings.emplace_back("inject", fmt::format("{}", fmt::join(c.run.inject, ",")));
  return settings;
}

report::Group group_of(const layout::SideSpec& side, std::int64_t ranks) {
  const auto precision = side.precision();
  return {std::string(side.row().name), to_string(side.sizes()), ranks,
          precision ? std::string(name(*precision)) : "as listed"};
}

/// Returns the engines, and all of them as one group.
std::pair<std::vector<report::Engine>, report::Group> engines_of(const Case& c) {
  std::vector<report::Engine> engines;
  std::vector<std::string> names;
  std::int64_t first = 0;
  for (const layout::Side& engine : c.gen) {
    const std::int64_t ranks = engine->sizes().ranks();
    engines.push_back({group_of(*engine, ranks), first, {}, {}, {}, {}});
    first += ranks;
    const std::string& name = engines.back().group.made_by;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  report::Group all = engines.front().group;
  all.made_by = fmt::format("{}", fmt::join(names, "+"));
  all.layout = c.gen_layout();
  all.ranks = c.gen_ranks();
  return {engines, all};
}

/// Returns every key that a side reads: " train.layout=\"TP2\" train.precision=...".
std::string keys_text(const layout::SideSpec& side) {
  std::string text = fmt::format(" {} {}", side.row().name, to_string(side.sizes()));
  for (const layout::SideKey& key : side.row().keys()) text += fmt::format(" {}={}", key.name, key.get(side));
  return text;
}

}  // namespace

report::Result describe(const std::vector<std::string>& command) {
  report::Result result;
  result.command = fmt::format("{}", fmt::join(command, " "));
  result.start_time = report::current_time();
  result.started = now();
  result.environment = report::local_environment();
  result.environment.mpi = transport::MpiSession::version();
  result.environment.kokkos = kernels::Runtime::version();
  result.environment.cuda = transport::cuda_version();
  result.environment.nccl = transport::nccl_version();
  return result;
}

std::vector<std::pair<std::string, double>> to_report(const transport::ProbedRates& rates) {
  const bool has_unlike = rates.network.slowest() < rates.network.best();
  std::vector<std::pair<std::string, double>> result;
  for (const auto& [name, value] : {std::pair("pair", rates.pair),
                                    {"pair_message", rates.pair_message},
                                    {"all_pairs", rates.all_pairs},
                                    {"pair_store", rates.pair_store},
                                    {"pair_engine", rates.pair_engine},
                                    {"all_stores", rates.all_stores},
                                    {"all_engines", rates.all_engines},
                                    {"both_stores", rates.both_stores},
                                    {"both_engines", rates.both_engines},
                                    {"both_messages", rates.both_messages},
                                    {"network", rates.network.best()},
                                    {"network_slowest", has_unlike ? rates.network.slowest() : 0},
                                    {"messages", rates.messages},
                                    {"memory", rates.memory}}) {
    if (value > 0) result.emplace_back(name, value);
  }
  return result;
}

report::Result describe(const Case& c, const std::vector<std::string>& command) {
  report::Result result = describe(command);
  result.test_case = {c.name, c.description, c.file};
  result.ranks = c.world().size();
  result.train = group_of(*c.train, c.train_ranks());
  std::tie(result.engines, result.gen) = engines_of(c);
  result.settings = settings_of(c);
  return result;
}

namespace {

/// Returns the bytes of the tensors on both paths of which an engine stores a piece, each once, as the payload has it.
std::int64_t payload_of(const Setup& setup, const layout::EngineLayout& engine) {
  std::int64_t bytes = 0;
  for (const std::vector<model::Tensor>* path : {&setup.split.bulk, &setup.split.misc}) {
    for (const model::Tensor& tensor : *path) {
      const auto held = setup.train->format(tensor);
      if (held && engine.format(tensor)) bytes += product(tensor.file_shape()) * byte_size(held->dtype);
    }
  }
  return bytes;
}

}  // namespace

report::Result describe(const Setup& setup, const std::vector<std::string>& command) {
  report::Result result = describe(setup.c, command);
  const auto& payload = setup.split.payload;
  const std::int64_t bytes = payload.bulk_bytes + payload.misc_bytes + payload.from_checkpoint_bytes;
  report::Model counted{setup.model.config.family, setup.source(), 0, 0, bytes};
  for (const auto& [path, name] : {std::pair(&setup.split.bulk, "bulk"),
                                   {&setup.split.misc, "misc"},
                                   {&setup.split.from_checkpoint, "checkpoint"}}) {
    for (const model::Tensor& tensor : *path) {
      ++counted.tensors;
      // Packed values stand for their weight.
      const bool is_packed = tensor.role == model::Role::packed_values;
      if (is_packed) counted.parameters += setup.model[tensor.scale_of].elements();
      if (!is_scale(tensor.role)) counted.parameters += product(tensor.file_shape());
      const auto held = setup.model.moves(tensor) ? setup.train->format(tensor) : std::nullopt;
      const DType dtype = held ? held->dtype : setup.gen->format(tensor).value().dtype;
      result.tensors.push_back({tensor.name, product(tensor.file_shape()) * byte_size(dtype), name});
    }
  }
  const std::vector<layout::EngineLayout> engines = layout::engines_of(*setup.gen);
  for (std::size_t e = 0; e < engines.size(); ++e) result.engines[e].payload_bytes = payload_of(setup, engines[e]);
  result.model = counted;
  result.payload = {payload.bulk_bytes, payload.misc_bytes, setup.split.qkv_to_misc, payload.from_checkpoint_bytes};
  if (setup.checkpoint) result.notes = setup.checkpoint->notes;
  if (setup.adapter_checkpoint) {
    const std::vector<std::string>& notes = setup.adapter_checkpoint->notes;
    result.notes.insert(result.notes.end(), notes.begin(), notes.end());
  }
  result.notes.insert(result.notes.end(), setup.model.notes.begin(), setup.model.notes.end());
  std::ranges::move(setup.c.train->notes(setup.model), std::back_inserter(result.notes));
  for (const layout::Side& side : setup.c.gen)
    std::ranges::move(side->notes(setup.model), std::back_inserter(result.notes));
  const std::string unknown = setup.unknown_tensors();
  if (!unknown.empty()) result.notes.push_back(unknown);
  return result;
}

std::string common_text(const Case& c) {
  std::string text = fmt::format("model.layers={}{}", c.model.layers, keys_text(*c.train));
  for (const layout::Side& side : c.gen) text += keys_text(*side);
  for (const auto& [key, value] : settings_of(c)) {
    text += fmt::format(" {}=", key);
    std::visit([&text](const auto& one) { text += fmt::format("{}", one); }, value);
  }
  return text;
}

std::vector<std::pair<std::string, std::int64_t>> parse_coordinates(const std::string& text) {
  std::vector<std::pair<std::string, std::int64_t>> result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t equals = text.find('=', at);
    const std::size_t end = std::min(text.find(' ', at), text.size());
    result.emplace_back(text.substr(at, equals - at), std::stoll(text.substr(equals + 1, end - equals - 1)));
    at = end + 1;
  }
  return result;
}

report::Bound to_report(const plan::Bound& bound, bool has_rates) {
  report::Bound result;
  result.bytes = {bound.device.ingress, bound.device.egress, bound.device.fanout, bound.memory};
  if (!has_rates) return result;
  result.seconds = bound.total();
  result.term = bound.term();
  result.terms = {bound.seconds.ingress, bound.seconds.egress, bound.seconds.fanout, bound.seconds.memory};
  return result;
}

report::M2n to_report(const plan::Resharding& resharding, const model::Model& model,
                      const std::vector<model::Tensor>& bulk, const layout::Layout& source,
                      const layout::Layout& destination) {
  report::M2n m2n;
  m2n.operations = std::ssize(resharding.operations);
  m2n.bytes = resharding.bytes();
  for (const plan::Leftover& leftover : resharding.leftovers) {
    m2n.leftovers.push_back({leftover.reason, {}});
    for (const std::int32_t tensor : leftover.tensors) m2n.leftovers.back().tensors.push_back(model[tensor].name);
  }
  const std::set<std::int32_t> left = resharding.left();
  std::vector<model::Tensor> by_p2p;
  std::ranges::copy_if(bulk, std::back_inserter(by_p2p),
                       [&](const model::Tensor& tensor) { return left.contains(tensor.index); });
  m2n.p2p_bytes = plan::traffic(plan::Planner(by_p2p, source, destination), {.hash = false}).bytes;
  return m2n;
}

}  // namespace refit::engine
