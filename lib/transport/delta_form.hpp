#pragma once
// The form in which the changed elements of a block travel: the one with the fewest bytes, found alike at both ends.

#include <string_view>

#include "core/choice.hpp"
#include "kernels/delta.hpp"

namespace refit::transport {

/// What a refit that follows another one sends: everything, or what has changed, in the form that has the fewest bytes,
/// or in one form where that has fewer bytes than the block itself.
enum class Delta : std::uint8_t { off, automatic, index, bitmap };
inline Choices choices(Delta) {
  static constexpr std::string_view kWords[] = {"off", "auto", "index", "bitmap"};
  return kWords;
}

/// Returns the form of a block of which `changed` elements (at least one) have changed. Of forms with equal bytes it is
/// the simplest: dense, then bitmap.
constexpr kernels::DeltaForm form_of(Delta delta, std::int64_t elements, std::int64_t changed,
                                     std::int64_t value_bytes) {
  kernels::DeltaForm best = kernels::DeltaForm::dense;
  const auto bytes = [&](kernels::DeltaForm form) {
    return kernels::delta_bytes(form, elements, changed, value_bytes);
  };
  if (delta != Delta::index && bytes(kernels::DeltaForm::bitmap) < bytes(best)) best = kernels::DeltaForm::bitmap;
  if (delta != Delta::bitmap && bytes(kernels::DeltaForm::index) < bytes(best)) best = kernels::DeltaForm::index;
  return best;
}

/// Returns the share of changed elements below which a form has fewer bytes than the block itself, of whole blocks.
constexpr double break_even(kernels::DeltaForm form, std::int64_t value_bytes) {
  constexpr std::int64_t kAll = kernels::kDeltaElements;
  const std::int64_t dense = kernels::delta_bytes(kernels::DeltaForm::dense, kAll, kAll, value_bytes);
  std::int64_t less = 0, no_less = kAll;
  while (no_less - less > 1) {
    const std::int64_t middle = (less + no_less) / 2;
    (kernels::delta_bytes(form, kAll, middle, value_bytes) < dense ? less : no_less) = middle;
  }
  return static_cast<double>(no_less) / static_cast<double>(kAll);
}

}  // namespace refit::transport
