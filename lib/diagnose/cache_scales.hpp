#pragma once
// The float32 buffers that attention uses instead of the scales of an FP8 KV cache: whether a dump's are what gen makes
// of the right scales.

#include <functional>
#include <optional>

#include "diagnose/regions.hpp"

namespace refit::diagnose {

/// What the buffers of all gen ranks are, as far as they are in the dump and the right scales are known.
struct CacheBuffers {
  std::set<std::string> names;     ///< that were compared
  std::int64_t compared = 0;       ///< on all gen ranks
  bool all_never_loaded = true;    ///< each is what becomes of scales that were never loaded
  std::optional<Finding> finding;  ///< of all wrong ones

  bool all_wrong() const { return finding && finding->elements == compared; }
};

/// `truth`: a tensor as gen should store it; nullptr where nothing given has it.
CacheBuffers compare_cache_buffers(const cases::Setup& setup, const Dumps& gen,
                                   const std::function<std::shared_ptr<const Whole>(std::int32_t)>& truth);

}  // namespace refit::diagnose
