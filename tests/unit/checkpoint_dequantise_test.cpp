// Boxes of quantised weights, against each format's definition, element by element.

#include <cmath>
#include <cstring>
#include <map>

#include "checkpoint/dequantise.hpp"
#include "checkpoint_support.hpp"
#include "support/number_oracle.hpp"

namespace refit::checkpoint::test {
namespace {

using model::Naming;
using model::Quantisation;
using model::Role;
using test_support::decoded;
using test_support::encoded;

/// One way in which checkpoints write a weight down.
struct Form {
  const char* name;
  Quantisation how;
  Shape shape;
  Role role = Role::o_proj;
};

Quantisation grouped(StoredFormat format) {
  Quantisation how = format;
  how.group = 32;
  return how;
}

const Form kForms[] = {
    {"fp8_block", StoredFormat::fp8_block, {200, 300}},
    {"fp8_block_modelopt", {StoredFormat::fp8_block, Naming::modelopt}, {130, 128}},
    {"fp8_block_packed", StoredFormat::fp8_block, {3, 136, 260}, Role::packed_gate_up},
    {"fp8_block_transposed", StoredFormat::fp8_block, {2, 150, 140}, Role::transposed_down},
    {"mxfp8", StoredFormat::mxfp8, {24, 96}},
    {"fp8_tensor", StoredFormat::fp8_tensor, {24, 40}},
    {"fp8_channel", StoredFormat::fp8_channel, {24, 40}},
    {"fp8_channel_modelopt", {StoredFormat::fp8_channel, Naming::modelopt}, {24, 40}},
    {"nvfp4", StoredFormat::nvfp4, {24, 96}},
    {"nvfp4_modelopt", {StoredFormat::nvfp4, Naming::modelopt}, {24, 96}},
    {"mxfp4", StoredFormat::mxfp4, {24, 96}},
    {"mxfp4_gate_up", {StoredFormat::mxfp4, Naming::mxfp4}, {2, 64, 24, 2}, Role::interleaved_gate_up},
    {"mxfp4_down", {StoredFormat::mxfp4, Naming::mxfp4}, {2, 96, 40}, Role::transposed_down},
    {"int4", grouped(StoredFormat::int4), {24, 96}},
    {"int4_asym", grouped(StoredFormat::int4_asym), {24, 96}},
    {"gptq", grouped(StoredFormat::gptq), {24, 96}},
    {"awq", grouped(StoredFormat::awq), {24, 96}},
};

double number(DType dtype, const std::byte* bytes, std::int64_t index) {
  std::uint32_t bits = 0;
  const std::int64_t size = byte_size(dtype);
  std::memcpy(&bits, bytes + index * size, static_cast<std::size_t>(size));
  if (is_castable(dtype)) return decoded(bits, dtype);
  if (dtype == DType::u8) return std::ldexp(1.0, static_cast<int>(bits) - 127);
  const int exponent = static_cast<int>(bits >> 3 & 15U);
  const int mantissa = static_cast<int>(bits & 7U);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return bits > 127 ? -magnitude : magnitude;
}

double e2m1(std::uint32_t nibble) {
  constexpr double kValues[] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
  return (nibble & 8U) != 0 ? -kValues[nibble & 7U] : kValues[nibble & 7U];
}

/// The file of one weight: `rows` x `columns`, `experts` times.
struct World {
  Form form;
  Folder folder;
  model::Model model;
  std::map<Role, Tensor> parts;
  std::int64_t experts = 1, rows = 0, columns = 0;

  World(const Form& of, std::uint64_t seed) : form(of) {
    std::mt19937_64 random(seed);
    model::Tensor weight;
    weight.name = "model.layers.0.x.weight";
    weight.shape = form.shape;
    weight.role = form.role;
    const Shape shape = rows_and_columns(weight);
    columns = shape[shape.size() - 1];
    experts = shape.size() > 2 ? shape[0] : 1;
    rows = weight.elements() / experts / columns;
    std::vector<Tensor> tensors;
    if (!is_packed(form.how.format)) {
      tensors.push_back(random_tensor(weight.name, form.shape, DType::f8_e4m3, random));
      for (std::byte& byte : tensors[0].bytes) byte = no_nan(byte);
      parts[Role::packed_values] = tensors[0];
    }
    for (const model::Part& part : parts_of(form.how, weight)) {
      tensors.push_back(random_tensor(model::part_name(weight.name, part.suffix),
                                      part.written.size() > 0 ? part.written : part.shape, part.dtype, random));
      plausible(part.role, tensors.back(), random);
      parts[part.role] = tensors.back();
    }
    std::shuffle(tensors.begin(), tensors.end(), random);
    write_checkpoint(Format::safetensors, folder.path(), tensors, random() % 2 == 0 ? 0 : 200);
    weight.kept = model::Kept::dequantised;
    model.config.quantisation = form.how;
    model.tensors.push_back(weight);
  }

  static std::byte no_nan(std::byte byte) { return (byte & std::byte{0x7F}) == std::byte{0x7F} ? std::byte{1} : byte; }

  void plausible(Role role, Tensor& tensor, std::mt19937_64& random) const {
    const DType dtype = tensor.info.dtype;
    std::uniform_real_distribution<double> numbers(0.001, 100.0);
    for (std::int64_t i = 0; i < product(tensor.info.shape); ++i) {
      std::byte* element = tensor.bytes.data() + i * byte_size(dtype);
      if (is_castable(dtype)) {
        const std::uint64_t bits = encoded(numbers(random), dtype);
        std::memcpy(element, &bits, static_cast<std::size_t>(byte_size(dtype)));
      } else if (dtype == DType::f8_e4m3) {
        *element = no_nan(*element);
      } else if (role == Role::block_scale && *element == std::byte{255}) {
        *element = std::byte{0};
      } else if (role == Role::group_index) {
        const auto group = static_cast<std::int32_t>(i / form.how.group);
        std::memcpy(element, &group, sizeof(group));
      }
    }
  }

  double of(Role role, std::int64_t index) const {
    const Tensor& part = parts.at(role);
    return number(part.info.dtype, part.bytes.data(), index);
  }
  std::uint32_t nibble(Role role, std::int64_t word, std::int64_t index) const {
    std::uint32_t bits = 0;
    std::memcpy(&bits, parts.at(role).bytes.data() + word * 4, sizeof(bits));
    return bits >> (4 * index) & 15U;
  }
  double e2m1_at(std::int64_t element) const {
    const auto byte =
        static_cast<std::uint32_t>(parts.at(Role::packed_values).bytes[static_cast<std::size_t>(element / 2)]);
    return e2m1(element % 2 == 0 ? byte & 15U : byte >> 4);
  }

  /// Returns the exact value of an element.
  double value(std::int64_t e, std::int64_t n, std::int64_t k) const {
    const std::int64_t row = e * rows + n;
    const std::int64_t element = row * columns + k;
    const std::int64_t group = form.how.group;
    const std::int64_t groups = columns / group;
    constexpr std::int64_t kAwq[] = {0, 4, 1, 5, 2, 6, 3, 7};
    const bool is_transposed = form.role == Role::transposed_down;
    const std::int64_t fp8 = is_transposed ? (e * columns + k) * rows + n : element;
    switch (form.how.format) {
      case StoredFormat::fp8_block: {
        const std::int64_t down = (rows + 127) / 128;
        const std::int64_t across = (columns + 127) / 128;
        return of(Role::packed_values, fp8) * of(Role::block_scale, (e * down + n / 128) * across + k / 128);
      }
      case StoredFormat::mxfp8: return of(Role::packed_values, element) * of(Role::block_scale, element / 32);
      case StoredFormat::fp8_tensor: return of(Role::packed_values, element) * of(Role::tensor_scale, 0);
      case StoredFormat::fp8_channel: return of(Role::packed_values, element) * of(Role::block_scale, row);
      case StoredFormat::nvfp4: {
        const double scale = of(Role::block_scale, element / 16);
        const double tensor = of(Role::tensor_scale, 0);
        const double factor = form.how.naming == Naming::modelopt ? scale * tensor : scale / tensor;
        return e2m1_at(element) * static_cast<double>(static_cast<float>(factor));
      }
      case StoredFormat::mxfp4: return e2m1_at(element) * of(Role::block_scale, element / 32);
      case StoredFormat::int4:
        return (static_cast<double>(nibble(Role::packed_values, element / 8, k % 8)) - 8) *
               of(Role::block_scale, row * groups + k / group);
      case StoredFormat::int4_asym:
        return (static_cast<double>(nibble(Role::packed_values, element / 8, k % 8)) -
                nibble(Role::zero_point, row / 8 * groups + k / group, row % 8)) *
               of(Role::block_scale, row * groups + k / group);
      case StoredFormat::gptq:
        return (static_cast<double>(nibble(Role::packed_values, k / 8 * rows + n, k % 8)) -
                nibble(Role::zero_point, (k / group * rows + n) / 8, n % 8) - 1) *
               of(Role::block_scale, k / group * rows + n);
      case StoredFormat::awq:
        return (static_cast<double>(nibble(Role::packed_values, (k * rows + n) / 8, kAwq[n % 8])) -
                nibble(Role::zero_point, (k / group * rows + n) / 8, kAwq[n % 8])) *
               of(Role::block_scale, k / group * rows + n);
      default: return NAN;
    }
  }

  /// Returns the value at an index of the weight as layouts see it.
  double value(const Extents& at) const {
    if (form.role == Role::interleaved_gate_up) return value(at[0], 2 * at[2] + at[3], at[1]);
    if (form.role == Role::transposed_down) return value(at[0], at[2], at[1]);
    return at.size() == 3 ? value(at[0], at[1], at[2]) : value(0, at[0], at[1]);
  }
};

Box random_part(const Shape& shape, std::mt19937_64& random) {
  Box box = Box::whole(shape);
  for (int d = 0; d < shape.size(); ++d) {
    if (random() % 3 == 0) continue;
    box.lower[d] = static_cast<std::int64_t>(random()) & 0xFFFF;
    box.lower[d] %= shape[d];
    box.extent[d] = 1 + (static_cast<std::int64_t>(random()) & 0xFFFF) % (shape[d] - box.lower[d]);
  }
  return box;
}

/// Reads a box into strided memory and compares every element; the bytes between stay.
void expect_box(const World& world, const Checkpoint& checkpoint, const Box& box, DType dtype, bool reversed) {
  const std::int64_t size = byte_size(dtype);
  Extents strides = Extents::filled(box.extent.size(), 0);
  std::int64_t next = 1;
  for (int i = 0; i < strides.size(); ++i) {  // the first dimension is the innermost where they are reversed
    const int d = reversed ? i : strides.size() - 1 - i;
    strides[d] = next;
    next *= box.extent[d] + 1;
  }
  std::vector<std::byte> memory(static_cast<std::size_t>(next * size), std::byte{0xEE});
  std::vector<std::byte> expected = memory;
  for (std::int64_t i = 0; i < box.volume(); ++i) {
    const std::uint64_t bits = encoded(world.value(unravel(i, box)), dtype);
    std::memcpy(expected.data() + offset_of(unravel(i, box.extent), strides) * size, &bits,
                static_cast<std::size_t>(size));
  }
  const kernels::ExecutionSpace space;
  ModelRead read = read_of(checkpoint, world.model, world.model.tensors[0]);
  read.box = box;
  read.data = memory.data();
  read.format = dtype;
  read.strides = strides;
  const ReadStatistics statistics = checkpoint::read(space, checkpoint, {&read, 1});
  EXPECT_TRUE(memory == expected) << world.form.name << " " << to_string(box) << " as " << name(dtype);
  EXPECT_GE(statistics.bytes_read, statistics.bytes_needed);
}

class CheckpointDequantise : public testing::TestWithParam<Form> {};

TEST_P(CheckpointDequantise, EveryElementOfABoxIsItsValueTimesItsScaleRoundedOnce) {
  const World world(GetParam(), 1);
  const Checkpoint checkpoint = open(world.folder.path());
  std::mt19937_64 random(2);
  expect_box(world, checkpoint, Box::whole(GetParam().shape), DType::bf16, false);
  for (int i = 0; i < 12; ++i) {
    for (const DType dtype : {DType::bf16, DType::f32, DType::f16}) {
      expect_box(world, checkpoint, random_part(GetParam().shape, random), dtype, i % 2 == 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CheckpointDequantise, testing::ValuesIn(kForms),
                         [](const auto& form) { return std::string(form.param.name); });

TEST(CheckpointDequantiseBounds, WeightsBeyondOneBufferAreReadInChunks) {
  const World world({"fp8_tensor", StoredFormat::fp8_tensor, {2100, 2100}}, 3);
  const Checkpoint checkpoint = open(world.folder.path());
  expect_box(world, checkpoint, Box::whole({2100, 2100}), DType::bf16, true);
}

TEST(CheckpointDequantiseBounds, OnlyWhatABoxNeedsIsRead) {
  const World world({"nvfp4", StoredFormat::nvfp4, {1024, 4096}}, 4);
  const Checkpoint checkpoint = open(world.folder.path());
  std::vector<std::byte> memory(256 * 4096 * 2);
  const kernels::ExecutionSpace space;
  ModelRead read = read_of(checkpoint, world.model, world.model.tensors[0]);
  read.box = {{512, 0}, {256, 4096}};
  read.data = memory.data();
  read.format = DType::bf16;
  read.strides = {4096, 1};
  const ReadStatistics statistics = checkpoint::read(space, checkpoint, {&read, 1});
  EXPECT_EQ(statistics.bytes_needed, 256 * 4096 / 2 + 256 * 4096 / 16 + 4);
  EXPECT_EQ(statistics.bytes_read, statistics.bytes_needed);
}

TEST(CheckpointDequantiseErrors, ColumnsInAnotherOrderAreRefused) {
  World world({"gptq", grouped(StoredFormat::gptq), {24, 96}}, 5);
  Tensor& index = world.parts.at(Role::group_index);
  std::swap_ranges(index.bytes.begin(), index.bytes.begin() + 4, index.bytes.begin() + 4 * 40);
  std::vector<Tensor> tensors;
  for (const auto& [role, tensor] : world.parts) tensors.push_back(tensor);
  write_checkpoint(Format::safetensors, world.folder.path(), tensors, 0, true);
  const Checkpoint checkpoint = open(world.folder.path(), Format::safetensors);
  expect_usage(
      [&] {
        expect_box(world, checkpoint, Box::whole({24, 96}), DType::bf16, false);
      },
      {"model.layers.0.x.g_idx", "column 0 in group 1", "desc_act"});
}

TEST(CheckpointDequantiseErrors, AWeightIsNoOtherDtype) {
  const World world({"mxfp4", StoredFormat::mxfp4, {24, 96}}, 6);
  const Checkpoint checkpoint = open(world.folder.path());
  ModelRead read = read_of(checkpoint, world.model, world.model.tensors[0]);
  std::vector<std::byte> memory(24 * 96);
  read.box = Box::whole({24, 96});
  read.data = memory.data();
  read.format = {DType::f8_e4m3, Conversion::block_scaled};
  read.strides = {96, 1};
  const kernels::ExecutionSpace space;
  expect_usage(
      [&] {
        checkpoint::read(space, checkpoint, {&read, 1});
      },
      {"model.layers.0.x.weight_packed", "cannot be loaded as F8_E4M3"});
}

}  // namespace
}  // namespace refit::checkpoint::test
