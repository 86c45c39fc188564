#pragma once
// The meaning of a case, worked out without MPI: the model, both layouts, and the path that each tensor takes.

#include <optional>
#include <string>

#include "case/case.hpp"
#include "checkpoint/checkpoint.hpp"
#include "pair/pair.hpp"
#include "plan/plan.hpp"

namespace refit::cases {

/// A case with its model, layouts and split.
class Setup : public pair::Pair {
 public:
  /// Reads config.json or opens the checkpoint, builds model and layouts, and refuses an impossible layout with all
  /// violations of both sides in one message. Errors: usage.
  explicit Setup(const Case& c);

  Case c;
  std::optional<checkpoint::Checkpoint> checkpoint;
  std::optional<checkpoint::Checkpoint> adapter_checkpoint;  ///< of LoRA pairs
  /// Returns the checkpoint that has a tensor's values; nullptr where they are synthetic.
  const checkpoint::Checkpoint* checkpoint_of(const model::Tensor& tensor) const {
    const std::optional<checkpoint::Checkpoint>& files = tensor.adapter_of >= 0 ? adapter_checkpoint : checkpoint;
    return files ? &*files : nullptr;
  }
  session::Exchange exchange() const { return Pair::exchange(c.run.colocated); }

  /// Returns a warning that lists the tensors without a rule; empty where there is none.
  std::string unknown_tensors() const;
  std::string source() const { return c.source(); }

 private:
  void add_adapters();
};

}  // namespace refit::cases
