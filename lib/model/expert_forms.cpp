// Conversion of a model's experts to another of the forms in which checkpoints hold them.

#include <tuple>

#include "core/error.hpp"
#include "model/family.hpp"

namespace refit::model {
namespace {

Mlp mlp_of(ExpertForm form) {
  switch (form) {
    case ExpertForm::each: return Mlp::expert;
    case ExpertForm::packed: return Mlp::packed_experts;
    case ExpertForm::transposed: return Mlp::transposed_experts;
  }
  fail_invariant("an unknown form of experts");
}

bool is_of_experts(const Tensor& tensor) {
  const Mlp mlp = facts_of(tensor.role).mlp;
  return mlp != Mlp::none && mlp != Mlp::dense && mlp != Mlp::shared;
}

/// The dtypes of a model's tensors: those of experts by layer, those of others by role and layer.
class Dtypes {
 public:
  explicit Dtypes(const Model& model) {
    for (const Tensor& tensor : model.tensors) dtypes_.emplace(key(tensor), tensor.dtype);
  }
  DType of(const Tensor& tensor) const {
    const auto found = dtypes_.find(key(tensor));
    REFIT_ASSERT(found != dtypes_.end());
    return found->second;
  }

 private:
  using Key = std::tuple<Role, std::int32_t>;
  static Key key(const Tensor& tensor) { return {is_of_experts(tensor) ? Role::expert_up : tensor.role, tensor.layer}; }
  std::map<Key, DType> dtypes_;
};

/// Returns true for tensors beside the language model and its quantised weights, which follow it in every form.
bool is_beside(const Tensor& tensor) {
  return tensor.unit >= 0 || tensor.role == Role::unknown || facts_of(tensor.role).is_cache_scale;
}

}  // namespace

Model with_experts(const Model& model, ExpertForm form) {
  const Config& config = model.config;
  const Family* family = find_family(config.family);
  if (config.experts == 0 || family == nullptr) fail_usage("family {}: the model has no experts", config.family);
  std::vector<TensorInfo> infos;
  for (const Tensor& tensor : model.tensors) infos.push_back({tensor.name, tensor.file_shape(), tensor.dtype});
  Held held;
  for (const TensorInfo& info : infos) held.emplace(info.name, &info);
  TensorList list{config, held.contains(config.lm_head), &held, {}, form};
  family->list(list);
  const Dtypes dtypes(model);
  for (Tensor& tensor : list.tensors) {
    if (is_of_experts(tensor) && facts_of(tensor.role).mlp != mlp_of(form)) {
      fail_usage("family {}: its experts have one form only, that of {}", config.family, tensor.name);
    }
    tensor.dtype = dtypes.of(tensor);
  }
  Model result{config, std::move(list.tensors), model.notes};
  quantise(result, config.quantisation, QuantisedBy::trainer);
  for (const Tensor& tensor : model.tensors) {
    if (!is_beside(tensor)) continue;
    result.tensors.push_back(tensor);
    result.tensors.back().index = static_cast<std::int32_t>(result.tensors.size() - 1);
  }
  return result;
}

}  // namespace refit::model
