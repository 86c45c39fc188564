// Values of parts of quantised weights, against the formats' own functions, element by element.

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/dequantise.hpp"
#include "kernels/int4.hpp"
#include "kernels/memory.hpp"
#include "kernels/mxfp4.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

struct Case {
  StoredFormat format;
  DType scales;
  BlockSize values, block;
  TensorScale kind = TensorScale::multiplier;
};

constexpr Case kCases[] = {
    {StoredFormat::fp8_block, DType::f32, {1, 1}, {128, 128}},
    {StoredFormat::mxfp8, DType::u8, {1, 1}, {1, 32}},
    {StoredFormat::fp8_tensor, DType::bf16, {1, 1}, {kWhole, kWhole}},
    {StoredFormat::fp8_channel, DType::f32, {1, 1}, {1, kWhole}},
    {StoredFormat::nvfp4, DType::f8_e4m3, {1, 2}, {1, 16}},
    {StoredFormat::nvfp4, DType::f8_e4m3, {1, 2}, {1, 16}, TensorScale::divisor},
    {StoredFormat::mxfp4, DType::f8_e8m0, {1, 2}, {1, 32}},
    {StoredFormat::int4, DType::f16, {1, 8}, {1, 64}},
    {StoredFormat::int4_asym, DType::bf16, {1, 8}, {1, 128}},
};

/// Numbers of the blocks that a part touches.
struct Numbers {
  BlockNumbers of;
  SharedBuffer memory;
  std::int64_t columns = 0, rows = 0;

  Numbers(const QuantisedPart& part, DType dtype, const BlockSize& block, Random& random)
      : columns(touched_blocks(Interval{part.column, part.column + part.columns}, block.columns).size()),
        rows(touched_blocks(Interval{part.row, part.row + part.rows}, block.rows).size()) {
    memory = SharedBuffer(part.matrices * rows * columns * byte_size(dtype));
    for (std::byte& byte : memory.span()) byte = static_cast<std::byte>(random());
    of = {memory.data(), dtype, block};
  }
  /// Returns the index of the number for a row and column of the part.
  std::int64_t at(const QuantisedPart& part, std::int64_t matrix, std::int64_t row, std::int64_t column) const {
    const std::int64_t below = (part.row + row) / of.block.rows - part.row / of.block.rows;
    const std::int64_t right = (part.column + column) / of.block.columns - part.column / of.block.columns;
    return (matrix * rows + below) * columns + right;
  }
  template <typename T>
  T get(std::int64_t index) const {
    T value;
    std::memcpy(&value, memory.data() + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    return value;
  }
  float number(std::int64_t index) const {
    if (of.dtype == DType::f32) return get<float>(index);
    const auto bits = get<std::uint16_t>(index);
    return std::bit_cast<float>(of.dtype == DType::f16 ? f32_from_f16(bits) : f32_from_bf16(bits));
  }
};

bool same(float a, float b) { return a == b || (a != a && b != b); }

TEST(Dequantise, EveryElementOfEveryFormat) {
  Random random(23);
  const ExecutionSpace space;
  for (const Case& of : kCases) {
    for (int round = 0; round < 20; ++round) {
      const auto between = [&](std::int64_t least, std::int64_t most) {
        return least + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most - least + 1));
      };
      QuantisedPart part{.format = of.format,
                         .kind = of.kind,
                         .matrices = between(1, 3),
                         .row = between(0, 200),
                         .column = between(0, 300),
                         .rows = between(1, 140),
                         .columns = between(1, 300)};
      const DType words = is_int4(of.format) ? DType::i32 : DType::u8;
      const Numbers values(part, words, of.values, random);
      const Numbers scales(part, of.scales, of.block, random);
      const Numbers zeros(part, DType::i32, {8, of.block.columns}, random);
      SharedBuffer tensor(sizeof(float));
      const float global = 0.0173F;
      std::memcpy(tensor.data(), &global, sizeof(global));
      part.values = values.of;
      part.scales = scales.of;
      if (of.format == StoredFormat::int4_asym) part.zero_points = zeros.of;
      part.tensor_scale = {tensor.data(), DType::f32, {kWhole, kWhole}};
      const SharedBuffer result(part.matrices * part.rows * part.columns * byte_size(DType::f32));
      dequantise(space, part, reinterpret_cast<float*>(result.data()));
      space.fence();
      std::int64_t index = 0;
      for (std::int64_t m = 0; m < part.matrices; ++m) {
        for (std::int64_t r = 0; r < part.rows; ++r) {
          for (std::int64_t c = 0; c < part.columns; ++c, ++index) {
            const std::int64_t word = values.at(part, m, r, c);
            const std::int64_t scale = scales.at(part, m, r, c);
            const std::int64_t column = part.column + c;
            float expected = 0;
            if (is_int4(of.format)) {
              const auto nibble = values.get<std::uint32_t>(word) >> 4 * (column % 8) & 15U;
              const auto zero = zeros.get<std::uint32_t>(zeros.at(part, m, r, c)) >> 4 * ((part.row + r) % 8) & 15U;
              expected = int4_value(nibble, of.format == StoredFormat::int4_asym ? static_cast<int>(zero) : 8,
                                    scales.number(scale));
            } else if (is_packed(of.format)) {
              const auto byte = scales.get<std::uint8_t>(scale);
              const float factor = of.format == StoredFormat::nvfp4 ? nvfp4_factor(of.kind, byte, global)
                                                                    : mxfp4_factor(Library::compressed_tensors, byte);
              expected = f32_from_e2m1(nibble_of(values.get<std::uint8_t>(word), column)) * factor;
            } else {
              const float by =
                  of.scales == DType::u8 ? f32_from_e8m0(scales.get<std::uint8_t>(scale)) : scales.number(scale);
              expected = f32_from_e4m3(values.get<std::uint8_t>(word)) * by;
            }
            float found = 0;
            std::memcpy(&found, result.data() + index * static_cast<std::int64_t>(sizeof(float)), sizeof(float));
            ASSERT_TRUE(same(found, expected)) << name(of.format) << " " << r << " " << c;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace refit::kernels
