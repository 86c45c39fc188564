// A model checked against the headers of checkpoints that transformers wrote (small random models, sharded).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// A tied Llama in the order of its four shards.
std::vector<TensorInfo> tied_llama() {
  return {
      {"model.embed_tokens.weight", {320, 64}, DType::f32},
      {"model.layers.0.self_attn.k_proj.weight", {64, 64}, DType::f32},
      {"model.layers.0.self_attn.o_proj.weight", {64, 128}, DType::f32},
      {"model.layers.0.self_attn.q_proj.weight", {128, 64}, DType::f32},
      {"model.layers.0.self_attn.v_proj.weight", {64, 64}, DType::f32},
      {"model.layers.0.input_layernorm.weight", {64}, DType::f32},
      {"model.layers.0.mlp.down_proj.weight", {64, 176}, DType::f32},
      {"model.layers.0.mlp.gate_proj.weight", {176, 64}, DType::f32},
      {"model.layers.0.mlp.up_proj.weight", {176, 64}, DType::f32},
      {"model.layers.0.post_attention_layernorm.weight", {64}, DType::f32},
      {"model.layers.1.self_attn.q_proj.weight", {128, 64}, DType::f32},
      {"model.layers.1.mlp.gate_proj.weight", {176, 64}, DType::f32},
      {"model.layers.1.mlp.up_proj.weight", {176, 64}, DType::f32},
      {"model.layers.1.self_attn.k_proj.weight", {64, 64}, DType::f32},
      {"model.layers.1.self_attn.o_proj.weight", {64, 128}, DType::f32},
      {"model.layers.1.self_attn.v_proj.weight", {64, 64}, DType::f32},
      {"model.layers.1.input_layernorm.weight", {64}, DType::f32},
      {"model.layers.1.mlp.down_proj.weight", {64, 176}, DType::f32},
      {"model.layers.1.post_attention_layernorm.weight", {64}, DType::f32},
      {"model.norm.weight", {64}, DType::f32},
  };
}

/// A Qwen2 with biases, likewise.
std::vector<TensorInfo> qwen2_with_bias() {
  return {
      {"model.embed_tokens.weight", {192, 96}, DType::f32},
      {"model.layers.0.mlp.gate_proj.weight", {160, 96}, DType::f32},
      {"model.layers.0.self_attn.k_proj.bias", {32}, DType::f32},
      {"model.layers.0.self_attn.k_proj.weight", {32, 96}, DType::f32},
      {"model.layers.0.self_attn.o_proj.weight", {96, 96}, DType::f32},
      {"model.layers.0.self_attn.q_proj.bias", {96}, DType::f32},
      {"model.layers.0.self_attn.q_proj.weight", {96, 96}, DType::f32},
      {"model.layers.0.self_attn.v_proj.bias", {32}, DType::f32},
      {"model.layers.0.self_attn.v_proj.weight", {32, 96}, DType::f32},
      {"model.layers.0.input_layernorm.weight", {96}, DType::f32},
      {"model.layers.0.mlp.down_proj.weight", {96, 160}, DType::f32},
      {"model.layers.0.mlp.up_proj.weight", {160, 96}, DType::f32},
      {"model.layers.0.post_attention_layernorm.weight", {96}, DType::f32},
      {"model.layers.1.self_attn.k_proj.bias", {32}, DType::f32},
      {"model.layers.1.self_attn.k_proj.weight", {32, 96}, DType::f32},
      {"model.layers.1.self_attn.o_proj.weight", {96, 96}, DType::f32},
      {"model.layers.1.self_attn.q_proj.bias", {96}, DType::f32},
      {"model.layers.1.self_attn.q_proj.weight", {96, 96}, DType::f32},
      {"model.layers.1.self_attn.v_proj.bias", {32}, DType::f32},
      {"model.layers.1.self_attn.v_proj.weight", {32, 96}, DType::f32},
      {"model.layers.1.input_layernorm.weight", {96}, DType::f32},
      {"model.layers.1.mlp.down_proj.weight", {96, 160}, DType::f32},
      {"model.layers.1.mlp.gate_proj.weight", {160, 96}, DType::f32},
      {"model.layers.1.mlp.up_proj.weight", {160, 96}, DType::f32},
      {"model.layers.1.post_attention_layernorm.weight", {96}, DType::f32},
      {"model.norm.weight", {96}, DType::f32},
      {"lm_head.weight", {192, 96}, DType::f32},
  };
}

Config tied_llama_config() {
  Config config;
  config.family = "llama";
  config.vocab_size = 320;
  config.hidden_size = 64;
  config.layers = 2;
  config.intermediate_size = 176;
  config.attention_heads = 8;
  config.kv_heads = 4;
  config.head_dim = 16;
  config.tied = true;
  return config;
}

Config qwen2_config() {
  Config config;
  config.family = "qwen2";
  config.vocab_size = 192;
  config.hidden_size = 96;
  config.layers = 2;
  config.intermediate_size = 160;
  config.attention_heads = 12;
  config.kv_heads = 4;
  config.head_dim = 8;
  return config;
}

std::string message_of(const Config& config, const std::vector<TensorInfo>& checkpoint) {
  try {
    build_model(config, checkpoint, "folder/x");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "no error";
}

void remove_tensor(std::vector<TensorInfo>& checkpoint, const std::string& name) {
  std::erase_if(checkpoint, [&](const TensorInfo& info) { return info.name == name; });
}

TensorInfo& named(std::vector<TensorInfo>& checkpoint, const std::string& name) {
  return *std::find_if(checkpoint.begin(), checkpoint.end(), [&](const TensorInfo& info) { return info.name == name; });
}

std::size_t unknown_count(const Model& model) {
  return static_cast<std::size_t>(std::count_if(model.tensors.begin(), model.tensors.end(),
                                                [](const Tensor& tensor) { return tensor.role == Role::unknown; }));
}

TEST(ModelCheckpoint, RealCheckpointsMatchTensorByTensor) {
  const Model llama = build_model(tied_llama_config(), tied_llama(), "llama");
  EXPECT_EQ(llama.tensors.size(), tied_llama().size());
  EXPECT_EQ(unknown_count(llama), 0U);
  EXPECT_EQ(llama.find("lm_head.weight"), nullptr);
  EXPECT_EQ(llama.tensors.front().dtype, DType::f32);  // the checkpoint's, not the configuration's

  const Model qwen2 = build_model(qwen2_config(), qwen2_with_bias(), "qwen2");
  EXPECT_EQ(qwen2.tensors.size(), qwen2_with_bias().size());
  EXPECT_EQ(unknown_count(qwen2), 0U);
}

TEST(ModelCheckpoint, ATiedLmHeadInTheCheckpointIsATensor) {
  auto checkpoint = tied_llama();
  checkpoint.push_back({"lm_head.weight", {320, 64}, DType::f32});
  const Model model = build_model(tied_llama_config(), checkpoint, "x");
  ASSERT_NE(model.find("lm_head.weight"), nullptr);
  EXPECT_EQ(model.find("lm_head.weight")->role, Role::lm_head);
}

TEST(ModelCheckpoint, UnknownTensorsFollowInOrderOfNames) {
  auto checkpoint = tied_llama();
  checkpoint.insert(checkpoint.begin(), {"z.extra", {3, 5}, DType::i64});
  checkpoint.insert(checkpoint.begin(), {"a.extra", {}, DType::f8_e4m3});
  checkpoint.insert(checkpoint.begin(), {"model.layers.0.self_attn.rotary_emb.inv_freq", {8}, DType::f32});
  const Model model = build_model(tied_llama_config(), checkpoint, "x");
  ASSERT_EQ(model.tensors.size(), tied_llama().size() + 2);
  const Tensor& first = model.tensors[model.tensors.size() - 2];
  EXPECT_EQ(first.name, "a.extra");
  EXPECT_EQ(first.role, Role::unknown);
  EXPECT_EQ(first.dtype, DType::f8_e4m3);
  EXPECT_EQ(first.index, static_cast<std::int32_t>(model.tensors.size()) - 2);
  EXPECT_EQ(model.tensors.back().name, "z.extra");
  EXPECT_EQ(model.tensors.back().shape, (Shape{3, 5}));
}

TEST(ModelCheckpoint, ScalesOfTheKvCacheGoBySeveralNamesInTheModelsLayers) {
  auto checkpoint = tied_llama();
  const std::map<std::string, Role> scales{{"model.layers.0.self_attn.attn.q_scale", Role::q_scale},
                                           {"model.layers.0.self_attn.k_proj.k_scale", Role::k_scale},
                                           {"model.layers.1.self_attn.kv_scale", Role::k_scale},
                                           {"model.layers.0.self_attn.v_scale", Role::v_scale},
                                           {"model.layers.99.self_attn.v_scale", Role::unknown},
                                           {"model.layers.0.mlp.v_scale", Role::unknown}};
  for (const auto& [name, role] : scales) checkpoint.push_back({name, {1}, DType::f32});
  checkpoint.push_back({"model.layers.1.self_attn.v_scale", {2}, DType::f32});  // one for each head
  const Model model = build_model(tied_llama_config(), checkpoint, "x");
  for (const auto& [name, role] : scales) {
    ASSERT_NE(model.find(name), nullptr) << name;
    EXPECT_EQ(model.find(name)->role, role) << name;
    EXPECT_EQ(model.find(name)->layer >= 0, role != Role::unknown) << name;
  }
  EXPECT_EQ(model.find("model.layers.1.self_attn.v_scale")->role, Role::unknown);
}

TEST(ModelCheckpoint, LayersBeyondACutAreSkippedAndOthersAreUnknown) {
  Config config = tied_llama_config();
  config.layers = 1;
  EXPECT_EQ(unknown_count(build_model(config, tied_llama(), "x")), 9U);  // config.json itself says one layer
  config.truncated = true;
  auto checkpoint = tied_llama();
  checkpoint.push_back({"model.layers.1x.odd", {2}, DType::f32});
  const Model cut = build_model(config, checkpoint, "x");
  EXPECT_EQ(unknown_count(cut), 1U);
  EXPECT_EQ(cut.tensors.back().name, "model.layers.1x.odd");
}

TEST(ModelCheckpoint, EveryProblemIsInOneMessage) {
  auto checkpoint = tied_llama();
  remove_tensor(checkpoint, "model.norm.weight");
  named(checkpoint, "model.layers.1.mlp.up_proj.weight").shape = {64, 176};
  named(checkpoint, "model.layers.0.self_attn.q_proj.weight").dtype = DType::f8_e4m3;
  checkpoint.push_back(checkpoint.front());
  const std::string message = message_of(tied_llama_config(), checkpoint);
  EXPECT_THAT(message, HasSubstr("folder/x"));
  EXPECT_THAT(message, HasSubstr("4 of its tensors"));
  EXPECT_THAT(message, HasSubstr("model.norm.weight [64] is missing"));
  EXPECT_THAT(message, HasSubstr("model.layers.1.mlp.up_proj.weight has shape [64, 176] instead of [176, 64]"));
  EXPECT_THAT(message, HasSubstr("model.layers.0.self_attn.q_proj.weight has dtype F8_E4M3"));
  EXPECT_THAT(message, HasSubstr("model.embed_tokens.weight is there twice"));
}

TEST(ModelCheckpoint, ManyProblemsAreCounted) {
  const std::string message = message_of(tied_llama_config(), {});
  EXPECT_THAT(message, HasSubstr("20 of its tensors"));
  EXPECT_THAT(message, HasSubstr("model.embed_tokens.weight"));
  EXPECT_THAT(message, HasSubstr("and 10 more"));
  EXPECT_THAT(message, Not(HasSubstr("model.norm.weight")));
}

TEST(ModelCheckpoint, AnUntiedModelNeedsItsLmHead) {
  auto checkpoint = qwen2_with_bias();
  remove_tensor(checkpoint, "lm_head.weight");
  EXPECT_THAT(message_of(qwen2_config(), checkpoint), HasSubstr("lm_head.weight [192, 96] is missing"));
}

/// A checkpoint that holds exactly what `model` lists.
std::vector<TensorInfo> held_by(const Model& model) {
  std::vector<TensorInfo> checkpoint;
  for (const Tensor& tensor : model.tensors) checkpoint.push_back({tensor.name, tensor.file_shape(), DType::bf16});
  return checkpoint;
}

/// A Mixtral of one layer with these experts.
std::vector<TensorInfo> mixtral_with(const std::vector<TensorInfo>& experts) {
  std::vector<TensorInfo> checkpoint{{"model.embed_tokens.weight", {96, 32}},
                                     {"model.layers.0.input_layernorm.weight", {32}},
                                     {"model.layers.0.self_attn.q_proj.weight", {32, 32}},
                                     {"model.layers.0.self_attn.k_proj.weight", {16, 32}},
                                     {"model.layers.0.self_attn.v_proj.weight", {16, 32}},
                                     {"model.layers.0.self_attn.o_proj.weight", {32, 32}},
                                     {"model.layers.0.post_attention_layernorm.weight", {32}},
                                     {"model.norm.weight", {32}},
                                     {"lm_head.weight", {96, 32}}};
  checkpoint.insert(checkpoint.end(), experts.begin(), experts.end());
  return checkpoint;
}

Config small_moe_config(const std::string& family) {
  Config config;
  config.family = family;
  config.vocab_size = 96;
  config.hidden_size = 32;
  config.layers = 1;
  config.attention_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.experts = 1;
  config.expert_intermediate_size = 24;
  return config;
}

TEST(ModelCheckpoint, MixtralExpertsGoByFourNames) {
  const std::string moe = "model.layers.0.block_sparse_moe.";
  const std::string mlp = "model.layers.0.mlp.";
  const std::vector<std::vector<TensorInfo>> variants{{{moe + "gate.weight", {1, 32}},
                                                       {moe + "experts.0.w1.weight", {24, 32}},
                                                       {moe + "experts.0.w2.weight", {32, 24}},
                                                       {moe + "experts.0.w3.weight", {24, 32}}},
                                                      {{moe + "gate.weight", {1, 32}},
                                                       {moe + "experts.0.gate_proj.weight", {24, 32}},
                                                       {moe + "experts.0.down_proj.weight", {32, 24}},
                                                       {moe + "experts.0.up_proj.weight", {24, 32}}},
                                                      {{mlp + "gate.weight", {1, 32}},
                                                       {mlp + "experts.0.gate_proj.weight", {24, 32}},
                                                       {mlp + "experts.0.down_proj.weight", {32, 24}},
                                                       {mlp + "experts.0.up_proj.weight", {24, 32}}},
                                                      {{mlp + "gate.weight", {1, 32}},
                                                       {mlp + "experts.gate_up_proj", {1, 48, 32}},
                                                       {mlp + "experts.down_proj", {1, 32, 24}}}};
  for (const auto& experts : variants) {
    SCOPED_TRACE(experts.back().name);
    const Model model = build_model(small_moe_config("mixtral"), mixtral_with(experts), "x");
    EXPECT_EQ(unknown_count(model), 0U);
    EXPECT_EQ(model.tensors.size(), mixtral_with(experts).size());
  }
}

/// transformers 5 packs what it used to write one by one.
TEST(ModelCheckpoint, Qwen3MoeExpertsAreSingleOrPacked) {
  const Config config = small_moe_config("qwen3_moe");
  auto checkpoint = held_by(build_model(config, true));
  EXPECT_EQ(unknown_count(build_model(config, checkpoint, "x")), 0U);
  const std::string experts = "model.layers.0.mlp.experts.";
  for (const char* part : {"0.gate_proj.weight", "0.up_proj.weight", "0.down_proj.weight"})
    remove_tensor(checkpoint, experts + part);
  checkpoint.push_back({experts + "gate_up_proj", {1, 48, 32}});
  checkpoint.push_back({experts + "down_proj", {1, 32, 24}});
  const Model packed = build_model(config, checkpoint, "x");
  EXPECT_EQ(unknown_count(packed), 0U);
  EXPECT_EQ(packed.find(experts + "down_proj")->role, Role::packed_down);
  named(checkpoint, experts + "gate_up_proj").shape = {1, 32, 48};
  EXPECT_THAT(message_of(config, checkpoint),
              HasSubstr("has shape [1, 32, 48] instead of [1, 48, 32]: it is transposed"));
}

TEST(ModelCheckpoint, Qwen35ExpertsArePackedOrSingle) {
  Config config = small_moe_config("qwen3_5_moe");
  config.shared_intermediate_size = 24;
  config.mixers = {Mixer::attention};
  auto checkpoint = held_by(build_model(config, true));
  EXPECT_EQ(unknown_count(build_model(config, checkpoint, "x")), 0U);
  remove_tensor(checkpoint, "model.layers.0.mlp.experts.gate_up_proj");
  named(checkpoint, "model.layers.0.mlp.experts.down_proj") = {"model.layers.0.mlp.experts.0.down_proj.weight",
                                                               {32, 24}};
  checkpoint.push_back({"model.layers.0.mlp.experts.0.gate_proj.weight", {24, 32}});
  checkpoint.push_back({"model.layers.0.mlp.experts.0.up_proj.weight", {24, 32}});
  const Model single = build_model(config, checkpoint, "x");
  EXPECT_EQ(unknown_count(single), 0U);
  EXPECT_EQ(single.find("model.layers.0.mlp.experts.0.down_proj.weight")->role, Role::expert_down);
}

TEST(ModelCheckpoint, InterleavedExpertsMatchTheirFilesShape) {
  const Config config = small_moe_config("gpt_oss");
  auto checkpoint = held_by(build_model(config, true));
  EXPECT_EQ(named(checkpoint, "model.layers.0.mlp.experts.gate_up_proj").shape, (Shape{1, 32, 48}));
  const Model model = build_model(config, checkpoint, "x");
  EXPECT_EQ(model.find("model.layers.0.mlp.experts.gate_up_proj")->shape, (Shape{1, 32, 24, 2}));
  named(checkpoint, "model.layers.0.mlp.experts.gate_up_proj").shape = {1, 48, 32};
  EXPECT_THAT(message_of(config, checkpoint), HasSubstr("gate_up_proj has shape [1, 48, 32] instead of [1, 32, 48]"));
}

Config mtp_config() {
  Config config = small_moe_config("deepseek_v3");
  config.mla = {.q_rank = 8, .kv_rank = 8, .nope_dim = 4, .rope_dim = 4, .value_dim = 4};
  config.mtp_layers = 1;
  return config;
}

TEST(ModelCheckpoint, MtpLayersAreThoseThatTheCheckpointHas) {
  const Config config = mtp_config();
  auto checkpoint = held_by(build_model(config, true));
  EXPECT_EQ(build_model(config, checkpoint, "x").config.mtp_layers, 1);

  remove_tensor(checkpoint, "model.layers.1.embed_tokens.weight");
  remove_tensor(checkpoint, "model.layers.1.shared_head.head.weight");
  const Model exported = build_model(config, checkpoint, "x");
  EXPECT_EQ(exported.config.mtp_layers, 1);
  EXPECT_EQ(exported.tensors.size(), checkpoint.size());

  Config without = config;
  without.mtp_layers = 0;
  const Model ignored = build_model(without, checkpoint, "x");
  EXPECT_EQ(unknown_count(ignored), checkpoint.size() - build_model(without, true).tensors.size());

  std::erase_if(checkpoint, [](const TensorInfo& info) { return info.name.starts_with("model.layers.1."); });
  const Model shorter = build_model(config, checkpoint, "x");
  EXPECT_EQ(shorter.config.mtp_layers, 0);
  EXPECT_EQ(shorter.tensors.size(), checkpoint.size());
}

TEST(ModelCheckpoint, LayersBeyondACutAreSkippedUnderEveryPrefix) {
  for (const std::string prefix : {"model.", "backbone.", "model.language_model."}) {
    SCOPED_TRACE(prefix);
    Config config = tied_llama_config();
    config.prefix = prefix;
    const auto checkpoint = held_by(build_model(config, false));
    config.layers = 1;
    config.truncated = true;
    const Model cut = build_model(config, checkpoint, "x");
    EXPECT_EQ(unknown_count(cut), 0U);
    EXPECT_EQ(cut.tensors.size(), checkpoint.size() - 9);
  }
}

/// The tied Llama with another text in place of "model." in front of its names.
std::vector<TensorInfo> renamed_llama(const std::string& prefix) {
  auto checkpoint = tied_llama();
  for (TensorInfo& info : checkpoint) info.name = prefix + info.name.substr(std::string("model.").size());
  return checkpoint;
}

TEST(ModelCheckpoint, ThePrefixIsThatOfTheCheckpointsNames) {
  for (const char* prefix :
       {"model.", "model.language_model.", "language_model.model.", "backbone.", "transformer.", ""}) {
    Config config = tied_llama_config();
    config.prefix = "model.language_model.";  // as a nested config.json suggests
    const Model model = build_model(config, renamed_llama(prefix), "x");
    EXPECT_EQ(model.config.prefix, prefix);
    EXPECT_EQ(unknown_count(model), 0U) << prefix;
  }
  auto checkpoint = renamed_llama("language_model.model.");
  checkpoint.push_back({"language_model.lm_head.weight", {320, 64}, DType::f32});
  Config config = tied_llama_config();
  config.tied = false;
  const Model model = build_model(config, checkpoint, "x");
  ASSERT_NE(model.find("language_model.lm_head.weight"), nullptr);
  EXPECT_EQ(model.find("language_model.lm_head.weight")->role, Role::lm_head);
}

TEST(ModelCheckpoint, WhatIsThereInsteadIsShownWithTheRenamingThatExplainsIt) {
  const std::map<std::string, std::string> wrappers{{"_checkpoint_wrapped_module.", "activation checkpointing"},
                                                    {"_fsdp_wrapped_module.", "FSDP"},
                                                    {"_orig_mod.", "torch.compile"}};
  for (const auto& [wrapper, cause] : wrappers) {
    auto checkpoint = tied_llama();
    for (TensorInfo& info : checkpoint) {
      const std::size_t at = info.name.find("layers.");
      if (at != std::string::npos) info.name.insert(at + std::string("layers.0.").size(), wrapper);
    }
    const std::string text = message_of(tied_llama_config(), checkpoint);
    EXPECT_THAT(text, HasSubstr("18 of its tensors are not what"));
    EXPECT_THAT(text, HasSubstr("18 tensors that family llama does not list are there: model.layers.0." + wrapper));
    EXPECT_THAT(text,
                HasSubstr("18 of the 18 missing names are there with \"" + wrapper + "\" in them, which " + cause));
  }
  EXPECT_THAT(message_of(tied_llama_config(), renamed_llama("actor.policy.")),
              HasSubstr("20 of the 20 missing names are there with \"actor.policy.\" in place of \"model.\""));
}

TEST(ModelCheckpoint, KnownFormsOfOtherWritersAreNamed) {
  auto fused = tied_llama();
  for (const char* part : {"q_proj", "k_proj"}) {
    for (const char* layer : {"0", "1"})
      remove_tensor(fused, std::string("model.layers.") + layer + ".self_attn." + part + ".weight");
  }
  for (const char* layer : {"0", "1"})
    named(fused, std::string("model.layers.") + layer + ".self_attn.v_proj.weight").name =
        std::string("model.layers.") + layer + ".self_attn.qkv_proj.weight";
  EXPECT_THAT(message_of(tied_llama_config(), fused), HasSubstr("q, k and v are one matrix"));
  auto base = tied_llama();
  named(base, "model.layers.0.self_attn.q_proj.weight").name = "model.layers.0.self_attn.q_proj.base_layer.weight";
  EXPECT_THAT(message_of(tied_llama_config(), base), HasSubstr("with \"base_layer.\" in them, which PEFT puts there"));
}

TEST(ModelCheckpoint, TensorsWithoutElementsAreLeftOutAndSaid) {
  auto checkpoint = tied_llama();
  checkpoint.push_back({"model.layers.0.empty", {0, 4}, DType::bf16});
  const Model model = build_model(tied_llama_config(), checkpoint, "x");
  EXPECT_EQ(unknown_count(model), 0U);
  ASSERT_EQ(model.notes.size(), 1U);
  EXPECT_THAT(model.notes[0], HasSubstr("1 tensor without elements is left out: model.layers.0.empty"));
}

TEST(ModelCheckpoint, SkippedTensorsAreLeftOutAndSaid) {
  auto checkpoint = tied_llama();
  checkpoint.push_back({"mtp.norm.weight", {64}, DType::f32});
  checkpoint.push_back({"mtp.fc.weight", {64, 128}, DType::f32});
  checkpoint.push_back({"visual.patch.weight", {2}, DType::f32});
  Config config = tied_llama_config();
  EXPECT_EQ(unknown_count(build_model(config, checkpoint, "x")), 3U);
  config.skip = {"mtp.*", "visual.*"};
  const Model model = build_model(config, checkpoint, "x");
  EXPECT_EQ(unknown_count(model), 0U);
  ASSERT_EQ(model.notes.size(), 2U);
  EXPECT_THAT(model.notes[0], HasSubstr("2 tensors (33024 bytes) left out by model.skip = mtp.*"));
  config.skip = {"audio.*"};
  EXPECT_THAT(message_of(config, checkpoint), HasSubstr("model.skip: no tensor of folder/x matches audio.*"));
  config.skip = {"*.q_proj.weight"};
  EXPECT_THAT(message_of(config, checkpoint),
              HasSubstr("model.layers.1.self_attn.q_proj.weight is left out by model.skip, but family llama needs it"));
}

TEST(ModelCheckpoint, ScalesAreNoParameters) {
  Config config = tied_llama_config();
  const std::int64_t plain = build_model(config, false).parameters();
  config.quantisation = StoredFormat::fp8_block;
  EXPECT_EQ(build_model(config, false).parameters(), plain);
}

}  // namespace
}  // namespace refit::model
