#pragma once
// LoRA pairs as tensors of a model: beside a weight W [out, in] the matrices A [r, in] and B [out, r] of a rank r, with
// which the weight counts as W + s B A, s = alpha / r.
//
// Names and files are PEFT's: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" and "...lora_B.weight"
// in adapter_model.safetensors, beside adapter_config.json. Source: PEFT 0.17 (LoraConfig, get_peft_model_state_dict).
//
// A pair stands behind all other tensors but the scales of the KV cache, A before B, in the order of weights.

#include <string>
#include <utility>
#include <vector>

#include "model/model.hpp"

namespace refit::model {

/// The settings of LoRA: those of an adapter_config.json, or those of a case.
struct Lora {
  std::int64_t rank = 0;
  double alpha = 0;
  bool is_rank_stabilised = false;        ///< s = alpha / sqrt(r) (use_rslora)
  std::vector<std::string> targets = {};  ///< last words of modules' names; empty: every module that can have a pair
  std::vector<std::pair<std::string, std::int64_t>> ranks = {};  ///< of modules, by last words (rank_pattern)
  std::vector<std::pair<std::string, double>> alphas = {};       ///< likewise (alpha_pattern)
  std::string base = {};                                         ///< base_model_name_or_path, for messages

  std::int64_t rank_of(std::string_view module) const;
  /// Returns s of a module.
  double scaling_of(std::string_view module) const;
};

/// Reads an adapter_config.json. Errors (usage), all in one message: a rank that is no whole number from 1 on, an alpha
/// that is not finite, another method than LoRA, or one of its variants (DoRA, biases, modules_to_save, a pattern that
/// is a regular expression).
Lora read_lora(const std::string& path);

/// Appends the pairs of all of the settings' targets. Errors (usage), each with `keys` + the setting's name before it:
/// a target that no module of the model has (with the nearest), or that cannot have a pair; a rank above a weight's
/// width.
void add_adapters(Model& model, const Lora& lora, const std::string& keys);

/// Appends the pairs of an adapter's file. Errors (usage), all in one message that names `file`: tensors that are no
/// matrix of a pair, A without B or B without A, a module that the model lacks (with the nearest) or that cannot have a
/// pair, shapes that are not those of the settings and of the weight. Pairs of layers that the model is cut before are
/// left out.
void add_adapters(Model& model, const Lora& lora, const std::vector<TensorInfo>& held, const std::string& file);

}  // namespace refit::model
