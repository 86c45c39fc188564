#pragma once
// Two sides of one model: both layouts, and the path that each tensor takes between them. Worked out without
// communication and without weights; a case (case/setup.hpp) and the library's callers (embed/) have one each.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layout/adapted_layout.hpp"
#include "layout/quantised_layout.hpp"
#include "pair/sides.hpp"
#include "plan/policy.hpp"
#include "session/exchange.hpp"

namespace refit::pair {

/// Gives a config whose weights nobody reads the format in which train keeps them. One that has it already stays as it
/// is written: its group size, naming and scales are its own.
void keep_as_train(const Sides& sides, model::Config& config);

/// Adds to a model the parts that gen's weights have, where these are quantised on the way.
void quantise_for(const Sides& sides, model::Model& model);

/// Pinned in memory: layouts and planner refer to the model and to the lists of the split.
class Pair {
 public:
  /// Returns more violations of the sides for the model, as sentences.
  using Violations = std::function<std::vector<std::string>()>;

  Pair() = default;
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  /// Makes everything from `model`, which is set and has passed `quantise_for`. Call once. `source`: of the model, for
  /// messages. Errors (usage): all violations of both sides, and `more`, in one message; what a train rank cannot
  /// quantise; engines that need unlike forms.
  void match(const Sides& sides, plan::Policy bulk, const std::string& source, const Violations& more = {});

  model::Model model;
  std::map<std::int32_t, float> kv_scales;  ///< values of a calibration, by tensor
  std::unique_ptr<layout::Layout> train;
  std::unique_ptr<layout::Layout> gen;
  std::unique_ptr<layout::Layout> derived;  ///< of `gen`'s weights, at the end of every refit; nullptr: nothing
  /// The layout that train ranks send: `train`, or `adapted` where LoRA pairs change what is sent, or `quantised` where
  /// weights are quantised on the way, after that. In lists of the split, block scales that are made on the way stand
  /// right behind their weights.
  const layout::Layout& sent() const { return quantised ? *quantised : not_quantised(); }
  /// Returns the same before anything is quantised.
  const layout::Layout& not_quantised() const { return adapted ? *adapted : *train; }
  std::unique_ptr<layout::AdaptedLayout> adapted;      ///< where adapters change what is sent
  std::unique_ptr<layout::QuantisedLayout> quantised;  ///< where gen alone is quantised
  plan::Split split;
  /// Returns the split that another policy would make.
  plan::Split split_by(plan::Policy policy) const;
  /// Returns the exchange of a session. It borrows this.
  session::Exchange exchange(bool colocated) const;

 private:
  /// Errors (usage): a train rank that has a part of a block.
  void quantise_on_the_way();

  std::int64_t train_tp_ = 1, gen_tp_ = 1;
  std::optional<Library> library_;
};

}  // namespace refit::pair
