#pragma once
// What vLLM's process_weights_after_loading makes of quantised weights on a rank (vLLM 0.33.0, as it was seen on a
// CPU).

#include <string>
#include <vector>

#include "gen/vllm/layout.hpp"
#include "layout/processed.hpp"

namespace refit::gen::vllm {

/// Returns subject and verb of "... have no rule here" for weights in a format whose result is not known; else nothing.
std::string unknown_processing(StoredFormat format);

/// Returns the storages that are new, or other than the loaded ones. Errors (usage): sizes for which vLLM's result is
/// not known.
std::vector<layout::Processed> process(const model::Model& model, const Options& options,
                                       const layout::LocalLayout& loaded);

}  // namespace refit::gen::vllm
