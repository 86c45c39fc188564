#pragma once
// The inputs of NCCL M2N's model transfer benchmark (nccl-extensions, nccl_m2n/benchmarks/reshard_model_bench.cu): a
// list of tensors with shapes and dtypes, and the meshes of two sides; its placement rules make two layouts of them.
//
// Example: {"train": {"num_gpus": 4, "ep_size": 2, "pp_size": 2}, "generation": {"num_gpus": 2, "tp_size": 2}}: of 8
// experts each train rank of a layer's stage has 4 whole ones, and each gen rank half of the columns or rows of all.
//
// Rules, as there: a layer's stage is layer x PP / layers; the embedding is on the first, all others on the last. Ranks
// of a stage hold shard rank mod shards. Weights named q_proj, k_proj, v_proj, gate_proj, up_proj, q_a_proj, q_b_proj,
// kv_a_proj_with_mqa, kv_b_proj, embed_tokens and lm_head are cut by rows over TP, o_proj and down_proj by columns.
// Experts of a layer are one tensor, [experts, rows, columns], cut over EP by expert or else over gen's TP. All other
// tensors are whole on every rank of their stage. The train side has no expert TP, and EP shares the ranks of TP, CP
// and DP. fsdp_size, and train's dp_size, count for nothing.

#include <cstdint>
#include <memory>
#include <string>

#include "layout/layout.hpp"
#include "layout/parallelism.hpp"
#include "layout/side.hpp"

namespace refit::m2n {

/// A side of a system file.
struct Mesh {
  std::int64_t ranks = 1;
  std::int64_t tp = 1, cp = 1, ep = 1, dp = 1, pp = 1;
  bool folds_experts = false;  ///< EP shares the ranks of TP, CP and DP (train); else it multiplies with them (gen)

  std::int64_t stage_ranks() const { return ranks / pp; }
  /// Returns the sizes as cases write them: DP is what is left of a stage beside TP and CP.
  layout::Parallelism parallelism() const { return {tp, cp, ep, 1, stage_ranks() / (tp * cp), pp}; }
};

struct System {
  Mesh train, gen;
};

/// Reads a system file. Errors (usage): unreadable or malformed, missing or absurd sizes, sizes that do not multiply to
/// num_gpus; all in one message that names `path`.
System read_system(const std::string& path);

/// Reads a model file, its tensors by name, experts grouped. `layers` > 0 keeps the tensors of the first layers, and
/// those in no layer. Errors (usage): likewise; dtypes other than F32, F16, BF16, F8_E4M3 and U8.
model::Model read_model(const std::string& path, std::int64_t layers);

/// Makes one side's layout. `model` must outlive it. Errors (usage): every tensor that its mesh does not cut evenly,
/// all in one message with `side` in front.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Mesh& mesh, const std::string& side);

/// Return the sides that a system file lists, for cases: completing them reads it. An empty path is a file that is not
/// given.
std::unique_ptr<layout::SideSpec> listed_train(const std::string& path);
std::unique_ptr<layout::SideSpec> listed_gen(const std::string& path);

}  // namespace refit::m2n
