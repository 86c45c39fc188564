#pragma once
// Which bugs of the catalogue leave what was found: their injections are replayed on the layouts, and what they predict
// for every element is compared with the dump.

#include <string>
#include <vector>

#include "diagnose/cache_scales.hpp"
#include "diagnose/dumps.hpp"
#include "diagnose/regions.hpp"

namespace refit::diagnose {

/// A bug of the catalogue that leaves what was found.
struct NamedBug {
  std::string name;
  std::string description;
};

/// What is known when bugs are named.
struct Evidence {
  const cases::Setup& setup;
  bool knows_train = false;
  const Dumps& gen;
  std::span<Source* const> sources;  ///< the truth first
  const std::vector<Region>& regions;
  const CacheBuffers& cache_buffers;
};

/// The bugs that predict every wrong element of the dump, and no other, in the order of the catalogue. At least one
/// region, or a finding about the cache's buffers.
std::vector<NamedBug> name_bugs(const Evidence& evidence);

}  // namespace refit::diagnose
