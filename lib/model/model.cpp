#include "model/model.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "core/error.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

/// Every family, sorted by name.
constexpr const Family* kFamilies[] = {&kDeepseekV2, &kDeepseekV3, &kDeepseekV32, &kGemma3, &kGlm4Moe,   &kGlm4MoeLite,
                                       &kGlmMoeDsa,  &kGptOss,     &kLlama,       &kLlama4, &kMinimaxM2, &kMixtral,
                                       &kNemotronH,  &kOlmo3,      &kPhi3,        &kQwen2,  &kQwen3,     &kQwen35,
                                       &kQwen35Moe,  &kQwen3Moe,   &kQwen3Next,   &kSeedOss};

}  // namespace

std::span<const Family* const> families() { return kFamilies; }

const Family* find_family(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](auto* family) { return family->name == name; });
  return found == std::end(kFamilies) ? nullptr : *found;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family* family : kFamilies) names.emplace_back(family->name);
  return names;
}

std::string renamed(std::string name, std::span<const Renaming> renamings) {
  for (const auto& [from, to] : renamings) {
    const std::size_t at = name.find(from);
    if (at != std::string::npos) name.replace(at, from.size(), to);
  }
  return name;
}

const FamilyFacts& facts_of(const Config& config) {
  static constexpr FamilyFacts kNone;
  const Family* family = find_family(config.family);
  return family == nullptr ? kNone : family->facts;
}

const VisionFacts& vision_facts_of(const Config& config) {
  static constexpr VisionFacts kNone;
  const Family* family = find_family(config.family);
  return family == nullptr || family->tower == nullptr ? kNone : family->tower->facts;
}

std::set<Mixer> mixers_of(const Model& model) {
  std::set<Mixer> result;
  for (const Tensor& tensor : model.tensors) {
    if (const auto mixer = facts_of(tensor.role).mixer) result.insert(*mixer);
  }
  return result;
}

Shape Tensor::file_shape() const {
  if (written.size() > 0) return written;
  if (dimensions.size() > 0) return dimensions;
  if (repeats > 1) return {shape[0], shape[2]};
  if (is_paired(role)) return {shape[0] * shape[1] * shape[2], shape[3]};
  const RoleFacts& facts = facts_of(role);
  if (facts.mlp != Mlp::interleaved_experts || facts.part != MlpPart::gate_up) return shape;
  Shape merged;
  for (int d = 0; d + 2 < shape.size(); ++d) merged.push_back(shape[d]);
  merged.push_back(shape[shape.size() - 2] * shape[shape.size() - 1]);
  return merged;
}

void TensorList::add(std::string tensor_name, const Shape& shape, Role role, std::int64_t layer, std::int64_t expert) {
  tensors.push_back({.index = static_cast<std::int32_t>(tensors.size()),
                     .name = std::move(tensor_name),
                     .shape = shape,
                     .dtype = config.dtype,
                     .role = role,
                     .layer = static_cast<std::int32_t>(layer),
                     .expert = static_cast<std::int32_t>(expert)});
}

void TensorList::add_f32(std::string tensor_name, const Shape& shape, Role role, std::int64_t layer) {
  add(std::move(tensor_name), shape, role, layer);
  tensors.back().dtype = DType::f32;
}

void TensorList::add_vision(const std::string& tensor_name, const Shape& shape, Role role, bool is_fused) {
  const std::int32_t last = tensors.empty() ? -1 : tensors.back().unit;
  add(config.vision.prefix + tensor_name, shape, role);
  Tensor& tensor = tensors.back();
  tensor.unit = is_fused ? last : tensor.index;
  if (shape.size() <= kWalkedDimensions) return;
  tensor.dimensions = shape;
  tensor.shape = {shape[0], product(shape) / shape[0]};
}

const Tensor& Model::canonical(const Tensor& tensor) const {
  if (tensor.same_as >= 0) return (*this)[tensor.same_as];
  if (!config.tied || tensor.role != Role::lm_head) return tensor;
  const auto is_embedding = [](const Tensor& other) { return other.role == Role::embedding; };
  const auto found = std::find_if(tensors.begin(), tensors.end(), is_embedding);
  REFIT_ASSERT(found != tensors.end());
  return *found;
}

const Tensor* Model::find(std::string_view wanted) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == wanted; });
  return found == tensors.end() ? nullptr : &*found;
}

std::int64_t Model::parameters() const {
  return std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0}, [](std::int64_t sum, const Tensor& tensor) {
    return sum + (is_scale(tensor.role) ? 0 : tensor.elements());
  });
}

std::int64_t Model::bytes() const {
  return std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0}, [](std::int64_t sum, const Tensor& tensor) {
    return sum + (tensor.kept == Kept::parts ? 0 : tensor.bytes());
  });
}

Model build_model(const Config& config, bool lm_head_present) {
  const Family* family = find_family(config.family);
  REFIT_ASSERT(family != nullptr);
  if (!config.doubts.empty()) {
    fail_usage("{}\nWithout a checkpoint, whose tensors would show it, these tensors would be a guess.",
               fmt::join(config.doubts, "\n"));
  }
  TensorList list{config, !config.tied || lm_head_present, nullptr, {}};
  family->list(list);
  if (config.vision.depth > 0) family->tower->list(list);
  Model model{config, std::move(list.tensors)};
  model.notes = config.notes;
  quantise(model, config.quantisation, QuantisedBy::trainer);
  return model;
}

}  // namespace refit::model
