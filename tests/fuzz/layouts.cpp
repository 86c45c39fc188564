// Layout fuzzer: families x layouts x policies, drawn at random, without MPI. For every case the copies of the plan
// must leave in the storages of gen what vLLM would hold, and train must hold what Megatron would, element by element.
//
//   layouts_fuzz [--seed S] [--cases N]   stops at the first difference, and prints the smallest case that has one too
//   layouts_fuzz --seed S --case K        one of them
//   layouts_fuzz --self-check             distorts layouts and plans, and fails where that is not noticed

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string_view>

#include "fuzz/layout_check.hpp"

namespace refit::fuzz {
namespace {

constexpr std::uint64_t kSeed = 1;
constexpr std::uint64_t kCases = 3000;
// A test that skips everything proves nothing.
constexpr double kLegalShare = 0.7;      // of the cases drawn for a family
constexpr double kFeatureShare = 0.003;  // of all legal cases, for each feature

/// Returns the difference of a case; nothing where it is not legal, or cannot be built (which reductions may lead to).
std::string difference(const Case& c) {
  try {
    const model::Model model = build(c);
    return is_legal(c, model) ? check(c, model).difference : "";
  } catch (const std::exception&) {
    return "";
  }
}

void report(const Case& found, std::uint64_t seed, std::uint64_t number) {
  fmt::print("case {} of seed {} differs: {}\n{}\n", number, seed, difference(found), describe(found));
  const Case smallest = shrink(found, [](const Case& c) { return !difference(c).empty(); });
  fmt::print("smallest like it: {}\n{}\nto run it again: layouts_fuzz --seed {} --case {}\n", difference(smallest),
             describe(smallest), seed, number);
}

struct Totals {
  std::int64_t drawn = 0, legal = 0, elements = 0, copies = 0;
};

class Run {
 public:
  explicit Run(std::uint64_t seed) : seed_(seed), tried_(features().size(), 0) {}

  /// Runs one case; returns false where it differs.
  bool one(std::uint64_t number) {
    const Case c = draw_case(seed_, number);
    const model::Model model = build(c);
    Totals& totals = by_family_[c.config.family];
    ++totals.drawn;
    if (!is_legal(c, model)) return true;
    ++totals.legal;
    for (std::size_t i = 0; i < tried_.size(); ++i) tried_[i] += features()[i].has(c) ? 1 : 0;
    const Outcome outcome = check(c, model);
    totals.elements += outcome.elements;
    totals.copies += outcome.copies;
    stripes_ += outcome.stripes;
    if (!outcome.difference.empty()) report(c, seed_, number);
    return outcome.difference.empty();
  }

  std::int64_t legal() const {
    return std::accumulate(by_family_.begin(), by_family_.end(), std::int64_t{0},
                           [](std::int64_t sum, const auto& entry) { return sum + entry.second.legal; });
  }

  /// Prints what was tried; returns false where it is too little.
  bool enough() {
    bool result = true;
    for (const std::string& family : families()) {
      const Totals& totals = by_family_[family];
      fmt::print("{:13} {:5} of {:5} cases legal, {:8} copies, {:10} elements of gen\n", family, totals.legal,
                 totals.drawn, totals.copies, totals.elements);
      const double least = std::max(1.0, kLegalShare * static_cast<double>(totals.drawn));
      result = result && static_cast<double>(totals.legal) >= least;
    }
    for (std::size_t i = 0; i < tried_.size(); ++i) {
      fmt::print("{:30} {:5} cases\n", features()[i].name, tried_[i]);
      result = result && static_cast<double>(tried_[i]) >= kFeatureShare * static_cast<double>(legal());
    }
    fmt::print("{} copies of boxes whose sending replicas share\n", stripes_);
    return result && stripes_ > 0;
  }

 private:
  std::uint64_t seed_;
  std::map<std::string, Totals> by_family_;
  std::int64_t stripes_ = 0;
  std::vector<std::int64_t> tried_;  ///< legal cases with each feature
};

int run_cases(std::uint64_t seed, std::uint64_t cases) {
  Run run(seed);
  for (std::uint64_t number = 0; number < cases; ++number) {
    if (!run.one(number)) return 1;
  }
  const bool enough = run.enough();
  fmt::print("{} legal cases of seed {}, no difference\n", run.legal(), seed);
  if (!enough) {
    fmt::print("too little was tried: {} of each family's cases must be legal, and {} of those have each feature\n",
               kLegalShare, kFeatureShare);
  }
  return enough ? 0 : 1;
}

int run_one(std::uint64_t seed, std::uint64_t number) {
  Run run(seed);
  if (!run.one(number)) return 1;
  fmt::print("{}\n{}\n", run.legal() == 0 ? "not legal" : "no difference", describe(draw_case(seed, number)));
  return 0;
}

/// Every distortion must be noticed in every case that it changes, and change enough of them.
int self_check(std::uint64_t seed) {
  constexpr std::uint64_t kTried = 200;
  constexpr int kEnough = 10;
  bool right = true;
  for (const auto& [distortion, name] : distortions()) {
    int changed = 0, noticed = 0;
    std::string example;
    for (std::uint64_t number = 0; number < kTried; ++number) {
      const Case c = draw_case(seed, number);
      const model::Model model = build(c);
      if (!is_legal(c, model)) continue;
      const Outcome outcome = check(c, model, distortion);
      if (!outcome.distorted) continue;
      ++changed;
      if (outcome.difference.empty()) {
        fmt::print("{}: not noticed in case {} of seed {}\n{}\n", name, number, seed, describe(c));
      } else if (noticed++ == 0) {
        example = outcome.difference;
      }
    }
    fmt::print("{}: noticed in {} of {} cases, e.g. {}\n", name, noticed, changed, example);
    right = right && noticed == changed && changed >= kEnough;
  }
  return right ? 0 : 1;
}

struct Arguments {
  std::uint64_t seed = kSeed, cases = kCases, number = 0;
  bool one = false, self = false, wrong = false;
};

Arguments parse(int count, char** values) {
  Arguments result;
  for (int i = 1; i < count; ++i) {
    const std::string_view key = values[i];
    if (key == "--self-check") {
      result.self = true;
      continue;
    }
    char* end = nullptr;
    const std::uint64_t value = ++i < count ? std::strtoull(values[i], &end, 10) : 0;
    const bool known = key == "--seed" || key == "--cases" || key == "--case";
    if (!known || end == nullptr || end == values[i] || *end != '\0') return {.wrong = true};
    if (key == "--seed") result.seed = value;
    if (key == "--cases") result.cases = value;
    if (key == "--case") result.one = true, result.number = value;
  }
  return result;
}

}  // namespace
}  // namespace refit::fuzz

int main(int count, char** values) {
  using namespace refit::fuzz;
  const Arguments arguments = parse(count, values);
  if (arguments.wrong) {
    fmt::print(stderr, "usage: layouts_fuzz [--seed S] [--cases N] [--case K] [--self-check]\n");
    return 2;
  }
  try {
    if (arguments.self) return self_check(arguments.seed);
    if (arguments.one) return run_one(arguments.seed, arguments.number);
    return run_cases(arguments.seed, arguments.cases);
  } catch (const std::exception& error) {
    fmt::print("a case cannot be built: {}\n", error.what());
    return 1;
  }
}
