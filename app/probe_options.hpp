#pragma once
// The options of `refit probe` as they are typed, and what they mean.

#include <string>
#include <vector>

#include "engine/engine.hpp"

namespace refit::app {

/// `sizes`: "4KiB:1GiB", each 4 times the one before, "4KiB:1GiB:16", "4KiB,1MiB" or "none".
struct ProbeArguments {
  engine::ProbeOptions options;
  std::string bytes, sizes = "4KiB:256MiB:16", pairs = "auto", device;
};

/// Returns the complete options. Errors: usage, unavailable (a device that this build does not use).
engine::ProbeOptions checked(const ProbeArguments& arguments);

}  // namespace refit::app
