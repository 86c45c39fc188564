#pragma once
// How a storage represents the values of a tensor: a dtype, and a conversion where an engine does not store the value
// itself.
//
// Example: vLLM keeps Mamba's A = -exp(A_log) in float32: {f32, negative_exp}. A copy from a bf16 A_log to it computes
// -exp(x) in double and rounds once. Megatron keeps a zero-centred norm as {bf16, minus_one}; a copy from there to a
// plain storage adds 1, in double, and rounds once.

#include <compare>
#include <cstdint>

#include "core/dtype.hpp"
#include "core/error.hpp"

namespace refit {

/// The function of a value x that a storage holds.
enum class Conversion : std::uint8_t {
  none,          ///< x
  minus_one,     ///< x - 1
  negative_exp,  ///< -exp(x); cannot be inverted: such storages are destinations only
  block_scaled   ///< x / the scale of its block, as E4M3; the scales are a tensor of their own. Not inverted either
};

/// Returns the function for messages: "x", "x - 1", "-exp(x)", "x / scale".
constexpr const char* name(Conversion conversion) {
  switch (conversion) {
    case Conversion::none: return "x";
    case Conversion::minus_one: return "x - 1";
    case Conversion::negative_exp: return "-exp(x)";
    case Conversion::block_scaled: return "x / scale";
  }
  return "x";
}

/// The dtype of a storage, and the function of a value that it holds.
struct Format {
  DType dtype = DType::bf16;
  Conversion conversion = Conversion::none;

  constexpr Format() = default;
  constexpr Format(DType of, Conversion how = Conversion::none)  // NOLINT(google-explicit-constructor): a dtype is one
      : dtype(of), conversion(how) {}
  friend constexpr auto operator<=>(const Format&, const Format&) = default;
};

/// The function that a copy applies to a stored value, in double, rounded once to the destination's dtype. `quantise`
/// works on whole blocks (core/quantiser.hpp), in float.
enum class Transform : std::uint8_t { none, add_one, subtract_one, negative_exp, quantise };

/// Returns true where values stored as `from` determine those stored as `to`.
constexpr bool is_reachable(Conversion from, Conversion to) {
  return from == to || from == Conversion::none || (from == Conversion::minus_one && to == Conversion::none);
}

/// Returns the transform from values stored as `from` to values stored as `to`. Only where is_reachable.
constexpr Transform transform(Conversion from, Conversion to) {
  if (!is_reachable(from, to)) fail_invariant("a stored conversion cannot be taken back");
  if (from == to) return Transform::none;
  if (from == Conversion::minus_one) return Transform::add_one;
  if (to == Conversion::block_scaled) return Transform::quantise;
  return to == Conversion::minus_one ? Transform::subtract_one : Transform::negative_exp;
}

}  // namespace refit
