#pragma once
// Injected bugs: faults that a run is told to commit, to show that its proofs notice them. They act by name on what the
// planner and the executors get, or on the memory of one rank after loading; proofs and dumps use the true layouts.

#include <memory>
#include <string>
#include <vector>

#include "layout/layout.hpp"

namespace refit::engine {

struct Injection {
  std::string name;
  std::string description;
};

/// All of them, in the order in which they are listed.
std::vector<Injection> injections();

/// The faults of one run. Cheap questions; all are "no" where nothing is injected.
class Faults {
 public:
  Faults() = default;
  /// Errors (usage): an unknown name, with the known ones.
  explicit Faults(const std::vector<std::string>& names);

  bool any() const { return !names_.empty(); }
  /// Errors (usage): a fault that concerns no tensor of `model`, or scales of a KV cache where gen finalises none, and
  /// would look as if nobody noticed it.
  void require_effect(const model::Model& model, bool finalises_scales) const;
  bool has(const std::string& name) const;

  /// The gen layout as planner and executors see it: `truth`, or a wrapper that tells a lie (which must not outlive
  /// it).
  std::unique_ptr<layout::Layout> distort_gen(const layout::Layout& truth, const model::Model& model) const;
  /// True for a tensor that neither path carries.
  bool drops(const model::Tensor& tensor) const;
  /// True where this train rank leaves `tensor`'s update of this step out.
  bool loses_update(const model::Tensor& tensor, Rank train_rank, std::int64_t step) const;
  /// True where this train rank's copy of `tensor` gets one wrong bit after loading.
  bool corrupts(const model::Tensor& tensor, Rank train_rank) const;
  /// True where this rank does not take part in the bulk path of this refit (1, 2, ...).
  bool skips_bulk(bool is_train, Rank rank, std::int64_t refit) const;
  /// True where gen leaves out what follows this refit's loading, so that the KV cache keeps the scales that it has.
  bool skips_finalize(std::int64_t refit) const;
  /// True where gen finalises the KV cache's scales as if none had been loaded.
  bool forgets_scales() const;

 private:
  std::vector<std::string> names_;
};

}  // namespace refit::engine
