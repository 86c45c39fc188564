#pragma once
// The two small hash functions on which all ranks must agree: splitmix64 for keys, FNV-1a for names. constexpr and
// header-only: kernels call them on a device.

#include <cstdint>
#include <string_view>

namespace refit {

/// Returns one step of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
constexpr std::uint64_t splitmix64(std::uint64_t value) {
  value += 0x9E3779B97F4A7C15ULL;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

/// Returns the 64-bit FNV-1a of a name, then mixed.
constexpr std::uint64_t hash_name(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return splitmix64(hash);
}

/// Folds `value` into `seed`; order matters.
constexpr std::uint64_t combine(std::uint64_t seed, std::uint64_t value) {
  return splitmix64(seed ^ splitmix64(value));
}

/// A 128-bit sum, wrapping in each half: the value of a plan's hash and of a fingerprint.
struct Sum128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  constexpr Sum128& operator+=(const Sum128& other) {
    low += other.low;
    high += other.high;
    return *this;
  }
  friend constexpr bool operator==(const Sum128&, const Sum128&) = default;
};

}  // namespace refit
