// Faults of the parts of quantised weights: packed values, scales of blocks, rows and tensors.

#include <algorithm>
#include <cstring>

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

const Tensor& weight_of(const Setting& setting, const Tensor& part) { return setting.model[part.scale_of]; }

/// Returns the same part of another weight that is quantised.
const Tensor& part_of(const Setting& setting, const Tensor& part, const Tensor& weight) {
  return setting.model[weight.scales + (part.index - weight_of(setting, part).scales)];
}

bool is_global_scale(const Setting& setting, const Tensor& tensor) {
  return tensor.role == Role::tensor_scale && setting.model.quantisation.format == StoredFormat::nvfp4;
}

bool is_block_scale(const Setting& /*setting*/, const Tensor& tensor) { return tensor.role == Role::block_scale; }

bool is_packed_values(const Setting& /*setting*/, const Tensor& tensor) { return tensor.role == Role::packed_values; }

/// Returns the first component of the parameter that fuses a weight with others: q of k and v, gate of up; nullptr for
/// others.
const Tensor* first_component(const Setting& setting, const Tensor& weight) {
  if (is_up(weight.role)) return other_half(setting.model, weight);
  if (weight.role != Role::k_proj && weight.role != Role::v_proj) return nullptr;
  for (std::int64_t i = weight.index; i >= 0 && setting.model[i].layer == weight.layer; --i) {
    if (setting.model[i].role == Role::q_proj) return &setting.model[i];
  }
  return nullptr;
}

bool is_scale_of_later(const Setting& setting, const Tensor& tensor) {
  if (tensor.role != Role::tensor_scale) return false;
  const Tensor* first = first_component(setting, weight_of(setting, tensor));
  return first != nullptr && first->scales >= 0;
}

void scale_of_first(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                    std::vector<Piece>& out) {
  truth.pieces(part_of(setting, tensor, *first_component(setting, weight_of(setting, tensor))), rank, out);
}

/// Returns whether a tensor has a scale for each row of a weight that gen cuts by columns.
bool is_scale_of_cut_rows(const Setting& setting, const Tensor& tensor) {
  if (tensor.role != Role::block_scale || setting.model.quantisation.format != StoredFormat::fp8_channel) return false;
  const Role role = weight_of(setting, tensor).role;
  return (role == Role::o_proj || role == Role::down_proj) && setting.gen.tp > 1 &&
         tensor.shape[0] % setting.gen.tp == 0;
}

/// Cuts what every rank has whole: the rank gets nothing but its own part.
void cut_over_tp(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                 std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  for (std::size_t i = first; i < out.size(); ++i) {
    out[i].box.extent[0] = tensor.shape[0] / setting.gen.tp;
    out[i].box.lower[0] = to_int(rank) % setting.gen.tp * out[i].box.extent[0];
    out[i].place.offset += out[i].box.lower[0] * out[i].place.strides[0];
  }
}

bool is_scale_of_half(const Setting& setting, const Tensor& tensor) {
  if (tensor.role != Role::block_scale || tensor.expert < 0) return false;
  const Tensor* other = other_half(setting.model, weight_of(setting, tensor));
  return other != nullptr && other->scales >= 0;
}

/// The scales where those of the other half belong.
void swap_scales(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                 std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  std::vector<Piece> theirs;
  truth.pieces(part_of(setting, tensor, *other_half(setting.model, weight_of(setting, tensor))), rank, theirs);
  for (std::size_t i = 0; i < theirs.size(); ++i) out[first + i].place = theirs[i].place;
}

void invert(std::span<std::byte> numbers) {
  for (std::size_t at = 0; at + sizeof(float) <= numbers.size(); at += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, numbers.data() + at, sizeof(value));
    value = 1.0F / value;
    std::memcpy(numbers.data() + at, &value, sizeof(value));
  }
}

void swap_nibbles(std::span<std::byte> bytes) {
  for (std::byte& byte : bytes) byte = byte << 4 | byte >> 4;
}

}  // namespace

std::vector<Fault> part_faults() {
  return {{{"B49-old-global-scales", "gen keeps the global scales of refit 1 beside later values and block scales"},
           "weights in NVFP4",
           Act::keep,
           is_global_scale},
          {{"B50-old-block-scales", "gen keeps the scales of blocks, or rows, of refit 1 beside later values"},
           "quantised weights with scales of blocks or rows",
           Act::keep,
           is_block_scale},
          {{"B51-scale-of-first", "the first component's scale is taken for all of a fused parameter: q's, gate's"},
           "weights with a scale for each tensor, fused with others",
           Act::train_layout,
           is_scale_of_later,
           scale_of_first},
          {{"B52-inverted-scales", "global scales that are divisors are stored as multipliers, or the reverse"},
           "weights in NVFP4",
           Act::change,
           is_global_scale,
           nullptr,
           invert},
          {{"B53-swapped-nibbles", "the two elements of each byte change places"},
           "weights in NVFP4, MXFP4 or INT4",
           Act::change,
           is_packed_values,
           nullptr,
           swap_nibbles},
          {{"B54-cut-row-scales", "scales of rows are cut where only the weight's columns are"},
           "FP8 by channel, gen TP > 1, an o_proj or a dense down_proj",
           Act::gen_layout,
           is_scale_of_cut_rows,
           cut_over_tp},
          {{"B55-swapped-w13-scales", "block scales of experts go into the other half of w13, their values do not"},
           "experts with a gate, quantised, with scales of blocks or rows",
           Act::gen_layout,
           is_scale_of_half,
           swap_scales},
          {{"B56-old-magnitudes", "train ranks quantise with the largest magnitudes that they had in refit 1"},
           "weights quantised on the way with a scale for each tensor",
           Act::old_magnitudes,
           [](const Setting& setting, const Tensor& tensor) {
             return tensor.role == Role::tensor_scale && setting.model.quantised_by == model::QuantisedBy::refit;
           }}};
}

}  // namespace refit::inject
