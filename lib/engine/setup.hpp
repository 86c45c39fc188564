#pragma once
// What a case means, worked out without MPI: the model, both layouts, and which tensor takes which path.

#include <map>
#include <memory>
#include <optional>

#include "checkpoint/checkpoint.hpp"
#include "engine/case.hpp"
#include "inject/faults.hpp"
#include "layout/layout.hpp"
#include "layout/quantised_layout.hpp"
#include "plan/plan.hpp"
#include "plan/policy.hpp"

namespace refit::engine {

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
  std::string source() const {
    if (c.m2n.given()) return c.m2n.model;
    return c.model.checkpoint.empty() ? c.model.config : c.model.checkpoint;
  }

 private:
  void make_listed();
};

/// TP sizes with which each side of a model is legal without any other parallelism.
struct LegalSizes {
  std::vector<std::int64_t> train_tp;
  std::vector<std::int64_t> gen_tp;
};
LegalSizes legal_sizes(const model::Model& model);

}  // namespace refit::engine
