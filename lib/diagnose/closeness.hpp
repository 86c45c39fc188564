#pragma once
// Values that are close to what they should be: how close, and what of the ways to come so close leaves a trace of its
// own. Closeness alone is evidence of no cause.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "diagnose/part.hpp"

namespace refit::diagnose {

/// The value of an element of a float type; NaN for other types.
double value_of(Bits bits, DType dtype);

/// How far elements are from what they should be. Medians are those of a histogram: 9 % too large or small at most.
class Differences {
 public:
  void add(Bits found, Bits expected, DType dtype);
  void add(const Differences& other);
  bool empty() const { return counts_.empty(); }
  /// |found - expected| / |expected|, of elements that should not be zero.
  double largest() const { return largest_; }
  double median() const;
  /// The most units in the last place.
  Bits largest_units() const { return units_; }

 private:
  std::map<int, std::int64_t> counts_;  ///< by quarters of powers of 2
  double largest_ = 0;
  Bits units_ = 0;
};

/// An element's index in its tensor, and the bits in which it differs.
struct Flipped {
  std::int64_t index = 0;
  Bits bits = 0;
};

/// Steps of refit's own update (kernels::perturb): from the first to the last.
struct Steps {
  std::int64_t first = 0, last = 0;
};

/// The bits that those updates together flip in an element of a tensor.
Bits flipped_by(const Steps& steps, const model::Tensor& canonical, DType dtype, std::int64_t index);

/// The updates that lie between what the elements are and should be, where they explain nine of ten of them, and there
/// are enough to tell; of several, the fewest.
std::optional<Steps> steps_between(const model::Tensor& canonical, DType dtype, const std::vector<Flipped>& elements);

/// A value as what a cast to `through` and back leaves of it.
Bits cast_through(Bits bits, DType dtype, DType through);

/// Where the elements with that label (row-major, of all of the part) lie on a grid of few values, as requantised ones
/// do: "at most 8 bits in each row"; empty where they show none.
std::string grid_of(const Part& part, std::span<const std::int32_t> labels, std::int32_t label);

/// The most mantissa bits that a value uses.
int mantissa_bits(Bits bits, DType dtype);

}  // namespace refit::diagnose
