#pragma once
// Values that are close to the expected ones: how close they are, and which of the possible causes left a trace of its
// own. Closeness alone is evidence of no cause.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "diagnose/part.hpp"

namespace refit::diagnose {

/// Returns the value of an element of a float type; NaN for other types.
double value_of(Bits bits, DType dtype);

/// Differences between elements and their expected values. Medians are those of a histogram: 9 % too large or small at
/// most.
class Differences {
 public:
  void add(Bits found, Bits expected, DType dtype);
  void add(const Differences& other);
  bool empty() const { return counts_.empty(); }
  /// Returns the largest |found - expected| / |expected| of elements whose expected value is not zero.
  double largest() const { return largest_; }
  double median() const;
  /// Returns the largest difference in units in the last place.
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

/// Steps of refit's own update (kernels::perturb), from first to last.
struct Steps {
  std::int64_t first = 0, last = 0;
};

/// Returns the bits that those updates together flip in an element of a tensor.
Bits flipped_by(const Steps& steps, const model::Tensor& canonical, DType dtype, std::int64_t index);

/// Returns the updates between the found and the expected elements, where they explain nine of ten elements, and there
/// are enough to tell; of several, the fewest.
std::optional<Steps> steps_between(const model::Tensor& canonical, DType dtype, const std::vector<Flipped>& elements);

/// Returns the value that a cast to `through` and back makes of `bits`.
Bits cast_through(Bits bits, DType dtype, DType through);

/// Describes the grid of few values on which the elements with that label lie, as requantised ones do, e.g. "8 bits can
/// tell the values of a row"; empty where they show none. `labels` are row-major, of the whole part.
std::string grid_of(const Part& part, std::span<const std::int32_t> labels, std::int32_t label);

/// Returns the number of mantissa bits that a value uses.
int mantissa_bits(Bits bits, DType dtype);

}  // namespace refit::diagnose
