// quantization_config: every published form, and what is refused, as vLLM 0.33 decides it. The sections are those that
// the libraries write (compressed-tensors 0.17, ModelOpt 0.47, transformers), with the modules of published models.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

using ::testing::HasSubstr;
using enum StoredFormat;

constexpr char kModel[] =
    R"("architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 256, "intermediate_size": 512,
       "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64)";

/// A config.json with a section, in a folder of its own.
class File {
 public:
  explicit File(const std::string& section, const std::string& beside = "") {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("refit-quantisation-" + std::to_string(reinterpret_cast<std::uintptr_t>(this)));
    std::filesystem::create_directories(folder_);
    const std::string own = section.empty() ? "" : ", \"quantization_config\": " + section;
    std::ofstream(path()) << "{" << kModel << own << "}";
    if (!beside.empty()) std::ofstream(folder_ / "hf_quant_config.json") << beside;
  }
  ~File() { std::filesystem::remove_all(folder_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  std::string path() const { return folder_ / "config.json"; }

 private:
  std::filesystem::path folder_;
};

Config read(const std::string& section, const std::string& beside = "") {
  return read_config(File(section, beside).path());
}

std::string refusal(const std::string& section, const std::string& beside = "") {
  try {
    read(section, beside);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "no error";
}

/// Returns text with every `"` for a `'`.
std::string quoted(std::string text) {
  for (char& c : text) c = c == '\'' ? '"' : c;
  return text;
}

std::string repeated(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

/// A section of compressed-tensors with one group.
std::string group(const std::string& format, const std::string& weights, const std::string& inputs = "null",
                  const std::string& more = "'ignore': ['lm_head']") {
  return quoted("{'quant_method': 'compressed-tensors', 'format': '" + format +
                "', 'config_groups': {'group_0': {'targets': ['Linear'], 'output_activations': null, 'weights': {" +
                weights + "}, 'input_activations': " + inputs + "}}, " + more + "}");
}

struct Form {
  const char* name;
  std::string section;
  StoredFormat format;
  Naming naming;
  bool has_input_scales = false;
  std::int64_t group = 128;
  DType scale_dtype = DType::bf16;
  const char* beside = "";

  friend void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }
};

constexpr char kNvfp4[] =
    "'num_bits': 4, 'type': 'float', 'strategy': 'tensor_group', 'group_size': 16, 'symmetric': true, 'dynamic': "
    "false, "
    "'actorder': null, 'block_structure': null, 'observer': 'memoryless_minmax', 'observer_kwargs': {}, 'scale_dtype': "
    "'torch.float8_e4m3fn', 'zp_dtype': null";
constexpr char kFp8[] = "'num_bits': 8, 'type': 'float', 'symmetric': true, 'dynamic': false, 'strategy': ";
constexpr char kInt4[] =
    "'num_bits': 4, 'type': 'int', 'strategy': 'group', 'symmetric': true, 'actorder': null, 'group_size': ";
constexpr char kStatic[] =
    "{'num_bits': 8, 'type': 'float', 'strategy': 'tensor', 'dynamic': false, 'symmetric': true}";
constexpr char kToken[] = "{'num_bits': 8, 'type': 'float', 'strategy': 'token', 'dynamic': true, 'symmetric': true}";
constexpr char kLocal[] =
    "{'num_bits': 4, 'type': 'float', 'strategy': 'tensor_group', 'group_size': 16, 'dynamic': 'local'}";

std::vector<Form> forms() {
  using enum Naming;
  return {
      {"fp8",
       quoted("{'quant_method': 'fp8', 'activation_scheme': 'dynamic', 'fmt': 'e4m3', 'weight_block_size': "
              "[128, 128], 'scale_fmt': 'ue8m0'}"),
       fp8_block, fp8},
      {"fp8_static", quoted("{'quant_method': 'fp8', 'activation_scheme': 'static', 'ignored_layers': ['lm_head']}"),
       fp8_tensor, fp8, true},
      {"fp8_dynamic", quoted("{'quant_method': 'fp8', 'activation_scheme': 'dynamic'}"), fp8_tensor, fp8},
      {"mxfp8", quoted("{'quant_method': 'mxfp8'}"), StoredFormat::mxfp8, Naming::mxfp8},
      {"fbgemm",
       quoted("{'quant_method': 'fbgemm_fp8', 'activation_scale_ub': 1200.0, 'modules_to_not_convert': "
              "['lm_head']}"),
       fp8_channel, fbgemm_fp8},
      {"gpt_oss",
       quoted("{'quant_method': 'mxfp4', 'modules_to_not_convert': ['model.layers.*.self_attn', "
              "'model.layers.*.mlp.router', 'model.embed_tokens', 'lm_head']}"),
       StoredFormat::mxfp4, Naming::mxfp4},
      {"gptq",
       quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': 64, 'desc_act': false, 'sym': true, 'lm_head': "
              "false, 'checkpoint_format': 'gptq', 'true_sequential': true, 'damp_percent': 0.01}"),
       StoredFormat::gptq, Naming::gptq, false, 64},
      {"awq",
       quoted("{'quant_method': 'awq', 'bits': 4, 'group_size': 128, 'zero_point': true, 'version': 'gemm', "
              "'modules_to_not_convert': null}"),
       StoredFormat::awq, Naming::awq},
      {"awq_of_the_first_kind",
       quoted("{'quant_method': 'awq', 'w_bit': 4, 'q_group_size': 64, 'zero_point': true, "
              "'version': 'GEMM'}"),
       StoredFormat::awq, Naming::awq, false, 64},
      {"ct_nvfp4", group("nvfp4-pack-quantized", kNvfp4, kLocal), nvfp4, compressed_tensors, true},
      {"ct_nvfp4a16", group("nvfp4-pack-quantized", kNvfp4), nvfp4, compressed_tensors},
      {"ct_mxfp4",
       group("mxfp4-pack-quantized",
             "'num_bits': 4, 'type': 'float', 'strategy': 'group', 'group_size': 32, 'scale_dtype': 'torch.uint8'"),
       StoredFormat::mxfp4, compressed_tensors},
      {"ct_mxfp8",
       group("mxfp8-quantized",
             "'num_bits': 8, 'type': 'float', 'strategy': 'group', 'group_size': 32, 'scale_dtype': 'torch.uint8'",
             "{'num_bits': 8, 'type': 'float', 'strategy': 'group', 'group_size': 32, 'dynamic': true}"),
       StoredFormat::mxfp8, compressed_tensors},
      {"ct_fp8_dynamic", group("float-quantized", std::string(kFp8) + "'channel'", kToken), fp8_channel,
       compressed_tensors},
      {"ct_fp8", group("float-quantized", std::string(kFp8) + "'tensor'", kStatic), fp8_tensor, compressed_tensors,
       true},
      {"ct_fp8_of_naive", group("naive-quantized", std::string(kFp8) + "'tensor'", kStatic), fp8_tensor,
       compressed_tensors, true},
      {"ct_fp8_float32",
       group("float-quantized", std::string(kFp8) + "'channel', 'scale_dtype': 'torch.float32'", kToken), fp8_channel,
       compressed_tensors, false, 128, DType::f32},
      {"ct_fp8_block", group("float-quantized", std::string(kFp8) + "'block', 'block_structure': [128, 128]", kToken),
       fp8_block, compressed_tensors},
      {"ct_w4a16", group("pack-quantized", std::string(kInt4) + "128"), int4, compressed_tensors},
      {"ct_w4a16_asym",
       group("pack-quantized",
             "'num_bits': 4, 'type': 'int', 'group_size': 64, 'symmetric': false, 'zp_dtype': "
             "'torch.int8', 'actorder': 'static'"),
       int4_asym, compressed_tensors, false, 64},
      {"ct_kimi",
       group("pack-quantized", std::string(kInt4) + "32", "null",
             "'ignore': ['lm_head', 're:.*self_attn.*', 're:.*shared_experts.*', "
             "'re:.*mlp\\\\.(gate|up|gate_up|down)_proj.*'], 'kv_cache_scheme': null, "
             "'quantization_status': 'compressed'"),
       int4, compressed_tensors, false, 32},
      {"ct_with_an_attention_group",
       quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'config_groups': {'attention': "
              "{'targets': ['LlamaAttention'], 'weights': null}, 'group_0': {'targets': ['Linear'], 'weights': {") +
           quoted(std::string(kFp8)) + quoted("'tensor'}}}}"),
       fp8_tensor, compressed_tensors},
      {"ct_with_dense_sparsity",
       group("float-quantized", std::string(kFp8) + "'tensor'", "null",
             "'sparsity_config': {'format': 'dense', 'global_sparsity': 0.14, 'ignore': []}, 'transform_config': {}"),
       fp8_tensor, compressed_tensors},
      {"ct_of_the_cache",
       quoted("{'quant_method': 'compressed-tensors', 'config_groups': {}, 'kv_cache_scheme': {'num_bits': 8, 'type': "
              "'float', 'dynamic': false}}"),
       unquantised, fp8},
      {"mo_fp8",
       quoted("{'quant_method': 'modelopt', 'quant_algo': 'FP8', 'ignore': ['lm_head'], 'kv_cache_scheme': "
              "{'dynamic': false, 'num_bits': 8, 'type': 'float'}, 'producer': {'name': 'modelopt'}}"),
       fp8_tensor, modelopt, true},
      {"mo_fp8_rows", quoted("{'quant_method': 'modelopt', 'quant_algo': 'FP8_PER_CHANNEL_PER_TOKEN'}"), fp8_channel,
       modelopt},
      {"mo_fp8_blocks", quoted("{'quant_method': 'modelopt', 'quant_algo': 'fp8_pb_wo'}"), fp8_block, modelopt},
      {"mo_nvfp4",
       quoted("{'quant_method': 'modelopt', 'quant_algo': 'NVFP4', 'group_size': 16, 'config_groups': "
              "{'group_0': {'input_activations': {'dynamic': false, 'num_bits': 4, 'type': 'float', "
              "'group_size': 16}, 'targets': ['Linear']}}}"),
       nvfp4, modelopt, true},
      {"mo_nvfp4_of_weights",
       quoted("{'quant_method': 'modelopt', 'quant_algo': 'NVFP4', 'config_groups': {'group_0': "
              "{'input_activations': null, 'targets': ['Linear']}}}"),
       nvfp4, modelopt},
      {"mo_w4a16", quoted("{'quant_method': 'modelopt_fp4', 'quant_algo': 'W4A16_NVFP4'}"), nvfp4, modelopt},
      {"mo_mxfp8", quoted("{'quant_method': 'modelopt', 'quant_algo': 'MXFP8'}"), StoredFormat::mxfp8, Naming::mxfp8},
      {"mo_nested", quoted("{'quant_method': 'modelopt', 'quantization': {'quant_algo': 'FP8'}}"), fp8_tensor, modelopt,
       true},
      {"mo_file", "", nvfp4, modelopt, true, 128, DType::bf16,
       R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
           "group_size": 16, "exclude_modules": ["lm_head"]}})"},
      {"mo_file_of_the_cache", "", unquantised, fp8, false, 128, DType::bf16,
       R"({"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}})"}};
}

class PublishedForm : public ::testing::TestWithParam<Form> {};

TEST_P(PublishedForm, IsRead) {
  const Form& form = GetParam();
  const Quantisation how = read(form.section, form.beside).quantisation;
  EXPECT_EQ(how.format, form.format);
  EXPECT_EQ(how.naming, form.naming);
  EXPECT_EQ(how.has_input_scales, form.has_input_scales);
  EXPECT_EQ(how.group, form.group);
  EXPECT_EQ(how.scale_dtype, form.scale_dtype);
}

INSTANTIATE_TEST_SUITE_P(All, PublishedForm, ::testing::ValuesIn(forms()),
                         [](const auto& given) { return std::string(given.param.name); });

TEST(QuantisationConfig, OlderFilesHaveAnotherKey) {
  const File file("");
  std::ofstream(file.path()) << "{" << kModel << ", \"compression_config\": "
                             << group("float-quantized", std::string(kFp8) + "'tensor'", kStatic) << "}";
  EXPECT_EQ(read_config(file.path()).quantisation.format, fp8_tensor);
}

struct Refused {
  std::string section;
  const char* words;
};

TEST(QuantisationConfig, WhatIsNotReadIsRefusedInWords) {
  const std::string fp8 = std::string(kFp8) + "'tensor'";
  const Refused rows[] = {
      {quoted("{'quant_method': 'bitsandbytes', 'load_in_4bit': true}"), "has quant_method bitsandbytes, which has no"},
      {quoted("{'load_in_8bit': true}"), "has no quant_method, which has no layout rule; known are fp8"},
      {quoted("{'quant_method': 'fp8', 'weight_block_size': [1, 128]}"), "must be [128, 128], not [1, 128]"},
      {quoted("{'quant_method': 'fp8', 'weight_block_size': [128, 128], 'activation_scheme': 'static'}"),
       "goes with activation_scheme dynamic only"},
      {quoted("{'quant_method': 'fp8', 'activation_scheme': 'odd'}"),
       "activation_scheme = odd; known are dynamic, static"},
      {quoted("{'quant_method': 'fp8', 'store_dtype': 'mxfp4'}"), "store_dtype mxfp4"},
      {quoted("{'quant_method': 'fp8', 'fmt': 'e5m2'}"), "not e5m2"},
      {quoted("{'quant_method': 'gptq', 'bits': 8, 'group_size': 128}"), "bits = 8; known is 4"},
      {quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': 128, 'desc_act': true}"), "desc_act = true"},
      {quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': 128, 'sym': false}"), "sym = false"},
      {quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': 128, 'checkpoint_format': 'gptq_v2'}"), "gptq_v2"},
      {quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': -1}"), "group_size must be a whole number"},
      {quoted("{'quant_method': 'gptq', 'bits': 4}"), "group_size is missing"},
      {quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': 128, 'dynamic': {'+:.*down_proj': {'bits': 8}}}"),
       "has a rule of its own for the modules +:.*down_proj"},
      {quoted("{'quant_method': 'awq', 'bits': 4, 'group_size': 128, 'version': 'gemv'}"),
       "version gemv; known is gemm"},
      {quoted("{'quant_method': 'awq', 'bits': 4, 'group_size': 128, 'zero_point': false}"), "zero_point = false"},
      {quoted("{'quant_method': 'modelopt', 'quant_algo': 'MIXED_PRECISION'}"), "whose layers have unlike formats"},
      {quoted("{'quant_method': 'modelopt', 'quant_algo': 'W4A8_AWQ'}"), "with quant_algo W4A8_AWQ, which has no"},
      {quoted("{'quant_method': 'modelopt'}"), "has quant_method modelopt, which has no layout rule"},
      {quoted("{'quant_method': 'modelopt', 'quant_algo': 'NVFP4', 'group_size': 32}"), "group_size = 32; known is 16"},
      {quoted("{'quant_method': 'modelopt', 'quant_algo': [1]}"), "quant_algo must be a text"},
      {quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized'}"), "has no config_groups"},
      {group("int-quantized", "'num_bits': 8, 'type': 'int', 'strategy': 'channel'"),
       "format int-quantized (weights: int, 8 bits, channel)"},
      {group("pack-quantized", "'num_bits': 8, 'type': 'int', 'strategy': 'group', 'group_size': 128"),
       "(weights: int, 8 bits, group of 128)"},
      {group("pack-quantized", "'num_bits': 4, 'type': 'int', 'group_size': -1"),
       "(weights: int, 4 bits, channel of -1)"},
      {group("pack-quantized", std::string(kInt4) + "128, 'actorder': 'group'"), "actorder"},
      {group("pack-quantized", std::string(kInt4) + "128", kToken), "go with floating point weights only"},
      {group("nvfp4-pack-quantized", kNvfp4, kToken), "vLLM takes NVFP4 for both, or none"},
      {group("float-quantized", std::string(kFp8) + "'block', 'block_structure': [1, 128]"),
       "block_structure [128, 128]"},
      {group("float-quantized", fp8 + ", 'rotation': 'hadamard'"), "weights with the key rotation"},
      {group("float-quantized", "'num_bits': 8, 'type': 'float', 'strategy': 'tensor', 'symmetric': false"),
       "(weights: float, 8 bits, tensor, asymmetric)"},
      {group("float-quantized", fp8, kStatic, "'transform_config': {'config_groups': {}}"), "has transform_config"},
      {group("float-quantized", fp8, kStatic, "'sparsity_config': {'format': 'sparse-24-bitmask'}"),
       "no sparse weights"},
      {group("float-quantized", fp8, kStatic, "'ignore': ['re:(lm_head']"), "has \"re:(lm_head\", which is no regular"},
      {group("float-quantized", fp8, kStatic, "'ignore': ['re:(?i)LM_HEAD']"), "has an escape or a group"},
      {group("float-quantized", fp8, kStatic, "'ignore': ['re:" + std::string(1200, 'x') + "']"), "which is too long"},
      {group("float-quantized", fp8, kStatic, "'ignore': ['re:(a?){30000}b']"), "which repeats too much"},
      {group("float-quantized", fp8, kStatic, "'ignore': ['re:(((a?){20}){20}){20}b']"), "which repeats too much"},
      {group("float-quantized", fp8, kStatic, "'ignore': [7]"), "ignore must be a list of texts"},
      {quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'config_groups': {'a': {'targets': "
              "['Linear'], 'weights': {") +
           quoted(fp8) + quoted("}}, 'b': {'targets': ['re:.*down_proj'], 'weights': {") + quoted(std::string(kFp8)) +
           quoted("'channel'}}}}"),
       "groups of unlike formats"},
      {quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'config_groups': {'a': {'targets': "
              "['a.b'" +
              repeated(", 'a.b'", 1000) + "], 'weights': {" + fp8 + "}}}}"),
       "lists 1001 names of modules"},
      {quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'config_groups': {'a': {'targets': "
              "['Embedding'], 'weights': {") +
           quoted(fp8) + quoted("}}}}"),
       "has the target Embedding"},
      {quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'config_groups': {'a': {'targets': "
              "['Linear']}}}"),
       "a has no weights"}};
  for (const Refused& row : rows) EXPECT_THAT(refusal(row.section), HasSubstr(row.words)) << row.section;
  EXPECT_THAT(refusal("", R"({"quantization": {"quant_algo": "W4A8_AWQ"}})"), HasSubstr("hf_quant_config.json"));
  EXPECT_THAT(refusal("", R"({"quantization": 7})"), HasSubstr("must be an object"));
  EXPECT_THAT(refusal("7"), HasSubstr("must be an object"));
}

/// Returns which of those modules a section quantises, as letters.
std::string converted(const std::string& section) {
  const std::pair<char, const char*> modules[] = {{'q', "model.layers.0.self_attn.q_proj.weight"},
                                                  {'o', "model.layers.10.self_attn.o_proj.weight"},
                                                  {'d', "model.layers.0.mlp.down_proj.weight"},
                                                  {'e', "model.layers.1.mlp.experts.3.up_proj.weight"},
                                                  {'s', "model.layers.1.mlp.shared_experts.up_proj.weight"}};
  const Config config = read(section);
  std::string result;
  for (const auto& [letter, name] : modules) result += is_converted(config, name) ? std::string(1, letter) : "";
  return result;
}

/// The modules are those of re.match, fnmatch and `in` of Python.
TEST(QuantisationConfig, ModulesAreExceptedAsTheMethodDoes) {
  const auto ct = [](const std::string& list) {
    return converted(group("float-quantized", std::string(kFp8) + "'tensor'", kStatic, "'ignore': " + list));
  };
  EXPECT_EQ(ct("[]"), "qodes");
  EXPECT_EQ(ct("['model.layers.0.self_attn.q_proj']"), "odes");
  EXPECT_EQ(ct("['model.layers.1.mlp.experts.3', 'model.layers.0.self_attn']"), "qodes");  // these modules alone
  EXPECT_EQ(ct("['model.layers.*']"), "qodes");                                            // no pattern
  EXPECT_EQ(ct("['re:.*self_attn.*', 're:.*mlp\\\\.(gate|up|down)_proj.*']"), "es");
  EXPECT_EQ(ct("['re:self_attn']"), "qodes");  // from the name's beginning
  EXPECT_EQ(ct("['re:model']"), "");           // not to its end
  EXPECT_EQ(ct("['re:.*layers\\\\.\\\\d\\\\..*']"), "o");
  EXPECT_EQ(ct("['re:^(?!.*experts).*']"), "es");
  EXPECT_EQ(ct("['re:.*experts.*$', 're:.*o_proj$']"), "qd");
  const auto targets = [](const std::string& list) {
    return converted(
        quoted("{'quant_method': 'compressed-tensors', 'format': 'float-quantized', 'ignore': "
               "['model.layers.0.mlp.down_proj'], 'config_groups': {'a': {'targets': " +
               list + ", 'weights': {" + kFp8 + "'tensor'}}}}"));
  };
  EXPECT_EQ(targets("['re:.*self_attn.*', 'model.layers.0.mlp.down_proj']"), "qo");
  EXPECT_EQ(targets("['model.layers.0.self_attn.q_proj']"), "q");
  EXPECT_EQ(targets("['re:.*mlp.experts.*', 'Linear']"), "qoes");
  const auto modelopt = [](const std::string& list) {
    return converted(quoted("{'quant_method': 'modelopt', 'quant_algo': 'FP8', 'ignore': " + list + "}"));
  };
  EXPECT_EQ(modelopt("['lm_head']"), "qodes");
  EXPECT_EQ(modelopt("['model.layers.0.self_attn*', '*.mlp.shared_experts.*']"), "ode");
  EXPECT_EQ(modelopt("['model.layers.1']"), "qd");  // also within model.layers.10, as vLLM
  EXPECT_EQ(modelopt("['self_attn', 'model.layers.?.mlp.experts*']"), "ds");
  const auto awq = [](const std::string& list) {
    return converted(
        quoted("{'quant_method': 'awq', 'bits': 4, 'group_size': 128, 'modules_to_not_convert': " + list + "}"));
  };
  EXPECT_EQ(awq("['self_attn', 'experts.3']"), "ds");
  const auto gptq = [](const std::string& more) {
    return converted(quoted("{'quant_method': 'gptq', 'bits': 4, 'group_size': 128, " + more + "}"));
  };
  EXPECT_EQ(gptq("'modules_in_block_to_quantize': [['self_attn.q_proj', 'self_attn.o_proj'], ['mlp.down_proj']]"),
            "qod");
  EXPECT_EQ(gptq("'dynamic': {'-:.*experts': {}}"), "qod");
  EXPECT_EQ(converted(quoted("{'quant_method': 'fp8', 'modules_to_not_convert': ['model.layers.0.self_attn']}")),
            "odes");
}

/// An expression of this kind takes years where each way through it is tried.
TEST(QuantisationConfig, NoExpressionTakesLong) {
  const std::string deep = repeated("(", 300) + "a?" + repeated(")*", 200) + repeated(")", 100);
  const Config nested =
      read(group("float-quantized", std::string(kFp8) + "'tensor'", kStatic, "'ignore': ['re:" + deep + "b']"));
  EXPECT_TRUE(is_converted(nested, std::string(400, 'a') + ".weight"));
  const Config config =
      read(group("float-quantized", std::string(kFp8) + "'tensor'", kStatic, "'ignore': ['re:(m|o|[a-z]*)*(.*)*!']"));
  EXPECT_TRUE(is_converted(config, std::string(400, 'm') + ".weight"));
}

/// Totals that follow from the sizes by hand: 2 layers of q 256 x 256, k and v 128 x 256, o 256 x 256, gate and up 512
/// x 256, down 256 x 512.
TEST(QuantisationConfig, PartsHaveTheSizesOfTheFormat) {
  constexpr std::int64_t kLinear = 2 * (256 * 256 * 2 + 2 * 128 * 256 + 3 * 512 * 256);
  constexpr std::int64_t kMatrices = 2 * 7;
  constexpr std::int64_t kRows = 2 * (256 + 128 + 128 + 256 + 512 + 512 + 256);
  constexpr std::int64_t kPlain = 2 * (2 * 256 * 256 + 5 * 256);
  const auto bytes = [](const std::string& section) { return build_model(read(section), false).bytes() - kPlain; };
  EXPECT_EQ(bytes(group("nvfp4-pack-quantized", kNvfp4, kLocal)), kLinear / 2 + kLinear / 16 + kMatrices * 8);
  EXPECT_EQ(bytes(group("nvfp4-pack-quantized", kNvfp4)), kLinear / 2 + kLinear / 16 + kMatrices * 4);
  EXPECT_EQ(bytes(group("float-quantized", std::string(kFp8) + "'channel'", kToken)), kLinear + kRows * 2);
  EXPECT_EQ(bytes(group("float-quantized", std::string(kFp8) + "'tensor'", kStatic)), kLinear + kMatrices * 4);
  EXPECT_EQ(bytes(group("pack-quantized", std::string(kInt4) + "128")),
            kLinear / 2 + kLinear / 128 * 2 + kMatrices * 16);
  EXPECT_EQ(bytes(quoted("{'quant_method': 'fp8', 'activation_scheme': 'static'}")), kLinear + kMatrices * 8);
  const Model blocks = build_model(read(quoted("{'quant_method': 'modelopt', 'quant_algo': 'FP8_PB_WO'}")), false);
  const Tensor* scale = blocks.find("model.layers.0.mlp.down_proj.weight_scale");
  ASSERT_NE(scale, nullptr);
  EXPECT_EQ(scale->file_shape(), (Shape{2, 1, 4, 1}));
  EXPECT_EQ(scale->shape, (Shape{2, 4}));
}

}  // namespace
}  // namespace refit::model
