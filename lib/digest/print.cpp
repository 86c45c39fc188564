#include <algorithm>
#include <nlohmann/json.hpp>

#include "digest/digest.hpp"

namespace refit::digest {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kShown = 40;
/// The longest digest is on a line of its own, so that lines fit 120 columns where names do.
constexpr std::array kShort{Form::refit, Form::sglang, Form::sglang_cpu};

/// A line for each parameter with its rank, and below it the digests: "refit ... sglang ...", then "vllm ...".
std::string list_of(const Result& result) {
  std::string text;
  for (const RankDigests& rank : result.ranks) {
    for (const Row& row : rank.rows) {
      const layout::Storage& storage = row.parameter.storage;
      text +=
          fmt::format("rank {} {} {} {}{}\n", rank.rank, storage.title(), name(storage.dtype), to_string(storage.shape),
                      row.parameter.kind == Kind::loaded ? "" : fmt::format(" ({})", name(row.parameter.kind)));
      const auto with_name = [&](Form form) {
        const std::string& digest = digest_of(row.digests, form);
        return fmt::format("  {} {}", name(form), digest.empty() ? "-" : digest);
      };
      std::string line;
      for (const Form form : kShort) {
        if (result.forms.has(form)) line += with_name(form);
      }
      if (!line.empty()) text += line + "\n";
      if (result.forms.has(Form::vllm)) text += with_name(Form::vllm) + "\n";
    }
  }
  return text;
}

std::string text_of(const Check& check) {
  std::string text;
  for (const std::string& note : check.notes) text += fmt::format("note: {}\n", note);
  if (check.wrong.empty())
    return text + fmt::format("equal: {} parameters of {} are what they must be\n", check.parameters, check.what);
  text += fmt::format("wrong: {} of {} parameters of {} are not what they must be\n", check.wrong.size(),
                      check.parameters, check.what);
  for (std::size_t i = 0; i < std::min(kShown, check.wrong.size()); ++i) {
    const Wrong& wrong = check.wrong[i];
    text += fmt::format("  gen rank {}: {}: {}\n", wrong.rank, wrong.parameter, wrong.problem);
  }
  if (check.wrong.size() > kShown) text += fmt::format("  and {} more (--json has all)\n", check.wrong.size() - kShown);
  if (2 * std::ssize(check.wrong) > check.parameters)
    text += "note: are layout and precision the engine's, and were no weights updated since (run.update = \"none\")?\n";
  return text;
}

ordered_json json_of(const Result& result, const RankDigests& rank) {
  ordered_json of_rank{
      {"rank", rank.rank}, {"engine", rank.engine}, {"coordinates", rank.coordinates}, {"bytes", rank.bytes()}};
  if (result.forms.has(Form::vllm)) of_rank["vllm_prefix"] = rank.vllm_prefix;
  for (const auto& [form, key] : {std::pair(Form::sglang, "sglang_per_gpu_checksum"),
                                  std::pair(Form::sglang_cpu, "sglang_cpu_per_gpu_checksum")}) {
    if (result.forms.has(form)) of_rank[key] = rank.sglang_overall(form);
  }
  of_rank["parameters"] = ordered_json::array();
  for (const Row& row : rank.rows) {
    const layout::Storage& storage = row.parameter.storage;
    ordered_json parameter{{"name", storage.name}, {"kind", name(row.parameter.kind)}};
    parameter["shape"] = ordered_json::array();
    for (const std::int64_t extent : storage.shape) parameter["shape"].push_back(extent);
    parameter["dtype"] = name(storage.dtype);
    for (int i = 0; i < kForms; ++i) {
      const auto form = static_cast<Form>(i);
      const std::string& digest = digest_of(row.digests, form);
      std::string key(name(form));
      std::ranges::replace(key, '-', '_');
      if (result.forms.has(form)) parameter[key] = digest.empty() ? ordered_json(nullptr) : ordered_json(digest);
    }
    of_rank["parameters"].push_back(std::move(parameter));
  }
  return of_rank;
}

ordered_json json_of(const Check& check) {
  ordered_json of_check{{"what", check.what},
                        {"status", check.wrong.empty() ? "equal" : "wrong"},
                        {"parameters", check.parameters},
                        {"notes", check.notes}};
  of_check["wrong"] = ordered_json::array();
  for (const Wrong& wrong : check.wrong)
    of_check["wrong"].push_back({{"gen_rank", wrong.rank}, {"parameter", wrong.parameter}, {"problem", wrong.problem}});
  return of_check;
}

}  // namespace

std::string to_text(const Result& result) {
  std::string text;
  for (const std::string& note : result.notes) text += fmt::format("note: {}\n", note);
  if (result.checks.empty()) return text + list_of(result);
  for (const Check& check : result.checks) text += text_of(check);
  return text;
}

std::string to_json(const Result& result) {
  ordered_json document{{"schema", "refit.digest"},
                        {"schema_version", 1},
                        {"status", result.checks.empty() ? "digested"
                                   : result.equal()      ? "equal"
                                                         : "wrong"},
                        {"source", result.source},
                        {"family", result.family}};
  document["forms"] = ordered_json::object();
  for (int i = 0; i < kForms; ++i) {
    const auto form = static_cast<Form>(i);
    std::string key(name(form));
    std::ranges::replace(key, '-', '_');
    if (result.forms.has(form)) document["forms"][key] = origin(form);
  }
  document["engines"] = ordered_json::array();
  for (const Result::Engine& engine : result.engines) {
    document["engines"].push_back(
        {{"engine", engine.name}, {"layout", engine.layout}, {"precision", engine.precision}, {"ranks", engine.ranks}});
  }
  document["ranks"] = ordered_json::array();
  for (const RankDigests& rank : result.ranks) document["ranks"].push_back(json_of(result, rank));
  document["checks"] = ordered_json::array();
  for (const Check& check : result.checks) document["checks"].push_back(json_of(check));
  document["notes"] = result.notes;
  return document.dump(2) + "\n";
}

}  // namespace refit::digest
