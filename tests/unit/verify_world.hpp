#pragma once
// A small world for the verifier: three train and three gen ranks as threads (or three that are both), with layouts
// written by hand.
//
// train 0 holds the first half of every cut tensor, train 1 and train 2 the second; gen 0, 1 and 2 likewise. Whole on
// every rank: the norm, the experts of train, `k` of gen (its heads are too few to be cut) and the tensor without a
// rule. gate and up share one storage on both sides (gate's rows first), q and k one on gen. Gen's embedding is cut at
// row 48 and padded to 48 rows a rank with 0, train's norm by 8 elements with 1.
//
// With `conversions` there are four more. `centred`, whole on every rank: train keeps the value - 1. `log`, cut like
// `embed` of train: gen keeps -exp(x) in float32. `interleaved` [E 2, H 32, I 8, 2] and `bias` [E 2, I 8, 2]: train 0
// has the first expert, gate rows then up rows, train 1 and 2 the second; gen has half of I, gate and up alternating.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"
#include "layout/layout.hpp"
#include "verify/verifier.hpp"

namespace refit::verify {

/// A layout that is a table.
class TableLayout final : public layout::Layout {
 public:
  struct Entry {
    std::map<std::int32_t, std::vector<layout::Piece>> pieces;  ///< by tensor
    std::vector<layout::Storage> storages;                      ///< key.parameter = position
    std::vector<layout::Fill> fills;
  };
  explicit TableLayout(std::int32_t ranks) : table(static_cast<std::size_t>(ranks)) {}

  /// Adds a storage to a rank, and places boxes of tensors into it, one below the other (offsets in elements).
  std::int32_t add_storage(std::int32_t rank, const std::string& name, const Shape& shape, DType dtype);
  void place(std::int32_t rank, std::int32_t storage, std::int32_t tensor, const Box& box, std::int64_t offset);
  /// The same with other strides, and with converted values.
  void place(std::int32_t rank, std::int32_t storage, std::int32_t tensor, const Box& box, std::int64_t offset,
             const Extents& strides, Conversion conversion = Conversion::none);

  std::int32_t ranks() const override { return static_cast<std::int32_t>(table.size()); }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const model::Tensor& tensor) const override {
    return static_cast<std::uint64_t>(tensor.index);
  }
  std::optional<Format> format(const model::Tensor& tensor) const override;
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override;
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override;
  void fills(const layout::StorageKey& key, Rank rank, std::vector<layout::Fill>& out) const override;
  std::string coordinates(Rank) const override { return ""; }

  std::vector<Entry> table;
};

enum : std::int32_t { kEmbed, kQ, kK, kGate, kUp, kDown, kNorm, kExperts, kMisc, kTensors, kLmHead = kTensors };
enum : std::int32_t { kCentred = kTensors, kLog, kInterleaved, kBias };  // with `conversions`

struct WorldOptions {
  DType train_dtype = DType::bf16;
  DType gen_dtype = DType::bf16;
  bool misc_in_train = true;
  std::int64_t misc_elements = 5;
  bool colocated = false;    ///< three ranks that are train and gen ranks
  bool tied = false;         ///< adds lm_head, whose pieces are those of the embedding
  bool conversions = false;  ///< adds four tensors (not with `tied`)
  bool backwards = false;    ///< with `conversions`: -exp(x) of `log` is what train keeps, gen keeps x in float32
};

/// The memory of six ranks, right to begin with.
class World {
 public:
  static constexpr std::int32_t kTrainRanks = 3;
  static constexpr std::int32_t kGenRanks = 3;

  explicit World(const WorldOptions& options = {});

  int ranks() const { return options.colocated ? kTrainRanks : kTrainRanks + kGenRanks; }

  /// The storage of that name on a train or gen rank.
  std::vector<std::byte>& storage(Group group, std::int32_t rank, const std::string& name);
  /// 16-bit elements of it.
  std::uint16_t get(Group group, std::int32_t rank, const std::string& name, std::int64_t element);
  void set(Group group, std::int32_t rank, const std::string& name, std::int64_t element, std::uint16_t bits);

  /// Verifies with a thread for each rank; checks that all ranks return the same.
  StepResult verify();
  std::vector<TrainDisagreement> check_train_holders();
  /// As world rank 0 has it; other ranks must have nothing.
  std::vector<NotFinite> not_finite(Group group);

  /// The fingerprint of what gen rank 0 holds of `misc`.
  Sum128 misc_fingerprint();

  WorldOptions options;
  std::vector<Constant> constants;  ///< what the verifier is told of tensors that gen alone stores
  Tuning tuning;
  std::vector<StepResult> named;  ///< what world rank 0 was told of the last verify() before elements were counted
  model::Model model;
  TableLayout train{kTrainRanks};
  TableLayout gen{kGenRanks};

 private:
  struct Memory {
    layout::LocalLayout layout;
    std::vector<std::vector<std::byte>> storages;
  };
  void describe_train();
  void describe_gen();
  void describe_converted_train(std::int32_t rank);
  void describe_converted_gen(std::int32_t rank);
  void make_truth();
  void allocate(Group group, std::int32_t rank);
  RankView view(std::int32_t world_rank);  ///< as if the sides were apart
  std::vector<RankView> views(std::int32_t world_rank);
  void run(const std::function<void(int, Verifier&)>& body);

  kernels::ExecutionSpace space_;
  std::vector<std::vector<std::byte>> truth_;  ///< by tensor, whole, as train stores it
  std::vector<Memory> memory_;                 ///< by world rank
};

}  // namespace refit::verify
