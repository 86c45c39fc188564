#pragma once
// The float32 buffers that attention uses instead of the scales of an FP8 KV cache: compares those of a dump with the
// buffers that gen makes of the right scales.

#include <functional>
#include <optional>

#include "diagnose/regions.hpp"

namespace refit::diagnose {

/// Comparison of the buffers of all gen ranks, as far as they are in the dump and the right scales are known.
struct CacheBuffers {
  std::set<std::string> names;     ///< that were compared
  std::int64_t compared = 0;       ///< on all gen ranks
  bool all_never_loaded = true;    ///< each is the result of scales that were never loaded
  std::optional<Finding> finding;  ///< of all wrong ones

  bool all_wrong() const { return finding && finding->elements == compared; }
};

/// Compares the buffers. `truth` returns a tensor as gen should store it; nullptr where no given source has it.
CacheBuffers compare_cache_buffers(const cases::Setup& setup, const Dumps& gen,
                                   const std::function<std::shared_ptr<const Whole>(std::int32_t)>& truth);

}  // namespace refit::diagnose
