#include "case/drill.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <sstream>

namespace refit::cases {
namespace {

using Words = std::vector<std::string>;

constexpr const char* kForms =
    "kill engine N after refit R, restart engine N after refit R, join engine N before refit R, rejoin before refit R";

std::vector<Words> clauses_of(const std::string& text) {
  std::vector<Words> clauses;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ';');) {
    std::istringstream words(part);
    Words& clause = clauses.emplace_back();
    for (std::string word; words >> word;) clause.push_back(word);
  }
  return clauses;
}

/// Reads digits alone.
std::optional<std::int64_t> number_of(const std::string& word) {
  std::int64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [last, error] = std::from_chars(word.data(), end, value);
  const bool is_number = error == std::errc() && last == end && word.front() != '-';
  return is_number ? std::optional(value) : std::nullopt;
}

struct Clause {
  std::string verb;
  std::optional<std::int64_t> engine;
  std::int64_t refit = 0;
};

std::optional<Clause> read(Words words) {
  if (words.empty()) return std::nullopt;
  Clause clause{words.front(), {}, 0};
  const bool joins = clause.verb == "join" || clause.verb == "rejoin";
  if (!joins && clause.verb != "kill" && clause.verb != "restart") return std::nullopt;
  words.erase(words.begin());
  if (words.size() == 5 && words[0] == "engine") {
    clause.engine = number_of(words[1]);
    if (!clause.engine) return std::nullopt;
    words.erase(words.begin(), words.begin() + 2);
  } else if (!joins) {
    return std::nullopt;
  }
  if (words.size() != 3 || words[0] != (joins ? "before" : "after") || words[1] != "refit") return std::nullopt;
  const auto refit = number_of(words[2]);
  if (!refit) return std::nullopt;
  clause.refit = *refit;
  return clause;
}

/// Lives of engines while clauses come in.
class Reader {
 public:
  Reader(std::size_t engines, std::int64_t refits)
      : refits_(refits), all_{Drill(engines, refits), {}}, named_(engines, false), misled_(engines, false) {}

  void take(const Words& words) {
    text_ = fmt::format("\"{}\"", fmt::join(words, " "));
    const auto clause = read(words);
    if (!clause) return wrong(fmt::format("is no clause; there are: {}", kForms));
    const auto engine = clause->engine ? clause->engine : last_;
    if (!engine) return wrong("says of no engine that it joins: name it, \"join engine 1 before refit 2\"");
    last_ = engine;
    const auto engines = static_cast<std::int64_t>(all_.drill.engines());
    if (*engine >= engines)
      return wrong(fmt::format("there is no engine {}: they are engine 0 to engine {}", *engine, engines - 1));
    const auto at = static_cast<std::size_t>(*engine);
    if (misled_[at]) return;  // what follows from a mistake is no other one
    const std::size_t before = all_.wrong.size();
    if (clause->verb == "join" || clause->verb == "rejoin") {
      join(at, clause->refit);
    } else {
      kill(at, clause->refit, clause->verb == "restart");
    }
    named_[at] = true;
    misled_[at] = all_.wrong.size() > before;
  }

  DrillText finish() {
    const std::vector<std::int64_t> idle = all_.drill.idle();
    if (all_.wrong.empty() && !idle.empty() && idle.front() == 1)
      all_.wrong.push_back("no engine is there for refit 1, with which a run begins: let one of them be there");
    return std::move(all_);
  }

 private:
  void wrong(const std::string& what) { all_.wrong.push_back(fmt::format("{}: {}", text_, what)); }

  void kill(std::size_t engine, std::int64_t refit, bool restarts) {
    std::vector<Life>& lives = all_.drill.lives(engine);
    if (refit < 1 || refit >= refits_)
      return wrong(
          fmt::format("an engine can {} after refit 1 to {}: there are {} (run.warmup + run.steps), and after the last "
                      "one nothing comes",
                      restarts ? "restart" : "be killed", refits_ - 1, refits_));
    if (lives.back().last < refits_)
      return wrong(fmt::format("engine {} is dead by then: it was killed after refit {}; let it rejoin before", engine,
                               lives.back().last));
    if (refit < lives.back().first)
      return wrong(
          fmt::format("engine {} joins before refit {} and takes part in it before it can die; the clauses of "
                      "an engine stand in the order in which they happen",
                      engine, lives.back().first));
    lives.back().last = refit;
    if (restarts) lives.push_back({refit + 1, refits_});
  }

  void join(std::size_t engine, std::int64_t refit) {
    std::vector<Life>& lives = all_.drill.lives(engine);
    if (refit > refits_ || refit < 1) return wrong(fmt::format("refits are 1 to {} (run.warmup + run.steps)", refits_));
    if (!named_[engine]) {  // late
      if (refit == 1) return wrong(fmt::format("engine {} is there from the beginning; leave this out", engine));
      lives = {{refit, refits_}};
      return;
    }
    if (lives.back().last == refits_)
      return wrong(fmt::format("engine {} is alive by then; kill it before, or use restart", engine));
    if (refit <= lives.back().last)
      return wrong(fmt::format("engine {} is killed after refit {}, so that it can join before refit {} or later",
                               engine, lives.back().last, lives.back().last + 1));
    lives.push_back({refit, refits_});
  }

  std::int64_t refits_;
  DrillText all_;
  std::vector<bool> named_;   ///< by engine: in an earlier clause
  std::vector<bool> misled_;  ///< by engine: an earlier clause is wrong
  std::optional<std::int64_t> last_;
  std::string text_;
};

}  // namespace

bool Drill::takes_part(std::size_t engine, std::int64_t refit) const {
  return std::ranges::any_of(lives(engine),
                             [&](const Life& life) { return life.first <= refit && refit <= life.last; });
}

bool Drill::joins(std::size_t engine, std::int64_t refit) const {
  return std::ranges::any_of(lives(engine), [&](const Life& life) { return life.first == refit; });
}

bool Drill::dies(std::size_t engine, std::int64_t refit) const {
  return std::ranges::any_of(lives(engine), [&](const Life& life) { return life.last == refit - 1; });
}

bool Drill::is_new_life(std::size_t engine, std::int64_t refit) const {
  return joins(engine, refit) && lives(engine).front().first < refit;
}

bool Drill::has_new_life() const {
  return std::ranges::any_of(lives_, [](const std::vector<Life>& lives) { return lives.size() > 1; });
}

std::vector<std::int64_t> Drill::idle() const {
  std::vector<std::int64_t> result;
  for (std::int64_t refit = 1; refit <= refits_; ++refit) {
    bool some = false;
    for (std::size_t engine = 0; engine < engines(); ++engine) some |= takes_part(engine, refit);
    if (!some) result.push_back(refit);
  }
  return result;
}

DrillText read_drill(const std::string& text, std::size_t engines, std::int64_t refits) {
  Reader reader(engines, refits);
  for (const Words& words : clauses_of(text)) reader.take(words);
  return reader.finish();
}

}  // namespace refit::cases
