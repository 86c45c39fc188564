#pragma once
// Counts what a test's process allocates with `new`: allocations.cpp, a source of the executable, replaces the
// operator.

#include <cstdint>

namespace refit::test_support {

/// Returns the number of allocations so far.
std::int64_t allocations();

}  // namespace refit::test_support
