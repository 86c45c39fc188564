// The inline functions of the quantised formats against the reference on random blocks, and what they are made of.
//
// REFIT_FORMAT_BLOCKS is the number of blocks for each quantiser.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>

#include "unit/formats_blocks.hpp"
#include "unit/quantiser_values.hpp"

namespace refit {
namespace {

using namespace formats_test;
using quantiser_test::Random;

TEST(Words, ThereAndBack) {
  EXPECT_EQ(name(StoredFormat::int4_asym), "int4_asym");
  EXPECT_EQ(parse_choice<StoredFormat>("awq"), StoredFormat::awq);
  EXPECT_EQ(name(Library::vllm_ue8m0), "vllm_ue8m0");
  EXPECT_EQ(parse_choice<Library>("torchao_even"), Library::torchao_even);
  EXPECT_EQ(parse_choice<Library>("fp8"), std::nullopt);
}

TEST(Words, EveryFormatHasALibraryAndEveryLibraryAFormat) {
  std::set<Library> used;
  EXPECT_TRUE(libraries(StoredFormat::unquantised).empty());
  for (std::size_t i = 1; i < choices(StoredFormat{}).size(); ++i) {
    const auto of_format = libraries(static_cast<StoredFormat>(i));
    EXPECT_FALSE(of_format.empty()) << choices(StoredFormat{})[i];
    used.insert(of_format.begin(), of_format.end());
  }
  EXPECT_EQ(used.size(), choices(Library{}).size());
}

TEST(E2m1, EveryNibbleThereAndBack) {
  const float values[] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  for (std::uint8_t nibble = 0; nibble < 16; ++nibble) {
    const float value = kernels::f32_from_e2m1(nibble);
    EXPECT_EQ(value, nibble < 8 ? values[nibble] : -values[nibble - 8]);
    EXPECT_EQ(std::signbit(value), nibble >= 8);
    for (auto ties : {kernels::Ties::even, kernels::Ties::away, kernels::Ties::toward_zero}) {
      EXPECT_EQ(kernels::e2m1_from_f32(value, ties), nibble);
    }
  }
}

TEST(E2m1, TiesAndTheirNeighbours) {
  const float bounds[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F};
  const int even[] = {0, 2, 2, 4, 4, 6, 6};
  for (int i = 0; i < 7; ++i) {
    for (auto ties : {kernels::Ties::even, kernels::Ties::away, kernels::Ties::toward_zero}) {
      const int at = ties == kernels::Ties::even ? even[i] : ties == kernels::Ties::away ? i + 1 : i;
      EXPECT_EQ(kernels::e2m1_from_f32(bounds[i], ties), at) << bounds[i];
      EXPECT_EQ(kernels::e2m1_from_f32(-bounds[i], ties), at + 8) << bounds[i];
      EXPECT_EQ(kernels::e2m1_from_f32(std::nextafter(bounds[i], 0.0F), ties), i);
      EXPECT_EQ(kernels::e2m1_from_f32(std::nextafter(bounds[i], 8.0F), ties), i + 1);
    }
  }
  EXPECT_EQ(kernels::e2m1_from_f32(1e30F, kernels::Ties::even), 7);
  EXPECT_EQ(kernels::e2m1_from_f32(-INFINITY, kernels::Ties::toward_zero), 15);
  EXPECT_EQ(kernels::e2m1_from_f32(-0.0F, kernels::Ties::away), 8);
}

TEST(E2m1, TwoElementsAByte) {
  const std::uint8_t byte = kernels::packed_nibbles(3, 15);
  EXPECT_EQ(byte, 0xF3);
  EXPECT_EQ(kernels::nibble_of(byte, 6), 3);
  EXPECT_EQ(kernels::nibble_of(byte, 7), 15);
}

TEST(Examples, OfTheHeaders) {
  const float tensor = kernels::nvfp4_tensor_scale(Library::modelopt, 2688.0F, DType::bf16);
  const std::uint8_t byte = kernels::nvfp4_block_scale(Library::modelopt, 12.0F, tensor, DType::bf16);
  const kernels::Scaling by_block = kernels::nvfp4_scaling(Library::modelopt, byte, tensor);
  EXPECT_EQ(tensor, 1.0F);
  EXPECT_EQ(byte, 0x40);
  EXPECT_EQ(kernels::nvfp4_nibble(Library::modelopt, 12.0F, by_block, DType::bf16), 7);
  const kernels::Scaling by_exponent = kernels::mxfp4_scaling(Library::triton, 5.0F);
  EXPECT_EQ(by_exponent.byte, 127);
  EXPECT_EQ(kernels::mxfp4_nibble(Library::triton, 5.0F, by_exponent, DType::bf16), 7);
  const kernels::Scaling by_scale = kernels::fp8_scaling(Library::vllm, 3.0F, DType::bf16);
  EXPECT_EQ(by_scale.stored, 3.0F / 448.0F);
  EXPECT_EQ(kernels::fp8_byte(StoredFormat::fp8_tensor, Library::vllm, 1.0F, by_scale, DType::bf16), 0x71);
  const kernels::Int4Scaling by_group = kernels::int4_scaling(StoredFormat::gptq, -8.0F, 3.0F, DType::f32);
  EXPECT_EQ(by_group.scale, 1.0F);
  EXPECT_EQ(kernels::int4_nibble(StoredFormat::gptq, 3.0F, by_group, DType::f32), 11);
}

TEST(FloorLog2, BesideEveryPowerOfTwo) {
  for (std::uint32_t biased = 1; biased < 255U; ++biased) {
    for (std::uint32_t offset = 0; offset < 200U; ++offset) {
      const float value = std::bit_cast<float>((biased << 23) - 100U + offset);
      const auto rounded = static_cast<float>(std::log2(static_cast<double>(value)));
      const int expected = std::max(static_cast<int>(std::floor(rounded)), -128);
      ASSERT_EQ(kernels::floor_log2(value), expected) << std::hexfloat << value;
    }
  }
}

TEST(FloorLog2, Subnormals) {
  for (std::uint32_t bits = 1; bits < 0x00800000U; bits += 37U) {
    const float value = std::bit_cast<float>(bits);
    const auto rounded = static_cast<float>(std::log2(static_cast<double>(value)));
    ASSERT_EQ(kernels::floor_log2(value), std::max(static_cast<int>(std::floor(rounded)), -128)) << bits;
  }
}

TEST(Int4, PlacesOfNibbles) {
  const auto place = [](StoredFormat format, std::int64_t row, std::int64_t column) {
    const kernels::NibblePlace found = kernels::int4_place(format, row, column, 16, 32);
    return std::pair(found.word, found.index);
  };
  EXPECT_EQ(place(StoredFormat::int4, 3, 19), std::pair(std::int64_t{3 * 4 + 2}, 3));
  EXPECT_EQ(place(StoredFormat::gptq, 3, 19), std::pair(std::int64_t{2 * 16 + 3}, 3));
  EXPECT_EQ(place(StoredFormat::awq, 11, 19), std::pair(std::int64_t{19 * 2 + 1}, 5));
  EXPECT_EQ((kernels::NibblePlace{0, 5}.of(0x00B00000U)), 11U);
  EXPECT_EQ(kernels::stored_zero(StoredFormat::gptq, 8), 7U);
  EXPECT_EQ(kernels::zero_of_stored(StoredFormat::gptq, 7U), 8);
  EXPECT_EQ(kernels::zero_of_stored(StoredFormat::awq, 7U), 7);
}

/// A block's values share a magnitude; some blocks have special values in between, some are of a tensor with a larger
/// amax, or with one that makes scales powers of two, so that values are ties.
struct RandomBlock {
  std::vector<float> values;
  float tensor_amax = 0.0F;
};

float random_of(Random& random, int kind, int exponent, DType from) {
  const std::uint32_t bits = quantiser_test::random_value(random, kind, exponent);
  return kernels::rounded_to(from, std::bit_cast<float>(bits));
}

RandomBlock random_block(Random& random, std::size_t size, DType from, bool has_specials) {
  using namespace quantiser_test;
  const auto pick = [&random](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  RandomBlock block;
  block.values.resize(size);
  const int exponent = pick(0, 1) == 0 ? pick(-150, 127) : pick(-20, 10);
  const int usual = pick(kFirstUsual - 1, kKinds - 1);
  const bool special_here = has_specials && pick(0, 4) == 0;
  const int spread = pick(0, 12);
  for (float& value : block.values) {
    const bool special = pick(0, 49) == 0;
    const int kind = special ? (special_here ? pick(0, kFirstUsual - 1) : 0) : usual;
    value = random_of(random, kind, exponent - pick(0, spread), from);
  }
  const float amax = amax_of(block.values);
  const int choice = pick(0, 3);
  float tensor = amax;
  if (choice == 1) tensor = std::ldexp(2688.0F, std::clamp(exponent - pick(0, 20), -130, 116));
  if (choice == 2) tensor = std::fabs(random_of(random, kKinds - 1, exponent + pick(0, 24), from));
  tensor = kernels::rounded_to(from, tensor);
  block.tensor_amax = tensor < amax || amax != amax ? amax : tensor;
  return block;
}

std::size_t blocks_of_each() {
  const char* wanted = std::getenv("REFIT_FORMAT_BLOCKS");
  return wanted ? static_cast<std::size_t>(std::atoll(wanted)) : 100000U;
}

std::size_t block_elements(StoredFormat format, Random& random) {
  if (format == StoredFormat::nvfp4) return 16;
  if (format == StoredFormat::mxfp4) return 32;
  return 1 + random() % 32;
}

std::vector<DType> dtypes(StoredFormat format, Library library) {
  const bool has_no_f16 = format == StoredFormat::mxfp4 && library == Library::compressed_tensors;
  if (has_no_f16) return {DType::f32, DType::bf16};
  return {DType::f32, DType::bf16, DType::f16};
}

struct Case {
  StoredFormat format;
  Library library;
};

std::vector<Case> cases() {
  std::vector<Case> result;
  for (StoredFormat format : kFormats) {
    for (Library library : libraries(format)) result.push_back({format, library});
  }
  return result;
}

std::string case_name(const Case& of) { return fmt::format("{}_{}", name(of.format), name(of.library)); }

class RandomBlocks : public testing::TestWithParam<Case> {};

TEST_P(RandomBlocks, EqualTheReference) {
  const auto [format, library] = GetParam();
  Random random(17);
  const std::vector<DType> from = dtypes(format, library);
  for (std::size_t i = 0; i < blocks_of_each(); ++i) {
    const DType dtype = from[random() % from.size()];
    // What vLLM's integers are of infinity and NaN is left to the machine.
    const bool has_specials = format != StoredFormat::gptq && format != StoredFormat::awq;
    const RandomBlock drawn = random_block(random, block_elements(format, random), dtype, has_specials);
    const Block block{format, library, dtype, drawn.tensor_amax, drawn.values};
    const std::string found = difference(block, by_steps(block), format_reference::quantised(block));
    ASSERT_EQ(found, "") << "block " << i << " of " << name(dtype) << ", tensor's amax " << block.tensor_amax;
  }
}

INSTANTIATE_TEST_SUITE_P(Names, RandomBlocks, testing::ValuesIn(cases()),
                         [](const auto& test) { return case_name(test.param); });

}  // namespace
}  // namespace refit
