#pragma once
// Counts the allocations of a test's process by `new`: allocations.cpp, a source of the executable, replaces the
// operator.

#include <cstdint>

namespace refit::test_support {

/// Returns the number of allocations so far.
std::int64_t allocations();

}  // namespace refit::test_support
