#pragma once
// Notes on the weights themselves, in sentences: a reader must know of them although nothing is wrong.

#include <string>
#include <vector>

#include "case/setup.hpp"
#include "transport/communicator.hpp"
#include "verify/result.hpp"

namespace refit::engine {

using cases::Setup;

/// Returns a sentence for each pair of dtypes: the number of tensors that some rank has `rounded` while it loaded them,
/// and the first of them. Collective over `world`; returned at rank 0.
std::vector<std::string> rounding_notes(const Setup& setup, transport::Control& world,
                                        const std::vector<std::int32_t>& rounded);

/// Returns sentences on values that became infinite while they were loaded, with the first tensors by name.
std::vector<std::string> overflow_notes(const Setup& setup, const std::vector<verify::Overflow>& loaded);

/// Returns a sentence on values of a tensor that became infinite on the way to gen: "3 elements of NAME became infinite
/// as F16, the first at [0, 9]".
std::string overflow_text(const Setup& setup, const verify::Overflow& overflow);

/// Returns sentences on the NaN and infinities of a side, with the first tensors by name: "NaN or Inf in 3 elements of
/// NAME". For gen, only tensors are named that have others than `train` has with the `overflows` of the way; for train
/// there are none to compare with.
std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<verify::NotFinite>& found);
std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<verify::NotFinite>& train,
                                          const std::vector<verify::NotFinite>& gen,
                                          const std::vector<verify::Overflow>& overflows);

}  // namespace refit::engine
