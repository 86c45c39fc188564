#pragma once
// A small world of quantised weights for the verifier: three train and two gen ranks as threads, with layouts written
// by hand. Train ranks hold everything alike; of gen rank t:
//
//   q [256, 384], FP8        rows 128 t .. 128 t + 127; scales [2, 3]: row t
//   down [200, 256], FP8     columns 128 t .. 128 t + 127; scales [2, 2]: column t, the last row for 72 rows
//   gate [384, 256], FP8     rows 192 t .. 192 t + 191; scales [3, 2] twice repeated: [3, 4] of blocks of 64 x 64
//   experts [2, 64, 64], MX  whole, scales [2, 64, 2] too: a replica
//   k_scale []               train has float32, gen bf16
//
// Train pads the rows of its scales of FP8 weights to four.

#include <functional>
#include <string>
#include <vector>

#include "verify_world.hpp"

namespace refit::verify {

enum : std::int32_t {
  kQuantisedQ,
  kScalesOfQ,
  kQuantisedDown,
  kScalesOfDown,
  kQuantisedGate,
  kScalesOfGate,
  kQuantisedExperts,
  kScalesOfExperts,
  kKvScale
};

struct QuantisedOptions {
  bool colocated = false;       ///< rank r of either side is one process
  bool originals = false;       ///< train also holds the weights in bf16, whose quantised values are the others
  bool swapped_scales = false;  ///< each gen rank holds the scales of q that belong to the other's rows
};

/// The memory of five ranks, right to begin with.
class QuantisedWorld {
 public:
  static constexpr std::int32_t kTrainRanks = 3;
  static constexpr std::int32_t kGenRanks = 2;

  explicit QuantisedWorld(const QuantisedOptions& wanted = {});

  /// One element of the storage of that name.
  template <typename T>
  T& at(Group group, std::int32_t rank, const std::string& name, std::int64_t element) {
    return reinterpret_cast<T*>(storage(group, rank, name).data())[element];
  }
  std::vector<std::byte>& storage(Group group, std::int32_t rank, const std::string& name);
  /// The bf16 weights of a train rank.
  std::vector<std::byte>& original(std::int32_t rank, const std::string& name);

  /// Verifies with five threads; checks that all ranks return the same verdict.
  StepResult verify();
  std::vector<TrainDisagreement> check_train_holders();

  model::Model model;
  TableLayout train{kTrainRanks};
  TableLayout gen{kGenRanks};
  TableLayout originals{kTrainRanks};

 private:
  struct Memory {
    layout::LocalLayout layout;
    std::vector<std::vector<std::byte>> storages;
    std::vector<std::byte>& storage(const std::string& name);
    RankView view(Group group, std::int32_t rank);
  };
  void make_truth();
  void describe_train(std::int32_t rank);
  void describe_gen(std::int32_t rank);
  Memory allocate(const TableLayout& layout, std::int32_t rank);
  void run(const std::function<void(int, Verifier&)>& body);

  QuantisedOptions options_;
  kernels::ExecutionSpace space_;
  std::vector<std::vector<std::byte>> truth_;  ///< by tensor, as in a file
  std::vector<std::vector<std::byte>> original_truth_;
  std::vector<Memory> train_memory_;
  std::vector<Memory> gen_memory_;
  std::vector<Memory> original_memory_;
};

}  // namespace refit::verify
