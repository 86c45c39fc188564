#include "checkpoint/dequantise.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "checkpoint/contents.hpp"
#include "core/error.hpp"
#include "kernels/int4.hpp"
#include "kernels/mxfp4.hpp"
#include "kernels/nvfp4.hpp"

namespace refit::checkpoint {
namespace {

using model::Role;

/// Returns values by dimension in another order.
Extents reordered(const Extents& of, const Extents& order) {
  Extents result;
  for (const std::int64_t d : order) result.push_back(of[static_cast<int>(d)]);
  return result;
}

/// Returns {0, 1, ...}.
Extents dimensions_of(const Shape& shape) {
  Extents dimensions;
  for (int d = 0; d < shape.size(); ++d) dimensions.push_back(d);
  return dimensions;
}

/// Returns which dimension of the weight each of [..., rows, columns] is: {0, 2, 1} of transposed experts.
Extents order_by_rows(const model::Tensor& weight) {
  model::Tensor numbered = weight;
  numbered.shape = dimensions_of(weight.shape);
  return rows_and_columns(numbered);
}

/// Returns {..., columns, rows} of [..., rows, columns].
Extents transposed(Extents order) {
  std::swap(order[order.size() - 2], order[order.size() - 1]);
  return order;
}

template <typename Number>
Number number_at(const std::byte* bytes, std::int64_t index) {
  Number number;
  std::memcpy(&number, bytes + index * static_cast<std::int64_t>(sizeof(Number)), sizeof(Number));
  return number;
}

/// Returns a scale of any of the dtypes that scales have.
float scale_at(DType dtype, const std::byte* bytes, std::int64_t index) {
  switch (dtype) {
    case DType::f32: return number_at<float>(bytes, index);
    case DType::bf16: return std::bit_cast<float>(kernels::f32_from_bf16(number_at<std::uint16_t>(bytes, index)));
    case DType::f16: return std::bit_cast<float>(kernels::f32_from_f16(number_at<std::uint16_t>(bytes, index)));
    case DType::f8_e4m3: return kernels::f32_from_e4m3(number_at<std::uint8_t>(bytes, index));
    default: return kernels::f32_from_e8m0(number_at<std::uint8_t>(bytes, index));
  }
}

/// What the bytes of a part say of each element of the weight.
class Lookup {
 public:
  Lookup() = default;
  explicit Lookup(const PartBytes& of) : bytes_(of.bytes.data()), block_(of.part->block), lower_(of.box.lower) {
    strides_ = Extents::filled(of.box.lower.size(), 0);
    const Extents of_file = row_major_strides(of.box.extent);
    for (int d = 0; d < of_file.size(); ++d) {
      const int dimension = static_cast<int>(of.part->order[d]);
      strides_[dimension] = of_file[d];
      lower_[dimension] = of.box.lower[d];
    }
    dtype_ = of.part->entry->info.dtype;
  }

  bool exists() const { return bytes_ != nullptr; }
  DType dtype() const { return dtype_; }
  const std::byte* bytes() const { return bytes_; }
  /// Returns the index of the part's element for the first column of a row.
  std::int64_t row(const Extents& index) const {
    const int rows = index.size() - 2;
    std::int64_t result = (index[rows] / block_.rows - lower_[rows]) * strides_[rows] - lower_[rows + 1] * step();
    for (int d = 0; d < rows; ++d) result += (index[d] - lower_[d]) * strides_[d];
    return result;
  }
  /// Returns how far apart neighbours of a row are.
  std::int64_t step() const { return strides_[strides_.size() - 1]; }
  const BlockSize& block() const { return block_; }

 private:
  const std::byte* bytes_ = nullptr;
  BlockSize block_;
  Extents lower_;  ///< by dimension of the weight, as the strides
  Extents strides_;
  DType dtype_ = DType::f32;
};

/// The parts of one box while it is decoded.
struct Lookups {
  StoredFormat format;
  kernels::TensorScale kind;
  Lookup values, scales, tensor, zeros;

  Lookups(const model::Quantisation& how, std::span<const PartBytes> bytes)
      : format(how.format),
        kind(how.naming == model::Naming::modelopt ? kernels::TensorScale::multiplier : kernels::TensorScale::divisor) {
    for (const PartBytes& of : bytes) {
      if (of.part->role == Role::packed_values) values = Lookup(of);
      if (of.part->role == Role::block_scale) scales = Lookup(of);
      if (of.part->role == Role::tensor_scale) tensor = Lookup(of);
      if (of.part->role == Role::zero_point) zeros = Lookup(of);
    }
    if (!scales.exists()) scales = tensor;
  }

  /// Returns the factor of the values of a block.
  float factor(std::int64_t block) const {
    if (format != StoredFormat::nvfp4) return scale_at(scales.dtype(), scales.bytes(), block);
    return kernels::nvfp4_factor(kind, number_at<std::uint8_t>(scales.bytes(), block),
                                 scale_at(tensor.dtype(), tensor.bytes(), 0));
  }
};

std::array<float, 256> all_e4m3() {
  std::array<float, 256> values{};
  for (std::size_t byte = 0; byte < values.size(); ++byte) {
    values[byte] = kernels::f32_from_e4m3(static_cast<std::uint8_t>(byte));
  }
  return values;
}

/// The columns of a row that share a scale.
struct Columns {
  std::int64_t begin, end;
  double factor;
};

/// Calls visit(columns) for the blocks of a row of the box.
template <typename Visit>
void for_each_block(const Lookups& of, const Box& box, const Extents& index, const Visit& visit) {
  const int last = index.size() - 1;
  const std::int64_t size = of.scales.block().columns;
  const std::int64_t row = of.scales.row(index);
  const std::int64_t end = box.lower[last] + box.extent[last];
  for (std::int64_t k = box.lower[last]; k < end;) {
    const std::int64_t block = k / size;
    const std::int64_t next = size - k % size < end - k ? k + size - k % size : end;
    visit(Columns{k, next, of.factor(row + block * of.scales.step())});
    k = next;
  }
}

/// Writes one row's products; `value(column)` gives the numbers before they are scaled.
template <DType to, typename Value>
void scale_columns(const Columns& columns, std::byte*& out, const Value& value) {
  using Bits = std::conditional_t<to == DType::f32, std::uint32_t, std::uint16_t>;
  for (std::int64_t k = columns.begin; k < columns.end; ++k) {
    // The product of two floats is exact in double: it is rounded once.
    const auto bits = static_cast<Bits>(kernels::bits_from_double(static_cast<double>(value(k)) * columns.factor, to));
    std::memcpy(out, &bits, sizeof(bits));
    out += sizeof(bits);
  }
}

template <DType to>
void decode_fp8(const Lookups& of, const Box& box, const Extents& index, std::byte*& out) {
  static const std::array<float, 256> kValues = all_e4m3();
  const std::byte* bytes = of.values.bytes() + of.values.row(index);
  const std::int64_t step = of.values.step();
  for_each_block(of, box, index, [&](const Columns& columns) {
    scale_columns<to>(columns, out, [&](std::int64_t k) { return kValues[static_cast<std::size_t>(bytes[k * step])]; });
  });
}

template <DType to>
void decode_fp4(const Lookups& of, const Box& box, const Extents& index, std::byte*& out) {
  const std::byte* bytes = of.values.bytes() + of.values.row(index);
  for_each_block(of, box, index, [&](const Columns& columns) {
    scale_columns<to>(columns, out, [&](std::int64_t k) {
      return kernels::f32_from_e2m1(kernels::nibble_of(static_cast<std::uint8_t>(bytes[k / 2]), k));
    });
  });
}

/// Returns the nibble of a word that a row of the weight has, where words hold rows.
int nibble_of_row(StoredFormat format, std::int64_t row) {
  return format == StoredFormat::awq ? kernels::awq_index(row) : static_cast<int>(row % 8);
}

template <DType to>
void decode_int4(const Lookups& of, const Box& box, const Extents& index, std::byte*& out) {
  const int nibble = nibble_of_row(of.format, index[index.size() - 2]);
  const std::int64_t words = of.values.row(index);
  const bool rows_in_words = of.values.block().rows > 1;
  for_each_block(of, box, index, [&](const Columns& columns) {
    int zero = 8;
    if (of.zeros.exists()) {
      const std::int64_t at = of.zeros.row(index) + columns.begin / of.zeros.block().columns * of.zeros.step();
      const kernels::NibblePlace place{at, nibble};
      zero = kernels::zero_of_stored(of.format, place.of(number_at<std::uint32_t>(of.zeros.bytes(), at)));
    }
    scale_columns<to>(columns, out, [&](std::int64_t k) {
      const std::int64_t at = words + k / of.values.block().columns * of.values.step();
      const kernels::NibblePlace place{at, rows_in_words ? nibble : static_cast<int>(k % 8)};
      return static_cast<float>(static_cast<int>(place.of(number_at<std::uint32_t>(of.values.bytes(), at))) - zero);
    });
  });
}

template <DType to>
void decode_rows(const Lookups& of, const Box& box, std::byte* out) {
  Box rows = box;
  rows.extent[rows.extent.size() - 1] = 1;
  for (std::int64_t row = 0; row < rows.volume(); ++row) {
    const Extents index = unravel(row, rows);
    if (is_int4(of.format)) {
      decode_int4<to>(of, box, index, out);
    } else if (is_packed(of.format)) {
      decode_fp4<to>(of, box, index, out);
    } else {
      decode_fp8<to>(of, box, index, out);
    }
  }
}

}  // namespace

Box QuantisedPart::touched(const Box& box) const {
  const Box blocks = touched_blocks(box, block);
  return {reordered(blocks.lower, order), reordered(blocks.extent, order)};
}

QuantisedWeight::QuantisedWeight(const Checkpoint& checkpoint, const model::Quantisation& how,
                                 const model::Tensor& weight)
    : source_(checkpoint.folder), how_(how), shape_(rows_and_columns(weight)), order_(order_by_rows(weight)) {
  const Extents as_it_is = dimensions_of(shape_);
  const bool is_transposed = how.format == StoredFormat::gptq || how.format == StoredFormat::awq;
  if (!is_packed(how.format)) {
    // A file's dimension d is the d-th of the weight, which stands elsewhere in [..., rows, columns].
    Extents of_file = as_it_is;
    for (int d = 0; d < order_.size(); ++d) of_file[static_cast<int>(order_[d])] = d;
    add(Role::packed_values, checkpoint, weight.name, of_file, {1, 1});
  }
  for (const model::Part& part : parts_of(how, weight)) {
    if (part.role == Role::input_scale || part.role == Role::weight_shape) continue;
    const Extents order = is_transposed ? transposed(as_it_is) : as_it_is;
    add(part.role, checkpoint, model::part_name(weight.name, part.suffix), order, block_of(how, part.role));
  }
}

void QuantisedWeight::add(Role role, const Checkpoint& checkpoint, const std::string& name, const Extents& order,
                          const BlockSize& block) {
  QuantisedPart part{role, checkpoint.find(name), order, block, reordered(block_grid(shape_, block), order)};
  REFIT_ASSERT(part.entry != nullptr && product(part.shape) == product(part.entry->info.shape));
  parts_.push_back(std::move(part));
}

Extents QuantisedWeight::by_rows(const Extents& of_weight) const { return reordered(of_weight, order_); }

Extents QuantisedWeight::of_weight(const Extents& by_rows) const {
  Extents result = by_rows;
  for (int d = 0; d < order_.size(); ++d) result[static_cast<int>(order_[d])] = by_rows[d];
  return result;
}

std::int64_t QuantisedWeight::bytes_needed(const Box& box) const {
  std::int64_t bytes = 0;
  for (const QuantisedPart& part : parts_) {
    bytes += part.touched(box).volume() * byte_size(part.entry->info.dtype);
  }
  return bytes;
}

void QuantisedWeight::check(std::span<const PartBytes> bytes) const {
  for (const PartBytes& of : bytes) {
    if (of.part->role != Role::group_index) continue;
    const std::int64_t first = of.box.lower[0];  // the file's first dimension is that of columns
    for (std::int64_t k = 0; k < of.box.extent[0]; ++k) {
      const auto group = number_at<std::int32_t>(of.bytes.data(), k);
      if (group == (first + k) / how_.group) continue;
      fail_usage(
          "{}: {} has column {} in group {} instead of {}: refit reads columns in their own order only (no desc_act)",
          source_, in_quotes(of.part->entry->info.name), first + k, group, (first + k) / how_.group);
    }
  }
}

void QuantisedWeight::decode(const Box& box, std::span<const PartBytes> bytes, std::byte* values, DType dtype) const {
  check(bytes);
  const Lookups of(how_, bytes);
  if (dtype == DType::f32) return decode_rows<DType::f32>(of, box, values);
  if (dtype == DType::bf16) return decode_rows<DType::bf16>(of, box, values);
  REFIT_ASSERT(dtype == DType::f16);
  decode_rows<DType::f16>(of, box, values);
}

ModelRead read_of(const Checkpoint& checkpoint, const model::Model& model, const model::Tensor& tensor) {
  ModelRead read;
  read.shape = tensor.shape;
  if (tensor.kept == model::Kept::dequantised) {
    read.weight = std::make_shared<const QuantisedWeight>(checkpoint, model.config.quantisation, tensor);
    read.entry = read.weight->parts().front().entry;
  } else {
    read.entry = checkpoint.find(tensor.name);
  }
  return read;
}

}  // namespace refit::checkpoint
