// The kernels that walk over regions, against oracles written from the words of kernels.hpp.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "kernels/quantiser.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

struct Stored {
  Region region;
  Bytes memory;

  std::int64_t element(const Extents& index) const { return offset_of(index, region.strides); }
  std::uint64_t bits(const Extents& index) const { return read_bits(memory.data(), element(index), region.dtype); }
  /// Global linear index of an index within the box.
  std::int64_t global(const Extents& index) const {
    std::int64_t result = 0;
    for (int d = 0; d < index.size(); ++d) result = result * region.shape[d] + region.box.lower[d] + index[d];
    return result;
  }
};

Stored store_box(Random& random, const Shape& shape, const Box& box, const Extents& strides, DType dtype) {
  Stored result;
  result.memory = random_memory(random, box.extent, strides, dtype);
  result.region = {result.memory.data(), dtype, box, shape, strides};
  return result;
}

/// Rows that devices read in vectors.
Stored stored_in_vectors(Random& random, DType dtype) {
  return store_box(random, {5, 3, 2000}, {{1, 0, 7}, {4, 3, 1024}}, {3 * 1040, 1040, 1}, dtype);
}

Stored random_stored(Random& random, DType dtype, std::int64_t largest = 17) {
  if (pick(random, 0, 19) == 0) return stored_in_vectors(random, dtype);
  const Shape shape = random_extent(random, static_cast<int>(pick(random, 0, 4)), largest);
  Box box = Box::whole(shape);
  for (int d = 0; d < shape.size(); ++d) {
    box.lower[d] = pick(random, 0, shape[d] - 1);
    box.extent[d] = pick(random, 1, shape[d] - box.lower[d]);
  }
  return store_box(random, shape, box, random_strides(random, box.extent), dtype);
}

float float_of(std::uint64_t bits, DType dtype) {
  return std::bit_cast<float>(convert_bits(static_cast<std::uint32_t>(bits), dtype, DType::f32));
}

bool is_changed(std::uint64_t bits, DType dtype) {
  if (dtype == DType::f8_e4m3) return (bits & 0x7FU) < 0x7EU;
  if (dtype == DType::f8_e8m0 || dtype == DType::u8) return bits < 254;
  return !is_castable(dtype) || std::isfinite(float_of(bits, dtype));
}

Sum128 expected_fingerprint(const Stored& stored, DType as, std::uint64_t name) {
  Sum128 result;
  const int last = stored.region.shape.size() - 1;
  for_each_index(stored.region.box.extent, [&](const Extents& index, std::int64_t) {
    std::uint64_t bits = stored.bits(index);
    if (as != stored.region.dtype) bits = convert_bits(static_cast<std::uint32_t>(bits), stored.region.dtype, as);
    const std::int64_t columns = last < 0 ? 1 : stored.region.shape[last];
    const std::int64_t row = stored.global(index) / columns;
    const std::int64_t column = stored.global(index) % columns;
    result.low += row_key(name, 0, row) * ((bits + 1) * column_key(name, 0, column));
    result.high += row_key(name, 1, row) * ((bits + 1) * column_key(name, 1, column));
  });
  return result;
}

void check_fingerprint(const Stored& stored, DType as) {
  const ExecutionSpace space;
  Sum128 found{5, 6};
  fingerprint(space, stored.region, as, Transform::none, 0x1234567890ABCDEFULL, &found);
  Sum128 expected = expected_fingerprint(stored, as, 0x1234567890ABCDEFULL);
  expected += Sum128{5, 6};
  ASSERT_EQ(found, expected) << name(stored.region.dtype) << " as " << name(as) << " " << to_string(stored.region.box);
}

TEST(Fingerprint, EveryType) {
  Random random(1);
  for (DType dtype : kAllTypes) {
    for (int i = 0; i < 40; ++i) check_fingerprint(random_stored(random, dtype), dtype);
  }
}

TEST(Fingerprint, AsAnotherType) {
  Random random(2);
  for (DType from : kCastable) {
    for (DType as : kCastable) {
      for (int i = 0; i < 40; ++i) check_fingerprint(random_stored(random, from), as);
    }
  }
}

TEST(Fingerprint, SeveralBlocksAndItems) {
  Random random(3);
  for (const Shape& shape : {Shape{700, 1500}, Shape{3, 100003}, Shape{2, 3, 5, 2049}, Shape{1200003}, Shape{300, 4096},
                             Shape{2, 700, 2, 64}, Shape{3000, 24}}) {
    for (DType dtype : {DType::bf16, DType::f32}) {
      const Box whole = Box::whole(shape);
      check_fingerprint(store_box(random, shape, whole, row_major_strides(shape), dtype), DType::bf16);
    }
  }
}

TEST(Fingerprint, ExtremeBits) {
  Random random(4);
  for (int byte : {0x00, 0xFF, 0x80, 0x7F}) {
    Stored stored = store_box(random, {3, 5000}, Box::whole({3, 5000}), {5000, 1}, DType::bf16);
    std::fill(stored.memory.begin(), stored.memory.end(), static_cast<std::byte>(byte));
    check_fingerprint(stored, DType::bf16);
  }
}

TEST(Fingerprint, BitsThatFollowTheKeys) {
  // The worst case for partial sums: large values wherever a group of the key's bits is large, small ones elsewhere.
  Random random(14);
  for (int shift = 0; shift < 64; ++shift) {
    for (int sum = 0; sum < 2; ++sum) {
      Stored stored = store_box(random, {2, 4000}, Box::whole({2, 4000}), {4000, 1}, DType::u16);
      for (std::int64_t i = 0; i < 8000; ++i) {
        const bool high = (column_key(0x1234567890ABCDEFULL, sum, i % 4000) >> shift & 1U) != 0;
        write_bits(stored.memory.data(), i, DType::u16, high != (i < 4000) ? 0xFFFFU : 0U);
      }
      check_fingerprint(stored, DType::u16);
    }
  }
}

TEST(Fingerprint, AddsUpOverDisjointBoxes) {
  Random random(5);
  const Shape shape{37, 2500};
  const Stored whole = store_box(random, shape, Box::whole(shape), row_major_strides(shape), DType::bf16);
  const ExecutionSpace space;
  Sum128 of_parts;
  for (std::int64_t row : {0, 20}) {
    for (std::int64_t column : {0, 1201}) {
      const Box box{{row, column}, {row == 0 ? 20 : 17, column == 0 ? 1201 : 1299}};
      Region part = whole.region;
      part.box = box;
      part.data += 2 * (row * 2500 + column);
      fingerprint(space, part, DType::bf16, Transform::none, 9, &of_parts);
    }
  }
  EXPECT_EQ(of_parts, expected_fingerprint(whole, DType::bf16, 9));
}

TEST(Fingerprint, OfAListOfAllKinds) {
  // More than go into one launch, with empty boxes among them, in an order that no kernel works in.
  Random random(15);
  std::vector<Stored> stored;
  for (int i = 0; i < 60; ++i) {
    stored.push_back(random_stored(random, kAllTypes[static_cast<std::size_t>(i) % std::size(kAllTypes)], 5));
    if (i % 7 == 0 && stored.back().region.shape.size() > 0) stored.back().region.box.extent[0] = 0;
  }
  std::vector<Fingerprint> list;
  std::vector<Sum128> found;
  std::vector<Sum128> expected;
  for (std::uint64_t i = 0; i < 9001; ++i) {
    const Stored& one = stored[i % stored.size()];
    const DType as = is_castable(one.region.dtype) ? kCastable[i / stored.size() % 3] : one.region.dtype;
    list.push_back({one.region, as, Transform::none, i});
    found.push_back({i, ~i});
    expected.push_back({i, ~i});
    expected.back() += expected_fingerprint(one, as, i);
  }
  const ExecutionSpace space;
  fingerprints(space, list, found);
  EXPECT_EQ(found, expected);
  fingerprints(space, {}, {});
}

/// fix(w) from the header's words, in long double.
std::int64_t fix(float value) {
  if (std::isnan(value)) return std::int64_t{1} << 39;
  const long double limit = std::ldexp(1.0L, 39);
  const long double scaled = std::nearbyint(std::ldexp(static_cast<long double>(value), 24));
  return static_cast<std::int64_t>(std::max(-limit, std::min(limit, scaled)));
}

void check_row_sums(const Stored& stored) {
  const ExecutionSpace space;
  const Extents& extent = stored.region.box.extent;
  const int last = extent.size() - 1;
  const std::int64_t columns = last < 0 ? 1 : extent[last];
  std::vector<std::int64_t> rows(static_cast<std::size_t>(product(extent) / columns), 11);
  std::vector<std::int64_t> expected = rows;
  for_each_index(extent, [&](const Extents& index, std::int64_t linear) {
    const std::int64_t column = last < 0 ? 0 : stored.region.box.lower[last] + index[last];
    expected[static_cast<std::size_t>(linear / columns)] +=
        fix(float_of(stored.bits(index), stored.region.dtype)) * sign(77, column);
  });
  signed_row_sums(space, stored.region, 77, rows.data());
  ASSERT_EQ(rows, expected) << name(stored.region.dtype) << to_string(stored.region.box);
}

TEST(SignedRowSums, RandomBits) {
  Random random(6);
  for (DType dtype : kCastable) {
    for (int i = 0; i < 60; ++i) check_row_sums(random_stored(random, dtype));
    check_row_sums(store_box(random, {300, 2100}, Box::whole({300, 2100}), {2100, 1}, dtype));
  }
}

TEST(SignedRowSums, SmallValuesRoundToEven) {
  Random random(7);
  Stored stored = store_box(random, {1, 4096}, Box::whole({1, 4096}), {4096, 1}, DType::f32);
  for (std::int64_t i = 0; i < 4096; ++i) {
    const float value = std::ldexp(static_cast<float>(i - 2048), -26);  // quarters of a unit: ties at every other
    write_bits(stored.memory.data(), i, DType::f32, std::bit_cast<std::uint32_t>(value));
  }
  check_row_sums(stored);
}

/// An E4M3 byte from its fields; S.1111.111 is NaN.
float float_of_e4m3(std::uint64_t byte) {
  const auto exponent = static_cast<int>(byte >> 3 & 15U);
  const auto mantissa = static_cast<float>(byte & 7U);
  float value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8.0F + mantissa, exponent - 10);
  if ((byte & 0x7FU) == 0x7FU) value = std::numeric_limits<float>::quiet_NaN();
  return (byte & 0x80U) != 0 ? -value : value;
}

float float_of_scale(std::uint64_t bits, DType dtype) {
  if (dtype == DType::f32) return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
  return bits == 0xFFU ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, static_cast<int>(bits) - 127);
}

/// A region of bytes and the scales of the blocks that it touches.
void check_scaled_sums(Random& random, DType scale_dtype, std::int64_t rows, std::int64_t columns) {
  Stored bytes = random_stored(random, DType::f8_e4m3, 40);
  const Box& box = bytes.region.box;
  const int last = box.extent.size() - 1;
  if (last < 1) return;
  const auto block = [&](const Extents& index) {
    Extents result = index;
    result[last - 1] = (box.lower[last - 1] + index[last - 1]) / rows - box.lower[last - 1] / rows;
    result[last] = (box.lower[last] + index[last]) / columns - box.lower[last] / columns;
    return result;
  };
  Extents grid = box.extent;
  for (int d : {last - 1, last}) --grid[d];
  grid = block(grid);
  for (int d : {last - 1, last}) ++grid[d];
  const Extents strides = random_strides(random, grid);
  Bytes scales = random_memory(random, grid, strides, scale_dtype);
  std::vector<std::int64_t> found(static_cast<std::size_t>(product(box.extent) / box.extent[last]), 5);
  std::vector<std::int64_t> expected = found;
  for_each_index(box.extent, [&](const Extents& index, std::int64_t linear) {
    const std::uint64_t stored = read_bits(scales.data(), offset_of(block(index), strides), scale_dtype);
    const float value = float_of_e4m3(bytes.bits(index)) * float_of_scale(stored, scale_dtype);
    expected[static_cast<std::size_t>(linear / box.extent[last])] +=
        fix(value) * sign(77, box.lower[last] + index[last]);
  });
  const ExecutionSpace space;
  signed_row_sums(space, bytes.region, {scales.data(), scale_dtype, strides, rows, columns}, 77, found.data());
  ASSERT_EQ(found, expected) << name(scale_dtype) << to_string(box) << rows << "x" << columns;
}

TEST(SignedRowSums, BytesWithScales) {
  Random random(14);
  for (int i = 0; i < 400; ++i) {
    check_scaled_sums(random, DType::f32, std::int64_t{1} << pick(random, 0, 7), std::int64_t{1} << pick(random, 0, 7));
    check_scaled_sums(random, DType::u8, 1, 32);
  }
}

/// The place, in a castable type, of the lowest bit of BF16's digits.
int lowest_of_bf16(DType dtype) {
  constexpr int kDigits = 7;
  return (dtype == DType::f32 ? 23 : dtype == DType::f16 ? 10 : kDigits) - kDigits;
}

TEST(Perturb, ChangesWhatTheHeaderSays) {
  Random random(8);
  const ExecutionSpace space;
  // Rows that follow each other, and boxes whose rows do so in storage or in the tensor only.
  const std::pair<Shape, Box> whole_rows[] = {{{37, 577}, Box::whole({37, 577})},
                                              {{1027}, Box::whole({1027})},
                                              {{9, 7, 5, 33}, {{2, 1, 0, 0}, {4, 3, 5, 33}}},
                                              {{70, 300}, {{1, 11}, {69, 264}}}};
  for (DType dtype : kAllTypes) {
    for (int i = 0; i < 24; ++i) {
      Stored stored = i < 20 ? random_stored(random, dtype)
                             : store_box(random, whole_rows[i - 20].first, whole_rows[i - 20].second,
                                         row_major_strides(whole_rows[i - 20].second.extent), dtype);
      if (i % 4 == 0 && is_castable(dtype)) {
        write_bits(stored.memory.data(), 0, dtype, i % 8 == 0 ? 0x7F800000U >> (dtype == DType::f32 ? 0 : 16) : ~0U);
      }
      Bytes expected = stored.memory;
      for_each_index(stored.region.box.extent, [&](const Extents& index, std::int64_t) {
        std::uint64_t bits = stored.bits(index);
        const std::uint64_t mask = perturbation(42, stored.global(index), 3);
        if (is_changed(bits, dtype)) bits ^= is_castable(dtype) ? mask << lowest_of_bf16(dtype) : 1U;
        write_bits(expected.data(), stored.element(index), dtype, bits);
      });
      perturb(space, stored.region, 42, 3);
      space.fence();
      ASSERT_EQ(stored.memory, expected) << name(dtype);
    }
  }
}

/// A fraction of the elements changes, chosen by their place in the tensor: as they all would.
TEST(Perturb, AFractionOfEveryType) {
  Random random(8);
  const ExecutionSpace space;
  for (const DType dtype : kAllTypes) {
    for (const double fraction : {0.0, 0.025, 0.5, 0.999}) {
      Stored stored = random_stored(random, dtype);
      Bytes all = stored.memory;
      Region region = stored.region;
      region.data = all.data() + (stored.region.data - stored.memory.data());
      perturb(space, region, 42, 3);
      space.fence();
      Bytes expected = stored.memory;
      for_each_index(stored.region.box.extent, [&](const Extents& index, std::int64_t) {
        const std::int64_t element = stored.element(index);
        if (is_perturbed(combine(42, 3), stored.global(index), perturbation_bound(fraction)))
          write_bits(expected.data(), element, dtype, read_bits(all.data(), element, dtype));
      });
      perturb(space, stored.region, 42, 3, fraction);
      space.fence();
      ASSERT_EQ(stored.memory, expected) << name(dtype) << " " << fraction;
    }
  }
}

TEST(Perturb, TheFractionIsMet) {
  const ExecutionSpace space;
  constexpr std::int64_t kCount = 1'000'000;
  for (const double fraction : {0.0, 1e-4, 0.025, 0.3, 1.0}) {
    Bytes memory(2 * kCount);
    perturb(space, {memory.data(), DType::bf16, Box::whole({kCount}), {kCount}, {1}}, 42, 3, fraction);
    space.fence();
    std::int64_t changed = 0;
    for (std::int64_t i = 0; i < kCount; ++i) changed += read_bits(memory.data(), i, DType::bf16) != 0 ? 1 : 0;
    EXPECT_NEAR(static_cast<double>(changed) / kCount, fraction, 5 * std::sqrt(fraction * (1 - fraction) / kCount));
  }
}

TEST(Perturb, EveryByte) {
  const ExecutionSpace space;
  for (DType dtype : {DType::f8_e4m3, DType::f8_e8m0, DType::u8, DType::i8}) {
    Bytes memory(256);
    for (std::size_t i = 0; i < 256; ++i) memory[i] = static_cast<std::byte>(i);
    perturb(space, {memory.data(), dtype, Box::whole({256}), {256}, {1}}, 42, 3);
    space.fence();
    for (std::size_t i = 0; i < 256; ++i) {
      ASSERT_EQ(memory[i], static_cast<std::byte>(is_changed(i, dtype) ? i ^ 1U : i)) << name(dtype);
    }
  }
}

TEST(Fill, EveryTypeAndOnlyTheBox) {
  Random random(9);
  const ExecutionSpace space;
  const std::pair<DType, std::uint64_t> values[] = {{DType::f64, 0xBFF8000000000000ULL},
                                                    {DType::f32, 0xBFC00000U},
                                                    {DType::f16, 0xBE00U},
                                                    {DType::bf16, 0xBFC0U},
                                                    {DType::f8_e4m3, 0xBCU},
                                                    {DType::f8_e5m2, 0xBEU},
                                                    {DType::i64, ~1ULL},
                                                    {DType::i8, 0xFEU},
                                                    {DType::boolean, 1}};
  for (const auto& [dtype, bits] : values) {
    for (int i = 0; i < 10; ++i) {
      Stored stored = random_stored(random, dtype);
      Bytes expected = stored.memory;
      for_each_index(stored.region.box.extent, [&](const Extents& index, std::int64_t) {
        write_bits(expected.data(), stored.element(index), dtype, bits);
      });
      fill(space, stored.memory.data(), dtype, stored.region.box.extent, stored.region.strides, -1.5);
      space.fence();
      ASSERT_EQ(stored.memory, expected) << name(dtype);
    }
  }
}

TEST(Fill, RoundsOnce) {
  const ExecutionSpace space;
  Bytes memory(2);
  const auto filled = [&](DType dtype, double value) {
    fill(space, memory.data(), dtype, {}, {}, value);
    space.fence();
    return read_bits(memory.data(), 0, dtype);
  };
  // Just above the tie between 1 and the next BF16: through a float it would become the tie, and round down.
  EXPECT_EQ(filled(DType::bf16, 1.0 + 0x1p-8 + 0x1p-40), 0x3F81U);
  EXPECT_EQ(filled(DType::bf16, 1.0 + 0x1p-8), 0x3F80U);
  EXPECT_EQ(filled(DType::f16, 0x1p-25 + 0x1p-70), 0x0001U);
  EXPECT_EQ(filled(DType::f16, 65520.0), 0x7C00U);
}

TEST(Fill, ScalesHoldPowersOfTwoOnly) {
  const ExecutionSpace space;
  Bytes value(1);
  fill(space, value.data(), DType::f8_e8m0, {}, {}, 4.0);
  space.fence();
  EXPECT_EQ(value[0], std::byte{129});
  EXPECT_THROW(fill(space, value.data(), DType::f8_e8m0, {}, {}, 3.0), Error);
}

TEST(Poison, EveryFloatReadsNan) {
  const ExecutionSpace space;
  Bytes memory(1003, std::byte{0});
  poison(space, memory.data() + 1, 1001);
  space.fence();
  EXPECT_EQ(memory.front(), std::byte{0});
  EXPECT_EQ(memory.back(), std::byte{0});
  EXPECT_TRUE(std::all_of(memory.begin() + 1, memory.end() - 1, [](std::byte b) { return b == std::byte{kPoison}; }));
}

TEST(FlipBit, ChangesOneByte) {
  const ExecutionSpace space;
  Bytes memory(9, std::byte{0x30});
  flip_bit(space, memory.data() + 4);
  EXPECT_EQ(memory[4], std::byte{0x31});
  flip_bit(space, memory.data() + 4);
  EXPECT_EQ(memory, Bytes(9, std::byte{0x30}));
}

TEST(CountDifferences, CountsAndNamesTheFirst) {
  Random random(10);
  const ExecutionSpace space;
  for (DType dtype : kAllTypes) {
    for (int i = 0; i < 20; ++i) {
      const Stored stored = random_stored(random, dtype);
      const std::int64_t volume = stored.region.box.volume();
      Bytes expected(static_cast<std::size_t>(volume * byte_size(dtype)));
      for_each_index(stored.region.box.extent, [&](const Extents& index, std::int64_t linear) {
        write_bits(expected.data(), linear, dtype, stored.bits(index));
      });
      Difference found = count_differences(space, stored.region, expected.data());
      ASSERT_EQ(found.count, 0);
      ASSERT_EQ(found.first, -1);
      const std::int64_t first = pick(random, 0, volume - 1);
      expected[static_cast<std::size_t>(first * byte_size(dtype))] ^= std::byte{1};
      if (first != volume - 1) expected.back() ^= std::byte{0x80};
      found = count_differences(space, stored.region, expected.data());
      ASSERT_EQ(found.count, first == volume - 1 ? 1 : 2);
      ASSERT_EQ(found.first, first);
    }
  }
}

TEST(Synthesise, EqualBitsInAnyLayout) {
  Random random(11);
  const ExecutionSpace space;
  const Shape shape{40, 50, 60};
  for (DType dtype : kCastable) {
    Stored whole = store_box(random, shape, Box::whole(shape), row_major_strides(shape), dtype);
    synthesise(space, whole.region, 99, 0.25, 0.02);
    const Box box{{3, 7, 11}, {30, 20, 45}};
    Stored part = store_box(random, shape, box, {1, 33, 700}, dtype);
    synthesise(space, part.region, 99, 0.25, 0.02);
    space.fence();
    for_each_index(box.extent, [&](const Extents& index, std::int64_t) {
      Extents global = index;
      for (int d = 0; d < 3; ++d) global[d] += box.lower[d];
      ASSERT_EQ(part.bits(index), whole.bits(global));
    });
  }
}

TEST(Synthesise, MeanAndDeviation) {
  Random random(12);
  const ExecutionSpace space;
  Stored stored = store_box(random, {1000, 1000}, Box::whole({1000, 1000}), {1000, 1}, DType::f32);
  synthesise(space, stored.region, 1, 0.5, 0.1);
  space.fence();
  double sum = 0;
  double squares = 0;
  for (std::int64_t i = 0; i < 1000000; ++i) {
    const double value = float_of(read_bits(stored.memory.data(), i, DType::f32), DType::f32);
    sum += value;
    squares += (value - 0.5) * (value - 0.5);
    ASSERT_LT(std::abs(value - 0.5), 0.1 * 3.4642);
  }
  EXPECT_NEAR(sum / 1e6, 0.5, 5e-4);
  EXPECT_NEAR(std::sqrt(squares / 1e6), 0.1, 5e-4);
}

TEST(Synthesise, ShortTypesAreTheRoundedDouble) {
  // The double itself, from the words of the header: four 16-bit uniforms of variance 1/12 each, scaled to variance 1.
  const ExecutionSpace space;
  Random random(13);
  Stored f32 = store_box(random, {5000}, Box::whole({5000}), {1}, DType::f32);
  Stored bf16 = store_box(random, {5000}, Box::whole({5000}), {1}, DType::bf16);
  synthesise(space, f32.region, 5, 0.0, 1.0);
  synthesise(space, bf16.region, 5, 0.0, 1.0);
  space.fence();
  for (std::int64_t i = 0; i < 5000; ++i) {
    const std::uint64_t bits = combine(5, static_cast<std::uint64_t>(i));
    double sum = -2.0 * 65535;
    for (int part = 0; part < 4; ++part) sum += static_cast<double>((bits >> (16 * part)) & 0xFFFFU);
    const double value = sum * std::sqrt(3.0) / 65536;
    const double stored = float_of(f32.bits({i}), DType::f32);
    ASSERT_NEAR(stored, value, std::abs(value) * 1e-7);
    const double rounded = float_of(bf16.bits({i}), DType::bf16);
    ASSERT_LE(std::abs(rounded - value), std::ldexp(1.0000001, std::ilogb(value) - 8)) << i;
  }
}

TEST(Synthesise, BytesAreWhatTheHeaderSays) {
  const ExecutionSpace space;
  Random random(16);
  constexpr std::int64_t kCount = 100000;
  const auto synthetic = [&](DType dtype, double mean, double scale) {
    Stored stored = store_box(random, {kCount}, Box::whole({kCount}), {1}, dtype);
    synthesise(space, stored.region, 6, mean, scale);
    space.fence();
    return stored;
  };
  const Stored values = synthetic(DType::f32, 120, 3);
  const Stored scales = synthetic(DType::u8, 120, 3);
  const Stored wide = synthetic(DType::f32, 0, 200);
  const Stored e4m3 = synthetic(DType::f8_e4m3, 0, 200);
  for (std::int64_t i = 0; i < kCount; ++i) {
    ASSERT_NEAR(static_cast<double>(scales.bits({i})), float_of(values.bits({i}), DType::f32), 0.50001);
    const float value = float_of(wide.bits({i}), DType::f32);
    ASSERT_EQ(e4m3.bits({i}), e4m3_from_f32(value)) << value;
  }
  EXPECT_EQ(synthetic(DType::f8_e8m0, 120, 3).memory, scales.memory);
}

}  // namespace
}  // namespace refit::kernels
