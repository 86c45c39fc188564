#pragma once
// Comparison of fingerprints, which names suspects: pure, no communication, no memory of weights.

#include <cstdint>
#include <vector>

#include "core/hash.hpp"
#include "verify/ledger.hpp"

namespace refit::verify {

/// The prints of an owner's tensors: by world rank, then by piece (Holder::piece).
using Fingerprints = std::vector<std::vector<Sum128>>;

/// The holder of a box whose bits count as true.
struct Source {
  Box box;
  Holder holder;
};

/// A tensor with a wrong gen element somewhere, and the holders of the truth.
struct Suspect {
  std::int32_t tensor = 0;
  std::vector<Source> sources;
  std::vector<Box> targets;  ///< gen's distinct boxes
};

/// A train holder that disagrees with the one that counts as true.
struct OddHolder {
  std::int32_t tensor = 0;
  Box box;
  Holder holder;
  Holder truth;
};

/// The fingerprint of a tensor that gen alone stores, in gen's dtype.
struct Constant {
  std::int32_t tensor = 0;
  Sum128 fingerprint;
};

struct Judgement {
  std::int64_t tensors = 0;           ///< of which gen stores a piece
  std::vector<std::int32_t> changed;  ///< tensors that differ from their constant
  std::vector<Suspect> suspects;
  std::vector<OddHolder> odd_train;
  Sum128 train;  ///< sums over the tensors that both sides store
  Sum128 gen;
};

/// Returns the holder whose fingerprint most holders of the box have; of several such, the first.
Holder most_agreed(std::span<const Holder> holders, const Fingerprints& prints);

/// Appends the holders of a side's box that do not have its most agreed fingerprint.
void find_odd(const Ledger& side, std::int32_t tensor, const HeldBox& box, const Fingerprints& prints,
              std::vector<OddHolder>& out);

/// Compares all holders of each box, and the sums of train and gen. Tensors that train does not store are compared
/// among their gen holders, and with their constant; those that gen does not store are skipped.
Judgement judge(const std::vector<model::Tensor>& tensors, const Ledger& train, const Ledger& gen,
                const Fingerprints& prints, const std::vector<Constant>& constants);

}  // namespace refit::verify
