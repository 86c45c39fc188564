#include "digest/answer.hpp"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.hpp"
#include "diagnose/names.hpp"
#include "model/json_file.hpp"

namespace refit::digest {
namespace {

using model::quotable;
using nlohmann::json;
using Checksums = std::map<std::string, std::string>;

/// Of 100,000 parameters on 64 ranks, several times over.
constexpr std::int64_t kMaxBytes = std::int64_t{4} << 30;
/// The longest checksum, and some more.
constexpr std::size_t kShownChecksum = 80;

[[noreturn]] void fail_no_answer(const std::string& path) {
  fail_usage(
      "--from-engine {}: is no answer of a weight checker: needs vLLM's {{\"checksums\": {{NAME: SHA-256}}}} or "
      "SGLang's "
      "{{\"ranks\": [{{\"checksums\": {{NAME: hash}}, \"parallelism_info\": ...}}]}}",
      path);
}

/// Hexadecimal digits count in either case.
std::string in_lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

Checksums checksums_in(const std::string& path, const json& of) {
  Checksums checksums;
  if (!of.is_object()) fail_no_answer(path);
  for (const auto& [name, checksum] : of.items()) {
    if (!checksum.is_string()) fail_no_answer(path);
    checksums.emplace(name, in_lower_case(checksum.get<std::string>()));
  }
  return checksums;
}

/// Refuses the answer of a checker that failed, on a part of the ranks perhaps.
void require_success(const std::string& path, const json& answer) {
  const auto success = answer.find("success");
  if (success == answer.end() || *success == json(true)) return;
  const auto message = answer.find("message");
  const bool has_text = message != answer.end() && message->is_string();
  fail_usage("--from-engine {}: the engine's weight checker failed{}{}; ask it again", path, has_text ? ": " : "",
             has_text ? quotable(message->get<std::string>()) : "");
}

/// Returns vLLM's by rank: names begin with the rank's coordinates.
std::vector<Checksums> of_vllm(const std::string& path, const json& answer, const std::vector<std::string>& coordinates,
                               const std::string& layout, std::vector<std::string>& notes) {
  std::vector<std::string> prefixes;
  for (const std::string& of : coordinates) prefixes.push_back(vllm_prefix(of));
  std::vector<Checksums> by_rank(coordinates.size());
  std::vector<std::string> others;
  for (auto& [name, checksum] : checksums_in(path, answer.at("checksums"))) {
    const auto owner =
        std::ranges::find_if(prefixes, [&, &key = name](const std::string& prefix) { return key.starts_with(prefix); });
    if (owner == prefixes.end()) {
      others.push_back(name);
      continue;
    }
    by_rank[static_cast<std::size_t>(owner - prefixes.begin())].emplace(name.substr(owner->size()), checksum);
  }
  if (!others.empty()) {
    notes.push_back(fmt::format("{} checksums are of ranks that gen.layout {} has not, e.g. {}", others.size(), layout,
                                quotable(others.front())));
  }
  return by_rank;
}

std::int64_t number_in(const std::string& path, const json& info, const char* key) {
  const auto found = info.find(key);
  if (found == info.end() || !found->is_number_integer()) fail_no_answer(path);
  return found->get<std::int64_t>();
}

/// Returns SGLang's by rank. Replicas follow each other; each lists its ranks.
std::vector<Checksums> of_sglang(const std::string& path, const json& answer,
                                 const std::vector<std::string>& coordinates, const std::string& layout) {
  std::vector<Checksums> by_rank(coordinates.size());
  const json& ranks = answer.at("ranks");
  if (!ranks.is_array()) fail_no_answer(path);
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::size_t>> places;  // by (pp, tp): each replica's
  for (std::size_t i = 0; i < coordinates.size(); ++i)
    places[{coordinate(coordinates[i], "pp"), coordinate(coordinates[i], "tp")}].push_back(i);
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
      fail_usage(
          "--from-engine {}: has {} entries or more of rank pp={} tp={}, of which gen.layout {} has {}; give the "
          "engine's own layout (--gen), and one answer of each of its ranks",
          path, replica + 1, at.first, at.second, layout, of_rank.size());
    }
    by_rank[of_rank[replica]] = checksums_in(path, rank.at("checksums"));
  }
  return by_rank;
}

}  // namespace

Answer::Answer(const std::string& path, const Forms& asked, const std::vector<std::string>& coordinates,
               const std::string& layout)
    : path_(path) {
  const json answer = model::read_json(path, "weight checker's answer", kMaxBytes, model::Names::once);
  if (!answer.is_object()) fail_no_answer(path);
  require_success(path, answer);
  const bool is_vllm = answer.contains("checksums");
  if (!is_vllm && !answer.contains("ranks")) fail_no_answer(path);
  possible_ = is_vllm ? std::vector{Form::vllm} : std::vector{Form::sglang, Form::sglang_cpu};
  std::ranges::copy_if(possible_, std::back_inserter(forms_), [&](Form form) { return asked.has(form); });
  if (forms_.empty()) {
    fail_usage("--from-engine {}: is {}; needs {} among --forms", path, is_vllm ? "vLLM's answer" : "SGLang's answer",
               is_vllm ? "vllm" : "sglang (of an engine on GPUs) or sglang-cpu");
  }
  by_rank_ =
      is_vllm ? of_vllm(path, answer, coordinates, layout, notes_) : of_sglang(path, answer, coordinates, layout);
}

/// Compares one rank; any of the forms is right.
void Answer::compare(const RankDigests& rank, const Checksums& found, Check& check) const {
  std::vector<std::string> names;
  for (const auto& [name, checksum] : found) names.push_back(name);
  const diagnose::Spellings spellings(names);
  std::set<std::string> used;
  for (const Row& row : rank.rows) {
    const std::string& name = row.parameter.storage.name;
    const std::string& expected = digest_of(row.digests, forms_.front());
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
    used.insert(mine->first);
    ++check.parameters;
    const bool is_right =
        std::ranges::any_of(forms_, [&](Form form) { return digest_of(row.digests, form) == mine->second; });
    if (is_right) continue;
    check.wrong.push_back({rank.rank, name,
                           fmt::format("{}: {} instead of {}", refit::name(forms_.front()),
                                       quotable(mine->second, kShownChecksum), expected)});
  }
  const auto other = std::ranges::find_if(names, [&](const std::string& name) { return !used.contains(name); });
  if (other == names.end()) return;
  check.notes.push_back(
      fmt::format("gen rank {}: {} checksums are of no parameter of the layout and are not compared, e.g. {}",
                  rank.rank, found.size() - used.size(), quotable(*other)));
}

Check Answer::compare(const Result& expected) const {
  Check check;
  check.what = "the answer " + path_;
  check.notes = notes_;
  for (std::size_t i = 0; i < by_rank_.size(); ++i) compare(expected.ranks[i], by_rank_[i], check);
  if (!check.wrong.empty() && forms_.size() < possible_.size()) {
    check.notes.push_back(
        fmt::format("compared in form {} alone: SGLang answers in sglang on GPUs and in sglang-cpu on "
                    "CPUs (--forms sglang,sglang-cpu takes either)",
                    name(forms_.front())));
  }
  return check;
}

}  // namespace refit::digest
