// Seeded mutations of config.json, hf_quant_config.json and case files: every reader either takes them or gives usage
// errors, and what it takes makes a model whose sizes are those of its tensors.

#include <gtest/gtest.h>

#include "app/case_reader.hpp"
#include "core/error.hpp"
#include "fuzz/mutation.hpp"
#include "model/model.hpp"

namespace refit {
namespace {

class Fuzz : public fuzz::Folder {
 protected:
  /// Mutates `good` and has `read` read it; expects some of both outcomes.
  template <typename Read>
  void mutate(const std::string& name, const std::string& good, int count, std::uint64_t seed, const Read& read) const {
    std::mt19937_64 random(seed);
    int taken = 0;
    for (int i = 0; i < count; ++i) {
      store(name, i == 0 ? good : fuzz::mutate(good, random));
      SCOPED_TRACE(testing::Message() << name << " seed " << seed << " mutation " << i);
      try {
        read();
        ++taken;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
        const std::string text = error.what();  // a width that blocks do not divide is the named tensor's
        EXPECT_TRUE(text.find(folder_) != std::string::npos || text.starts_with("model.")) << text;
        EXPECT_NE(i, 0) << error.what();
      }
    }
    EXPECT_GT(taken, 0);
    EXPECT_LT(taken, count);
  }
};

/// A mutated size may make a list of millions of tensors: only small models are listed.
void read_model(const std::string& path) {
  const model::Config config = model::read_config(path);
  if ((config.layers + config.mtp_layers) * std::max<std::int64_t>(1, config.experts) > 1000) return;
  const model::Model model = model::build_model(config, true);
  EXPECT_GT(model.parameters(), 0);
}

TEST_F(Fuzz, Configs) {
  const std::string moe = R"({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 96,
    "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32, "num_hidden_layers": 2, "num_experts": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "mlp_layer_types": ["dense", "sparse"],
    "tie_word_embeddings": false, "dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e6, "factor": NaN},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}})";
  const std::string nested = R"({"architectures": ["Odd"], "text_config": {"model_type": "qwen3", "vocab_size": 96,
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "quantization_config": {"quant_method": "compressed-tensors", "format": "mxfp8-quantized", "config_groups":
    {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32,
    "scale_dtype": "torch.uint8"}}}}})";
  const std::string hybrid = R"({"model_type": "nemotron_h", "hybrid_override_pattern": "M*E-", "vocab_size": 96,
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "conv_kernel": 4, "n_routed_experts": 4,
    "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32})";
  std::uint64_t seed = 10;
  for (const std::string& good : {moe, nested, hybrid}) {
    mutate("config.json", good, fuzz::rounds(1500), ++seed, [&] { read_model(file("config.json")); });
  }
}

TEST_F(Fuzz, QuantisationFiles) {
  store("config.json", R"({"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 4})");
  const std::string good = R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "MXFP8",
    "kv_cache_quant_algo": null, "group_size": 32, "exclude_modules": ["lm_head", "model.layers.0.*"]}})";
  mutate("hf_quant_config.json", good, fuzz::rounds(800), 20, [&] { read_model(file("config.json")); });
}

TEST_F(Fuzz, Cases) {
  const std::string good = R"(name = "a case"
description = """Several
lines."""
[model]
config = "config.json"
skip = ["mtp.*"]
[train]
layout = "TP2xPP2"
stage_layers = [1, 2]
[gen]
layout = "TP4"
[refit]
chunk_bytes = "8MiB"  # comment
[run]
timeout_seconds = 1.5e1
inject = []
[[expect.mismatch]]
tensors = "*.q_proj.weight"
fraction = 0.5
)";
  mutate("case.toml", good, fuzz::rounds(4000), 30, [&] { app::read_case(file("case.toml"), {}); });
}

}  // namespace
}  // namespace refit
