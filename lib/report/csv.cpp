#include <fmt/ranges.h>

#include <algorithm>

#include "report/format.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"
#include "report/sweep.hpp"

namespace refit::report {
namespace {

/// Returns a field by RFC 4180: quoted where it holds a separator, a quote or a line break.
std::string field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

template <typename Value>
std::string optional_field(const std::optional<Value>& value) {
  return value ? fmt::format("{}", *value) : std::string();
}

std::string setting(const Result& result, std::string_view key) {
  for (const auto& [name, value] : result.settings) {
    if (name == key) return format_setting(value);
  }
  return "";
}

/// Returns the fields that all rows of a run have in common, so that files of several runs can be put together.
std::string run_fields(const Result& result) {
  return fmt::format("{},{},{},{},{},{},{},{},{},{}", field(result.test_case.name),
                     field(result.model ? result.model->family : ""), setting(result, "executor"),
                     setting(result, "bulk"), field(result.train.layout), field(result.gen.layout), result.train.ranks,
                     result.gen.ranks, field(result.train.precision), field(result.gen.precision));
}

/// Returns a value of each engine: "0+12".
template <typename Values, typename Value>
std::string by_engine(const Values& values, const Value& value_of) {
  std::vector<std::string> texts;
  for (const auto& one : values) texts.push_back(value_of(one));
  return fmt::format("{}", fmt::join(texts, "+"));
}

/// Adds the names of the result's phases that are not in `names` yet.
void add_phases(const Result& result, std::vector<std::string>& names) {
  if (result.refits.empty()) return;
  for (const auto& [phase, seconds] : result.refits.front().phases)
    if (std::ranges::find(names, phase) == names.end()) names.push_back(phase);
}

std::string heading(const std::vector<std::string>& phases) {
  std::string text =
      "case,model,executor,bulk,train,gen,train_ranks,gen_ranks,train_precision,gen_precision,refit,warmup,"
      "weight_sync_seconds";
  for (const std::string& phase : phases) text += fmt::format(",{}", field(phase + "_seconds"));
  return text +
         ",payload_bytes,wire_bytes,self_bytes,algbw_gb_per_s,elements_wrong,kl_max,engine_payload_bytes,engine_bytes,"
         "engine_elements_wrong,engine_kl_max,"
         "trainer,engine,colocated,version,weights,committed,engine_weight_sync_seconds,engine_version\n";
}

/// Returns a row for each refit; each begins with `first`.
std::string rows(const Result& result, const std::vector<std::string>& phases, const std::string& first) {
  std::string text;
  const std::string run = first + run_fields(result);
  const std::string bytes =
      fmt::format("{},{}", result.payload ? fmt::format("{}", result.payload->total_bytes()) : "",
                  result.wire ? fmt::format("{},{}", result.wire->bytes, result.wire->self_bytes) : ",");
  const auto number = [](const auto& value) { return optional_field(value); };
  const std::string engines = fmt::format(
      "{},{}", by_engine(result.engines, [](const Engine& engine) { return optional_field(engine.payload_bytes); }),
      by_engine(result.engines, [](const Engine& engine) { return optional_field(engine.bytes); }));
  const std::string sides = fmt::format("{},{},{}", field(result.train.made_by), field(result.gen.made_by),
                                        setting(result, "colocated").empty() ? 0 : 1);
  for (const Refit& refit : result.refits) {
    text += fmt::format("{},{},{},{}", run, refit.number, refit.warmup ? 1 : 0, refit.weight_sync);
    for (const std::string& phase : phases) text += ',' + optional_field(find_phase(refit, phase));
    text += fmt::format(
        ",{},{},{},{},{},{},{},{},{},{},{},{},{}\n", bytes, optional_field(algorithm_bandwidth(result, refit)),
        optional_field(refit.elements_wrong), optional_field(refit.kl_max), engines,
        by_engine(refit.engine_elements_wrong, number), by_engine(refit.engine_kl_max, number), sides,
        refit.version.number, refit.version.weights, refit.is_committed ? 1 : 0,
        by_engine(refit.engines, [](const EngineRefit& one) { return optional_field(one.weight_sync); }),
        by_engine(refit.engines, [](const EngineRefit& one) { return fmt::format("{}", one.version); }));
  }
  return text;
}

}  // namespace

std::string to_csv(const Result& result) {
  std::vector<std::string> phases;
  add_phases(result, phases);
  return heading(phases) + rows(result, phases, "");
}

std::string to_csv(const Sweep& sweep) {
  std::vector<std::string> phases;
  for (const Combination& one : sweep.combinations) add_phases(one.result, phases);
  std::string text = "sweep," + heading(phases);
  for (const Combination& one : sweep.combinations) text += rows(one.result, phases, field(label(one.values)) + ",");
  return text;
}

}  // namespace refit::report
