#include "fuzz/distorted_layout.hpp"

namespace refit::fuzz {
namespace {

using model::Role;

/// The role that takes a role's place; the role itself where none does.
Role exchanged(Role role, Distortion distortion) {
  constexpr std::pair<Role, Role> kGateUp[] = {{Role::gate_proj, Role::up_proj},
                                               {Role::expert_gate, Role::expert_up},
                                               {Role::shared_gate_proj, Role::shared_up_proj}};
  constexpr std::pair<Role, Role> kKeyValue[] = {{Role::k_proj, Role::v_proj}, {Role::k_proj_bias, Role::v_proj_bias}};
  const auto find = [role](const auto& pairs) {
    for (const auto& [a, b] : pairs) {
      if (role == a) return b;
      if (role == b) return a;
    }
    return role;
  };
  if (distortion == Distortion::swapped_gate_up) return find(kGateUp);
  return distortion == Distortion::swapped_k_v ? find(kKeyValue) : role;
}

}  // namespace

const std::vector<std::pair<Distortion, std::string>>& distortions() {
  static const std::vector<std::pair<Distortion, std::string>> all{
      {Distortion::swapped_gate_up, "gate and up swapped"},
      {Distortion::swapped_k_v, "k and v swapped"},
      {Distortion::reversed_rows, "rows last to first"},
      {Distortion::shifted_box, "pieces begin one row early"},
      {Distortion::wrong_rank, "the next rank's pieces"},
      {Distortion::lost_conversion, "no conversion"},
      {Distortion::lost_fill, "no fill"},
      {Distortion::wrong_dtype, "another dtype"},
      {Distortion::lost_copy, "a copy lost"},
      {Distortion::twice_copied, "a copy made twice"}};
  return all;
}

DistortedLayout::DistortedLayout(const layout::Layout& inner, const model::Model& model, Distortion distortion,
                                 bool& distorted)
    : inner_(inner), distortion_(distortion), distorted_(distorted) {
  for (const model::Tensor& tensor : model.tensors) tensors_[{tensor.role, tensor.layer, tensor.expert}] = &tensor;
}

const model::Tensor& DistortedLayout::swapped(const model::Tensor& tensor) const {
  const auto found = tensors_.find({exchanged(tensor.role, distortion_), tensor.layer, tensor.expert});
  return found == tensors_.end() || found->second->role == tensor.role ? tensor : *found->second;
}

Rank DistortedLayout::holder(Rank rank) const {
  return distortion_ == Distortion::wrong_rank ? Rank{(to_int(rank) + 1) % ranks()} : rank;
}

Format DistortedLayout::distorted(Format format) const {
  const Format before = format;
  if (distortion_ == Distortion::lost_conversion) format.conversion = Conversion::none;
  if (distortion_ == Distortion::wrong_dtype) format.dtype = format.dtype == DType::f32 ? DType::bf16 : DType::f32;
  if (format != before) distorted_ = true;
  return format;
}

void DistortedLayout::distort(layout::Piece& piece) const {
  piece.format = distorted(piece.format);
  if (piece.box.extent.size() == 0) return;
  if (distortion_ == Distortion::reversed_rows && piece.box.extent[0] > 1) {
    piece.place.offset += (piece.box.extent[0] - 1) * piece.place.strides[0];
    piece.place.strides[0] = -piece.place.strides[0];
    distorted_ = true;
  }
  if (distortion_ == Distortion::shifted_box && piece.box.lower[0] > 0) {
    --piece.box.lower[0];
    distorted_ = true;
  }
}

std::optional<Format> DistortedLayout::format(const model::Tensor& tensor) const {
  const auto format = inner_.format(tensor);
  return format ? std::optional(distorted(*format)) : format;
}

void DistortedLayout::pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const {
  std::vector<layout::Piece> mine, right;
  inner_.pieces(swapped(tensor), holder(rank), mine);
  inner_.pieces(tensor, rank, right);
  if (mine.size() != right.size()) distorted_ = true;
  for (std::size_t i = 0; i < mine.size(); ++i) {
    if (i < right.size() && (mine[i].box != right[i].box || mine[i].place != right[i].place)) distorted_ = true;
    distort(mine[i]);
    out.push_back(mine[i]);
  }
}

layout::Storage DistortedLayout::storage(const layout::StorageKey& key, Rank rank) const {
  layout::Storage result = inner_.storage(key, rank);
  result.dtype = distorted(result.dtype).dtype;
  return result;
}

void DistortedLayout::fills(const layout::StorageKey& key, Rank rank, std::vector<layout::Fill>& out) const {
  const std::size_t before = out.size();
  inner_.fills(key, rank, out);
  if (distortion_ != Distortion::lost_fill || out.size() == before) return;
  out.resize(before);
  distorted_ = true;
}

}  // namespace refit::fuzz
