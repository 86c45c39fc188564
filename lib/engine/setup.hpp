#pragma once
// What a case means, worked out without MPI: the model, both layouts, and which tensor takes which path.

#include <map>
#include <memory>
#include <optional>

#include "case/case.hpp"
#include "checkpoint/checkpoint.hpp"
#include "inject/faults.hpp"
#include "layout/layout.hpp"
#include "layout/quantised_layout.hpp"
#include "plan/plan.hpp"
#include "plan/policy.hpp"

namespace refit::engine {

using cases::Case;

/// Pinned in memory: layouts and planner refer to the model and to the lists of the split.
class Setup {
 public:
  /// Reads config.json or opens the checkpoint, builds model and layouts, and refuses an impossible layout with all its
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
  /// What train ranks send: `train`, or what its weights become where they are quantised on the way. Lists of the split
  /// have block scales that come into being so right behind their weights.
  const layout::Layout& sent() const { return quantised ? *quantised : *train; }
  std::unique_ptr<layout::QuantisedLayout> quantised;  ///< where gen alone is quantised
  plan::Split split;
  /// Which tensors would take which path by another policy.
  plan::Split split_by(plan::Policy policy) const;
  inject::Faults faults;
  /// What a session moves. Borrows this.
  session::Exchange exchange() const;

  /// Before a run. Errors (usage): an injected fault that would change nothing in it.
  void require_effect() const;

  /// A warning that lists the tensors without a rule; empty where there is none.
  std::string unknown_tensors() const;
  std::string source() const { return c.source(); }
};

}  // namespace refit::engine
