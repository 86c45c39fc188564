#pragma once
// What a family of models must provide: how its config.json is read and which tensors it has. Private to lib/model.
//
// A new family is one file family_NAME.cpp that defines a Family, its declaration below and its entry in the table of
// model.cpp. A table, not self-registering objects: a linker drops those from a static library.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_file.hpp"
#include "model/model.hpp"

namespace refit::model {

/// The tensors of a model while they are being listed, in checkpoint order.
struct TensorList {
  const Config& config;
  bool lm_head = true;  ///< list lm_head.weight
  std::vector<Tensor> tensors;

  /// Appends a tensor of the configuration's dtype.
  void add(std::string name, const Shape& shape, Role role, std::int64_t layer = -1, std::int64_t expert = -1);
};

/// One family of architectures.
struct Family {
  std::string_view name;          ///< what model.family takes, e.g. "qwen3_moe"
  std::string_view architecture;  ///< in config.json's `architectures`
  std::string_view model_type;    ///< in config.json's `model_type`
  /// Reads the keys that only this family has. Problems are collected in `file`.
  void (*read)(ConfigFile& file, Config& config);
  /// Lists all tensors of the model.
  void (*list)(TensorList& list);
};

extern const Family kLlama;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kQwen3Moe;

/// All families, sorted by name.
std::span<const Family* const> families();

/// The family of that name, or nullptr.
const Family* find_family(std::string_view name);

}  // namespace refit::model
