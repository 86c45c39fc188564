// Vision towers, as both engines were seen to store them. Rules go by Hugging Face's names.

#include <array>

#include "support/engine_oracle_parts.hpp"

namespace refit::test_support::oracle {
namespace {

constexpr std::string_view kQwen = "visual.";
constexpr std::string_view kSiglip = "vision_tower.";
constexpr std::string_view kProjector = "multi_modal_projector.";

bool is_vision(std::string_view name) {
  return name.starts_with(kQwen) || name.starts_with(kSiglip) || name.starts_with(kProjector);
}

bool has(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

std::string replaced(std::string name, std::string_view from, std::string_view to) {
  const std::size_t at = name.find(from);
  return at == std::string::npos ? name : name.replace(at, from.size(), to);
}

/// Returns q, k and v of a matrix or a bias in which they follow each other.
std::vector<Array> thirds(const Array& a) { return {part(a, 0, 3), part(a, 1, 3), part(a, 2, 3)}; }

/// Puts "language_model." in front of the names of all parameters so far, which are the language model's.
void move_language_model(RankWriter& out) {
  Parameters moved;
  for (auto& [name, parameter] : out.out) moved.emplace("language_model." + name, std::move(parameter));
  out.out = std::move(moved);
}

/// Returns the tensors of a tower whose names are `name` with other words in the place of `word`.
std::vector<Array> siblings(const RankWriter& out, const std::string& name, std::string_view word,
                            std::initializer_list<std::string_view> words) {
  std::vector<Array> result;
  for (const std::string_view other : words) result.push_back(out.get(replaced(name, word, other)));
  return result;
}

bool is_vision_tower_there(const RankWriter& out) {
  for (const auto& [name, array] : out.hf) {
    if (is_vision(name)) return true;
  }
  return false;
}

}  // namespace

void add_vllm_vision(RankWriter& out, std::int64_t t, std::int64_t T, bool data_mode) {
  if (!is_vision_tower_there(out)) return;
  move_language_model(out);
  for (const auto& [name, array] : out.hf) {
    if (!is_vision(name)) continue;
    const bool siglip = !name.starts_with(kQwen);
    const std::int64_t parts = data_mode && !siglip ? 1 : T;
    const std::int64_t mine = parts == 1 ? 0 : t;
    const bool bias = name.ends_with(".bias");
    if (has(name, ".attn.qkv.")) {
      out.put(name, parts_of(thirds(array), mine, parts));
    } else if (has(name, ".q_proj.")) {
      out.put(replaced(name, "q_proj", "qkv_proj"),
              parts_of(siblings(out, name, "q_proj", {"q_proj", "k_proj", "v_proj"}), mine, parts));
    } else if (has(name, ".gate_proj.")) {
      out.put(replaced(name, "gate_proj", "gate_up_proj"),
              parts_of(siblings(out, name, "gate_proj", {"gate_proj", "up_proj"}), mine, parts));
    } else if (has(name, ".k_proj.") || has(name, ".v_proj.") || has(name, ".up_proj.")) {
      continue;  // with the one before
    } else if (has(name, "linear_fc1.") || has(name, ".mlp.0.") || has(name, ".mlp.fc1.")) {
      out.put(name, part(array, mine, parts));
    } else if (!bias && (has(name, ".attn.proj.") || has(name, "linear_fc2.") || has(name, ".down_proj.") ||
                         has(name, ".mlp.2.") || has(name, ".out_proj.") || has(name, ".mlp.fc2."))) {
      out.put(name, part(array, mine, parts, 1));
    } else {
      out.put(name, array);
    }
  }
}

namespace {

/// Adds Qwen3-VL's tower as Megatron's own transformer.
void add_transformer(RankWriter& out, std::int64_t t, std::int64_t T) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kBlock{
      {{"norm1.", "self_attention.linear_qkv.layer_norm_"},
       {"norm2.", "mlp.linear_fc1.layer_norm_"},
       {"attn.qkv.", "self_attention.linear_qkv."},
       {"attn.proj.", "self_attention.linear_proj."}}};
  for (const auto& [name, array] : out.hf) {
    if (!is_vision(name)) continue;
    std::string to = replaced(name, "visual.", "vision_model.");
    to = replaced(to, "blocks.", "decoder.layers.");
    to = replaced(to, "deepstack_merger_list.", "decoder.deepstack_merger_list.");
    if (has(name, "merger")) to = replaced(to, ".norm.", ".patch_norm.");
    for (const auto& [from, by] : kBlock) {
      if (has(name, "blocks.")) to = replaced(to, from, by);
    }
    const bool bias = name.ends_with(".bias");
    if (has(name, "attn.qkv.")) {
      const auto qkv = thirds(array);
      std::vector<Array> heads;
      for (std::int64_t h = 0; h < out.c.vision.heads; ++h) {
        for (const Array& each : qkv) heads.push_back(part(each, h, out.c.vision.heads));
      }
      out.put(to, part(concat(heads), t, T));
    } else if (has(name, "linear_fc1.")) {
      out.put(to, part(array, t, T));
    } else if (!bias && (has(name, "attn.proj.") || has(name, "linear_fc2."))) {
      out.put(to, part(array, t, T, 1));
    } else {
      out.put(to, array);
    }
  }
}

}  // namespace

void add_megatron_vision(RankWriter& out, std::int64_t t, std::int64_t T, bool first_stage) {
  if (!is_vision_tower_there(out)) return;
  move_language_model(out);
  if (!first_stage) return;
  if (out.has("visual.pos_embed.weight")) return add_transformer(out, t, T);
  for (const auto& [name, array] : out.hf) {
    if (!is_vision(name)) continue;
    if (has(name, "mm_input_projection_weight")) {
      out.put(std::string(kProjector) + "proj.weight", part(transposed(array), t, T));
    } else {
      out.put(replaced(replaced(name, "vision_model.", ""), "soft_emb_norm", "soft_embed_norm"), array);
    }
  }
}

}  // namespace refit::test_support::oracle
