#include "diagnose/names.hpp"

#include <algorithm>
#include <array>

namespace refit::diagnose {
namespace {

/// Words that wrappers put into names, and nothing else.
constexpr std::array<std::string_view, 6> kWrappers{
    "module", "_orig_mod", "base_layer", "_checkpoint_wrapped_module", "routed_experts", "_fsdp_wrapped_module"};

/// Names of norms that are fused into a linear layer, and their names where they are not fused.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kUnfused{{
    {"self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"},
    {"self_attention.in_proj.layer_norm_weight", "input_layernorm.weight"},
    {"self_attention.linear_q_up_proj.layer_norm_weight", "self_attention.q_layernorm.weight"},
    {"self_attention.linear_kv_up_proj.layer_norm_weight", "self_attention.kv_layernorm.weight"},
    {"mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"},
    {"mixer.in_proj.layer_norm_weight", "norm.weight"},
}};

std::vector<std::string> words_of(std::string_view name) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    words.emplace_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

}  // namespace

std::string plain_name(std::string_view name) {
  std::vector<std::string> words = words_of(name);
  std::erase_if(words, [](const std::string& word) {
    return std::find(kWrappers.begin(), kWrappers.end(), word) != kWrappers.end();
  });
  const auto local = std::find(words.begin(), words.end(), "local_experts");
  if (words.end() - local > 2) {
    words.back() += *(local + 1);
    words.erase(local, local + 2);
  }
  std::string result;
  for (const std::string& word : words) result += (result.empty() ? "" : ".") + word;
  for (const auto& [fused, alone] : kUnfused) {
    if (!result.ends_with(fused)) continue;
    result.replace(result.size() - fused.size(), fused.size(), alone);
    break;
  }
  return result;
}

Spellings::Spellings(const std::vector<std::string>& names) {
  for (const std::string& name : names) plain_.push_back(plain_name(name));
  for (std::int64_t i = 0; i < std::ssize(plain_); ++i) {
    const std::string_view name = plain_[static_cast<std::size_t>(i)];
    if (!whole_.try_emplace(name, i).second) whole_[name] = -1;
    for (std::size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
      if (!ends_.try_emplace(name.substr(dot + 1), i).second) ends_[name.substr(dot + 1)] = -1;
    }
  }
}

std::int64_t Spellings::find(std::string_view wanted) const {
  const std::string plain = plain_name(wanted);
  for (const auto* names : {&whole_, &ends_}) {
    const auto found = names->find(plain);
    if (found != names->end()) return found->second;
  }
  return -1;
}

std::string looks_like(std::span<const std::string> names) {
  struct Mark {
    std::string_view part, whose;
  };
  constexpr std::array<Mark, 9> kMarks{{
      {"flat_param", "FSDP's flat parameters: gather them, or dump full tensors"},
      {"lora_A", "adapters: dump the model that they are merged into"},
      {"exp_avg", "an optimizer's state: dump the model's parameters"},
      {"linear_qkv.", "Megatron-Core's parameters: a train dump (files train-rank-NNNNN)"},
      {"query_key_value.", "parameters of Megatron-LM before Megatron-Core"},
      {"routed_experts.", "vLLM's parameters: a gen dump (files gen-rank-NNNNN)"},
      {"qkv_proj.", "vLLM's or SGLang's parameters: a gen dump (files gen-rank-NNNNN)"},
      {"q_proj.", "a Hugging Face checkpoint's tensors, or those of a trainer that keeps its names"},
      {"transformer.h.", "GPT-2's parameters, of which no family here is"},
  }};
  for (const Mark& mark : kMarks) {
    const bool has = std::any_of(names.begin(), names.end(),
                                 [&](const std::string& name) { return name.find(mark.part) != std::string::npos; });
    if (has) return std::string(mark.whose);
  }
  return "";
}

}  // namespace refit::diagnose
