#pragma once
// SHA-256 (FIPS 180-4), for records that hold digests in place of bytes.

#include <cstddef>
#include <span>
#include <string>

namespace refit::test_support {

/// Returns the digest in hexadecimal.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace refit::test_support
