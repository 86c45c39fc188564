#include "digest/answer.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.hpp"
#include "diagnose/names.hpp"

namespace refit::digest {
namespace {

using nlohmann::json;
using Checksums = std::map<std::string, std::string>;

json parse(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) fail_usage("--from-engine {}: cannot be read", path);
  json document = json::parse(text.str(), nullptr, false);
  if (document.is_discarded()) fail_usage("--from-engine {}: is not JSON", path);
  return document;
}

[[noreturn]] void fail_no_answer(const std::string& path) {
  fail_usage(
      "--from-engine {}: is no answer of a weight checker: needs vLLM's {{\"checksums\": {{NAME: SHA-256}}}} or "
      "SGLang's "
      "{{\"ranks\": [{{\"checksums\": {{NAME: hash}}, \"parallelism_info\": ...}}]}}",
      path);
}

Checksums checksums_in(const std::string& path, const json& of) {
  Checksums checksums;
  if (!of.is_object()) fail_no_answer(path);
  for (const auto& [name, checksum] : of.items()) {
    if (!checksum.is_string()) fail_no_answer(path);
    checksums.emplace(name, checksum.get<std::string>());
  }
  return checksums;
}

/// Returns vLLM's by rank: names begin with the rank's coordinates.
std::vector<Checksums> of_vllm(const std::string& path, const json& answer, const Result& expected, Check& check) {
  std::vector<Checksums> by_rank(expected.ranks.size());
  std::vector<std::string> others;
  for (auto& [name, checksum] : checksums_in(path, answer.at("checksums"))) {
    const auto owner = std::ranges::find_if(
        expected.ranks, [&, &key = name](const RankDigests& rank) { return key.starts_with(rank.vllm_prefix); });
    if (owner == expected.ranks.end()) {
      others.push_back(name);
      continue;
    }
    by_rank[static_cast<std::size_t>(owner - expected.ranks.begin())].emplace(name.substr(owner->vllm_prefix.size()),
                                                                              checksum);
  }
  if (!others.empty()) {
    check.notes.push_back(fmt::format("{} checksums are of ranks that gen.layout {} has not, e.g. {}", others.size(),
                                      expected.engines.front().layout, others.front()));
  }
  return by_rank;
}

std::int64_t number_in(const std::string& path, const json& info, const char* key) {
  const auto found = info.find(key);
  if (found == info.end() || !found->is_number_integer()) fail_no_answer(path);
  return found->get<std::int64_t>();
}

/// Returns SGLang's by rank. Replicas follow each other; each lists its ranks.
std::vector<Checksums> of_sglang(const std::string& path, const json& answer, const Result& expected, Check& check) {
  std::vector<Checksums> by_rank(expected.ranks.size());
  const json& ranks = answer.at("ranks");
  if (!ranks.is_array()) fail_no_answer(path);
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::size_t>> places;  // by (pp, tp): each replica's
  for (std::size_t i = 0; i < expected.ranks.size(); ++i) {
    const std::string& of = expected.ranks[i].coordinates;
    places[{coordinate(of, "pp"), coordinate(of, "tp")}].push_back(i);
  }
  std::map<std::pair<std::int64_t, std::int64_t>, std::size_t> seen;
  for (const json& rank : ranks) {
    if (!rank.is_object() || !rank.contains("checksums") || !rank.contains("parallelism_info")) fail_no_answer(path);
    const json& infos = rank.at("parallelism_info");
    if (infos.is_array() && infos.empty()) fail_no_answer(path);
    const json& info = infos.is_array() ? infos.front() : infos;
    if (!info.is_object()) fail_no_answer(path);
    const std::pair at{number_in(path, info, "pp_rank"), number_in(path, info, "tp_rank")};
    const std::size_t replica = seen[at]++;
    const auto& of_rank = places[at];
    if (replica >= of_rank.size()) {
      check.notes.push_back(fmt::format("gen.layout {} has no rank pp={} tp={} of replica {}",
                                        expected.engines.front().layout, at.first, at.second, replica));
      continue;
    }
    by_rank[of_rank[replica]] = checksums_in(path, rank.at("checksums"));
  }
  return by_rank;
}

/// Compares one rank; `forms`: any of them is right.
void compare(const RankDigests& rank, const Checksums& found, std::span<const Form> forms, Check& check) {
  std::vector<std::string> names;
  for (const auto& [name, checksum] : found) names.push_back(name);
  const diagnose::Spellings spellings(names);
  std::size_t used = 0;
  for (const Row& row : rank.rows) {
    const std::string& name = row.parameter.storage.name;
    const std::string& expected = digest_of(row.digests, forms.front());
    if (expected.empty()) continue;  // the checker has none
    auto mine = found.find(name);
    if (const std::int64_t place = mine == found.end() ? spellings.find(name) : -1; place >= 0)
      mine = found.find(names[static_cast<std::size_t>(place)]);
    if (mine == found.end()) {
      if (row.parameter.kind == Kind::source) continue;
      ++check.parameters;
      check.wrong.push_back({rank.rank, name, found.empty() ? "no answer of this rank" : "is not in the answer"});
      continue;
    }
    ++used;
    ++check.parameters;
    const bool is_right =
        std::ranges::any_of(forms, [&](Form form) { return digest_of(row.digests, form) == mine->second; });
    if (is_right) continue;
    check.wrong.push_back(
        {rank.rank, name, fmt::format("{}: {} instead of {}", refit::name(forms.front()), mine->second, expected)});
  }
  if (used < found.size()) {
    check.notes.push_back(
        fmt::format("gen rank {}: {} checksums are of no parameter of the layout and are not compared", rank.rank,
                    found.size() - used));
  }
}

}  // namespace

Check check_answer(const std::string& path, const Result& expected) {
  if (expected.engines.size() != 1)
    fail_usage("--from-engine {}: is one engine's answer, but --gen has {}; give that engine alone", path,
               expected.engines.size());
  const json answer = parse(path);
  Check check;
  check.what = "the answer " + path;
  const bool is_vllm = answer.is_object() && answer.contains("checksums");
  if (!is_vllm && !(answer.is_object() && answer.contains("ranks"))) fail_no_answer(path);
  const std::vector<Checksums> found =
      is_vllm ? of_vllm(path, answer, expected, check) : of_sglang(path, answer, expected, check);
  const std::vector<Form> forms = is_vllm ? std::vector{Form::vllm} : std::vector{Form::sglang, Form::sglang_cpu};
  for (const Form form : forms) {
    if (!expected.forms.has(form)) fail_usage("--from-engine {}: needs --forms {}", path, name(form));
  }
  for (std::size_t i = 0; i < found.size(); ++i) compare(expected.ranks[i], found[i], forms, check);
  return check;
}

}  // namespace refit::digest
