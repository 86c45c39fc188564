#pragma once
// The meaning of a case, worked out without MPI: the model, both layouts, and the path that each tensor takes.

#include <map>
#include <memory>
#include <optional>

#include "case/case.hpp"
#include "checkpoint/checkpoint.hpp"
#include "layout/layout.hpp"
#include "layout/quantised_layout.hpp"
#include "plan/plan.hpp"
#include "plan/policy.hpp"

namespace refit::cases {

/// The model, layouts and split of a case. Pinned in memory: layouts and planner refer to the model and to the lists of
/// the split.
class Setup {
 public:
  /// Reads config.json or opens the checkpoint, builds model and layouts, and refuses an impossible layout with all
  /// violations of both sides in one message. Errors: usage.
  explicit Setup(const Case& c);
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  Case c;
  std::optional<checkpoint::Checkpoint> checkpoint;
  model::Model model;
  std::map<std::int32_t, float> kv_scales;  ///< values of a calibration, by tensor
  std::unique_ptr<layout::Layout> train;
  std::unique_ptr<layout::Layout> gen;
  std::unique_ptr<layout::Layout> derived;  ///< of `gen`'s weights, at the end of every refit; nullptr: nothing
  /// The layout that train ranks send: `train`, or `quantised` where weights are quantised on the way. In lists of the
  /// split, block scales that are made on the way stand right behind their weights.
  const layout::Layout& sent() const { return quantised ? *quantised : *train; }
  std::unique_ptr<layout::QuantisedLayout> quantised;  ///< where gen alone is quantised
  plan::Split split;
  /// Returns the split that another policy would make.
  plan::Split split_by(plan::Policy policy) const;
  /// Returns the exchange of a session. It borrows this.
  session::Exchange exchange() const;

  /// Returns a warning that lists the tensors without a rule; empty where there is none.
  std::string unknown_tensors() const;
  std::string source() const { return c.source(); }

 private:
  /// Errors (usage): a train rank that has a part of a block.
  void quantise_on_the_way();
};

}  // namespace refit::cases
