#include "diagnose/relocations.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>

namespace refit::diagnose {
namespace {

using model::Tensor;

/// Unit that moves as a whole: experts, layers, or a part that is transposed in place.
enum class What : std::uint8_t { experts, layers, transposed };

/// A whole expert (layer) of one tensor on one rank that holds another expert (layer).
struct Move {
  What what = What::experts;
  std::int64_t to = 0, from = 0;
  std::int32_t layer = -1;  ///< of experts
};

/// Returns whether a whole part holds itself, rows as columns.
bool is_onto_itself(const Region& region) {
  const Explanation& why = region.why;
  return region.is_part && why.tensor == region.tensor && region.columns[0] + why.row_shift == region.rows[0] &&
         region.columns[1] + why.row_shift == region.rows[1] && region.rows[0] + why.column_shift == region.columns[0];
}

/// Returns the move that a region is; nothing where it is none.
std::optional<Move> move_of(const cases::Setup& setup, const Region& region) {
  const Explanation& why = region.why;
  if (why.source != 0) return std::nullopt;
  if (why.kind == Kind::transposed && is_onto_itself(region)) return Move{What::transposed, 0, 0, -1};
  if (why.kind != Kind::moved) return std::nullopt;
  const Tensor& own = setup.model[region.tensor];
  if (region.slot >= 0) return Move{What::experts, region.slot, region.slot_holds, own.layer};
  const Tensor& other = setup.model[why.tensor];
  const bool in_place = region.is_part && why.row_shift == 0 && why.column_shift == 0;
  if (!in_place || own.index == other.index || pattern(own) != pattern(other)) return std::nullopt;
  if (own.layer == other.layer && own.expert != other.expert)
    return Move{What::experts, own.expert, other.expert, own.layer};
  if (own.layer != other.layer && own.expert == other.expert) return Move{What::layers, own.layer, other.layer, -1};
  return std::nullopt;
}

/// The moves that have one cause.
struct Exchange {
  std::map<std::int64_t, std::int64_t> from;  ///< by expert or layer
  std::set<std::int32_t> ranks, layers;
  std::set<std::string> tensors, patterns;
  std::int64_t elements = 0;
  std::vector<std::size_t> regions;
  const Region* first = nullptr;

  bool agrees(const Move& move) const {
    const auto known = from.find(move.to);
    return known == from.end() || known->second == move.from;
  }
};

std::string moves_text(const std::map<std::int64_t, std::int64_t>& from) {
  constexpr std::size_t kShown = 8;
  std::vector<std::string> words;
  for (const auto& [to, source] : from) {
    if (words.size() == kShown) break;
    words.push_back(fmt::format("{} <- {}", to, source));
  }
  return fmt::format("{}{}", fmt::join(words, ", "), from.size() > kShown ? ", ..." : "");
}

Finding finding_of(const cases::Setup& setup, const Exchange& exchange, What what) {
  const char* noun = what == What::experts ? "expert" : "layer";
  const Tensor& own = setup.model[exchange.first->tensor];
  const Tensor& other = setup.model[exchange.first->why.tensor];
  Finding finding;
  finding.kind = name(exchange.first->why.kind);
  finding.gen_ranks = exchange.ranks;
  finding.tensors = exchange.tensors;
  finding.elements = exchange.elements;
  finding.source = other.name;
  if (what == What::transposed) {
    finding.text = fmt::format("{}: all of their parts of {} tensors, e.g. {}, are transposed in place",
                               gen_ranks_text(exchange.ranks, setup.gen->ranks()), exchange.tensors.size(), own.name);
    return finding;
  }
  std::string where;
  if (what == What::experts && !exchange.layers.empty())
    where = fmt::format(" of layer{} {}", exchange.layers.size() > 1 ? "s" : "", ranges_text(exchange.layers));
  finding.text =
      fmt::format("{}: {} {}s hold other {}s' weights, whole and in place: {} ({} tensors{}: {}{})",
                  gen_ranks_text(exchange.ranks, setup.gen->ranks()), exchange.from.size(), noun, noun,
                  moves_text(exchange.from), exchange.tensors.size(), where, pattern(own),
                  exchange.patterns.size() > 1 ? fmt::format(" and {} more", exchange.patterns.size() - 1) : "");
  return finding;
}

}  // namespace

std::string pattern(const Tensor& tensor, bool keep_layer, bool keep_expert) {
  std::string result;
  std::string before;
  std::size_t begin = 0;
  while (begin <= tensor.name.size()) {
    const std::size_t end = std::min(tensor.name.find('.', begin), tensor.name.size());
    std::string word = tensor.name.substr(begin, end - begin);
    const bool number = !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
    result += begin == 0 ? "" : ".";
    result += number && !(before == "experts" ? keep_expert : keep_layer) ? "*" : word;
    before = std::move(word);
    begin = end + 1;
  }
  return result;
}

std::vector<Finding> take_relocations(const cases::Setup& setup, std::vector<Region>& regions) {
  std::vector<std::pair<What, Exchange>> exchanges;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const std::optional<Move> move = move_of(setup, regions[i]);
    if (!move) continue;
    auto found = std::find_if(exchanges.begin(), exchanges.end(), [&](const auto& entry) {
      return entry.first == move->what && entry.second.agrees(*move);
    });
    if (found == exchanges.end()) found = exchanges.insert(exchanges.end(), {move->what, {}});
    Exchange& exchange = found->second;
    const Tensor& tensor = setup.model[regions[i].tensor];
    exchange.from.emplace(move->to, move->from);
    exchange.ranks.insert(to_int(regions[i].rank));
    if (move->layer >= 0) exchange.layers.insert(move->layer);
    exchange.tensors.insert(tensor.name);
    exchange.patterns.insert(pattern(tensor));
    exchange.elements += regions[i].elements;
    exchange.regions.push_back(i);
    if (exchange.first == nullptr) exchange.first = &regions[i];
  }
  std::vector<Finding> findings;
  std::vector<bool> taken(regions.size());
  for (const auto& [what, exchange] : exchanges) {
    if (exchange.regions.size() < 2 || (what != What::transposed && exchange.from.size() < 2))
      continue;  // one that moved is told in its own words
    findings.push_back(finding_of(setup, exchange, what));
    for (const std::size_t i : exchange.regions) taken[i] = true;
  }
  std::size_t next = 0;
  std::erase_if(regions, [&](const Region&) { return taken[next++]; });
  return findings;
}

}  // namespace refit::diagnose
