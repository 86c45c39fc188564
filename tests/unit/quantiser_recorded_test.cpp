// Quantisers and casts against what the implementations themselves made (tests/data/README.md), bit for bit.
//
// REFIT_QUANTISERS names a folder with all that was recorded; without it the part that the repository holds is read.

#include <gtest/gtest.h>

#include "unit/quantiser_blocks.hpp"
#include "unit/recorded_tensors.hpp"

namespace refit {
namespace {

using quantiser_test::Matrix;
using quantiser_test::Quantised;

/// One safetensors file of the record.
class Recorded : public RecordedTensors {
 public:
  explicit Recorded(const std::string& name)
      : RecordedTensors(recorded_folder("REFIT_QUANTISERS", REFIT_RECORDED_QUANTISERS), name) {}
};

struct Implementation {
  Quantiser quantiser;
  const char* file;
  int inputs;  ///< at least; MX has none with columns that are no multiple of 32
};

constexpr Implementation kImplementations[] = {
    {Quantiser::nemo_rl, "nemo_rl_block", 33},    {Quantiser::nemo_rl_pow2, "nemo_rl_block_pow2", 33},
    {Quantiser::te, "te_reference", 33},          {Quantiser::te_pow2, "te_reference_pow2", 33},
    {Quantiser::vllm, "vllm_per_block_cast", 33}, {Quantiser::vllm_ue8m0, "vllm_per_block_cast_ue8m0", 33},
    {Quantiser::mxfp8, "vllm_mxfp8", 23},         {Quantiser::mxfp8_nemo_rl, "nemo_rl_mxfp8", 23}};

class RecordedQuantiser : public testing::TestWithParam<Implementation> {};

TEST_P(RecordedQuantiser, BytesAndScalesOfEveryInput) {
  const auto [quantiser, file, least] = GetParam();
  const Recorded inputs("inputs");
  const Recorded outputs(file);
  int compared = 0;
  for (const checkpoint::Entry& entry : inputs.entries()) {
    const model::TensorInfo& info = entry.info;
    const Matrix matrix{info.dtype, info.shape[0], info.shape[1], info.shape[1], inputs.data<std::byte>(info.name)};
    if (is_mx(quantiser) && matrix.columns % block_size(quantiser).columns != 0) continue;
    const Quantised expected{outputs.data<std::uint8_t>(info.name + ".q"), outputs.data<std::byte>(info.name + ".s")};
    expect_same(by_reference(quantiser, matrix), expected, info.name + ", the reference");
    expect_same(by_steps(quantiser, matrix), expected, info.name + ", the steps");
    ++compared;
  }
  EXPECT_GE(compared, least);
}

INSTANTIATE_TEST_SUITE_P(Names, RecordedQuantiser, testing::ValuesIn(kImplementations),
                         [](const auto& test) { return std::string(name(test.param.quantiser)); });

TEST(RecordedCasts, EveryBf16) {
  const auto expected = Recorded("casts").data<std::uint8_t>("torch_e4m3fn.all.bf16");
  ASSERT_EQ(expected.size(), 65536U);
  for (std::uint32_t bits = 0; bits < 65536U; ++bits) {
    ASSERT_EQ(kernels::e4m3_from_f32(std::bit_cast<float>(bits << 16)), expected[bits]) << std::hex << bits;
  }
}

TEST(RecordedCasts, Float32AroundEveryTie) {
  const auto values = Recorded("cast_inputs").data<float>("e4m3.f32");
  const auto expected = Recorded("casts").data<std::uint8_t>("torch_e4m3fn.e4m3.f32");
  ASSERT_EQ(values.size(), expected.size());
  ASSERT_GT(values.size(), 5000U);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(kernels::e4m3_from_f32(values[i]), expected[i]) << std::hexfloat << values[i];
  }
}

TEST(RecordedCasts, EveryByteDecoded) {
  const auto expected = Recorded("casts").data<std::uint32_t>("torch_decode.e4m3fn");
  ASSERT_EQ(expected.size(), 256U);
  for (std::uint32_t byte = 0; byte < 256U; ++byte) {
    const float value = kernels::f32_from_e4m3(static_cast<std::uint8_t>(byte));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(value), expected[byte]) << byte;
    ASSERT_EQ(kernels::e4m3_from_f32(value), byte);
  }
}

}  // namespace
}  // namespace refit
