#pragma once
// A layout made of parameters: the part that is the same for every engine. An engine says which ranks store which
// parameters, and how its storages are called.

#include <array>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "layout/adapters.hpp"
#include "layout/block_scales.hpp"

namespace refit::layout {

class ParameterLayout : public Layout {
 public:
  std::uint64_t placement_class(const Tensor& tensor) const final;
  std::optional<Format> format(const Tensor& tensor) const override;
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override;
  Storage storage(const StorageKey& key, Rank rank) const override;
  void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const override;
  std::vector<StorageKey> constant_storages(Rank rank) const override;

 protected:
  /// `model` must outlive the layout.
  ParameterLayout(const model::Model& model, std::vector<Parameter> parameters, DType precision,
                  const ScaleRules& scales, const AdapterRules& adapters = {});

  /// A parameter in which a rank stores a tensor, and the layer (in a vision tower: the unit) in its storage's key.
  struct Target {
    std::int32_t parameter = 0;
    std::int32_t layer = -1;
    std::int32_t chunk = -1;
  };
  /// Returns the placement class of a tensor that is not a block scale.
  virtual std::uint64_t class_of(const Tensor& tensor) const = 0;
  /// Returns the target of a tensor, if it has one. Callers with a block scale pass its weight instead.
  virtual std::optional<Target> target(const Tensor& tensor, Rank rank) const = 0;
  /// Returns where a rank stores the tensor once more, if it does: in a second model chunk.
  virtual std::optional<Target> second_target(const Tensor& /*tensor*/, Rank /*rank*/) const { return std::nullopt; }
  virtual Slice slice(const Parameter& parameter, Rank rank) const = 0;
  /// Returns the slice of a storage whose key says `layer`, where layers differ.
  virtual Slice slice_of(const Parameter& parameter, std::int32_t /*layer*/, Rank rank) const {
    return slice(parameter, rank);
  }
  /// Returns whether any rank stores `tensor`, whose role is in some parameter.
  virtual bool is_stored(const Tensor& tensor) const = 0;
  /// Returns the engine's full name of a storage. `tensor`: one of its tensors.
  virtual std::string storage_name(const StorageKey& key, const Tensor& tensor, Rank rank) const = 0;
  /// Returns the model's number of the decoder layer of a storage's key.
  virtual std::int32_t model_layer(const StorageKey& key, Rank /*rank*/) const { return key.layer; }

  const model::Model& model() const { return model_; }
  const Parameter& parameter(std::int32_t number) const { return parameters_[static_cast<std::size_t>(number)]; }
  /// Returns the number of the first parameter with a component of that role, or -1.
  std::int32_t find(model::Role role) const { return by_role_[static_cast<std::size_t>(role)]; }
  /// Returns the number of the parameter of a vision tower's tensor: of several for its role, the one for its number of
  /// rows.
  std::int32_t find_vision(const Tensor& tensor) const;
  /// Returns the weight of a part or of a matrix of a LoRA pair, and any other tensor itself.
  const Tensor& weight_of(const Tensor& tensor) const {
    if (tensor.adapter_of >= 0) return model_[tensor.adapter_of];
    return tensor.scale_of < 0 ? tensor : model_[tensor.scale_of];
  }
  /// Returns the parameter whose weights those of an adapter's parameter adapt.
  const Parameter& adapted_by(std::int32_t number) const { return parameter(adapted_.at(number)); }
  /// Returns the number of the parameter of that name, or -1.
  std::int32_t find(std::string_view name) const;

 private:
  using ByRole = std::array<std::vector<std::int32_t>, model::kRoles>;  ///< the parameters of each role
  void add_parts(const ByRole& by_role, const ScaleRules& rules);
  void add_adapters(const ByRole& by_role, const AdapterRules& rules);
  const Tensor& tensor_of(const StorageKey& key, Rank rank) const;
  void append_to(const Target& target, const Tensor& tensor, Rank rank, std::vector<Piece>& out) const;
  /// Returns the parameter of a tensor whose weight's parameter is `number`, or -1: nobody stores a weight beside its
  /// packed values.
  std::int32_t parameter_of(const Tensor& tensor, std::int32_t number) const;
  Format format_of(const Parameter& parameter, const Tensor& tensor) const;
  /// Returns whether every rank stores the tensor whole under its own name: no parameter is made of it, and no rank
  /// omits it.
  bool is_whole(const Tensor& tensor) const;

  const model::Model& model_;
  std::vector<Parameter> parameters_;  ///< those of `parts_` and `adapters_` last
  DType precision_;
  bool is_quantised_;
  std::map<std::pair<std::int32_t, model::Role>, std::int32_t> parts_;  ///< (a weight's parameter, part) -> parameter
  /// (a weight's parameter, the weight's role, A or B) -> parameter
  std::map<std::tuple<std::int32_t, model::Role, model::Role>, std::int32_t> adapters_;
  std::map<std::int32_t, std::int32_t> adapted_;         ///< an adapter's parameter -> its weight's
  std::multimap<std::int32_t, std::int32_t> constants_;  ///< a part's parameter -> numbers that stand beside it
  std::array<std::int32_t, model::kRoles> by_role_{};
  std::map<std::pair<std::int32_t, std::int32_t>, std::int32_t> first_tensor_;  ///< (parameter, layer) -> tensor
};

}  // namespace refit::layout
