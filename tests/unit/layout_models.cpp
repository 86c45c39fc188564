#include "layout_models.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "support/random_layout.hpp"

namespace refit::layout {
namespace {

using test_support::flat;
using test_support::for_each_index;
using test_support::position;
using test_support::shifted;

std::int64_t row_length(const Shape& shape) { return shape.size() < 2 ? 1 : shape[shape.size() - 1]; }

/// "q" for "model.layers.0.self_attn.q_proj.weight", "e3g" for gate of expert 3, else the first letter of the last part
/// that is not "weight".
std::string short_name(const model::Tensor& tensor) {
  const std::size_t at = tensor.name.find("_proj");
  if (at == std::string::npos) {
    const std::string stem = tensor.name.substr(0, tensor.name.rfind(".weight"));
    return stem.substr(stem.rfind('.') + 1, 1);
  }
  const std::size_t dot = tensor.name.rfind('.', at);
  const std::string letter = tensor.name.substr(dot + 1, 1);
  return tensor.expert >= 0 ? fmt::format("e{}{}", tensor.expert, letter) : letter;
}

void put(Origin& element, const Origin& origin, bool again, const std::string& where) {
  if (again) ADD_FAILURE() << where << ": one tensor covers an element twice";
  if (element.tensor != Origin::kNothing && !(element == origin)) ADD_FAILURE() << where << ": covered by two values";
  element = origin;
}

}  // namespace

namespace {

void set_experts(model::Config& config) {
  config.experts = 6;
  config.expert_intermediate_size = 8;
}

void set_deepseek(model::Config& config) {
  set_experts(config);
  config.shared_intermediate_size = 8;
  config.expert_bias = true;
  config.mtp_layers = 1;
  config.mla = {.q_rank = 6, .kv_rank = 5, .nope_dim = 3, .rope_dim = 2, .value_dim = 4};
  config.kv_heads = config.attention_heads;
  config.dense_layer = {true, false, false, false};
}

/// GLM-4.5's, with DeepSeek's experts.
void set_glm(model::Config& config) {
  set_deepseek(config);
  config.mla = {};
  config.kv_heads = 2;
  config.qk_norm = true;
}

void set_llama4(model::Config& config) {
  set_experts(config);
  config.shared_intermediate_size = 8;
  config.dense_layer = {true, false, true, false};
}

void set_nemotron(model::Config& config) {
  using enum model::Mixer;
  set_experts(config);
  config.prefix = "backbone.";
  config.layers = 6;
  config.mixers = {mamba, mlp, experts, mamba, attention, experts};
  config.dense_layer = {true, true, false, true, true, false};
  config.shared_intermediate_size = 8;
  config.expert_bias = true;
  config.mamba = {.heads = 8, .head_dim = 2, .groups = 4, .state = 2, .kernel = 3};
}

void set_hybrid(model::Config& config) {
  using enum model::Mixer;
  config.mixers = {gated_delta_net, gated_delta_net, gated_delta_net, attention};
  config.gdn = {.key_heads = 4, .value_heads = 8, .key_dim = 2, .value_dim = 3, .kernel = 2};
}

/// Of Qwen's towers and SigLIP alike; a tower takes of the sizes what it has.
void set_vision(model::Config& config) {
  config.vision = {.depth = 2,
                   .heads = 8,
                   .hidden_size = 16,
                   .intermediate_size = 24,
                   .output_size = config.hidden_size,
                   .channels = 3,
                   .frames = 2,
                   .patch_size = 2,
                   .positions = 5,
                   .merge_size = 2};
  if (config.family.starts_with("qwen3")) config.vision.deepstack = 1;
}

}  // namespace

model::Config small_config(const std::string& name) {
  constexpr std::string_view kVision = "_vl";
  if (name.ends_with(kVision)) {
    model::Config config = small_config(name.substr(0, name.size() - kVision.size()));
    set_vision(config);
    return config;
  }
  model::Config config;
  config.vocab_size = 250;
  config.hidden_size = 12;
  config.layers = 4;
  config.intermediate_size = 16;
  config.attention_heads = 8;
  config.kv_heads = 2;
  config.head_dim = 4;
  config.tied = name.starts_with("llama_tied");
  for (const std::string_view family : {"llama", "qwen3_moe", "nemotron_h"}) {
    if (name == family || name.starts_with(fmt::format("{}_", family))) config.family = family;
  }
  if (config.family.empty()) config.family = name;
  const auto is = [&](std::initializer_list<std::string_view> families) {
    return std::find(families.begin(), families.end(), config.family) != families.end();
  };
  config.attention_bias = is({"gpt_oss", "glm4_moe", "seed_oss"});
  if (is({"qwen3_moe", "mixtral", "gpt_oss", "minimax_m2"})) set_experts(config);
  if (is({"deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite"})) set_deepseek(config);
  if (is({"deepseek_v2"})) config.mla.q_rank = 0;
  if (is({"deepseek_v32", "glm_moe_dsa"})) config.indexer = {.heads = 2, .head_dim = 3};
  if (is({"glm4_moe"})) set_glm(config);
  if (is({"llama4"})) set_llama4(config);
  if (is({"minimax_m2"})) config.expert_bias = true;
  if (is({"nemotron_h"})) set_nemotron(config);
  if (is({"qwen3_next", "qwen3_5_moe", "qwen3_5"})) set_hybrid(config);
  if (is({"qwen3_next", "qwen3_5_moe"})) {
    set_experts(config);
    config.shared_intermediate_size = 8;
  }
  if (is({"qwen3_5_moe"})) config.prefix = "model.language_model.";
  if (name == "qwen3_moe_dense") {
    config.dense_layer = {false, true, false, false};
    config.intermediate_size = config.expert_intermediate_size;
  }
  if (name == "nemotron_h_latent") {
    config.latent_size = 6;
    config.mamba.groups = 1;
  }
  return config;
}

model::Model small_model(const std::string& name) {
  return model::build_model(small_config(name), name == "llama_tied_lm_head");
}

std::vector<std::string> small_models() {
  std::vector<std::string> names = model::family_names();
  for (const char* variant : {"llama_tied", "llama_tied_lm_head", "nemotron_h_latent", "qwen3_moe_dense", "gemma3_vl",
                              "qwen2_vl", "qwen3_vl", "qwen3_moe_vl", "qwen3_5_vl"}) {
    names.emplace_back(variant);
  }
  return names;
}

std::vector<Contents> contents(const Layout& layout, const model::Model& model, Rank rank) {
  const LocalLayout local = materialise(layout, model.tensors, rank);
  std::vector<Contents> result;
  std::vector<std::vector<std::int32_t>> last_tensor;
  for (const Storage& storage : local.storages) {
    const auto elements = static_cast<std::size_t>(storage.elements());
    result.push_back({storage, std::vector<Origin>(elements)});
    last_tensor.emplace_back(elements, -1);
  }
  const auto visit = [&](std::int32_t storage, const Place& place, const Extents& extent, std::int32_t by,
                         const auto& origin_of) {
    Contents& target = result[static_cast<std::size_t>(storage)];
    for_each_index(extent, [&](const Extents& index) {
      const std::int64_t at = position(place, index);
      if (at < 0 || at >= target.storage.elements()) {
        ADD_FAILURE() << target.storage.name << ": a place beyond its end";
        return;
      }
      const auto where = static_cast<std::size_t>(at);
      std::int32_t& last = last_tensor[static_cast<std::size_t>(storage)][where];
      put(target.elements[where], origin_of(index), last == by, target.storage.name);
      last = by;
    });
  };
  for (const LocalPiece& entry : local.pieces) {
    const model::Tensor& tensor = model[entry.tensor];
    const Piece& piece = entry.piece;
    visit(entry.storage, piece.place, piece.box.extent, entry.tensor, [&](const Extents& index) {
      return Origin{model.canonical(tensor).index, flat(shifted(piece.box.lower, index), tensor.shape)};
    });
  }
  for (const auto& entry : local.fills) {
    visit(entry.storage, entry.fill.place, entry.fill.extent, Origin::kFill, [&](const Extents&) {
      return Origin{Origin::kFill, -1, entry.fill.value};
    });
  }
  return result;
}

Contents find(const std::vector<Contents>& all, const std::string& name) {
  for (const Contents& one : all) {
    if (one.storage.title() == name) return one;
  }
  ADD_FAILURE() << "no storage " << name;
  return {};
}

std::string rows(const Layout& layout, const model::Model& model, Rank rank, const std::string& name) {
  const Contents stored = find(contents(layout, model, rank), name);
  const std::int64_t length = row_length(stored.storage.shape);
  std::string text;
  for (std::size_t i = 0; i < stored.elements.size(); i += static_cast<std::size_t>(length)) {
    const Origin& first = stored.elements[i];
    if (!text.empty()) text += ' ';
    if (first.tensor < 0) {
      text += first.tensor == Origin::kFill && first.value == 0 ? "0" : "?";
      continue;
    }
    const model::Tensor& tensor = model[first.tensor];
    text += short_name(tensor) + std::to_string(first.element / row_length(tensor.shape));
    for (std::int64_t column = 0; column < length; ++column) {
      const Origin expected{first.tensor, first.element + column};
      EXPECT_EQ(stored.elements[i + static_cast<std::size_t>(column)], expected) << name << " row " << text;
    }
  }
  return text;
}

std::string renamed(const std::string& rows, const std::vector<Section>& sections) {
  std::string text;
  std::istringstream words(rows);
  for (std::string word; words >> word;) {
    const std::size_t digits = word.find_first_of("0123456789");
    const std::string letters = word.substr(0, digits);
    const std::int64_t row = digits == std::string::npos ? 0 : std::stoll(word.substr(digits));
    for (const Section& section : sections) {
      if (section.of != letters || row < section.first) continue;
      word = section.name + std::to_string(row - section.first);
    }
    text += (text.empty() ? "" : " ") + word;
  }
  return text;
}

std::string columns(const Layout& layout, const model::Model& model, Rank rank, const std::string& name) {
  const Contents stored = find(contents(layout, model, rank), name);
  std::string text;
  for (std::int64_t column = 0; column < row_length(stored.storage.shape); ++column) {
    const Origin& origin = stored.elements[static_cast<std::size_t>(column)];
    const model::Tensor& tensor = model[origin.tensor];
    text += fmt::format("{}{}", text.empty() ? "" : " ", origin.element % row_length(tensor.shape));
  }
  return text;
}

std::string boxes(const Layout& layout, const model::Model& model, Rank rank, const std::string& name) {
  std::vector<Piece> pieces;
  layout.pieces(*model.find(name), rank, pieces);
  std::string text;
  for (const Piece& piece : pieces) text += (text.empty() ? "" : " ") + to_string(piece.box);
  return text;
}

}  // namespace refit::layout
