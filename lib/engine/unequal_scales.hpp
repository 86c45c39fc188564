#pragma once
// Scales of tensors that an engine fuses, where they differ: after loading it has one number for all of them.

#include <string>
#include <vector>

#include "case/setup.hpp"
#include "kernels/kernels.hpp"

namespace refit::engine {

using cases::Setup;

/// Returns sentences on q, k and v, or gate and up, of one layer or expert whose scales of whole tensors differ in the
/// checkpoint, with the first ones by name and by how much the engine decodes them wrong. Errors (usage): input scales
/// of an expert's gate and up that the engine refuses to load. Reads these numbers only.
std::vector<std::string> unequal_scale_notes(const kernels::ExecutionSpace& space, const Setup& setup);

}  // namespace refit::engine
