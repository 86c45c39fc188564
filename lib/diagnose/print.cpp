#include <nlohmann/json.hpp>

#include "diagnose/diagnose.hpp"

namespace refit::diagnose {
namespace {

constexpr std::size_t kShown = 40;

}  // namespace

std::string to_text(const Diagnosis& d) {
  std::string text;
  for (const std::string& note : d.notes) text += fmt::format("note: {}\n", note);
  if (d.equal()) {
    return text + fmt::format("equal: {} elements of {} tensors of {} gen ranks are what {} says\n", d.elements,
                              d.tensors, d.gen_ranks, d.truth);
  }
  text += fmt::format("wrong: {} of {} elements, in {} of {} tensors of {} gen ranks, are not what {} says\n",
                      d.elements_wrong, d.elements, d.tensors_wrong, d.tensors, d.gen_ranks, d.truth);
  for (std::size_t i = 0; i < std::min(kShown, d.findings.size()); ++i) text += "  " + d.findings[i].text + "\n";
  if (d.findings.size() > kShown) text += fmt::format("  and {} more (--json has all)\n", d.findings.size() - kShown);
  if (!d.cause.empty()) text += fmt::format("cause: {}\n", d.cause);
  for (const NamedBug& bug : d.bugs) text += fmt::format("known bug: {}: {}\n", bug.name, bug.description);
  return d.bugs.empty() ? text + "known bug: none known leaves this pattern\n" : text;
}

std::string to_json(const Diagnosis& d) {
  using nlohmann::ordered_json;
  ordered_json document{{"schema", "refit.diagnosis"},
                        {"schema_version", 1},
                        {"status", d.equal() ? "equal" : "wrong"},
                        {"truth", d.truth},
                        {"gen_ranks", d.gen_ranks},
                        {"tensors", d.tensors},
                        {"tensors_wrong", d.tensors_wrong},
                        {"elements", d.elements},
                        {"elements_wrong", d.elements_wrong}};
  document["findings"] = ordered_json::array();
  for (const Finding& finding : d.findings) {
    ordered_json entry{{"kind", finding.kind},
                       {"gen_ranks", finding.gen_ranks},
                       {"tensors", finding.tensors},
                       {"elements", finding.elements},
                       {"place", finding.place},
                       {"source", finding.source},
                       {"source_place", finding.source_place},
                       {"unique", finding.unique},
                       {"candidates", finding.candidates},
                       {"text", finding.text}};
    if (!finding.differences.empty()) {
      entry["relative_difference"] = {{"median", finding.differences.median()},
                                      {"largest", finding.differences.largest()}};
    }
    document["findings"].push_back(std::move(entry));
  }
  document["bugs"] = ordered_json::array();
  for (const NamedBug& bug : d.bugs) document["bugs"].push_back({{"name", bug.name}, {"description", bug.description}});
  document["cause"] = d.cause;
  document["notes"] = d.notes;
  return document.dump(2) + "\n";
}

}  // namespace refit::diagnose
