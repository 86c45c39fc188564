#pragma once
// A train rank's weights in the form of AdaptedLayout: memory beside the weights, and what fills it before each refit.
//
// A rank merges the pieces of weights that it stores, and needs the columns of A and the rows of B that these have;
// trainers cut both otherwise, so that these matrices, a few megabytes, are brought to it first: by a plan of their
// own among the train ranks, from their layout to FactorLayout, which p2p carries out.

#include <memory>
#include <vector>

#include "kernels/merge.hpp"
#include "layout/adapted_layout.hpp"
#include "session/exchange.hpp"

namespace refit::session {

class AdaptedWeights {
 public:
  /// The weights of one train rank, in the trainer's own layout.
  struct Train {
    const layout::LocalLayout& layout;
    const transport::LocalMemory& storages;
  };

  /// Returns the bytes of the arena that a train rank gives.
  static std::int64_t bytes(const model::Model& model, const layout::Layout& train,
                            const layout::AdaptedLayout& adapted, Rank rank);

  /// Prepares. Collective over `world`, whose first ranks are the train ranks. `mine` and `arena` (of `bytes`, which
  /// the caller keeps): on train ranks only. Keeps references to all arguments.
  AdaptedWeights(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
                 const model::Model& model, const layout::Layout& train, const layout::AdaptedLayout& adapted,
                 std::optional<Rank> rank, const Train* mine, std::byte* arena, transport::Progress& progress);
  ~AdaptedWeights();
  AdaptedWeights(const AdaptedWeights&) = delete;
  AdaptedWeights& operator=(const AdaptedWeights&) = delete;

  // Of a train rank: everything that it sends. Weights that are sent as they are have the memory of the weights.
  const layout::LocalLayout& layout() const { return local_; }
  const transport::LocalMemory& memory() const { return memory_; }

  /// Makes them; complete on return. Collective over the train ranks; others have nothing to do. `rounds_product`: an
  /// injected bug (kernels::Merge).
  void run(bool rounds_product = false);
  /// Makes them once more for a proof, by other code: whole matrices are gathered over `world`, and each element is
  /// computed by itself. Tells `progress` each weight as moved. Collective over the world.
  void run_plainly();

 private:
  void make_jobs(Rank rank, const Train& mine);
  void make_executor(transport::Links& links, std::optional<Rank> rank, const Train* mine,
                     transport::Progress& progress);
  /// Returns a matrix of a pair, whole. Collective over the world.
  kernels::SharedBuffer gathered(const model::Tensor& matrix);

  const kernels::ExecutionSpace& space_;
  transport::Control& world_;
  const model::Model& model_;
  const layout::Layout& train_;
  const layout::AdaptedLayout& adapted_;
  std::optional<Rank> rank_;
  const Train* mine_;
  transport::Progress& progress_;
  layout::LocalLayout local_, factors_;
  transport::LocalMemory memory_, factor_memory_;
  layout::FactorLayout factor_layout_;
  std::vector<model::Tensor> matrices_;  ///< of all pairs whose weights are merged

  struct Job {
    std::int32_t tensor = 0;
    layout::Piece piece;   ///< in the trainer's layout
    kernels::Merge merge;  ///< of a B that is scaled: its memory only
  };
  std::vector<Job> jobs_;
  std::unique_ptr<transport::Communicator> communicator_;
  std::unique_ptr<transport::Routes> routes_;
  std::unique_ptr<transport::Executor> executor_;
};

}  // namespace refit::session
