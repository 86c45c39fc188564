#pragma once
// A plan as the C interface has it: a model and two sides, without weights.

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "embed/refit.h"
#include "embed/spec.hpp"
#include "pair/pair.hpp"

namespace refit::embed {

class Plan {
 public:
  /// Arguments as refit_plan_create has them. Errors (usage).
  Plan(const std::string& config, const std::string& train, const std::vector<std::string>& engines,
       const char* options);

  const pair::Pair& pair() const { return pair_; }
  const pair::Sides& sides() const { return sides_; }
  bool colocated() const { return options_.colocated; }
  WorldMap world() const { return sides_.world(options_.colocated); }
  const layout::Layout& side(Side side) const { return side == Side::source ? *pair_.train : *pair_.gen; }

  /// Counts the plan's bytes; `size` of the result is not set.
  refit_plan_sizes sizes() const;
  /// Returns what a rank stores, as descriptions that live as long as this. Errors (usage): no such rank.
  const std::vector<refit_tensor>& storages(Side side, std::int32_t rank) const;
  /// Returns the explanation of the tensors that a glob matches. Errors (usage): none.
  std::string explain(const std::string& glob) const;
  /// Returns the seconds of the lower bound at those rates, in bytes per second and direction of a rank's port.
  double bound(double send, double receive) const;

  /// Returns what was asked for, in its words, and what that means for the sides and the model, which all processes
  /// must have in common.
  const std::string& asked() const { return asked_; }
  std::string meaning() const;

 private:
  struct Storages {
    std::vector<std::string> names;
    std::vector<std::string> dtypes;
    std::vector<layout::Storage> storages;
    std::vector<refit_tensor> list;
  };

  std::string config_, asked_;
  pair::Sides sides_;
  PlanOptions options_;
  pair::Pair pair_;
  mutable std::map<std::pair<Side, std::int32_t>, Storages> storages_;  ///< that were asked for
};

}  // namespace refit::embed
