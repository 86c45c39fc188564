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

/// Returns sentences on the NaN and infinities of a side, with the first tensors by name: "NaN or Inf in 3 elements of
/// NAME". For gen, only tensors are named that have others than `train`; for train there are none to compare with.
std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<verify::NotFinite>& found);
std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<verify::NotFinite>& train,
                                          const std::vector<verify::NotFinite>& gen);

}  // namespace refit::engine
