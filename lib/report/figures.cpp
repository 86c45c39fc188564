#include "report/figures.hpp"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>
#include <system_error>

#include "report/statistics.hpp"

namespace refit::report {
namespace {

using Figure = std::optional<std::int64_t> (*)(const Result&);

template <auto Part, auto Member>
std::optional<std::int64_t> figure(const Result& result) {
  const auto& part = result.*Part;
  return part ? std::optional((*part).*Member) : std::nullopt;
}

/// Returns the figures by their place in the JSON document.
const std::map<std::string, Figure>& figures() {
  static const std::map<std::string, Figure> all{
      {"memory.train_bytes_max", figure<&Result::memory, &Memory::train_bytes_max>},
      {"memory.gen_bytes_max", figure<&Result::memory, &Memory::gen_bytes_max>},
      {"delta.kept_bytes_max", figure<&Result::delta, &Delta::kept_bytes_max>},
      {"delta.dense_bytes", figure<&Result::delta, &Delta::dense_bytes>},
      {"memory.staging_bytes_max", figure<&Result::memory, &Memory::staging_bytes_max>},
      {"memory.staged_bytes_max", figure<&Result::memory, &Memory::staged_bytes_max>},
      {"schedule.groups_max", figure<&Result::schedule, &Schedule::groups_max>},
      {"schedule.group_operations_max", figure<&Result::schedule, &Schedule::group_operations_max>},
      {"schedule.serial_groups_max", figure<&Result::schedule, &Schedule::serial_groups_max>},
      {"verification.elements_overflowed", figure<&Result::verification, &Verification::elements_overflowed>},
      {"versions.served_wrong", [](const Result& result) { return std::optional(served_wrong(result)); }},
      {"versions.last",
       [](const Result& result) {
         return result.refits.empty() ? std::nullopt : std::optional(result.refits.back().version.number);
       }},
      {"wire.bytes", figure<&Result::wire, &Wire::bytes>},
      {"wire.self_bytes", figure<&Result::wire, &Wire::self_bytes>},
      {"wire.copies", figure<&Result::wire, &Wire::copies>},
      {"wire.egress_bytes_max", figure<&Result::wire, &Wire::egress_bytes_max>},
      {"wire.ingress_bytes_max", figure<&Result::wire, &Wire::ingress_bytes_max>}};
  return all;
}

struct Limit {
  std::string name;
  bool at_least = false;
  std::int64_t value = 0;
};

/// Parses "NAME >= NUMBER" or "NAME <= NUMBER", one space between the words.
std::optional<Limit> parse(const std::string& text) {
  for (const bool at_least : {true, false}) {
    const std::size_t at = text.find(at_least ? " >= " : " <= ");
    if (at == std::string::npos) continue;
    Limit bound{text.substr(0, at), at_least};
    const char* end = text.data() + text.size();
    const auto [last, error] = std::from_chars(text.data() + at + 4, end, bound.value);
    if (error == std::errc() && last == end) return bound;
  }
  return std::nullopt;
}

}  // namespace

std::string figure_problem(const std::string& bound) {
  const std::optional<Limit> parsed = parse(bound);
  if (!parsed) return fmt::format("\"{}\" is not of the form \"NAME >= NUMBER\" or \"NAME <= NUMBER\"", bound);
  if (figures().contains(parsed->name)) return "";
  std::string known;
  for (const auto& [name, figure] : figures()) known += (known.empty() ? "" : ", ") + name;
  return fmt::format("unknown figure \"{}\"; known: {}", parsed->name, known);
}

std::string missed_figure(const std::string& bound, const Result& result) {
  const Limit wanted = parse(bound).value();
  const std::optional<std::int64_t> found = figures().at(wanted.name)(result);
  if (!found || (wanted.at_least ? *found >= wanted.value : *found <= wanted.value)) return "";
  return fmt::format("expect.figures: {} expected, {} found", bound, *found);
}

}  // namespace refit::report
