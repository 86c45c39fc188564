#pragma once
// The interface of a family of models: how its config.json is read and which tensors it has. Private to lib/model.
//
// A new family is one file family_NAME.cpp that defines a Family, its declaration below and its entry in the table of
// model.cpp. A table, not self-registering objects: a linker drops those from a static library.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_file.hpp"
#include "model/model.hpp"

namespace refit::model {

/// The tensors of a checkpoint, by name.
using Held = std::map<std::string_view, const TensorInfo*>;

/// The tensors of a model while they are being listed, in checkpoint order.
struct TensorList {
  const Config& config;
  bool lm_head = true;  ///< list lm_head.weight
  /// The checkpoint's tensors, for families whose tensors go by several names; nullptr if there is only a config.json.
  const Held* held = nullptr;
  std::vector<Tensor> tensors;
  std::optional<ExpertForm> experts = std::nullopt;  ///< the form that is asked for; nothing: the checkpoint's
  /// Prefix of prediction layers' names if these count from 0 ("mtp."); empty: they are numbered after the last layer.
  std::string_view prediction_prefix = {};

  /// Returns whether the checkpoint has a tensor of that name; `without` if there is no checkpoint.
  bool holds(std::string_view name, bool without) const { return held == nullptr ? without : held->contains(name); }
  /// Appends a tensor of the configuration's dtype.
  void add(std::string name, const Shape& shape, Role role, std::int64_t layer = -1, std::int64_t expert = -1);
  /// Appends a tensor that is float32 in every checkpoint.
  void add_f32(std::string name, const Shape& shape, Role role, std::int64_t layer);
  /// Appends a tensor of a vision tower. `name` follows the tower's prefix. `is_fused`: the tensor is in the unit of
  /// the one before it, not in its own. Layouts see a tensor with more than kWalkedDimensions dimensions as a matrix
  /// whose rows are its first dimension.
  void add_vision(const std::string& name, const Shape& shape, Role role, bool is_fused = false);
};

/// A vision tower and the parts that join it to a language model: a file vision_NAME.cpp.
struct VisionTower {
  /// Reads `vision_config`; no other keys count meanwhile. Problems are collected in `file`.
  void (*read)(ConfigFile& file, Vision& vision);
  /// Lists all tensors of the tower.
  void (*list)(TensorList& list);
  VisionFacts facts = {};
};

extern const VisionTower kQwen25Vision;
extern const VisionTower kQwen3Vision;
extern const VisionTower kQwen35Vision;
extern const VisionTower kSiglipVision;
/// Another model, by its names, with the tensors of a family.
struct Alias {
  std::string_view architecture;  ///< empty: `architectures` names none of its own
  std::string_view model_type;
};

/// Values that a family's configuration class gives to absent keys of config.json; 0: the key is required.
struct Defaults {
  std::int64_t vocab_size = 0;
  std::int64_t attention_heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
};

/// One family of architectures. Nothing outside its file goes by its name: other code reads its `facts`.
struct Family {
  std::string_view name;          ///< value of model.family, e.g. "qwen3_moe"
  std::string_view architecture;  ///< in config.json's `architectures`
  std::string_view model_type;    ///< in config.json's `model_type`
  /// Reads the keys that only this family has. Problems are collected in `file`.
  void (*read)(ConfigFile& file, Config& config);
  /// Lists all tensors of the model.
  void (*list)(TensorList& list);
  // Names of the models of which this family is the language model; empty if there are none.
  std::string_view composite_architecture = {};
  std::string_view composite_model_type = {};
  FamilyFacts facts = {};
  const VisionTower* tower = nullptr;  ///< of those models; or nullptr
  std::span<const Alias> aliases = {};
  Defaults defaults = {};
};

extern const Family kDeepseekV2;
extern const Family kDeepseekV3;
extern const Family kDeepseekV32;
extern const Family kGemma3;
extern const Family kGlm4Moe;
extern const Family kGlm4MoeLite;
extern const Family kGlmMoeDsa;
extern const Family kGptOss;
extern const Family kLlama;
extern const Family kLlama4;
extern const Family kMinimaxM2;
extern const Family kMixtral;
extern const Family kNemotronH;
extern const Family kOlmo3;
extern const Family kPhi3;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kQwen35;
extern const Family kQwen35Moe;
extern const Family kQwen3Moe;
extern const Family kQwen3Next;
extern const Family kSeedOss;

/// Reads `quantization_config`: any format that has a layout rule, by any method that vLLM reads. Anything else is a
/// problem. If there is no such key, ModelOpt's hf_quant_config.json beside the file is read likewise.
void read_quantisation(ConfigFile& file, Config& config);

/// Records the keys of config.json that nothing has read: keys that are known to bring weights are doubts, other
/// numbers, lists and flags a note. `overridden`: the family is not that of config.json's model_type.
void check_other_keys(ConfigFile& file, Config& config, bool overridden);

/// Reads the sizes of `tower` if config.json has a vision_config.
void read_vision(ConfigFile& file, Config& config, const VisionTower& tower);

/// Returns whether models of that type tie embedding and head if config.json does not say.
bool is_tied_by_default(std::string_view model_type);

/// Returns the family that has the tensors of that `model_type`, by its own name or an alias; or nullptr.
const Family* family_of_type(std::string_view model_type);

/// Moves the scales of the KV cache behind all other tensors, in order of layers, each layer's as q, k, v. Errors
/// (usage): one scale by two names, or with a dtype that weights do not have.
void put_cache_scales_last(Model& model, const std::string& source);

/// Returns all families, sorted by name.
std::span<const Family* const> families();

/// Returns the family of that name, or nullptr.
const Family* find_family(std::string_view name);

}  // namespace refit::model
