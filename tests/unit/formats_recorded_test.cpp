// The quantised formats against what the libraries themselves made (tests/data/README.md), byte for byte.
//
// REFIT_FORMATS names a folder with all that was recorded; without it the part that the repository holds is read.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/formats_blocks.hpp"
#include "unit/recorded_tensors.hpp"

namespace refit {
namespace {

using namespace formats_test;

/// One safetensors file of the record.
class Recorded : public RecordedTensors {
 public:
  explicit Recorded(const std::string& name)
      : RecordedTensors(recorded_folder("REFIT_FORMATS", REFIT_RECORDED_FORMATS), name) {}
};

struct Matrix {
  DType dtype = DType::f32;
  std::int64_t rows = 0, columns = 0;
  std::vector<float> values;

  float at(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
};

Matrix matrix_of(const Recorded& file, const model::TensorInfo& info) {
  return {info.dtype, info.shape[0], info.shape[1], file.floats(info.name)};
}

/// What is stored of a matrix: an element a value, row-major, and block after block in row-major order.
struct Stored {
  std::vector<std::uint8_t> elements = {};
  std::vector<float> scales = {};
  std::vector<std::uint8_t> bytes = {};
  std::vector<int> zeros = {};
  float tensor = 0.0F;
};

using ByBlock = Quantised (*)(const Block&);

/// A block whose columns end with the matrix.
struct Window {
  std::int64_t top = 0, left = 0, bottom = 0, right = 0;
};

void quantise_window(const Matrix& matrix, const Window& window, Block block, ByBlock by_block, Stored& stored) {
  std::vector<float> values;
  for (std::int64_t r = window.top; r < window.bottom; ++r) {
    for (std::int64_t c = window.left; c < window.right; ++c) values.push_back(matrix.at(r, c));
  }
  block.values = values;
  const Quantised quantised = by_block(block);
  std::size_t next = 0;
  for (std::int64_t r = window.top; r < window.bottom; ++r) {
    for (std::int64_t c = window.left; c < window.right; ++c) {
      stored.elements[static_cast<std::size_t>(r * matrix.columns + c)] = quantised.elements[next++];
    }
  }
  stored.tensor = quantised.tensor;
  stored.scales.push_back(quantised.scale);
  stored.bytes.push_back(quantised.byte);
  stored.zeros.push_back(quantised.zero);
}

Stored quantised(const Matrix& matrix, StoredFormat format, Library library, ByBlock by_block) {
  const BlockSize size = block_size(format, library);
  Stored stored;
  stored.elements.resize(matrix.values.size());
  const Block block{format, library, matrix.dtype, amax_of(matrix.values), {}};
  for (std::int64_t top = 0; top < matrix.rows; top += size.rows) {
    for (std::int64_t left = 0; left < matrix.columns; left += size.columns) {
      const Window window{top, left, std::min(top + size.rows, matrix.rows),
                          std::min(left + size.columns, matrix.columns)};
      quantise_window(matrix, window, block, by_block, stored);
    }
  }
  return stored;
}

struct Implementation {
  StoredFormat format;
  Library library;
  const char* file;
  int inputs;  ///< at least
};

std::vector<Implementation> implementations() {
  using enum Library;
  using enum StoredFormat;
  return {{nvfp4, compressed_tensors, "nvfp4_compressed_tensors", 30},
          {nvfp4, flashinfer, "nvfp4_flashinfer_reference", 30},
          {nvfp4, modelopt, "nvfp4_modelopt", 30},
          {nvfp4, te, "nvfp4_te_reference", 30},
          {nvfp4, te_16x16, "nvfp4_te_reference_2d", 10},
          {nvfp4, torchao, "nvfp4_torchao", 30},
          {nvfp4, vllm, "nvfp4_vllm_ref", 30},
          {mxfp4, compressed_tensors, "mxfp4_compressed_tensors", 30},
          {mxfp4, flashinfer, "mxfp4_flashinfer_reference", 30},
          {mxfp4, modelopt, "mxfp4_modelopt", 30},
          {mxfp4, torchao_floor, "mxfp4_torchao_floor", 30},
          {mxfp4, torchao_ceil, "mxfp4_torchao_ceil", 30},
          {mxfp4, torchao_even, "mxfp4_torchao_even", 30},
          {mxfp4, torchao_rceil, "mxfp4_torchao_rceil", 30},
          {mxfp4, triton, "mxfp4_triton_kernels", 30},
          {mxfp4, triton_round_down, "mxfp4_triton_kernels_rounddown", 30},
          {fp8_tensor, compressed_tensors, "fp8_tensor_compressed_tensors", 30},
          {fp8_tensor, modelopt, "fp8_tensor_modelopt_export", 30},
          {fp8_tensor, modelopt_qtensor, "fp8_tensor_modelopt", 30},
          {fp8_tensor, torchao, "fp8_tensor_torchao", 30},
          {fp8_tensor, vllm, "fp8_tensor_vllm", 30},
          {fp8_channel, compressed_tensors, "fp8_channel_compressed_tensors", 30},
          {fp8_channel, modelopt, "fp8_channel_modelopt_export", 30},
          {fp8_channel, torchao, "fp8_channel_torchao", 30},
          {fp8_channel, vllm, "fp8_channel_vllm", 30}};
}

/// Returns the elements of rows that may be stored with padding behind them.
std::vector<std::uint8_t> unpacked(const std::vector<std::uint8_t>& bytes, const Matrix& matrix, StoredFormat format) {
  if (element_bits(format) == 8) return bytes;
  const std::int64_t row_bytes = static_cast<std::int64_t>(bytes.size()) / matrix.rows;
  std::vector<std::uint8_t> elements;
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.columns; ++c) {
      const std::uint8_t byte = bytes[static_cast<std::size_t>(r * row_bytes + c / 2)];
      elements.push_back(kernels::nibble_of(byte, c));
    }
    // A last nibble of padding, and whole bytes of it.
    for (std::int64_t b = (matrix.columns + 1) / 2; b < row_bytes; ++b) {
      EXPECT_EQ(bytes[static_cast<std::size_t>(r * row_bytes + b)], 0) << "padding of row " << r;
    }
  }
  return elements;
}

/// The index of an element's block among the recorded scales.
std::size_t block_of(const Matrix& matrix, const BlockSize& size, std::size_t element) {
  const auto row = static_cast<std::int64_t>(element) / matrix.columns;
  const auto column = static_cast<std::int64_t>(element) % matrix.columns;
  const std::int64_t across = (matrix.columns + size.columns - 1) / size.columns;
  return static_cast<std::size_t>(row / size.rows * across + column / size.columns);
}

/// A library's bits of what NaN values make are what its last instruction left; they are compared as NaN.
bool same_byte(StoredFormat format, std::uint8_t found, std::uint8_t expected, bool of_nan) {
  const bool is_e4m3 = format != StoredFormat::mxfp4;
  return found == expected || (of_nan && is_e4m3 && (found & 0x7FU) == 0x7FU && (expected & 0x7FU) == 0x7FU);
}

/// Says for each block whether a NaN takes part in its scale.
std::vector<bool> blocks_of_nan(const Matrix& matrix, const BlockSize& size, std::size_t blocks, bool by_tensor) {
  const bool anywhere = std::isnan(amax_of(matrix.values));
  std::vector<bool> result(blocks, by_tensor && anywhere);
  for (std::size_t i = 0; i < matrix.values.size(); ++i) {
    if (std::isnan(matrix.values[i])) result[block_of(matrix, size, i)] = true;
  }
  return result;
}

/// Compares everything that is stored of a matrix.
void expect_recorded(const Stored& found, const Recorded& outputs, const std::string& input, const Matrix& matrix,
                     StoredFormat format, Library library) {
  const BlockSize size = block_size(format, library);
  const std::vector<bool> of_nan = blocks_of_nan(matrix, size, found.bytes.size(), format == StoredFormat::nvfp4);
  const auto elements = unpacked(outputs.data<std::uint8_t>(input + ".q"), matrix, format);
  ASSERT_EQ(found.elements.size(), elements.size());
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const bool is_nan = of_nan[block_of(matrix, size, i)];
    if (is_nan && element_bits(format) == 4) continue;
    ASSERT_TRUE(same_byte(format, found.elements[i], elements[i], is_nan))
        << "element " << i
        << fmt::format(" ({:a}): {:#x}, not {:#x}", matrix.values[i], found.elements[i], elements[i]);
  }
  if (element_bits(format) == 8) {
    const std::vector<float> scales = outputs.floats(input + ".s");
    ASSERT_EQ(found.scales.size(), scales.size());
    for (std::size_t i = 0; i < scales.size(); ++i) ASSERT_TRUE(same(found.scales[i], scales[i])) << "scale " << i;
    return;
  }
  if (format == StoredFormat::nvfp4) {
    ASSERT_TRUE(same(found.tensor, outputs.floats(input + ".g").at(0))) << "the tensor's scale";
  }
  // A block of 16 rows has its scale in each of them.
  const auto bytes = outputs.data<std::uint8_t>(input + ".s");
  const std::size_t across = bytes.size() / static_cast<std::size_t>(matrix.rows);
  ASSERT_EQ(found.bytes.size() * static_cast<std::size_t>(size.rows), bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::size_t block = i / across / static_cast<std::size_t>(size.rows) * across + i % across;
    ASSERT_TRUE(same_byte(format, found.bytes[block], bytes[i], of_nan[block]))
        << "scale " << i << fmt::format(": {:#x}, not {:#x}", found.bytes[block], bytes[i]);
  }
}

class RecordedFormat : public testing::TestWithParam<Implementation> {};

TEST_P(RecordedFormat, ElementsAndScalesOfEveryInput) {
  const auto [format, library, file, least] = GetParam();
  const Recorded inputs("inputs");
  const Recorded outputs(file);
  int compared = 0;
  for (const checkpoint::Entry& entry : inputs.entries()) {
    const std::string& input = entry.info.name;
    if (!outputs.has(input + ".q")) continue;
    const Matrix matrix = matrix_of(inputs, entry.info);
    for (ByBlock by_block : {&by_steps, &format_reference::quantised}) {
      SCOPED_TRACE(input + (by_block == &by_steps ? ", the steps" : ", the reference"));
      expect_recorded(quantised(matrix, format, library, by_block), outputs, input, matrix, format, library);
      if (HasFatalFailure()) return;
    }
    ++compared;
  }
  EXPECT_GE(compared, least);
}

INSTANTIATE_TEST_SUITE_P(Names, RecordedFormat, testing::ValuesIn(implementations()), [](const auto& test) {
  return fmt::format("{}_{}", name(test.param.format), name(test.param.library));
});

/// vLLM's with a tensor's scale of 1, which is given and not computed.
Quantised vllm_with_1(const Block& block) {
  Quantised result{.tensor = 1.0F};
  result.byte = kernels::nvfp4_block_scale(Library::vllm, amax_of(block.values), 1.0F, block.from);
  const kernels::Scaling by = kernels::nvfp4_scaling(Library::vllm, result.byte, 1.0F);
  for (float value : block.values) {
    result.elements.push_back(kernels::nvfp4_nibble(Library::vllm, value, by, block.from));
  }
  return result;
}

TEST(RecordedNvfp4, AGivenTensorScale) {
  const Recorded inputs("inputs");
  const Recorded outputs("nvfp4_vllm_ref_g1");
  int compared = 0;
  for (const checkpoint::Entry& entry : inputs.entries()) {
    if (!outputs.has(entry.info.name + ".q")) continue;
    SCOPED_TRACE(entry.info.name);
    const Matrix matrix = matrix_of(inputs, entry.info);
    const Stored found = quantised(matrix, StoredFormat::nvfp4, Library::vllm, &vllm_with_1);
    expect_recorded(found, outputs, entry.info.name, matrix, StoredFormat::nvfp4, Library::vllm);
    ++compared;
  }
  EXPECT_GE(compared, 8);
}

// INT4

/// Nibbles at their places in int32 words.
std::uint32_t nibble_at(const std::vector<std::uint32_t>& words, const kernels::NibblePlace& place) {
  return place.of(words.at(static_cast<std::size_t>(place.word)));
}

void expect_recorded_int4(const Stored& found, const Recorded& outputs, const std::string& input, const Matrix& matrix,
                          StoredFormat format) {
  const std::int64_t groups = (matrix.columns + 127) / 128;
  const auto words = outputs.data<std::uint32_t>(input + ".q");
  const std::vector<float> scales = outputs.floats(input + ".s");
  const std::vector<float> values = outputs.floats(input + ".dq");
  ASSERT_EQ(found.scales.size(), scales.size());
  for (std::size_t i = 0; i < scales.size(); ++i) ASSERT_TRUE(same(found.scales[i], scales[i])) << "scale " << i;
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.columns; ++c) {
      const auto element = static_cast<std::size_t>(r * matrix.columns + c);
      const auto group = static_cast<std::size_t>(r * groups + c / 128);
      const std::uint32_t nibble = nibble_at(words, kernels::int4_place(format, r, c, matrix.rows, matrix.columns));
      ASSERT_EQ(found.elements[element], nibble)
          << "row " << r << " column " << c << fmt::format(" {:a} / {:a}", matrix.at(r, c), scales[group]);
      const float value = kernels::int4_value(nibble, found.zeros[group], scales[group]);
      ASSERT_TRUE(same(kernels::rounded_to(matrix.dtype, value), values[element])) << "value " << element;
    }
  }
  if (format == StoredFormat::int4) return;
  const auto zeros = outputs.data<std::uint32_t>(input + ".z");
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto place = kernels::int4_zero_place(format, r, g, matrix.rows, groups);
      const int zero = kernels::zero_of_stored(format, nibble_at(zeros, place));
      ASSERT_EQ(found.zeros[static_cast<std::size_t>(r * groups + g)], zero) << "zero point of row " << r;
    }
  }
}

class RecordedInt4 : public testing::TestWithParam<Implementation> {};

TEST_P(RecordedInt4, WordsScalesAndValues) {
  const auto [format, library, file, least] = GetParam();
  const Recorded inputs("inputs");
  const Recorded outputs(file);
  int compared = 0;
  for (const checkpoint::Entry& entry : inputs.entries()) {
    const std::string& input = entry.info.name;
    if (!outputs.has(input + ".q")) continue;
    const Matrix matrix = matrix_of(inputs, entry.info);
    for (ByBlock by_block : {&by_steps, &format_reference::quantised}) {
      SCOPED_TRACE(input + (by_block == &by_steps ? ", the steps" : ", the reference"));
      expect_recorded_int4(quantised(matrix, format, library, by_block), outputs, input, matrix, format);
      if (HasFatalFailure()) return;
    }
    ++compared;
  }
  EXPECT_GE(compared, least);
}

INSTANTIATE_TEST_SUITE_P(Names, RecordedInt4,
                         testing::Values(Implementation{StoredFormat::int4, Library::compressed_tensors,
                                                        "int4_g128_compressed_tensors", 20},
                                         Implementation{StoredFormat::int4_asym, Library::compressed_tensors,
                                                        "int4_g128_compressed_tensors_asym", 20}),
                         [](const auto& test) { return std::string(name(test.param.format)); });

/// vLLM's quantize_weights has weights [K, N].
Matrix transposed(const std::vector<float>& values, std::int64_t rows, std::int64_t columns) {
  Matrix matrix{DType::f32, rows, columns, std::vector<float>(values.size())};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      matrix.values[static_cast<std::size_t>(r * columns + c)] = values[static_cast<std::size_t>(c * rows + r)];
    }
  }
  return matrix;
}

/// Compares words, scales [groups, rows] and zero points with those of a record.
void expect_vllm_int4(const Stored& found, const Matrix& matrix, StoredFormat format, const Recorded& record) {
  const std::string prefix(name(format));
  const std::int64_t groups = matrix.columns / 128;
  const auto words = record.data<std::uint32_t>(prefix + ".qweight");
  const std::vector<float> scales = record.floats(prefix + ".scales");
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.columns; ++c) {
      const auto element = static_cast<std::size_t>(r * matrix.columns + c);
      const auto group = static_cast<std::size_t>(r * groups + c / 128);
      ASSERT_TRUE(same(found.scales[group], scales[static_cast<std::size_t>(c / 128 * matrix.rows + r)]))
          << r << " " << c;
      const std::uint32_t nibble = nibble_at(words, kernels::int4_place(format, r, c, matrix.rows, matrix.columns));
      ASSERT_EQ(found.elements[element], nibble) << r << " " << c;
    }
  }
  if (!record.has(prefix + ".qzeros")) return;
  const auto zeros = record.data<std::uint32_t>(prefix + ".qzeros");
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto place = kernels::int4_zero_place(format, r, g, matrix.rows, groups);
      const int zero = kernels::zero_of_stored(format, nibble_at(zeros, place));
      ASSERT_EQ(found.zeros[static_cast<std::size_t>(r * groups + g)], zero) << "zero point of row " << r;
    }
  }
}

class RecordedVllmInt4 : public testing::TestWithParam<StoredFormat> {};

TEST_P(RecordedVllmInt4, WordsScalesAndValues) {
  const Recorded record("int4_pack");
  const Matrix matrix = transposed(record.data<float>("w"), 64, 256);
  for (ByBlock by_block : {&by_steps, &format_reference::quantised}) {
    const Stored found = quantised(matrix, GetParam(), Library::vllm, by_block);
    expect_vllm_int4(found, matrix, GetParam(), record);
    const auto values = record.data<float>(std::string(name(GetParam())) + ".ref");
    for (std::int64_t r = 0; r < matrix.rows; ++r) {
      for (std::int64_t c = 0; c < matrix.columns; ++c) {
        const auto element = static_cast<std::size_t>(r * matrix.columns + c);
        const auto group = static_cast<std::size_t>(r * 2 + c / 128);
        const float value = kernels::int4_value(found.elements[element], found.zeros[group], found.scales[group]);
        ASSERT_TRUE(same(value, values[static_cast<std::size_t>(c * matrix.rows + r)])) << r << " " << c;
      }
    }
  }
}

TEST_P(RecordedVllmInt4, OfAFloat16Weight) {
  const Recorded record("int4_float16");
  Matrix matrix{DType::f16, 128, 256, record.floats("w")};
  for (float& value : matrix.values) value = kernels::rounded_to(DType::f16, value);
  for (ByBlock by_block : {&by_steps, &format_reference::quantised}) {
    expect_vllm_int4(quantised(matrix, GetParam(), Library::vllm, by_block), matrix, GetParam(), record);
  }
}

INSTANTIATE_TEST_SUITE_P(Names, RecordedVllmInt4, testing::Values(StoredFormat::gptq, StoredFormat::awq),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST(RecordedInt4, ZerosOfAwqAndWhatBecomesOfThemInGptq) {
  constexpr std::int64_t kRows = 64, kGroups = 2;
  const Recorded record("int4_pack");
  const auto zeros = record.data<std::uint32_t>("awq.zeros");
  const auto awq = record.data<std::uint32_t>("awq.qzeros");
  const auto gptq = record.data<std::uint32_t>("awq.autoawq_to_gptq_qzeros");
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t g = 0; g < kGroups; ++g) {
      const std::uint32_t zero = zeros[static_cast<std::size_t>(g * kRows + r)];
      const auto in_awq = kernels::int4_zero_place(StoredFormat::awq, r, g, kRows, kGroups);
      const auto in_gptq = kernels::int4_zero_place(StoredFormat::gptq, r, g, kRows, kGroups);
      EXPECT_EQ(nibble_at(awq, in_awq), kernels::stored_zero(StoredFormat::awq, static_cast<int>(zero)));
      EXPECT_EQ(nibble_at(gptq, in_gptq), kernels::stored_zero(StoredFormat::gptq, static_cast<int>(zero)));
    }
  }
}

TEST(RecordedInt4, AwqsNibblesInGptqsWords) {
  constexpr std::int64_t kRows = 64, kColumns = 256;
  const Recorded record("int4_pack");
  const auto awq = record.data<std::uint32_t>("awq.qweight");
  const auto gptq = record.data<std::uint32_t>("awq.autoawq_to_gptq_qweight");
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kColumns; ++c) {
      ASSERT_EQ(nibble_at(awq, kernels::int4_place(StoredFormat::awq, r, c, kRows, kColumns)),
                nibble_at(gptq, kernels::int4_place(StoredFormat::gptq, r, c, kRows, kColumns)));
    }
  }
}

// Values of what is stored

/// The values of what an NVFP4 library made of the input f32.normal.
std::vector<float> nvfp4_values(const std::string& file, kernels::TensorScale kind, float tensor) {
  const Recorded record(file);
  const auto elements = record.data<std::uint8_t>("f32.normal.q");
  const auto scales = record.data<std::uint8_t>("f32.normal.s");
  std::vector<float> values;
  for (std::size_t i = 0; i < elements.size() * 2; ++i) {
    const std::uint8_t nibble = kernels::nibble_of(elements[i / 2], static_cast<std::int64_t>(i));
    values.push_back(kernels::f32_from_e2m1(nibble) * kernels::nvfp4_factor(kind, scales[i / 16], tensor));
  }
  return values;
}

float tensor_of(const std::string& file) { return Recorded(file).floats("f32.normal.g").at(0); }

void expect_values(const std::vector<float>& found, const std::string& name, DType dtype) {
  const std::vector<float> expected = Recorded("decode").floats(name);
  ASSERT_EQ(found.size(), expected.size());
  ASSERT_GT(found.size(), 4000U);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(same(kernels::rounded_to(dtype, found[i]), expected[i])) << name << " " << i;
  }
}

TEST(RecordedValues, Nvfp4) {
  using enum kernels::TensorScale;
  std::vector<float> multiplied = nvfp4_values("nvfp4_modelopt", multiplier, tensor_of("nvfp4_modelopt"));
  for (float& value : multiplied) value += 0.0F;  // ModelOpt's table has no negative zero
  expect_values(multiplied, "nv.modelopt_f32", DType::f32);
  const float divided = tensor_of("nvfp4_compressed_tensors");
  expect_values(nvfp4_values("nvfp4_compressed_tensors", divisor, divided), "nv.ct_decompress", DType::bf16);
  // vLLM inverts the divisor after loading.
  const std::vector<float> inverted = nvfp4_values("nvfp4_compressed_tensors", multiplier, 1.0F / divided);
  expect_values(inverted, "nv.vllm_f32", DType::f32);
  expect_values(inverted, "nv.vllm_bf16", DType::bf16);
}

TEST(RecordedValues, RequantisedByVllm) {
  constexpr std::size_t kRows = 256, kColumns = 128;
  const Recorded record("requantised");
  const auto loaded = record.data<std::uint8_t>("loaded");
  const auto expected = record.data<std::uint8_t>("requantised");
  const std::vector<float> scales = record.floats("loaded.s");
  const float common = *std::max_element(scales.begin(), scales.end());
  ASSERT_EQ(scales.size(), 3U);
  ASSERT_EQ(record.floats("requantised.s"), std::vector<float>{common});
  for (std::size_t i = 0; i < kRows * kColumns; ++i) {
    const std::size_t row = i / kColumns;
    const std::size_t component = row < 128 ? 0 : row < 192 ? 1 : 2;  // q has twice the rows of k and of v
    const std::uint8_t byte = kernels::vllm_requantised(loaded[i], scales[component], common);
    ASSERT_EQ(byte, expected[i % kColumns * kRows + row]) << "row " << row << " column " << i % kColumns;
  }
}

TEST(RecordedValues, Mxfp4) {
  constexpr std::size_t kRows = 128, kColumns = 32;
  const Recorded record("decode");
  const auto blocks = record.data<std::uint8_t>("mx.blocks");
  const auto scales = record.data<std::uint8_t>("mx.scales");
  ASSERT_EQ(scales.at(0), 0) << "the byte that differs between libraries";
  std::vector<float> triton;
  std::vector<float> transformers(kRows * kColumns);  // transposed
  for (std::size_t i = 0; i < kRows * kColumns; ++i) {
    const float value = kernels::f32_from_e2m1(kernels::nibble_of(blocks[i / 2], static_cast<std::int64_t>(i)));
    const std::size_t row = i / kColumns;
    triton.push_back(value * kernels::mxfp4_factor(Library::triton, scales[row]));
    transformers[i % kColumns * kRows + row] = value * kernels::mxfp4_factor(Library::modelopt, scales[row]);
  }
  expect_values(triton, "mx.triton_kernels_bf16", DType::bf16);
  expect_values(transformers, "mx.transformers_bf16", DType::bf16);
}

}  // namespace
}  // namespace refit
