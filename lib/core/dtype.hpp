#pragma once
// Element types, with the spelling of the safetensors format ("BF16", "F8_E4M3", ...).

#include <cstdint>
#include <optional>
#include <string_view>

namespace refit {

enum class DType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean
};

/// Returns the bytes of one element.
constexpr std::int64_t byte_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
    case DType::u64: return 8;
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16: return 2;
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e8m0:
    case DType::i8:
    case DType::u8:
    case DType::boolean: return 1;
  }
  return 0;
}

/// Returns true for the types whose values refit converts into each other (cast, perturbed, multiplied): F32, F16,
/// BF16.
constexpr bool is_castable(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

/// Returns the safetensors name, e.g. "BF16".
std::string_view name(DType dtype);

/// Returns the type of a safetensors name; nothing for an unknown one.
std::optional<DType> parse_dtype(std::string_view name);

}  // namespace refit
