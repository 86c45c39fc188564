// Verdicts on weights of every format that is kept in parts, and the KL of what quantisers make of weights. Values are
// decoded here once more, by the words of the formats.
//
// Two train ranks have half of the columns each, two gen ranks half of the rows; what is one for all of a row or of the
// weight is on all that have a part of it.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.hpp"
#include "kernels/memory.hpp"
#include "model/part_boxes.hpp"
#include "support/format_reference.hpp"
#include "support/thread_control.hpp"
#include "verify/kl.hpp"
#include "verify_world.hpp"

namespace refit::verify {
namespace {

using model::Naming;
using model::Quantisation;
using model::Role;
using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kSeed = 1;

struct Form {
  Quantisation how;
  Library library;
  Shape shape = {32, 128};
  Role role = Role::up_proj;
};

Quantisation grouped(StoredFormat format) {
  Quantisation how = format;
  how.group = 32;
  return how;
}

const Form kForms[] = {
    {StoredFormat::fp8_tensor, Library::compressed_tensors},
    {StoredFormat::fp8_channel, Library::compressed_tensors},
    {{StoredFormat::fp8_channel, Naming::modelopt}, Library::modelopt},
    {StoredFormat::nvfp4, Library::compressed_tensors},
    {{StoredFormat::nvfp4, Naming::modelopt}, Library::modelopt},
    {StoredFormat::mxfp4, Library::compressed_tensors},
    {{StoredFormat::mxfp4, Naming::mxfp4}, Library::triton, {2, 128, 16, 2}, Role::interleaved_gate_up},
    {{StoredFormat::mxfp4, Naming::mxfp4}, Library::triton, {2, 128, 32}, Role::transposed_down},
    {grouped(StoredFormat::int4), Library::compressed_tensors},
    {grouped(StoredFormat::int4_asym), Library::compressed_tensors},
};

std::string words(const Form& form) { return described(form.how) + " " + std::string(name(form.role)); }

using Bytes = std::vector<std::byte>;

template <typename T>
void put(Bytes& bytes, std::int64_t index, T value) {
  std::memcpy(bytes.data() + static_cast<std::size_t>(index) * sizeof(T), &value, sizeof(T));
}
template <typename T>
T get(const Bytes& bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

float number(const Bytes& bytes, std::int64_t index, DType dtype) {
  if (dtype == DType::f32) return get<float>(bytes, index);
  return std::bit_cast<float>(std::uint32_t{get<std::uint16_t>(bytes, index)} << 16);
}

/// Stores what is a number of that dtype.
void put_number(Bytes& bytes, std::int64_t index, DType dtype, float value) {
  if (dtype == DType::f32) return put(bytes, index, value);
  put(bytes, index, static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16));
}

double e4m3(std::uint8_t byte) {
  const int exponent = byte >> 3 & 15;
  const double magnitude = exponent == 0 ? std::ldexp(byte & 7, -9) : std::ldexp(8 + (byte & 7), exponent - 10);
  return byte < 128 ? magnitude : -magnitude;
}

double e2m1(std::uint32_t nibble) {
  constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return nibble < 8 ? kValues[nibble] : -kValues[nibble - 8];
}

/// A weight, the values that were quantised, and all of its parts as in a checkpoint.
struct Quantised {
  model::Model model;
  std::vector<float> values;  ///< BF16 numbers, in the weight's own order
  std::map<Role, Bytes> parts;
  Bytes elements;  ///< of a format of 8 bits, as the weight itself

  const model::Tensor& weight() const { return model[0]; }
  const model::Tensor* part(Role role) const {
    for (const model::Tensor& tensor : model.tensors) {
      if (tensor.role == role && tensor.scale_of == 0) return &tensor;
    }
    return nullptr;
  }
  Bytes& bytes(const model::Tensor& tensor) { return tensor.index == 0 ? elements : parts[tensor.role]; }
  Shape matrix() const { return rows_and_columns(weight()); }
  std::int64_t columns() const { return matrix()[matrix().size() - 1]; }
  std::int64_t rows() const { return weight().elements() / columns(); }
  /// Returns the index in the weight's own order of a column of a row, matrix after matrix.
  std::int64_t own(std::int64_t row, std::int64_t column) const {
    Extents index = matrix();
    std::int64_t rest = row * columns() + column;
    for (int d = index.size() - 1; d >= 0; --d) {
      index[d] = rest % matrix()[d];
      rest /= matrix()[d];
    }
    return offset_of(in_own_order(weight(), index), row_major_strides(weight().shape));
  }
};

/// Values like those of trained weights: normal, with a spread.
std::vector<float> values_of(const Shape& shape, std::uint64_t key, double spread) {
  const kernels::ExecutionSpace space;
  const kernels::SharedBuffer memory(2 * product(shape));
  kernels::synthesise(space, {memory.data(), DType::bf16, Box::whole(shape), shape, row_major_strides(shape)}, key, 0.0,
                      spread);
  space.fence();
  std::vector<float> values;
  const Bytes bytes(memory.span().begin(), memory.span().end());
  for (std::int64_t i = 0; i < product(shape); ++i) values.push_back(number(bytes, i, DType::bf16));
  return values;
}

/// Puts a block's elements and scales where the format has them.
void put_block(Quantised& to, const format_reference::Quantised& block, std::int64_t row, std::int64_t column) {
  const model::Quantisation& how = to.model.quantisation;
  const std::int64_t columns = to.columns();
  for (std::size_t i = 0; i < block.elements.size(); ++i) {
    const std::int64_t at = row * columns + column + static_cast<std::int64_t>(i);  // a tensor is one block
    const std::uint32_t element = block.elements[i];
    if (!is_packed(how.format)) {
      put(to.elements, at, static_cast<std::uint8_t>(element));
    } else if (is_int4(how.format)) {
      Bytes& all = to.parts[Role::packed_values];
      put(all, at / 8, get<std::uint32_t>(all, at / 8) | element << 4 * (at % 8));
    } else {
      Bytes& all = to.parts[Role::packed_values];
      put(all, at / 2, static_cast<std::uint8_t>(get<std::uint8_t>(all, at / 2) | element << 4 * (at % 2)));
    }
  }
  if (how.format == StoredFormat::fp8_tensor) {
    return put_number(to.parts[Role::tensor_scale], 0, to.part(Role::tensor_scale)->dtype, block.scale);
  }
  const BlockSize size = block_of(how, Role::block_scale);
  const std::int64_t groups = size.columns == kWhole ? 1 : columns / size.columns;
  const std::int64_t at = row * groups + column / size.columns;
  Bytes& scales = to.parts[Role::block_scale];
  if (how.format == StoredFormat::nvfp4 || how.format == StoredFormat::mxfp4) {
    put(scales, at, block.byte);
    if (how.format == StoredFormat::nvfp4) put(to.parts[Role::tensor_scale], 0, block.tensor);
    return;
  }
  put_number(scales, at, to.part(Role::block_scale)->dtype, block.scale);
  if (how.format != StoredFormat::int4_asym) return;
  Bytes& zeros = to.parts[Role::zero_point];
  const std::int64_t word = row / 8 * groups + column / size.columns;
  put(zeros, word, get<std::uint32_t>(zeros, word) | static_cast<std::uint32_t>(block.zero) << 4 * (row % 8));
}

Quantised quantise(const Form& form, std::uint64_t key, double spread = 0.02) {
  Quantised result;
  model::Tensor weight;
  weight.name = "w.weight";
  weight.shape = form.shape;
  weight.role = form.role;
  result.model.tensors.push_back(weight);
  model::quantise(result.model, form.how, model::QuantisedBy::trainer);
  for (const model::Tensor& tensor : result.model.tensors) {
    const bool is_there = tensor.index > 0 || !is_packed(form.how.format);
    if (is_there) result.bytes(tensor).resize(static_cast<std::size_t>(tensor.bytes()));
  }
  result.values = values_of(form.shape, key, spread);
  float amax = 0;
  for (const float value : result.values) amax = std::max(amax, std::abs(value));
  const BlockSize size = block_size(form.how.format, form.how.group);
  const std::int64_t block_rows = std::min(size.rows, result.rows());
  const std::int64_t block_columns = std::min(size.columns, result.columns());
  for (std::int64_t row = 0; row < result.rows(); row += block_rows) {
    for (std::int64_t column = 0; column < result.columns(); column += block_columns) {
      std::vector<float> block;
      for (std::int64_t r = row; r < row + block_rows; ++r) {
        for (std::int64_t c = column; c < column + block_columns; ++c)
          block.push_back(result.values[static_cast<std::size_t>(result.own(r, c))]);
      }
      const format_reference::Block of{form.how.format, form.library, DType::bf16, amax, block};
      put_block(result, format_reference::quantised(of), row, column);
    }
  }
  return result;
}

/// Returns the value of a column of a row.
float decoded(const Quantised& from, std::int64_t row, std::int64_t column) {
  const model::Quantisation& how = from.model.quantisation;
  const std::int64_t at = row * from.columns() + column;
  const auto bytes = [&](Role role) -> const Bytes& { return from.parts.at(role); };
  if (how.format == StoredFormat::fp8_tensor || how.format == StoredFormat::fp8_channel) {
    const bool is_one = how.format == StoredFormat::fp8_tensor;
    const Role role = is_one ? Role::tensor_scale : Role::block_scale;
    const double scale = number(bytes(role), is_one ? 0 : row, from.part(role)->dtype);
    return static_cast<float>(e4m3(get<std::uint8_t>(from.elements, at)) * scale);
  }
  const std::int64_t block = at / block_of(how, Role::block_scale).columns;
  if (is_int4(how.format)) {
    const std::uint32_t nibble = get<std::uint32_t>(bytes(Role::packed_values), at / 8) >> 4 * (at % 8) & 15U;
    const double scale = number(bytes(Role::block_scale), block, DType::bf16);
    int zero = 8;
    if (how.format == StoredFormat::int4_asym) {
      const std::int64_t groups = from.columns() / how.group;
      const auto word = get<std::uint32_t>(bytes(Role::zero_point), row / 8 * groups + column / how.group);
      zero = static_cast<int>(word >> 4 * (row % 8) & 15U);
    }
    return static_cast<float>((static_cast<int>(nibble) - zero) * scale);
  }
  const double element = e2m1(get<std::uint8_t>(bytes(Role::packed_values), at / 2) >> 4 * (at % 2) & 15U);
  const std::uint8_t byte = get<std::uint8_t>(bytes(Role::block_scale), block);
  if (how.format == StoredFormat::mxfp4) return static_cast<float>(std::ldexp(element, byte - 127));
  const double tensor = get<float>(bytes(Role::tensor_scale), 0);
  const double factor = how.naming == Naming::modelopt ? e4m3(byte) * tensor : e4m3(byte) / tensor;
  return static_cast<float>(element * static_cast<float>(factor));
}

std::vector<float> decoded(const Quantised& from) {
  std::vector<float> values(static_cast<std::size_t>(from.weight().elements()));
  for (std::int64_t row = 0; row < from.rows(); ++row) {
    for (std::int64_t column = 0; column < from.columns(); ++column)
      values[static_cast<std::size_t>(from.own(row, column))] = decoded(from, row, column);
  }
  return values;
}

/// Returns the KL of two weights, by the words of verify/kl.hpp: the largest of the matrices, and their mean.
KlSummary kl_of(const model::Tensor& weight, const std::vector<float>& train, const std::vector<float>& gen) {
  const Shape shape = weight.file_shape();
  const std::int64_t columns = shape[shape.size() - 1];
  const std::int64_t halves = weight.role == Role::interleaved_gate_up ? 2 : 1;
  const auto sums = [&](const std::vector<float>& values) {
    std::vector<std::int64_t> rows(values.size() / static_cast<std::size_t>(columns), 0);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::int64_t column = static_cast<std::int64_t>(i) % columns;
      const auto seed = kSeed + static_cast<std::uint64_t>(column % halves);
      const auto fixed = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(values[i]) * 0x1p24));
      rows[i / static_cast<std::size_t>(columns)] += fixed * kernels::sign(seed, column / halves);
    }
    return rows;
  };
  const std::vector<std::int64_t> p = sums(train);
  const std::vector<std::int64_t> q = sums(gen);
  const auto rows = static_cast<std::size_t>(shape[shape.size() - 2]);
  KlSummary result;
  for (std::size_t at = 0; at < p.size(); at += rows) {
    const double kl = kl_of_row_sums(std::span(p).subspan(at, rows), std::span(q).subspan(at, rows));
    result.max = std::max(result.max, kl);
    result.mean += kl * static_cast<double>(rows) / static_cast<double>(p.size());
  }
  return result;
}

/// One weight on two ranks of each side.
class World {
 public:
  /// With `originals`, train has the values that were quantised; with `swapped`, each gen rank has the block scales
  /// that belong to the other's rows.
  explicit World(const Form& form, bool originals = false, bool swapped = false)
      : truth(quantise(form, 7)), originals_(originals), swapped_(swapped) {
    const int last = truth.matrix().size() - 1;
    for (std::int32_t rank = 0; rank < 2; ++rank) {
      describe(train, rank, last, false);
      describe(gen, rank, last - 1, true);
      Box box = Box::whole(form.shape);
      const int cut = form.role == Role::up_proj ? 1 : 0;
      box.extent[cut] /= 2;
      box.lower[cut] = rank * box.extent[cut];
      before.place(rank, before.add_storage(rank, "w", box.extent, DType::bf16), 0, box, 0);
    }
    for (std::int32_t rank = 0; rank < 2; ++rank) {
      train_memory_.push_back(allocate(train, rank));
      gen_memory_.push_back(allocate(gen, rank));
      before_memory_.push_back(allocate(before, rank));
    }
  }

  StepResult verify() {
    std::vector<StepResult> results(4);
    auto hub = std::make_shared<test_support::ThreadHub>(4);
    test_support::run_ranks(4, [&](int rank) {
      test_support::ThreadControl control(hub, rank);
      const kernels::ExecutionSpace space;
      const bool is_gen = rank >= 2;
      const auto at = static_cast<std::size_t>(rank % 2);
      std::vector<RankView> mine = {
          view(is_gen ? gen_memory_[at] : train_memory_[at], is_gen ? Group::gen : Group::train, rank % 2)};
      std::optional<Originals> real;
      if (originals_) {
        real = Originals{&before, {}};
        if (!is_gen) real->mine = view(before_memory_[at], Group::train, rank);
      }
      Verifier verifier(truth.model, train, gen, std::move(mine), control, space, kSeed, {}, std::move(real), tuning);
      results[static_cast<std::size_t>(rank)] = verifier.verify(1);
    });
    for (const StepResult& other : results) EXPECT_EQ(other.kl.max, results[0].kl.max);
    return results[0];
  }

  /// The bytes that a gen rank has of a part, or of the weight itself.
  Bytes& of_gen(std::int32_t rank, std::int32_t tensor) {
    Memory& memory = gen_memory_[static_cast<std::size_t>(rank)];
    for (const layout::LocalPiece& piece : memory.layout.pieces) {
      if (piece.tensor == tensor) return memory.storages[static_cast<std::size_t>(piece.storage)];
    }
    throw std::runtime_error("no such storage");
  }

  Quantised truth;
  TableLayout train{2}, gen{2}, before{2};
  Tuning tuning;

 private:
  struct Memory {
    layout::LocalLayout layout;
    std::vector<Bytes> storages;
  };

  /// Places a rank's half of the rows or columns, with what belongs to it of every part.
  void describe(TableLayout& side, std::int32_t rank, int cut, bool is_gen) {
    Box box = Box::whole(truth.matrix());
    box.extent[cut] /= 2;
    box.lower[cut] = rank * box.extent[cut];
    for (const model::Tensor& tensor : truth.model.tensors) {
      if (tensor.index == 0 && is_packed(truth.model.quantisation.format)) continue;
      Box part = tensor.index == 0 ? box : touched_elements(truth.model.quantisation, tensor, box);
      if (is_gen && swapped_ && tensor.role == Role::block_scale) part.lower[cut] = (1 - rank) * part.extent[cut];
      const bool widens = is_gen && tensor.dtype == DType::bf16 && !is_packed(truth.model.quantisation.format);
      const DType dtype = widens ? DType::f32 : tensor.dtype;
      side.place(rank, side.add_storage(rank, tensor.name, part.extent, dtype), tensor.index, part, 0,
                 row_major_strides(part.extent), tensor.index == 0 ? Conversion::block_scaled : Conversion::none);
    }
  }

  Memory allocate(const TableLayout& side, std::int32_t rank) {
    Memory memory{layout::materialise(side, truth.model.tensors, Rank{rank}), {}};
    for (const layout::Storage& storage : memory.layout.storages)
      memory.storages.emplace_back(static_cast<std::size_t>(storage.bytes()));
    for (const layout::LocalPiece& piece : memory.layout.pieces) {
      const model::Tensor& tensor = truth.model[piece.tensor];
      Bytes& to = memory.storages[static_cast<std::size_t>(piece.storage)];
      const Box& box = piece.piece.box;
      const DType dtype = piece.piece.format.dtype;
      for (std::int64_t i = 0; i < box.volume(); ++i) {
        Extents index = box.lower;
        std::int64_t rest = i;
        for (int d = index.size() - 1; d >= 0; --d) {
          index[d] += rest % box.extent[d];
          rest /= box.extent[d];
        }
        const std::int64_t from = offset_of(index, row_major_strides(tensor.shape));
        if (&side == &before) {
          put_number(to, i, dtype, truth.values[static_cast<std::size_t>(from)]);
        } else if (dtype != tensor.dtype) {
          put_number(to, i, dtype, number(truth.bytes(tensor), from, tensor.dtype));
        } else {
          const auto size = static_cast<std::size_t>(byte_size(dtype));
          std::memcpy(to.data() + static_cast<std::size_t>(i) * size,
                      truth.bytes(tensor).data() + static_cast<std::size_t>(from) * size, size);
        }
      }
    }
    return memory;
  }

  static RankView view(Memory& memory, Group group, std::int32_t rank) {
    RankView view{group, Rank{rank}, &memory.layout, {}};
    for (Bytes& storage : memory.storages) view.storages.push_back(storage.data());
    return view;
  }

  bool originals_, swapped_;
  std::vector<Memory> train_memory_, gen_memory_, before_memory_;
};

TEST(VerifyFormats, RightPartsHaveAKlOfExactlyZero) {
  for (const Form& form : kForms) {
    SCOPED_TRACE(words(form));
    World world(form);
    const StepResult result = world.verify();
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(result.kl.max, 0.0);
    EXPECT_EQ(result.elements_wrong, 0);
  }
}

TEST(VerifyFormats, WhatWasQuantisedHasTheKlOfItsValues) {
  for (const Form& form : kForms) {
    SCOPED_TRACE(words(form));
    World world(form, true);
    world.tuning.chunk_bytes = 200;  // chunks begin within blocks, bytes and words
    const StepResult result = world.verify();
    EXPECT_TRUE(result.ok());
    const KlSummary expected = kl_of(world.truth.weight(), world.truth.values, decoded(world.truth));
    EXPECT_GT(expected.max, 0.0);
    EXPECT_DOUBLE_EQ(result.kl.max, expected.max);
    EXPECT_DOUBLE_EQ(result.kl.mean, expected.mean);
    EXPECT_EQ(result.kl.tensor, "w.weight");
  }
}

/// Parts arrive one after the other: a refit may leave any of them as it was.
TEST(VerifyFormats, EachPartIsNamedAndCountsForItsWeightsValues) {
  for (const Form& form : kForms) {
    for (const Role role : {Role::packed_values, Role::block_scale, Role::tensor_scale, Role::zero_point}) {
      World world(form);
      const model::Tensor* part = world.truth.part(role);
      if (part == nullptr) continue;
      SCOPED_TRACE(words(form) + ": " + part->name);
      // The second rank is no first holder of what is whole on both. Its first element changes by a power of two.
      Bytes& stored = world.of_gen(1, part->index);
      const bool is_float = role == Role::tensor_scale || form.how.format == StoredFormat::fp8_channel;
      stored[is_float ? 3 : 0] ^= role == Role::packed_values ? std::byte{0x08} : std::byte{0x01};
      if (role == Role::zero_point || is_int4(form.how.format)) stored[0] ^= std::byte{0x03};
      const StepResult result = world.verify();
      EXPECT_THAT(result.wrong,
                  ElementsAre(AllOf(Field(&WrongTensor::tensor, part->name), Field(&WrongTensor::gen_rank, Rank{1}),
                                    Field(&WrongTensor::elements_wrong, 1))));
      EXPECT_EQ(result.kl.tensor, "w.weight");
      EXPECT_GT(result.kl.max, 0.0);
    }
  }
}

TEST(VerifyFormats, AGlobalScaleOfAnotherStepChangesEveryValue) {
  World world({StoredFormat::nvfp4, Library::compressed_tensors});
  const model::Tensor* scale = world.truth.part(Role::tensor_scale);
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    Bytes& stored = world.of_gen(rank, scale->index);
    put(stored, 0, get<float>(stored, 0) * 0.5F);
  }
  const StepResult result = world.verify();
  EXPECT_EQ(result.elements_wrong, 2);
  std::vector<float> right = decoded(world.truth);
  std::vector<float> twice = right;
  for (float& value : twice) value *= 2.0F;
  EXPECT_DOUBLE_EQ(result.kl.max, kl_of(world.truth.weight(), right, twice).max);
}

TEST(VerifyFormats, AnotherRanksScalesAreNamed) {
  World world({StoredFormat::nvfp4, Library::compressed_tensors}, false, true);
  EXPECT_THAT([&] { world.verify(); },
              testing::ThrowsMessage<Error>(HasSubstr("stores 0 of the 128 elements that belong to its part")));
}

/// The mean KL of matrices of that many rows.
double mean_kl(const Form& form, std::int64_t rows, std::uint64_t matrices) {
  Form of_rows = form;
  of_rows.shape = {rows, 128};
  double sum = 0.0;
  for (std::uint64_t key = 0; key < matrices; ++key) {
    const Quantised one = quantise(of_rows, 100 + key);
    sum += kl_of(one.weight(), one.values, decoded(one)).max;
  }
  return sum / static_cast<double>(matrices);
}

/// Of docs/precisions.md.
struct Band {
  Form form;
  double least, most;
};
constexpr Band kBands[] = {
    {{StoredFormat::fp8_tensor, Library::compressed_tensors}, 0.003, 0.009},
    {{StoredFormat::fp8_channel, Library::vllm}, 0.003, 0.009},
    {{StoredFormat::nvfp4, Library::compressed_tensors}, 0.05, 0.1},
    {{{StoredFormat::nvfp4, Naming::modelopt}, Library::modelopt}, 0.05, 0.1},
    {{StoredFormat::mxfp4, Library::compressed_tensors}, 0.06, 0.12},
    {{StoredFormat::mxfp4, Library::triton}, 0.06, 0.12},
    {{StoredFormat::int4, Library::compressed_tensors}, 0.05, 0.1},
    {{StoredFormat::int4_asym, Library::compressed_tensors}, 0.05, 0.1},
};

TEST(VerifyFormats, TheMeanKlOfWhatIsQuantisedLiesInTheBandThatIsDocumented) {
  for (const auto& [form, least, most] : kBands) {
    const double mean = mean_kl(form, 768, 20);
    EXPECT_GT(mean, least) << words(form);
    EXPECT_LT(mean, most) << words(form);
  }
}

/// Returns the largest error that docs/precisions.md allows for a value of a block; `amax` of the block.
double bound(StoredFormat format, Library library, double value, double amax) {
  const bool rounds_down = library == Library::triton_round_down || library == Library::flashinfer;
  switch (format) {
    case StoredFormat::nvfp4: return 0.18 * amax;
    case StoredFormat::mxfp4: return (rounds_down ? 0.5 : 0.334) * amax;
    case StoredFormat::int4:
    case StoredFormat::int4_asym: return 0.075 * amax;
    default: return 0.07 * std::abs(value) + 0x1p-18 * amax;
  }
}

/// Returns the value of an element of a block.
double value_of(const format_reference::Block& block, const format_reference::Quantised& of, std::size_t i) {
  if (element_bits(block.format) == 8) return e4m3(of.elements[i]) * of.scale;
  if (is_int4(block.format)) return (of.elements[i] - of.zero) * static_cast<double>(of.scale);
  if (block.format == StoredFormat::mxfp4) return std::ldexp(e2m1(of.elements[i]), of.byte - 127);
  const double scale = e2m1(of.elements[i]) * e4m3(of.byte);
  const bool is_te = block.library == Library::te || block.library == Library::te_16x16;
  const bool multiplies = block.library == Library::modelopt || block.library == Library::torchao;
  return is_te ? scale * of.tensor / 2688 : multiplies ? scale * of.tensor : scale / of.tensor;
}

TEST(VerifyFormats, EveryLibrarysErrorIsWithinTheBoundThatIsDocumented) {
  constexpr std::int64_t kRows = 64, kColumns = 128;
  for (const StoredFormat format : {StoredFormat::fp8_tensor, StoredFormat::fp8_channel, StoredFormat::nvfp4,
                                    StoredFormat::mxfp4, StoredFormat::int4, StoredFormat::int4_asym}) {
    const std::int64_t width = std::min(block_size(format).columns, kColumns);
    for (const Library library : libraries(format)) {
      for (const DType from : {DType::bf16, DType::f32}) {
        const std::vector<float> values = values_of({kRows, kColumns}, 5, 0.02);
        float amax = 0;
        for (const float value : values) amax = std::max(amax, std::abs(value));
        double largest = 0.0;  // of the bound
        for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(width)) {
          const std::span block = std::span(values).subspan(at, static_cast<std::size_t>(width));
          double of_block = 0;
          for (const float value : block) of_block = std::max(of_block, std::abs(static_cast<double>(value)));
          const format_reference::Block one{format, library, from, amax, block};
          const format_reference::Quantised made = format_reference::quantised(one);
          for (std::size_t i = 0; i < block.size(); ++i) {
            const double error = std::abs(block[i] - value_of(one, made, i));
            largest = std::max(largest, error / bound(format, library, block[i], of_block));
          }
        }
        EXPECT_LE(largest, 1.0) << name(format) << " " << name(library) << " " << name(from);
        EXPECT_GT(largest, 0.5) << name(format) << " " << name(library) << " " << name(from);  // it is no wide one
      }
    }
  }
}

}  // namespace
}  // namespace refit::verify
