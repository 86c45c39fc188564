// Properties of every family on every legal layout of a grid, checked element by element.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "core/box.hpp"
#include "gen/sglang/layout.hpp"
#include "gen/vllm/layout.hpp"
#include "layout_models.hpp"
#include "support/random_layout.hpp"
#include "train/fsdp/layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::layout {
namespace {

/// A layout of a side, and the request for it.
struct Candidate {
  std::string name;
  std::unique_ptr<Layout> layout;
  std::int64_t tp, moe;  ///< moe: ranks over which an expert is cut
  std::int64_t expert_multiple = 1;
};

std::vector<Candidate> train_layouts(const model::Model& model) {
  std::vector<Candidate> result;
  for (const char* sizes : {"TP1",          "TP2",     "TP4",         "PP2",          "TP2xPP2",
                            "TP2xPP4xDP2",  "TP2xCP2", "DP3",         "EP2",          "EP3",
                            "EP6",          "TP2xEP2", "TP2xEP3xDP3", "TP4xEP2xPP2",  "TP2xCP2xEP2xPP2",
                            "TP2xEP6xPP3",  "ETP2",    "TP2xETP2",    "TP4xETP2xEP2", "TP2xCP2xETP4xPP2",
                            "TP2xETP2xEP3", "ETP8"}) {
    for (const std::int64_t pad : {0, 1, 128}) {
      train::megatron::Options options;
      options.sizes = parse_parallelism(sizes);
      options.make_vocab_size_divisible_by = pad;
      if (options.sizes.pp == 3 && model.config.layers == 4) options.stage_layers = {1, 2, 1};
      if (!train::megatron::violations(model, options).empty()) continue;
      result.push_back({fmt::format("train {} pad {}", sizes, pad), train::megatron::make_layout(model, options),
                        options.sizes.tp, options.sizes.etp});
    }
  }
  return result;
}

/// Of FSDP2: every recipe, with shards that are uneven or empty.
std::vector<Candidate> fsdp_layouts(const model::Model& model) {
  using train::fsdp::Recipe;
  std::vector<Candidate> result;
  for (const auto& [recipe, sizes] : {std::pair{Recipe::verl, "FSDP4"},
                                      {Recipe::miles, "HSDP2xFSDP7"},
                                      {Recipe::nemo_rl, "FSDP3xTP2"},
                                      {Recipe::nemo_rl, "FSDP2xCP2xTP4"},
                                      {Recipe::automodel, "HSDP2xFSDP3xPP2"},
                                      {Recipe::automodel, "FSDP4xEP2"},
                                      {Recipe::automodel, "HSDP2xFSDP2xEP4"},
                                      {Recipe::automodel, "FSDP2xTP2xEP2"},
                                      {Recipe::torchtitan, "FSDP5xTP2xPP3"},
                                      {Recipe::torchtitan, "FSDP8xEP2"},
                                      {Recipe::torchtitan, "HSDP2xFSDP2xEP2"},
                                      {Recipe::torchtitan, "FSDP4xTP2xEP2xETP2"},
                                      {Recipe::prime_rl, "FSDP4xCP2xEP4"},
                                      {Recipe::prime_rl, "HSDP2xFSDP3"},
                                      {Recipe::roll, "HSDP2xFSDP8xEP4"},
                                      {Recipe::roll, "FSDP5"}}) {
    for (const auto form : {train::fsdp::ExpertForm::checkpoint, train::fsdp::ExpertForm::stacked,
                            train::fsdp::ExpertForm::transposed, train::fsdp::ExpertForm::w123}) {
      train::fsdp::Options options;
      options.recipe = recipe;
      options.experts = form;
      options.sizes = parse_parallelism(sizes, train::fsdp::all_axes());
      if (!train::fsdp::violations(model, options).empty()) continue;
      result.push_back({fmt::format("{} {} {}", name(recipe), sizes, name(form)),
                        train::fsdp::make_layout(model, options), options.sizes.tp, 1});
    }
  }
  return result;
}

void add_gen(const model::Model& model, const gen::vllm::Options& options, std::vector<Candidate>& out) {
  if (!gen::vllm::violations(model, options).empty()) return;
  out.push_back(
      {fmt::format("gen {}{}{} backend {}", to_string(options.sizes), options.internal_data_parallel ? " internal" : "",
                   options.mtp != gen::vllm::Mtp::off ? " mtp" : "", static_cast<int>(options.moe_backend)),
       gen::vllm::make_layout(model, options), options.sizes.tp, options.sizes.ep > 1 ? 1 : options.moe_ranks(),
       options.moe_backend == gen::vllm::MoeBackend::flashinfer_trtllm ? 128 : 1});
}

std::vector<Candidate> gen_layouts(const model::Model& model) {
  std::vector<Candidate> result;
  for (const char* sizes : {"TP1", "TP2", "TP4", "TP8", "DP3", "TP2xDP2", "TP2xEP2", "TP4xEP4", "TP2xDP2xEP2",
                            "TP2xDP2xEP4", "TP2xDP3xEP6"}) {
    for (const bool internal : {false, true}) {
      gen::vllm::Options options;
      options.sizes = parse_parallelism(sizes);
      options.internal_data_parallel = internal;
      add_gen(model, options, result);
      options.mtp = gen::vllm::Mtp::only;
      add_gen(model, options, result);
    }
  }
  if (model.config.experts == 0) return result;
  for (const char* sizes : {"TP2", "TP4xEP4", "TP2xDP2"}) {
    for (const auto backend : {gen::vllm::MoeBackend::flashinfer_cutlass, gen::vllm::MoeBackend::flashinfer_trtllm}) {
      gen::vllm::Options options;
      options.sizes = parse_parallelism(sizes);
      options.internal_data_parallel = options.sizes.dp > 1;
      options.moe_backend = backend;
      add_gen(model, options, result);
    }
  }
  return result;
}

/// Layouts of vLLM's class for NVIDIA's GPUs.
std::vector<Candidate> nvidia_layouts(const model::Model& model) {
  std::vector<Candidate> result;
  for (const char* sizes : {"TP1", "TP4", "TP2xDP2xEP4"}) {
    for (const bool replicated : {false, true}) {
      gen::vllm::Options options;
      options.sizes = parse_parallelism(sizes);
      options.internal_data_parallel = true;
      options.model_class = gen::vllm::ModelClass::nvidia;
      options.replicate_embedding = replicated;
      add_gen(model, options, result);
    }
  }
  return result;
}

/// Of SGLang, whose classes of the model's family are known.
std::vector<Candidate> sglang_layouts(const model::Model& model) {
  using gen::sglang::MoeRunnerBackend;
  std::vector<Candidate> result;
  for (const char* sizes : {"TP1", "TP4", "TP2xPP2xDP2", "TP4xEP2", "TP4xEP4"}) {
    for (const std::int64_t attention : {1, 2}) {
      for (const auto backend : {MoeRunnerBackend::automatic, MoeRunnerBackend::flashinfer_trtllm,
                                 MoeRunnerBackend::triton_kernel, MoeRunnerBackend::triton}) {
        gen::sglang::Options options{.sizes = parse_parallelism(sizes), .attn_dp_size = attention};
        options.moe_runner_backend = backend;
        options.swiglu_interleaved = backend == MoeRunnerBackend::triton;
        options.enforce_shared_experts_fusion = backend == MoeRunnerBackend::triton_kernel;
        const bool is_alone = model.config.experts == 0 || attention > 1;
        if (backend != MoeRunnerBackend::automatic && is_alone) continue;
        // 6 experts over 4 ranks need two slots more.
        if (model.config.experts % options.sizes.ep != 0) options.ep_num_redundant_experts = 2;
        if (!gen::sglang::violations(model, options).empty()) continue;
        result.push_back({fmt::format("sglang {} attention DP {} backend {}", sizes, attention, name(backend)),
                          gen::sglang::make_layout(model, options), 0, 0});
      }
    }
  }
  return result;
}

using Boxes = std::vector<Box>;  // of one tensor on one rank

Boxes boxes_of(const Layout& layout, const Tensor& tensor, Rank rank) {
  std::vector<Piece> pieces;
  layout.pieces(tensor, rank, pieces);
  Boxes result;
  for (const Piece& piece : pieces) result.push_back(piece.box);
  return result;
}

/// Checks that every element of the tensor is in exactly one of the side's distinct boxes, or that the side does not
/// store the tensor; and that every piece has the format that the side promises.
void check_covered(const Layout& layout, const Tensor& tensor) {
  std::set<Box> distinct;
  const auto format = layout.format(tensor);
  std::vector<Piece> pieces;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    pieces.clear();
    layout.pieces(tensor, Rank{r}, pieces);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      EXPECT_EQ(pieces[i].format, format) << tensor.name;
      EXPECT_EQ(layout.storage(pieces[i].place.storage, Rank{r}).dtype, pieces[i].format.dtype) << tensor.name;
      if (i > 0) {
        EXPECT_LT(pieces[i - 1].box, pieces[i].box) << tensor.name;
      }
      distinct.insert(pieces[i].box);
    }
  }
  if (!format) {
    EXPECT_TRUE(distinct.empty()) << tensor.name;
    return;
  }
  std::vector<int> covered(static_cast<std::size_t>(tensor.elements()), 0);
  for (const Box& box : distinct) {
    test_support::for_each_index(box.extent, [&](const Extents& index) {
      ++covered[static_cast<std::size_t>(test_support::flat(test_support::shifted(box.lower, index), tensor.shape))];
    });
  }
  for (std::size_t i = 0; i < covered.size(); ++i) ASSERT_EQ(covered[i], 1) << tensor.name << " element " << i;
}

/// Checks that tensors of one class and shape have the same boxes on every rank.
void check_classes(const Layout& layout, const model::Model& model) {
  std::map<std::pair<Shape, std::uint64_t>, std::vector<Boxes>> classes;
  for (const Tensor& tensor : model.tensors) {
    std::vector<Boxes> mine;
    for (std::int32_t r = 0; r < layout.ranks(); ++r) mine.push_back(boxes_of(layout, tensor, Rank{r}));
    const auto [entry, is_new] = classes.try_emplace({tensor.shape, layout.placement_class(tensor)}, mine);
    if (!is_new) {
      EXPECT_EQ(entry->second, mine) << tensor.name;
    }
  }
  if (layout.stages() == 1) {
    EXPECT_LT(classes.size(), model.tensors.size()) << "layers share their classes";
  }
}

void check_stored(const Layout& layout, const model::Model& model) {
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    std::set<std::string> names;
    for (const Contents& stored : contents(layout, model, Rank{r})) {
      EXPECT_TRUE(names.insert(stored.storage.name).second) << stored.storage.name << " twice on rank " << r;
      for (const Origin& origin : stored.elements) ASSERT_NE(origin.tensor, Origin::kNothing) << stored.storage.name;
    }
  }
}

bool is_of_tower(const std::string& storage) { return storage.starts_with("vis"); }

/// Checks the shapes of a rank's storages by formula; names that a rank lacks are skipped, so each must be met
/// somewhere.
void check_shapes(const Candidate& candidate, const model::Model& model, std::set<std::string>& met) {
  const model::Config& c = model.config;
  const std::int64_t tp = candidate.tp;
  const std::int64_t kv_of_gen = tp >= c.kv_heads ? 1 : c.kv_heads / tp;
  const std::int64_t halves = c.family == "nemotron_h" ? 1 : 2;       // gate and up, or up alone
  const std::int64_t q_rows = c.gdn.key_heads > 0 ? 2 : 1;            // with an output gate
  const std::int64_t width = c.latent_size > 0 ? c.latent_size : 12;  // of experts
  const std::int64_t part = round_up(8 / candidate.moe, candidate.expert_multiple);
  const std::map<std::string, Shape> expected = {
      {"self_attention.linear_qkv.weight", {(q_rows * 8 + 2 * 2) * 4 / tp, 12}},
      {"self_attention.linear_proj.weight", {12, 8 * 4 / tp}},
      {"mlp.linear_fc1.weight", {halves * c.intermediate_size / tp, 12}},
      {"mlp.linear_fc2.weight", {12, c.intermediate_size / tp}},
      {"mlp.router.weight", {6, 12}},
      {"mlp.experts.linear_fc1.weight0", {halves * 8 / candidate.moe, width}},
      {"mlp.experts.linear_fc2.weight0", {width, 8 / candidate.moe}},
      {"mlp.shared_experts.linear_fc2.weight", {12, 8 / tp}},
      {"mixer.out_proj.weight", {12, 16 / tp}},
      {"linear_attn.out_proj.weight", {12, 24 / tp}},
      {"self_attention.out_proj.weight", {12, 24 / tp}},
      {"attn.qkv_proj.weight", {(q_rows * 8 / tp + 2 * kv_of_gen) * 4, 12}},
      {"attn.o_proj.weight", {12, 8 / tp * 4}},
      {"model.embed_tokens.weight", {256 / tp, 12}},
      {"lm_head.weight", {256 / tp, 12}},
      {"mlp.gate_up_proj.weight", {2 * c.intermediate_size / tp, 12}},
      {"mlp.down_proj.weight", {12, c.intermediate_size / tp}},
      {"decoder.final_layernorm.weight", {12}},
      {"model.norm.weight", {12}}};
  for (std::int32_t r = 0; r < candidate.layout->ranks(); ++r) {
    const LocalLayout local = materialise(*candidate.layout, model.tensors, Rank{r});
    for (const Storage& storage : local.storages) {
      EXPECT_EQ(&local.storages[static_cast<std::size_t>(local.find(storage.key))], &storage);
      for (const auto& [name, shape] : expected) {
        if (!storage.name.ends_with(name) || is_of_tower(storage.name)) continue;
        EXPECT_EQ(storage.shape, shape) << storage.name << " rank " << r;
        met.insert(name);
      }
      if (storage.name.ends_with("w13_weight")) {
        EXPECT_EQ(storage.shape[1], halves * part);
        EXPECT_EQ(storage.shape[2], width);
        met.insert("w13_weight");
      }
      if (storage.name.ends_with("w2_weight")) {
        EXPECT_EQ(storage.shape[1], width);
        EXPECT_EQ(storage.shape[2], part);
        met.insert("w2_weight");
      }
    }
  }
}

/// The number of names in check_shapes that a model has.
const std::map<std::string, std::size_t> kNamesMet{{"llama", 12},
                                                   {"llama_tied", 11},
                                                   {"llama_tied_lm_head", 12},
                                                   {"qwen2", 12},
                                                   {"qwen3", 12},
                                                   {"qwen3_moe", 13},
                                                   {"qwen3_moe_dense", 17},
                                                   {"mixtral", 13},
                                                   {"gpt_oss", 12},
                                                   {"deepseek_v3", 16},
                                                   {"nemotron_h", 13},
                                                   {"nemotron_h_latent", 13},
                                                   {"qwen3_next", 16},
                                                   {"qwen3_5_moe", 16},
                                                   {"qwen3_5", 14},
                                                   {"deepseek_v2", 16},
                                                   {"deepseek_v32", 16},
                                                   {"glm4_moe", 18},
                                                   {"glm4_moe_lite", 16},
                                                   {"glm_moe_dsa", 16},
                                                   {"gemma3", 12},
                                                   {"llama4", 16},
                                                   {"minimax_m2", 13},
                                                   {"olmo3", 12},
                                                   {"phi3", 12},
                                                   {"seed_oss", 12}};

class EveryLayout : public ::testing::TestWithParam<std::string> {};

void check(const std::vector<Candidate>& candidates, const model::Model& model, std::set<std::string>& met) {
  for (const Candidate& candidate : candidates) {
    SCOPED_TRACE(candidate.name);
    for (const Tensor& tensor : model.tensors) check_covered(*candidate.layout, tensor);
    check_classes(*candidate.layout, model);
    check_stored(*candidate.layout, model);
    check_shapes(candidate, model, met);
  }
}

void check_without_shapes(const Layout& layout, const model::Model& model, const std::string& name) {
  SCOPED_TRACE(name);
  for (const Tensor& tensor : model.tensors) check_covered(layout, tensor);
  check_classes(layout, model);
  check_stored(layout, model);
}

TEST_P(EveryLayout, StoresEveryElementOnce) {
  const model::Model model = small_model(GetParam());
  const auto train = train_layouts(model);
  const auto gen = gen_layouts(model);
  // One Mamba group cannot be cut by Megatron.
  EXPECT_GE(train.size(), model.config.mamba.groups == 1 ? 8u : model.config.experts > 0 ? 20u : 15u);
  EXPECT_GE(gen.size(), 8u);
  std::set<std::string> met;
  check(train, model, met);
  check(gen, model, met);
  const std::string family = GetParam().substr(0, GetParam().find("_vl"));
  EXPECT_EQ(met.size(), kNamesMet.at(family)) << ::testing::PrintToString(met);
  if (facts_of(model.config).sglang && model.config.vision.depth == 0) {
    const auto sglang = sglang_layouts(model);
    EXPECT_GE(sglang.size(), model.config.family == "mixtral" ? 0u : 4u);
    for (const Candidate& candidate : sglang) check_without_shapes(*candidate.layout, model, candidate.name);
  }
  if (model.config.vision.depth > 0) return;
  const auto fsdp = fsdp_layouts(model);
  EXPECT_GE(fsdp.size(), 5u);  // without TP and EP
  for (const Candidate& candidate : fsdp) check_without_shapes(*candidate.layout, model, candidate.name);
  if (!facts_of(model.config).vllm_nvidia_class) return;
  const auto nvidia = nvidia_layouts(model);
  EXPECT_EQ(nvidia.size(), 6u);
  for (const Candidate& candidate : nvidia) check_without_shapes(*candidate.layout, model, candidate.name);
}

/// H of two blocks, head_dim of one, I of four, two layers (one of experts).
model::Config quantised_config(const std::string& family, StoredFormat how) {
  const std::int64_t block = block_size(how).columns;
  model::Config config = small_config(family);
  config.quantisation = how;
  config.hidden_size = 2 * block;
  config.head_dim = block;
  config.attention_heads = 4;
  config.kv_heads = family == "deepseek_v3" ? 4 : 2;
  config.layers = 2;
  config.mixers.clear();
  config.dense_layer = {true, false};
  config.experts = 4;
  config.intermediate_size = config.expert_intermediate_size = 4 * block;
  if (config.shared_intermediate_size > 0) config.shared_intermediate_size = 4 * block;
  config.mla = {.q_rank = block, .kv_rank = block, .nope_dim = block / 2, .rope_dim = block / 2, .value_dim = block};
  return config;
}

train::megatron::Options quantised_train(const char* sizes, StoredFormat how) {
  train::megatron::Options options;
  options.sizes = parse_parallelism(sizes);
  options.weight_format = how;
  return options;
}

class EveryQuantisedLayout : public ::testing::TestWithParam<std::tuple<std::string, StoredFormat>> {};

/// Counts the elements of weights and of their scales, wherever the scales are repeated.
TEST_P(EveryQuantisedLayout, StoresEveryElementOnce) {
  const auto& [family, how] = GetParam();
  const model::Model plain = build_model(quantised_config(family, how), false);
  int checked = 0;
  for (const char* sizes : {"TP1", "TP2", "TP2xPP2", "EP2", "TP4xETP2xEP2", "ETP4"}) {
    const train::megatron::Options options = quantised_train(sizes, how);
    if (!train::megatron::violations(plain, options).empty()) continue;
    check_without_shapes(*train::megatron::make_layout(plain, options), plain, fmt::format("train {}", sizes));
    ++checked;
  }
  for (const char* sizes : {"TP1", "TP4", "TP4xDP2", "TP2xEP2", "TP2xDP2xEP4"}) {
    for (const auto backend : {gen::vllm::MoeBackend::triton, gen::vllm::MoeBackend::deep_gemm}) {
      gen::vllm::Options options{.sizes = parse_parallelism(sizes), .moe_backend = backend, .weight_format = how};
      options.internal_data_parallel = options.sizes.dp > 1;
      if (!gen::vllm::violations(plain, options).empty()) continue;
      model::Model model = plain;
      gen::vllm::refine_scales(model, options);
      const std::string name = fmt::format("gen {} backend {}", sizes, static_cast<int>(backend));
      check_without_shapes(*gen::vllm::make_layout(model, options), model, name);
      // Train has each scale once, at one place for all its repeats.
      const auto train = train::megatron::make_layout(model, quantised_train("TP2xETP2", how));
      for (const Tensor& tensor : model.tensors) check_covered(*train, tensor);
      ++checked;
    }
  }
  for (const char* sizes : {"TP1", "TP2", "TP4", "TP2xEP2"}) {
    gen::sglang::Options options{.sizes = parse_parallelism(sizes), .gpu_arch = gen::sglang::GpuArch::sm100};
    options.weight_format = how;
    if (!gen::sglang::violations(plain, options).empty()) continue;
    check_without_shapes(*gen::sglang::make_layout(plain, options), plain, fmt::format("sglang {}", sizes));
    ++checked;
  }
  EXPECT_GE(checked, 10);
}

INSTANTIATE_TEST_SUITE_P(Models, EveryQuantisedLayout,
                         ::testing::Combine(::testing::Values("qwen3_moe", "deepseek_v3", "qwen3_5_moe"),
                                            ::testing::Values(StoredFormat::mxfp8)));
INSTANTIATE_TEST_SUITE_P(Blocks, EveryQuantisedLayout,
                         ::testing::Combine(::testing::Values("qwen3_moe"),
                                            ::testing::Values(StoredFormat::fp8_block)));

/// A tensor without a rule is whole on every rank under its own name.
TEST_P(EveryLayout, KeepsUnknownTensorsWhole) {
  model::Model model = small_model(GetParam());
  const auto index = static_cast<std::int32_t>(model.tensors.size());
  model.tensors.push_back({index, "extra.table", {3, 5}, DType::i64, model::Role::unknown, -1, -1});
  for (const auto& candidates : {train_layouts(model), fsdp_layouts(model), gen_layouts(model)}) {
    if (candidates.empty()) continue;  // FSDP2's for a vision-language model
    const Candidate& candidate = candidates.back();
    for (std::int32_t r = 0; r < candidate.layout->ranks(); ++r) {
      const Contents stored = find(contents(*candidate.layout, model, Rank{r}), "extra.table");
      EXPECT_EQ(stored.storage.shape, (Shape{3, 5}));
      EXPECT_EQ(stored.storage.dtype, DType::i64);
      for (std::int64_t i = 0; i < 15; ++i) EXPECT_EQ(stored.elements[static_cast<std::size_t>(i)], (Origin{index, i}));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EveryLayout, ::testing::ValuesIn(small_models()),
                         [](const auto& test) { return test.param; });

TEST(Materialise, RefusesAStorageThatARankLacks) {
  const model::Model model = small_model("llama");
  const auto layouts = train_layouts(model);
  const LocalLayout local = materialise(*layouts.front().layout, model.tensors, Rank{0});
  EXPECT_THROW(local.find({999, 0, 0}), Error);
}

}  // namespace
}  // namespace refit::layout
