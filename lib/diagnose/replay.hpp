#pragma once
// Names the bugs of the catalogue that leave the pattern that was found: their injections are replayed on the layouts,
// and the predicted value of every element is compared with the dump.

#include <string>
#include <vector>

#include "diagnose/cache_scales.hpp"
#include "diagnose/dumps.hpp"
#include "diagnose/regions.hpp"

namespace refit::diagnose {

/// A bug of the catalogue that leaves the pattern that was found.
struct NamedBug {
  std::string name;
  std::string description;
};

/// The input of naming bugs.
struct Evidence {
  const cases::Setup& setup;
  bool knows_train = false;
  const Dumps& gen;
  std::span<Source* const> sources;  ///< the truth first
  const std::vector<Region>& regions;
  const CacheBuffers& cache_buffers;
};

/// Returns the bugs that predict every wrong element of the dump, and no other, in the order of the catalogue. There is
/// at least one region, or a finding about the cache's buffers.
std::vector<NamedBug> name_bugs(const Evidence& evidence);

}  // namespace refit::diagnose
