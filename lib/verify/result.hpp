#pragma once
// Results of verification: plain values that report prints and expectations are compared with.
//
// "Bits" are an element's bytes read as a little-endian number, in gen's storage dtype.

#include <cstdint>
#include <string>
#include <vector>

#include "core/box.hpp"
#include "core/hash.hpp"
#include "core/rank.hpp"

namespace refit::verify {

/// A train rank that holds other bits than most holders of the same box (than the first one, if there is no majority).
/// With a storage's name: a constant part (fill) of a train rank that was overwritten; the box is then the fill's
/// extent.
struct TrainDisagreement {
  std::string tensor;
  Rank train_rank{};
  Box box;
  friend bool operator==(const TrainDisagreement&, const TrainDisagreement&) = default;
};

/// Wrong elements of one tensor on one gen rank, or of a constant part (fill) under the storage's own name.
/// Fingerprints show that a tensor is wrong; where its elements could not all be counted in time, at least one is
/// reported.
struct WrongTensor {
  std::string tensor;
  Rank gen_rank{};
  std::int64_t elements_wrong = 0;
  std::int64_t first_index = -1;  ///< smallest linear index in the tensor's file; of a fill: element of the storage
  std::uint64_t found_bits = 0;   ///< the bits that it has
  std::uint64_t expected_bits = 0;
  bool counted = true;  ///< all are counted; else elements_wrong is a lower bound, and first_index -1 or any
  friend bool operator==(const WrongTensor&, const WrongTensor&) = default;
};

/// The KL proxy over all matrices that both sides hold.
struct KlSummary {
  double max = 0.0;
  double mean = 0.0;   ///< of several engines the largest
  std::string tensor;  ///< of the maximum; empty where all are 0
  /// Matrices with a KL above 0 whose row sums are those of NaN, infinities or values of thousands: their KL says
  /// nothing.
  std::int64_t not_finite = 0;
};

/// NaN and infinite elements of a tensor, one holder per distinct box.
struct NotFinite {
  std::int32_t tensor = 0;
  std::int64_t elements = 0;
  friend bool operator==(const NotFinite&, const NotFinite&) = default;
};

/// Finite values of a tensor that became infinite in a cast, each counted once: gen is right to have infinities there.
struct Overflow {
  std::int32_t tensor = 0;
  std::int64_t elements = 0;
  std::int64_t first_index = 0;  ///< smallest linear index in the tensor's file
  friend bool operator==(const Overflow&, const Overflow&) = default;
};

/// The verdict on one refit: of one engine by itself, or of all together.
struct Verdict {
  std::int64_t tensors = 0;         ///< tensors of which gen stores a piece
  std::int64_t tensors_wrong = 0;   ///< distinct names of wrong ones, and of fills
  std::int64_t elements = 0;        ///< stored over all gen ranks, once where names share a storage; fills excluded
  std::int64_t elements_wrong = 0;  ///< likewise counted once; wrong elements of fills included
  std::int64_t tensors_not_counted = 0;  ///< of the wrong ones: elements_wrong is a lower bound where there are any
  Sum128 fingerprint_train;  ///< summed over the tensors that both sides hold, one holder per distinct box (of each
  Sum128 fingerprint_gen;    ///< engine), train's converted to gen's dtype: equal where the bits are
  KlSummary kl;
};

/// The verdict, with what is wrong. Identical on all ranks.
struct StepResult : Verdict {
  std::int64_t step = 0;
  std::vector<WrongTensor> wrong;  ///< in order of engine, tensor, then gen rank; fills of an engine last
  std::vector<TrainDisagreement> train_disagreements;
  std::vector<Overflow> overflows;  ///< of train's values as gen stores them, in order of tensor; each element once
  std::vector<Verdict> engines;     ///< of each engine; one without tensors was not proved

  bool ok() const { return wrong.empty() && train_disagreements.empty(); }
};

}  // namespace refit::verify
