#pragma once
// Explanation of one tensor: the places of its pieces on both sides, and the copies that move them. `refit plan
// --explain` prints it and `--picture` draws it. A value, made from the same layouts and planner as a run's.
//
// Example (SmolLM2, PP3 -> TP3): layer 0's q_proj is three pieces of train rank 0's linear_qkv (its query groups), one
// piece of each gen rank's qkv_proj, and three copies of 192 rows.

#include <ostream>
#include <string>
#include <vector>

#include "pair/pair.hpp"
#include "plan/plan.hpp"
#include "plan/traffic.hpp"

namespace refit::pair {

/// A piece of the tensor on one rank.
struct Owner {
  Rank rank{};
  std::string coordinates;  ///< "tp=0 pp=1"
  layout::Piece piece;
  layout::Storage storage;
};

struct Explanation {
  const model::Tensor* tensor = nullptr;
  std::string_view path;  ///< paths_of
  std::vector<Owner> train, gen;
  std::vector<plan::Copy> copies;      ///< of the bulk path, without places
  std::vector<bool> on_device;         ///< by copy: between two ranks of one device
  plan::Form form = plan::Form::sent;  ///< in which copies travel
};

/// Returns the paths by tensor index: "bulk", "misc", "none" where gen does not store it, "file" where only gen does.
std::vector<std::string_view> paths_of(const Pair& pair);

/// Returns the tensors that match one of `globs`, in model order. Errors (usage): a glob that matches none; the message
/// has the nearest names. `option`: of a command line that has the globs, for messages.
std::vector<const model::Tensor*> find_tensors(const Pair& pair, const std::vector<std::string>& globs,
                                               std::string_view option = {});

/// Returns the tensor that shows most: the largest of the bulk path whose boxes differ between the sides; else the
/// largest whose boxes are cut at all; else the largest. nullptr for a model of which gen stores nothing.
const model::Tensor* most_cut_tensor(const Pair& pair);

/// Explains tensors, in one walk over the whole plan. `form`: of the executor that moves them.
std::vector<Explanation> explain(const Pair& pair, const plan::Planner& planner,
                                 const std::vector<const model::Tensor*>& tensors, plan::Form form);

/// Prints tables of owners and copies, as lines of columns.
void print_explanation(std::ostream& out, const Explanation& explanation);

/// Describes the way of a tensor that no planned copy moves: "misc: gathered on train rank 0, then broadcast to every
/// gen rank"; empty for bulk.
std::string_view note(const Explanation& explanation);

}  // namespace refit::pair
