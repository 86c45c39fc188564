// Qwen2 and Qwen2.5 (Qwen2ForCausalLM, and the language model of Qwen2_5_VLForConditionalGeneration): q, k and v always
// carry a bias, o never. Hugging Face transformers, models/qwen2. MiMo-7B (MiMoForCausalLM) has the same tensors beside
// its layers of multi-token prediction.

#include <fmt/format.h>

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Alias kAliases[] = {{"MiMoForCausalLM", "mimo"}, {"", "qwen2_5_vl_text"}, {"", "qwen2_vl_text"}};

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  config.attention_bias = true;
  if (!file.flag_or("attention_bias", true)) {
    config.doubts.push_back(
        fmt::format("{}: attention_bias is false: q, k and v have biases in this family", file.path()));
  }
  refuse(file, "attention_out_bias", "in this family a bias of o has");
}

void list_tensors(TensorList& list) { add_decoder(list, {.qkv_bias = true}); }

}  // namespace

constinit const Family kQwen2{
    .name = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .model_type = "qwen2",
    .read = read,
    .list = list_tensors,
    .composite_architecture = "Qwen2_5_VLForConditionalGeneration",
    .composite_model_type = "qwen2_5_vl",
    .facts = {.sglang = SglangFacts{.cuts_attention_over_tp = true, .cuts_embedding_over_dp = true}},
    .tower = &kQwen25Vision,
    .aliases = kAliases};

}  // namespace refit::model
