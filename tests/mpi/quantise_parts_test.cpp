// Weights quantised in parts by the ranks of a trainer, against the reference of the whole weights.

#include "transport/quantise_parts.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <random>

#include "core/hash.hpp"
#include "kernels/kernels.hpp"
#include "model/part_boxes.hpp"
#include "mpi/ranks.hpp"
#include "support/format_reference.hpp"
#include "unit/layout_models.hpp"
#include "unit/transport_models.hpp"

namespace refit::test_support {
namespace {

using format_reference::Quantised;
using layout::QuantisedLayout;
using model::Role;
using Values = std::vector<std::byte>;

constexpr std::int64_t kGroup = 16;

/// Large enough for blocks of 32 columns on 4 ranks.
model::Model model_of(const std::string& family) {
  model::Config config = layout::small_config(family);
  config.layers = 2;
  config.vocab_size = 256;
  config.hidden_size = 96;
  config.kv_heads = 4;
  config.head_dim = 16;
  config.intermediate_size = 128;
  config.experts = config.experts > 0 ? 4 : 0;
  config.expert_intermediate_size = 64;
  config.dense_layer = {true, false};
  if (family == "gpt_oss") config.dense_layer.clear();
  return model::build_model(config, false);
}

struct Case {
  std::string family, train;
  StoredFormat format;
  Library library;
  DType from;

  std::string text() const {
    return fmt::format("{} {} {} {} {}", family, train, name(format), name(library), name(from));
  }
};

/// The reference of a whole model of which all parts are made by `library`.
class Whole {
 public:
  Whole(const Case& c, std::int64_t step) : c_(c), step_(step), model_(model_of(c.family)) {
    model::Quantisation how = c.format;
    const bool multiplies =
        c.library == Library::modelopt || c.library == Library::modelopt_qtensor || c.library == Library::torchao;
    if (multiplies) how.naming = model::Naming::modelopt;
    how.scale_dtype = is_int4(c.format) ? DType::bf16 : DType::f32;
    how.group = kGroup;
    model::quantise(model_, how, model::QuantisedBy::refit);
  }

  const model::Model& model() const { return model_; }

  /// Returns element `index` of a weight, row-major, as train stores it; every weight has magnitudes of its own.
  std::uint32_t bits(const model::Tensor& weight, std::int64_t index) const {
    const std::uint64_t of_weight = hash_name(weight.name);
    const std::uint64_t random = splitmix64(of_weight + static_cast<std::uint64_t>(index + (step_ << 40)));
    const double uniform = static_cast<double>(random >> 11) * 0x1p-52 - 1.0;
    const double scale = 0.01 * static_cast<double>(1 + splitmix64(of_weight + static_cast<std::uint64_t>(step_)) % 50);
    return kernels::convert_bits(std::bit_cast<std::uint32_t>(static_cast<float>(uniform * scale)), DType::f32,
                                 c_.from);
  }
  float value(const model::Tensor& weight, std::int64_t index) const {
    return std::bit_cast<float>(kernels::convert_bits(bits(weight, index), c_.from, DType::f32));
  }

  /// Returns what is stored of a weight's part, or of the weight itself, row-major.
  const Values& stored(const model::Tensor& tensor) {
    const model::Tensor& weight = tensor.scale_of < 0 ? tensor : model_[tensor.scale_of];
    if (!stored_.contains(weight.index)) quantise(weight);
    return stored_.at(tensor.index);
  }

 private:
  /// Indices of a weight's elements in the order of its parts: rows of [.., rows, columns].
  std::vector<std::int64_t> order(const model::Tensor& weight) const {
    const Shape shape = rows_and_columns(weight);
    const Extents strides = model::in_matrix_order(weight, row_major_strides(weight.shape));
    std::vector<std::int64_t> result;
    for (std::int64_t linear = 0; linear < product(shape); ++linear) {
      std::int64_t rest = linear, at = 0;
      for (int d = shape.size() - 1; d >= 0; --d) {
        at += rest % shape[d] * strides[d];
        rest /= shape[d];
      }
      result.push_back(at);
    }
    return result;
  }

  /// Returns whether an engine fuses two weights, by their names.
  bool fused(const model::Tensor& a, const model::Tensor& b) const {
    const auto fused_name = [](std::string name) {
      for (const char* part : {"q_proj", "k_proj", "v_proj"})
        if (const auto at = name.find(part); at != std::string::npos) return name.replace(at, 6, "qkv");
      for (const char* part : {"gate_proj", "up_proj"})
        if (const auto at = name.find(part); at != std::string::npos) return name.substr(0, at) + "gate_up";
      return name;
    };
    return fused_name(a.name) == fused_name(b.name);
  }

  float amax(const model::Tensor& weight) const {
    float result = 0.0F;
    for (const model::Tensor& other : model_.tensors) {
      if (other.scales < 0 || !fused(weight, other)) continue;
      for (std::int64_t i = 0; i < other.elements(); ++i) result = std::max(result, std::fabs(value(other, i)));
    }
    return result;
  }

  /// Returns the values of other weights that share FP8's scale of a tensor: ModelOpt's gate and up of an expert.
  std::vector<float> values_beside(const model::Tensor& weight) const {
    std::vector<float> result;
    const bool shares = c_.format == StoredFormat::fp8_tensor &&
                        model_.quantisation.naming == model::Naming::modelopt &&
                        weight.name.find(".experts.") != std::string::npos;
    for (const model::Tensor& other : model_.tensors) {
      if (!shares || other.scales < 0 || other.index == weight.index || !fused(weight, other)) continue;
      for (std::int64_t i = 0; i < other.elements(); ++i) result.push_back(value(other, i));
    }
    return result;
  }

  static void append(Values& to, const void* data, std::size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    to.insert(to.end(), bytes, bytes + size);
  }

  void append_number(Values& to, float number, DType dtype) const {
    const std::uint32_t bits = kernels::convert_bits(std::bit_cast<std::uint32_t>(number), DType::f32, dtype);
    append(to, &bits, static_cast<std::size_t>(byte_size(dtype)));
  }

  void quantise(const model::Tensor& weight) {
    const std::vector<std::int64_t> elements = order(weight);
    const Shape shape = rows_and_columns(weight);
    const std::int64_t columns = shape[shape.size() - 1];
    std::int64_t size = columns;
    if (c_.format == StoredFormat::fp8_tensor) size = weight.elements();
    if (c_.format == StoredFormat::nvfp4) size = 16;
    if (c_.format == StoredFormat::mxfp4) size = 32;
    if (is_int4(c_.format)) size = kGroup;
    const float of_tensor = c_.format == StoredFormat::nvfp4 ? amax(weight) : 0.0F;
    const std::vector<float> beside = values_beside(weight);
    Values stored, scales, tensor_scale;
    std::uint8_t low = 0;
    bool is_high = false;
    std::vector<float> values(static_cast<std::size_t>(size));
    for (std::int64_t first = 0; first < weight.elements(); first += size) {
      for (std::int64_t i = 0; i < size; ++i)
        values[static_cast<std::size_t>(i)] = value(weight, elements[static_cast<std::size_t>(first + i)]);
      values.resize(static_cast<std::size_t>(size));
      values.insert(values.end(), beside.begin(), beside.end());
      Quantised made = format_reference::quantised({c_.format, c_.library, c_.from, of_tensor, values});
      made.elements.resize(static_cast<std::size_t>(size));
      for (const std::uint8_t element : made.elements) {
        if (element_bits(c_.format) == 8) {
          stored.push_back(std::byte{element});
        } else if (is_high) {
          stored.push_back(static_cast<std::byte>(low | element << 4));
        }
        low = element;
        is_high = !is_high;
      }
      if (element_bits(c_.format) == 8 || is_int4(c_.format)) {
        append_number(scales, made.scale, is_int4(c_.format) ? DType::bf16 : DType::f32);
      } else {
        scales.push_back(std::byte{made.byte});
      }
      // TransformerEngine keeps the amax, for which engines get the divisor.
      const float tensor = c_.library == Library::te ? 2688.0F / made.tensor : made.tensor;
      if (tensor_scale.empty()) append_number(tensor_scale, tensor, DType::f32);
    }
    if (element_bits(c_.format) == 8) stored_[weight.index] = stored;
    for (std::int64_t p = weight.scales; p < std::ssize(model_.tensors) && model_[p].scale_of == weight.index; ++p) {
      Values& to = stored_[static_cast<std::int32_t>(p)];
      if (model_[p].role == Role::packed_values) to = stored;
      if (model_[p].role == Role::block_scale) to = scales;
      if (model_[p].role == Role::tensor_scale) to = c_.format == StoredFormat::nvfp4 ? tensor_scale : scales;
      const std::int64_t sizes[] = {weight.shape[0], weight.shape[1]};
      if (model_[p].role == Role::weight_shape) append(to, sizes, sizeof(sizes));
    }
  }

  const Case& c_;
  std::int64_t step_;
  model::Model model_;
  std::map<std::int32_t, Values> stored_;
};

/// Calls visit(index) for each index of a box.
template <typename Visit>
void for_each_index(const Extents& extent, const Visit& visit) {
  for (std::int64_t linear = 0; linear < product(extent); ++linear) {
    Extents index = extent;
    std::int64_t rest = linear;
    for (int d = extent.size() - 1; d >= 0; --d) {
      index[d] = rest % extent[d];
      rest /= extent[d];
    }
    visit(index);
  }
}

/// Storages of a rank, each in memory of its own.
struct Memory {
  explicit Memory(const layout::Layout& layout, const model::Model& model, std::int32_t rank)
      : local(materialise(layout, model.tensors, Rank{rank})) {
    std::vector<std::byte*> addresses;
    for (const layout::Storage& storage : local.storages) {
      bytes.emplace_back(static_cast<std::size_t>(storage.bytes()), std::byte{0xA5});
      addresses.push_back(bytes.back().data());
    }
    memory = transport::LocalMemory(local, addresses);
  }
  Memory(const Memory&) = delete;

  std::byte* at(const layout::LocalPiece& piece, const Extents& index) const {
    const DType dtype = piece.piece.format.dtype;
    return memory.address(piece.piece.place, dtype) + offset_of(index, piece.piece.place.strides) * byte_size(dtype);
  }

  layout::LocalLayout local;
  std::deque<Values> bytes;
  transport::LocalMemory memory;
};

void write(const Memory& memory, const Whole& whole) {
  for (const layout::LocalPiece& piece : memory.local.pieces) {
    const model::Tensor& weight = whole.model()[piece.tensor];
    if (weight.scales < 0) continue;
    const Extents strides = row_major_strides(weight.shape);
    for_each_index(piece.piece.box.extent, [&](const Extents& index) {
      const std::int64_t at = offset_of(piece.piece.box.lower, strides) + offset_of(index, strides);
      const std::uint32_t bits = whole.bits(weight, at);
      std::memcpy(memory.at(piece, index), &bits, static_cast<std::size_t>(byte_size(piece.piece.format.dtype)));
    });
  }
}

/// Checks everything that a rank has made; returns how many pieces.
std::int64_t check(const Memory& memory, Whole& whole, const std::string& what) {
  std::int64_t pieces = 0;
  for (const layout::LocalPiece& piece : memory.local.pieces) {
    const model::Tensor& tensor = whole.model()[piece.tensor];
    if (tensor.scale_of < 0 && (tensor.scales < 0 || is_packed(whole.model().quantisation.format))) continue;
    const Values& expected = whole.stored(tensor);
    const Extents strides = row_major_strides(tensor.shape);
    const auto size = static_cast<std::size_t>(byte_size(piece.piece.format.dtype));
    std::int64_t wrong = 0;
    for_each_index(piece.piece.box.extent, [&](const Extents& index) {
      const std::int64_t at = offset_of(piece.piece.box.lower, strides) + offset_of(index, strides);
      const std::byte* right = expected.data() + static_cast<std::size_t>(at) * size;
      if (std::memcmp(memory.at(piece, index), right, size) != 0) ++wrong;
    });
    EXPECT_EQ(wrong, 0) << what << ": " << tensor.name << " " << to_string(piece.piece.box);
    ++pieces;
  }
  return pieces;
}

/// Two refits with weights of their own.
void check_case(const Case& c, const layout::Layout& train, transport::Control& world, bool reduces) {
  SCOPED_TRACE(c.text());
  Whole first(c, 1);
  const model::Model& model = first.model();
  const kernels::ExecutionSpace space;
  const bool is_train = world.rank() < train.ranks();
  const QuantisedLayout sent(model, train);
  std::optional<Memory> from, made;
  transport::QuantisedPieces pieces;
  if (is_train) {
    from.emplace(train, model, world.rank());
    made.emplace(sent, model, world.rank());
    pieces = {&train, &from->local, from->memory, made->memory};
  }
  transport::QuantiseParts quantise(space, world, model, c.library, pieces);
  EXPECT_TRUE(quantise.is_needed());
  EXPECT_EQ(quantise.reduces(), reduces);
  for (std::int64_t step = 1; step <= 2; ++step) {
    Whole whole(c, step);
    if (is_train) write(*from, whole);
    quantise.run();
    if (is_train) {
      EXPECT_GT(check(*made, whole, c.text()), 0);
    }
  }
}

/// The train layouts of worlds of some ranks, the last of which may be no train rank.
std::vector<std::string> train_layouts(int ranks) {
  switch (ranks) {
    case 1: return {"TP1"};
    case 2: return {"TP2", "PP2"};
    case 3: return {"TP2", "EP2"};
    case 4: return {"TP4", "TP2xPP2"};
    case 6: return {"TP2xPP2"};
    default: return {"TP4xPP2", "TP2xETP1xEP2xPP2"};
  }
}

/// Libraries and dtypes take turns.
TEST(QuantiseParts, EveryFormatOnAllRanks) {
  const auto world = make_control();
  std::size_t turn = static_cast<std::size_t>(world->size());
  for (const std::string& train : train_layouts(world->size())) {
    const bool has_cut_rows = train.starts_with("TP2") || train.starts_with("TP4");
    for (const StoredFormat format : {StoredFormat::nvfp4, StoredFormat::mxfp4, StoredFormat::fp8_tensor,
                                      StoredFormat::fp8_channel, StoredFormat::int4}) {
      const std::span<const Library> known = libraries_on_the_way(format);
      const DType from = turn % 2 == 0 ? DType::bf16 : DType::f32;
      const Case c{"qwen3_moe", train, format, known[turn++ % known.size()], from};
      const model::Model model = Whole(c, 0).model();
      const auto layout = train::megatron::make_layout(model, train_options(model, train, from));
      ASSERT_EQ(layout::cut_through_blocks(model, *layout), "");
      const bool reduces = format == StoredFormat::nvfp4 || format == StoredFormat::fp8_tensor ||
                           (format == StoredFormat::fp8_channel && has_cut_rows);
      check_case(c, *layout, *world, reduces && layout->ranks() > 1);
    }
  }
}

TEST(QuantiseParts, ExpertsInOneTensor) {
  const auto world = make_control();
  const std::string train = world->size() > 1 ? "EP2" : "TP1";
  for (const Library library : {Library::triton, Library::compressed_tensors}) {
    const Case c{"gpt_oss", train, StoredFormat::mxfp4, library, DType::bf16};
    const model::Model model = Whole(c, 0).model();
    const auto layout = train::megatron::make_layout(model, train_options(model, train, DType::bf16));
    check_case(c, *layout, *world, false);
  }
}

TEST(QuantiseParts, CutsThroughBlocksAreNamed) {
  const Case c{"qwen3_moe", "TP4", StoredFormat::mxfp4, Library::triton, DType::bf16};
  const model::Model model = Whole(c, 0).model();
  const auto layout = train::megatron::make_layout(model, train_options(model, "TP4xETP4", DType::bf16));
  const std::string text = layout::cut_through_blocks(model, *layout);
  EXPECT_NE(text.find("experts.0.down_proj.weight: columns 0 .. 15 of rank 0 cut through a block of 32 columns"),
            text.npos)
      << text;
}

}  // namespace
}  // namespace refit::test_support
