#pragma once
// Finds the origins of contents in a model: short runs of wrong elements are looked up among all runs of all tensors,
// which are streamed past them once. Memory grows with the number of runs that are looked for, not with the model.

#include <vector>

#include "diagnose/explain.hpp"

namespace refit::diagnose {

/// A run of wrong elements: along a row of the part, or along a column of it.
struct Probe {
  std::uint64_t hash = 0;  ///< of the run, its length and the dtype
  std::int64_t length = kRun;
  DType dtype = DType::bf16;
  std::int32_t part = 0;  ///< a number that the caller knows
  Candidate::Along along = Candidate::Along::rows;
  std::int64_t begin = 0;  ///< its first element's column (row) in the expected tensor's matrix
};

/// Appends a few runs of unexplained elements, spread over the part, without those whose content is too poor to tell
/// their place.
void append_probes(const Part& part, const Explained& explained, std::int32_t number, std::vector<Probe>& out);

/// A place of a probe's run.
struct Hit {
  std::int32_t probe = 0;
  std::int32_t tensor = -1;
  std::int64_t row = 0, column = 0;
};

/// Returns the places of all probes' runs in `source`'s tensors, except for tied tensors' second names; at most
/// kMostHits of each.
std::vector<Hit> search(const model::Model& model, Source& source, const std::vector<Probe>& probes);
inline constexpr int kMostHits = 8;

}  // namespace refit::diagnose
