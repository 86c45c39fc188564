#include "train/fsdp/parameters.hpp"

#include <algorithm>
#include <map>

#include "layout/parameter.hpp"
#include "train/fsdp/mesh.hpp"

namespace refit::train::fsdp {
namespace {

using model::Mlp;
using model::MlpPart;
using model::Role;
using model::Tensor;

/// One of an expert's matrices [out, in] in a tensor or parameter: which dimensions are which.
struct Matrix {
  MlpPart part = MlpPart::none;
  int expert_dim = -1;  ///< -1: one expert's tensor
  int out_dim = 0;
  std::int64_t out_begin = 0;  ///< of up behind gate
  int in_dim = 1;
};

/// The same in a parameter.
struct Target {
  std::string_view word;
  Matrix matrix;
};

/// Returns the matrices that a tensor holds; none where it is no experts' weight, or interleaved.
std::vector<Matrix> matrices(const Tensor& tensor) {
  const model::RoleFacts& facts = facts_of(tensor.role);
  switch (facts.mlp) {
    case Mlp::expert: return {{facts.part}};
    case Mlp::packed_experts:
      if (facts.part != MlpPart::gate_up) return {{facts.part, 0, 1, 0, 2}};
      return {{MlpPart::gate, 0, 1, 0, 2}, {MlpPart::up, 0, 1, tensor.shape[1] / 2, 2}};
    case Mlp::transposed_experts:
      if (facts.part != MlpPart::gate_up) return {{facts.part, 0, 2, 0, 1}};
      return {{MlpPart::gate, 0, 2, 0, 1}, {MlpPart::up, 0, 2, tensor.shape[2] / 2, 1}};
    default: return {};
  }
}

/// Returns where a stacked form has a matrix; `width`: I of one expert.
Target target_of(ExpertForm form, MlpPart part, std::int64_t width) {
  const std::int64_t begin = part == MlpPart::up ? width : 0;
  const bool down = part == MlpPart::down;
  switch (form) {
    case ExpertForm::stacked: return {down ? "down_proj" : "gate_up_proj", {part, 0, 1, begin, 2}};
    case ExpertForm::transposed: return {down ? "down_projs" : "gate_and_up_projs", {part, 0, 2, begin, 1}};
    case ExpertForm::w123: return {down ? "w2" : part == MlpPart::up ? "w3" : "w1", {part, 0, 1, 0, 2}};
    case ExpertForm::checkpoint: break;
  }
  fail_invariant("experts as in the checkpoint are not stacked");
}

/// Returns the dimension that the plan for w1, w2 and w3 cuts: columns of gate and up, rows of down.
int w123_dim(MlpPart part) { return part == MlpPart::down ? 2 : 1; }

bool is_stacked(const Tensor& tensor) {
  const Mlp mlp = facts_of(tensor.role).mlp;
  return mlp == Mlp::packed_experts || mlp == Mlp::transposed_experts || mlp == Mlp::interleaved_experts;
}

/// Returns the form in which the trainer holds the model's experts.
ExpertForm form_of(const model::Model& model, const Options& options) {
  if (options.experts != ExpertForm::checkpoint) return options.experts;
  const layout::ParameterTable first(model);
  if (first.has(Role::stacked_up)) return ExpertForm::w123;
  return first.has(Role::expert_up) && options.sizes.ep > 1 ? row_of(options.recipe).stacks : ExpertForm::checkpoint;
}

/// Returns the axes of a tensor that is a parameter by itself: its dimensions as checkpoints have them.
std::vector<Axis> own_axes(const Tensor& tensor) {
  std::vector<Axis> axes;
  int next = 0;
  for (const std::int64_t size : tensor.file_shape()) {
    Axis axis{next, 0, 0, 0, size};
    for (std::int64_t merged = 1; axis.count == 0 || merged < size; ++next, ++axis.count) merged *= tensor.shape[next];
    axes.push_back(axis);
  }
  return axes;
}

class Builder {
 public:
  Builder(const model::Model& model, const Options& options, const std::vector<std::int64_t>& stages)
      : model_(model), options_(options), form_(form_of(model, options)) {
    for (std::size_t stage = 0; stage < stages.size(); ++stage)
      stage_of_.insert(stage_of_.end(), static_cast<std::size_t>(stages[stage]), static_cast<std::int32_t>(stage));
    last_stage_ = static_cast<std::int32_t>(stages.size()) - 1;
    result_.images.resize(model.tensors.size());
  }

  Parameters run() {
    for (const Tensor& tensor : model_.tensors) {
      const bool is_prediction = tensor.layer >= model_.config.layers;  // transformers has no such modules
      if (tensor.scale_of >= 0 || is_prediction) continue;
      if (model_.config.tied && (tensor.role == Role::embedding || tensor.role == Role::lm_head)) {
        add_tied(tensor);
      } else if (form_ != ExpertForm::checkpoint && !matrices(tensor).empty()) {
        add_matrices(tensor);
      } else {
        add_own(tensor, tensor.name, own_stage(tensor));
      }
    }
    return std::move(result_);
  }

 private:
  std::int32_t own_stage(const Tensor& tensor) const {
    if (tensor.role == Role::unknown || facts_of(tensor.role).is_cache_scale) return kEveryStage;
    if (tensor.layer >= 0) return stage_of_[static_cast<std::size_t>(tensor.layer)];
    return facts_of(tensor.role).place == model::Place::front ? 0 : last_stage_;
  }

  /// DeepSeek-V3's router is float32 in a bf16 model, and so is every bias by which routers select.
  DType dtype_of(const Tensor& tensor) const {
    if (tensor.role == Role::router && facts_of(model_.config).transformers_float32_router) return DType::f32;
    return tensor.role == Role::expert_bias ? DType::f32 : options_.precision;
  }

  /// Returns the number of the parameter of that name, a new one where there is none yet.
  std::int32_t find(const std::string& name, const Parameter& otherwise) {
    const auto [entry, is_new] = by_name_.try_emplace(name, static_cast<std::int32_t>(result_.all.size()));
    if (is_new) {
      result_.all.push_back(otherwise);
      result_.all.back().name = name;
    }
    return entry->second;
  }

  void add_image(const Tensor& tensor, Image image) {
    result_.images[static_cast<std::size_t>(tensor.index)].push_back(std::move(image));
  }

  void add_own(const Tensor& tensor, const std::string& name, std::int32_t stage) {
    Parameter parameter{"", tensor.file_shape(), dtype_of(tensor), stage};
    if (stage == kEveryStage) parameter.dtype = tensor.dtype;
    parameter.is_whole = stage == kEveryStage || tensor.role == Role::expert_bias;  // a buffer
    parameter.is_stacked = is_stacked(tensor);
    parameter.tp_dim = tensor_parallel_dim(tensor.role).value_or(-1);
    add_image(tensor, {find(name, parameter), -1, parameter.is_whole ? std::vector<Axis>() : own_axes(tensor)});
  }

  /// One parameter with both names; with stages the last one's head has a copy.
  void add_tied(const Tensor& tensor) {
    const auto embedding =
        std::ranges::find_if(model_.tensors, [](const Tensor& other) { return other.role == Role::embedding; });
    add_own(tensor, embedding->name, 0);
    if (last_stage_ > 0) add_own(tensor, model_.config.lm_head, last_stage_);
  }

  void add_matrices(const Tensor& tensor) {
    const std::int64_t experts = model_.config.experts;
    const std::string module =
        tensor.name.substr(0, tensor.name.rfind("experts.") + std::string_view("experts.").size());
    for (const Matrix& from : matrices(tensor)) {
      const bool down = from.part == MlpPart::down;
      const std::int64_t in = tensor.shape[from.in_dim];
      const bool halved = facts_of(tensor.role).part == MlpPart::gate_up;
      const std::int64_t out = tensor.shape[from.out_dim] / (halved ? 2 : 1);
      const auto [word, to] = target_of(form_, from.part, out);
      Parameter parameter{"", {experts, 0, 0}, options_.precision, own_stage(tensor), false, true};
      const bool both = form_ != ExpertForm::w123 && !down;
      parameter.shape[to.out_dim] = both ? 2 * out : out;
      parameter.shape[to.in_dim] = in;
      if (form_ == ExpertForm::w123) parameter.tp_dim = w123_dim(from.part);
      Image image{find(module + std::string(word), parameter), from.expert_dim < 0 ? tensor.expert : -1, {}};
      if (from.expert_dim >= 0) image.axes.push_back({from.expert_dim, 1, 0, 0, experts});
      const Axis out_axis{from.out_dim, 1, from.out_begin, to.out_begin, out};
      const Axis in_axis{from.in_dim, 1, 0, 0, in};
      image.axes.push_back(to.out_dim < to.in_dim ? out_axis : in_axis);
      image.axes.push_back(to.out_dim < to.in_dim ? in_axis : out_axis);
      add_image(tensor, std::move(image));
    }
  }

  const model::Model& model_;
  const Options& options_;
  ExpertForm form_;
  std::vector<std::int32_t> stage_of_;  ///< by layer
  std::int32_t last_stage_ = 0;
  std::map<std::string, std::int32_t> by_name_;
  Parameters result_;
};

}  // namespace

Parameters parameters_of(const model::Model& model, const Options& options, const std::vector<std::int64_t>& stages) {
  Parameters result = Builder(model, options, stages).run();
  for (Parameter& parameter : result.all) choose_shard_dim(options, parameter);
  return result;
}

std::string experts_problem(const model::Model& model, const Options& options) {
  const ExpertForm form = form_of(model, options);
  if (form == ExpertForm::checkpoint) return "";
  const layout::ParameterTable first(model);
  const auto complain = [&](const char* what) {
    return fmt::format("train: {} have no rule as {} (train.experts); legal: EP1 with train.experts = checkpoint", what,
                       name(form));
  };
  if (model.config.experts == 0) return "train: train.experts on a model without experts; leave it out";
  if (first.has(Role::interleaved_gate_up)) return complain("experts whose gate and up alternate");
  if (first.has(Role::expert_up) && !first.has(Role::expert_gate)) return complain("experts without a gate");
  return "";
}

std::optional<int> tensor_parallel_dim(Role role) {
  switch (role) {
    // ColwiseParallel: weight and bias by rows.
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj:
    case Role::q_proj_bias:
    case Role::k_proj_bias:
    case Role::v_proj_bias:
    case Role::mla_q_proj:
    case Role::q_b_proj:
    case Role::kv_b_proj:
    case Role::gate_proj:
    case Role::up_proj:
    case Role::gate_proj_bias:
    case Role::up_proj_bias:
    case Role::shared_gate_proj:
    case Role::shared_up_proj:
    case Role::embedding:
    case Role::lm_head: return 0;
    // RowwiseParallel: the weight by columns.
    case Role::o_proj:
    case Role::mla_o_proj:
    case Role::down_proj:
    case Role::shared_down_proj: return 1;
    // In no plan, or replicated; but see w123_dim.
    case Role::final_norm:
    case Role::attention_norm:
    case Role::mla_norm:
    case Role::mlp_norm:
    case Role::moe_norm:
    case Role::attention_post_norm:
    case Role::mlp_post_norm:
    case Role::q_norm:
    case Role::k_norm:
    case Role::o_proj_bias:
    case Role::down_proj_bias:
    case Role::q_a_proj:
    case Role::q_a_norm:
    case Role::kv_a_proj:
    case Role::kv_a_norm:
    case Role::router:
    case Role::expert_bias:
    case Role::expert_gate:
    case Role::expert_up:
    case Role::expert_down:
    case Role::stacked_gate:
    case Role::stacked_up:
    case Role::packed_gate_up:
    case Role::packed_down:
    case Role::transposed_gate_up:
    case Role::transposed_down: return -1;
    default: return std::nullopt;
  }
}

}  // namespace refit::train::fsdp
