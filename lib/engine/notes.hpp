#pragma once
// What a reader must know of the weights themselves, in sentences: nothing is wrong with them, but it is not silent.

#include <string>
#include <vector>

#include "case/setup.hpp"
#include "transport/communicator.hpp"
#include "verify/result.hpp"

namespace refit::engine {

using cases::Setup;

/// A sentence for each pair of dtypes: how many of the tensors that some rank has `rounded` while it loaded them, and
/// which comes first. Collective over `world`; returned at rank 0.
std::vector<std::string> rounding_notes(const Setup& setup, transport::Control& world,
                                        const std::vector<std::int32_t>& rounded);

/// Sentences on the NaN and infinities of a side, the first tensors by name: "NaN or Inf in 3 elements of NAME". Of gen
/// only tensors are named that have others than `train`; of train there are none to compare with.
std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<verify::NotFinite>& found);
std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<verify::NotFinite>& train,
                                          const std::vector<verify::NotFinite>& gen);

}  // namespace refit::engine
