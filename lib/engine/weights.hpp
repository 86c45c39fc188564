#pragma once
// One rank's weights: its arena, how they get there, how they change between refits, and how they are dumped.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "engine/setup.hpp"
#include "kernels/kernels.hpp"
#include "transport/memory.hpp"
#include "verify/rank_view.hpp"

namespace refit::engine {

/// What came of loading.
struct Loaded {
  checkpoint::ReadStatistics statistics;
  std::vector<std::int32_t> rounded;  ///< tensors of which this rank's dtype has not every value of the file
};

/// The weights of one rank of one side, in an arena that somebody else owns.
class Weights {
 public:
  Weights(const Setup& setup, const layout::LocalLayout& layout, Group group, Rank rank, std::byte* arena);

  const transport::LocalMemory& memory() const { return memory_; }
  std::span<std::byte> arena() const { return {arena_, static_cast<std::size_t>(transport::ArenaMap(layout_).bytes)}; }
  verify::RankView view() const;

  /// The checkpoint's values, a calibration's, or synthetic ones of run.seed, then the constant parts: on train of all
  /// tensors, on gen of those that train does not store, after a pattern that no weight has in every byte. Errors
  /// (usage): a short file; a tied checkpoint whose lm_head differs from its embedding.
  Loaded load(const kernels::ExecutionSpace& space,
              const std::function<void(std::int64_t, std::int64_t)>& progress) const;
  /// Says of a tensor whether something happens to it.
  using Which = std::function<bool(const model::Tensor&)>;
  /// train: one optimiser step's stand-in, once per storage, of tensors that it is not left out of.
  void update(const kernels::ExecutionSpace& space, std::int64_t step, const Which& leaves_out) const;
  /// train: one wrong bit in each of these tensors.
  void flip_bits(const kernels::ExecutionSpace& space, const Which& which) const;
  /// Writes every storage under the engine's own name, and `buffers`.
  void dump(const std::string& folder, const std::vector<checkpoint::DumpTensor>& buffers) const;

 private:
  std::vector<const layout::LocalPiece*> own_pieces() const;
  kernels::Region region(const layout::LocalPiece& piece) const;
  void fill(const kernels::ExecutionSpace& space) const;
  bool is_read(const layout::LocalPiece& piece) const;
  void make(const kernels::ExecutionSpace& space, const layout::LocalPiece& piece) const;
  void synthesise(const kernels::ExecutionSpace& space, const layout::LocalPiece& piece) const;
  Loaded read_checkpoint(const kernels::ExecutionSpace& space,
                         const std::function<void(std::int64_t, std::int64_t)>& progress) const;
  void require_tied_head(const kernels::ExecutionSpace& space) const;

  const Setup& setup_;
  const layout::LocalLayout& layout_;
  Group group_;
  Rank rank_;
  std::byte* arena_;
  transport::LocalMemory memory_;
};

/// The fingerprint of a whole tensor as its source (checkpoint, or run.seed) has it, in `dtype`.
Sum128 source_fingerprint(const kernels::ExecutionSpace& space, const Setup& setup, const model::Tensor& tensor,
                          DType dtype);

/// The file of one rank in a dump folder, e.g. "DIR/gen-rank-00003.safetensors".
std::string dump_path(const std::string& folder, Group group, Rank rank);

}  // namespace refit::engine
