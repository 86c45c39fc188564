// Elements that each injected bug spoils: a refit of labels instead of weights, planned with the distorted layouts and
// judged with the true ones, without MPI. The expected fractions follow from the description of each bug.

#include <fnmatch.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "app/case_reader.hpp"
#include "core/error.hpp"
#include "core/hash.hpp"
#include "engine/faults.hpp"

namespace refit::inject {
namespace {

using layout::Layout;
using layout::Piece;
using layout::Place;
using model::Tensor;
using ::testing::HasSubstr;

struct Row {
  const char* injection;
  const char* model;  ///< in inputs/models, or a file of inputs/bugs
  const char* train;
  const char* gen;
  std::vector<std::string> settings;
  std::map<std::string, double> wrong;  ///< glob -> fraction of the stored elements; all others must be right
};

cases::Case case_of(const Row& row) {
  const std::string inputs = REFIT_SOURCE_DIR "/inputs/";
  const std::string model = row.model;
  const std::string config = model.ends_with(".json") ? "bugs/" + model : "models/" + model + "/config.json";
  std::vector<app::Option> options = {{"model.config", inputs + config, ""},
                                      {"train.layout", row.train, ""},
                                      {"gen.layout", row.gen, ""},
                                      {"run.inject", row.injection, ""}};
  for (const std::string& setting : row.settings) {
    const std::size_t equals = setting.find('=');
    options.push_back({setting.substr(0, equals), setting.substr(equals + 1), setting});
  }
  return app::read_case("", options);
}

/// The labels that a side stores: one for each element of each storage of each rank.
class Labels {
 public:
  Labels(const Layout& layout, const std::vector<Tensor>& tensors) : layout_(layout) {
    for (std::int32_t rank = 0; rank < layout.ranks(); ++rank) {
      const layout::LocalLayout local = layout::materialise(layout, tensors, Rank{rank});
      for (const auto& storage : local.storages) {
        labels_[{rank, storage.key}].resize(static_cast<std::size_t>(storage.elements()));
      }
    }
  }

  std::uint64_t& at(Rank rank, const Place& place, const Extents& index) {
    return labels_.at({to_int(rank), place.storage})
        .at(static_cast<std::size_t>(place.offset + offset_of(index, place.strides)));
  }

  /// Calls visit(label, global index) for every element of `tensor` that a rank stores.
  template <typename Visit>
  void for_each(const Tensor& tensor, const Visit& visit) {
    std::vector<Piece> pieces;
    for (std::int32_t rank = 0; rank < layout_.ranks(); ++rank) {
      pieces.clear();
      layout_.pieces(tensor, Rank{rank}, pieces);
      for (const Piece& piece : pieces) {
        for_each_index(piece.box.extent, [&](const Extents& index) {
          Extents global = index;
          for (int d = 0; d < global.size(); ++d) global[d] += piece.box.lower[d];
          visit(at(Rank{rank}, piece.place, index), global);
        });
      }
    }
  }

  template <typename Visit>
  static void for_each_index(const Extents& extent, const Visit& visit) {
    Extents index = Extents::filled(extent.size(), 0);
    for (std::int64_t left = product(extent); left > 0; --left) {
      visit(index);
      for (int d = extent.size() - 1; d >= 0 && ++index[d] == extent[d]; --d) index[d] = 0;
    }
  }

 private:
  const Layout& layout_;
  std::map<std::pair<std::int32_t, layout::StorageKey>, std::vector<std::uint64_t>> labels_;
};

std::uint64_t label(const Tensor& tensor, const Extents& index) {
  const auto linear = static_cast<std::uint64_t>(offset_of(index, row_major_strides(tensor.shape)));
  return combine(static_cast<std::uint64_t>(tensor.index) + 1, linear) | 1;  // never 0, the label of unwritten elements
}

/// Carries out the plan of the distorted layouts.
void refit(const cases::Setup& setup, const std::vector<Tensor>& tensors, Labels& train, Labels& gen) {
  const Faults faults = engine::faults_of(setup);
  const auto distorted_train = faults.distort_train(setup.sent(), setup.model);
  const auto distorted_gen = faults.distort_gen(*setup.gen, setup.model);
  std::vector<Tensor> carried;
  for (const Tensor& tensor : tensors) {
    if (!faults.drops(setup.model, tensor)) carried.push_back(tensor);
  }
  const plan::Planner planner(carried, distorted_train ? *distorted_train : setup.sent(),
                              distorted_gen ? *distorted_gen : *setup.gen);
  for (std::int32_t rank = 0; rank < setup.gen->ranks(); ++rank) {
    for (const plan::Copy& copy : planner.rank_plan(Side::destination, Rank{rank}).copies) {
      Labels::for_each_index(copy.box.extent, [&](const Extents& index) {
        gen.at(Rank{rank}, copy.destination.place, index) = train.at(copy.source.rank, copy.source.place, index);
      });
    }
  }
}

/// Wrong elements and all elements of a tensor, over all gen ranks.
struct Count {
  std::int64_t wrong = 0;
  std::int64_t all = 0;
};

std::map<std::string, Count> count_wrong(const cases::Setup& setup) {
  std::vector<Tensor> tensors;  // without the vocabulary, which takes long and concerns no bug
  for (const auto* path : {&setup.split.bulk, &setup.split.misc}) {
    for (const Tensor& tensor : *path) {
      if (tensor.layer >= 0) tensors.push_back(tensor);
    }
  }
  Labels train(setup.sent(), tensors);
  Labels gen(*setup.gen, tensors);
  for (const Tensor& tensor : tensors) {
    train.for_each(tensor, [&](std::uint64_t& stored, const Extents& index) { stored = label(tensor, index); });
  }
  refit(setup, tensors, train, gen);
  std::map<std::string, Count> counts;
  for (const Tensor& tensor : tensors) {
    Count& count = counts[tensor.name];
    gen.for_each(tensor, [&](std::uint64_t stored, const Extents& index) {
      ++count.all;
      count.wrong += stored == label(tensor, index) ? 0 : 1;
    });
  }
  return counts;
}

constexpr const char* kExperts = "*.experts.*";
constexpr const char* kGate = "*.experts.*.gate_proj.weight";
constexpr const char* kUp = "*.experts.*.up_proj.weight";
constexpr const char* kQwenMoe = "qwen3-30b-a3b-small";
constexpr const char* kNano = "nemotron-3-nano-30b-a3b-small";
constexpr const char* kSuper = "nemotron-3-super-120b-a12b-small";
const std::string kFsdp = "train.trainer=fsdp";
const std::string kMapFile = REFIT_SOURCE_DIR "/inputs/cases/small/qwen3-30b-expert-location.json";
const std::string kExpertMap = "gen.expert_placement=" + kMapFile;
const std::string kExpertLocation = "gen.init_expert_location=" + kMapFile;
const std::string kOne = "model.layers=1";
const std::string kTwo = "model.layers=2";

std::vector<std::string> fp8(const std::string& layers, const std::string& train) {
  return {layers, "train.precision=" + train, "gen.precision=fp8"};
}

std::vector<std::string> as_it_is(const std::string& precision) {
  return {kOne, "train.precision=" + precision, "gen.precision=" + precision};
}

/// 1 - 1/n.
constexpr double all_but_one_of(int n) { return 1.0 - 1.0 / n; }

const Row kRows[] = {
    // The distorted rank is the last of those among which gate and up are cut.
    {"swap-gate-up", kQwenMoe, "TP1", "TP2", {kOne}, {{kGate, 0.5}, {kUp, 0.5}}},
    {"swap-gate-up",
     "qwen3-4b-small",
     "TP2",
     "TP4",
     {kOne},
     {{"*.gate_proj.weight", 0.25}, {"*.up_proj.weight", 0.25}}},
    {"drop-tensor", "qwen3-4b-small", "TP1", "TP2", {kTwo}, {{"*.layers.0.self_attn.o_proj.weight", 1}}},
    // Gate of the first rank and up of the last one are right.
    {"B1-contiguous-w13", kQwenMoe, "EP2", "TP2", {kOne}, {{kGate, all_but_one_of(2)}, {kUp, all_but_one_of(2)}}},
    {"B1-contiguous-w13", kQwenMoe, "EP2", "TP4", {kOne}, {{kGate, all_but_one_of(4)}, {kUp, all_but_one_of(4)}}},
    {"B1-contiguous-w13", kQwenMoe, "TP1", "TP8", {kOne}, {{kGate, all_but_one_of(8)}, {kUp, all_but_one_of(8)}}},
    {"B38-halves-of-all",
     "qwen3-4b-small",
     "TP2",
     "TP1",
     {kOne},
     {{"*.gate_proj.weight", .5}, {"*.up_proj.weight", .5}}},
    {"B38-halves-of-all",
     "qwen3-4b-small",
     "TP4",
     "TP2",
     {kOne},
     {{"*.gate_proj.weight", .75}, {"*.up_proj.weight", .75}}},
    {"B22-canonical-w13", kQwenMoe, "EP2", "TP2", {kOne, "gen.moe_backend=flashinfer_cutlass"}, {{kGate, 1}, {kUp, 1}}},
    // Ranks r of 8 with r % 4 == r / 2 % 4 are 0 and 7, each one of two holders of a quarter.
    {"B3-single-expert-mesh", kQwenMoe, "TP2xEP4xDP4", "TP1", {kOne}, {{kExperts, 0.75}}},
    {"B3-single-expert-mesh", kQwenMoe, "TP2xEP4xPP2xDP4", "TP4", {kTwo}, {{kExperts, 0.75}}},
    {"B6-missing-up", kNano, "EP2", "TP2", {kTwo}, {{kUp, 1}}},
    {"B18-scales-out-of-band",
     "qwen3-4b-small",
     "TP1",
     "TP2",
     {kOne, "train.precision=fp8", "gen.precision=fp8", "gen.kv_cache_dtype=fp8"},
     {{"*.[qkv]_scale", 1}}},
    {"B28-experts-not-quantised", kQwenMoe, "EP2", "TP1", fp8(kOne, "bf16"), {{kExperts, 1}}},
    {"B32-unpatched-scales", "qwen3-0.6b-small", "TP2", "TP1", fp8(kOne, "bf16"), {{"*_scale_inv", 1}}},
    {"B37-local-expert-ids", kQwenMoe, "EP2", "TP2", {kOne}, {{kExperts, all_but_one_of(2)}}},
    {"B37-local-expert-ids", kQwenMoe, "EP8", "TP1", {kOne}, {{kExperts, all_but_one_of(8)}}},
    {"B39-lost-mamba-d", kNano, "TP2", "TP2", {kOne}, {{"*.mixer.D", 1}}},
    {"B29-local-layers", "qwen3-4b-small", "PP2", "TP1", {}, {{"*.layers.*", all_but_one_of(2)}}},
    {"B29-local-layers", "qwen3-4b-small", "TP2xPP4", "TP2", {}, {{"*.layers.*", all_but_one_of(4)}}},
    // Of 4 layers rank 0 has one, or three; those that no rank is asked for stay unwritten.
    {"B60-lost-pipeline-layout",
     "qwen3-4b-small",
     "PP2",
     "TP1",
     {"train.pipeline_layout=Et|tttL"},
     {{"*.layers.[123].*", 1}}},
    {"B60-lost-pipeline-layout",
     "qwen3-4b-small",
     "TP2xPP2",
     "TP1",
     {"train.first_stage_layers=3"},
     {{"*.layers.[23].*", 1}}},
    {"B61-offset-without-chunk",
     "qwen3-4b-small",
     "TP2xPP2",
     "TP2",
     {"train.virtual_stages=2"},
     {{"*.layers.[12].*", 1}}},
    {"B42-scales-by-local-names",
     "qwen3-0.6b-small",
     "PP2",
     "TP1",
     fp8("model.layers=4", "fp8"),
     {{"*_scale_inv", .5}}},
    {"B10-discarded", "qwen3-4b-small", "TP2", "TP1", {kTwo}, {{"*.layers.0.self_attn.o_proj.weight", 1}}},
    // Rank 0 gets half of its elements, all others get wrong ones.
    {"B13-tp-of-world",
     "qwen3-4b-small",
     "TP2",
     "TP2xDP2",
     {kOne},
     {{"*.o_proj.weight", 1 - 1. / 8}, {"*.mlp.*_proj.weight", 1 - 1. / 8}}},
    {"B13-tp-of-world",
     "qwen3-4b-small",
     "TP1",
     "TP4xDP2",
     {kOne},
     {{"*.o_proj.weight", 1 - 1. / 16}, {"*.mlp.*_proj.weight", 1 - 1. / 16}}},
    // In layer 0 slot s has expert s, in layer 1 expert 5 + s.
    {"B46-initial-slots",
     kQwenMoe,
     "EP2",
     "TP4xEP4",
     {kTwo, "gen.redundant_experts=4", kExpertMap},
     {{"*.layers.1.mlp.experts.*", 1}}},
    {"B46-initial-slots",
     kQwenMoe,
     "EP2",
     "TP4xEP2",
     {kTwo, "gen.engine=sglang", "gen.ep_num_redundant_experts=4", kExpertLocation},
     {{"*.layers.1.mlp.experts.*", 1}}},
    // A gen rank gets the first shard's part; it comes from that shard in one of n engines.
    {"B47-shards-as-replicas", "qwen3-0.6b-small", "FSDP2", "TP1xDP2", {kOne, kFsdp}, {{"*", 1 - 1. / 4}}},
    {"B47-shards-as-replicas", "qwen3-0.6b-small", "FSDP4", "TP1xDP4", {kOne, kFsdp}, {{"*", 1 - 1. / 16}}},
    // Rank 0 gets a part of its elements, all others get wrong ones.
    {"B48-heads-of-tp",
     "qwen3-4b-small",
     "TP2",
     "TP4",
     {kOne, "gen.engine=sglang", "gen.attn_dp_size=2"},
     {{"*.q_proj.weight", 1 - 1. / 8}, {"*.o_proj.weight", 1 - 1. / 8}}},
    // Only the first part comes from its own place.
    {"cp-as-tp",
     "qwen3-4b-small",
     "CP2",
     "TP1",
     {kOne},
     {{"*.o_proj.weight", all_but_one_of(2)}, {"*.down_proj.weight", all_but_one_of(2)}}},
    {"cp-as-tp",
     "qwen3-4b-small",
     "TP2xCP2",
     "TP2",
     {kOne},
     {{"*.o_proj.weight", all_but_one_of(4)}, {"*.down_proj.weight", all_but_one_of(4)}}},
    // The first of a group's m ranks has its rows of q right, and the last one those of v.
    {"B8-whole-kv-heads",
     kSuper,
     "TP4",
     "TP1",
     {"model.layers=4"},
     {{"*.q_proj.weight", all_but_one_of(2)}, {"*.k_proj.weight", 1}, {"*.v_proj.weight", all_but_one_of(2)}}},
    {"B8-whole-kv-heads",
     kSuper,
     "TP8xPP2",
     "TP2",
     {"model.layers=4"},
     {{"*.q_proj.weight", all_but_one_of(4)}, {"*.k_proj.weight", 1}, {"*.v_proj.weight", all_but_one_of(4)}}},
    // The first half of the first of R rows and the second half of the last one are right.
    {"B33-scales-on-wrong-axis",
     "qwen3-wide.json",
     "TP2",
     "TP1",
     fp8(kOne, "fp8"),
     {{"*.o_proj.weight_scale_inv", all_but_one_of(4)}, {"*.down_proj.weight_scale_inv", all_but_one_of(4)}}},
    {"B51-scale-of-first",
     "qwen3-0.6b-small",
     "TP2",
     "TP1",
     as_it_is("fp8_tensor"),
     {{"*.[kv]_proj.weight_scale", 1}, {"*.up_proj.weight_scale", 1}}},
    {"B51-scale-of-first",
     kQwenMoe,
     "EP2",
     "TP1",
     as_it_is("nvfp4"),
     {{"*.[kv]_proj.weight_global_scale", 1}, {"*.up_proj.weight_global_scale", 1}}},
    // A rank has the scales of its part of the rows only.
    {"B54-cut-row-scales",
     "qwen3-0.6b-small",
     "TP1",
     "TP4",
     as_it_is("fp8_channel"),
     {{"*.o_proj.weight_scale", all_but_one_of(4)}, {"*.down_proj.weight_scale", all_but_one_of(4)}}},
    {"B55-swapped-w13-scales",
     kQwenMoe,
     "EP2",
     "TP1",
     as_it_is("fp8"),
     {{"*.gate_proj.weight_scale_inv", 1}, {"*.up_proj.weight_scale_inv", 1}}},
    {"B55-swapped-w13-scales",
     kQwenMoe,
     "EP2",
     "TP2",
     as_it_is("mxfp4"),
     {{"*.gate_proj.weight_scale", 1}, {"*.up_proj.weight_scale", 1}}},
    // What a fault says of block scales is not said of the other parts.
    {"B33-scales-on-wrong-axis",
     "qwen3-wide.json",
     "TP2",
     "TP1",
     as_it_is("nvfp4"),
     {{"*.o_proj.weight_scale", all_but_one_of(512)}, {"*.down_proj.weight_scale", all_but_one_of(512)}}},
};

TEST(Injections, SpoilWhatTheySay) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(fmt::format("{} {} -> {}", row.injection, row.train, row.gen));
    const cases::Setup setup(case_of(row));
    std::map<std::string, Count> sums;
    for (const auto& [name, count] : count_wrong(setup)) {
      std::string matching;
      for (const auto& [glob, fraction] : row.wrong) {
        if (fnmatch(glob.c_str(), name.c_str(), 0) == 0) matching = glob;
      }
      if (matching.empty()) {
        EXPECT_EQ(count.wrong, 0) << name;
      }
      sums[matching].wrong += count.wrong;
      sums[matching].all += count.all;
    }
    for (const auto& [glob, fraction] : row.wrong) {
      ASSERT_GT(sums[glob].all, 0) << glob;
      EXPECT_DOUBLE_EQ(static_cast<double>(sums[glob].wrong) / static_cast<double>(sums[glob].all), fraction) << glob;
    }
  }
}

std::string refusal(const Row& row) {
  try {
    const cases::Setup setup(case_of(row));
    engine::faults_of(setup);
    count_wrong(setup);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(Injections, RefuseCasesWithoutEffect) {
  const Row rows[] = {
      {"swap-gate-up", kNano, "TP1", "TP1", {}, {}},
      {"drop-tensor", kNano, "TP1", "TP1", {}, {}},
      {"B1-contiguous-w13", kQwenMoe, "TP1", "TP4xEP4", {}, {}},
      {"B1-contiguous-w13", kNano, "TP1", "TP2", {}, {}},
      {"B3-single-expert-mesh", kQwenMoe, "EP8", "TP1", {}, {}},
      {"B3-single-expert-mesh", kQwenMoe, "TP2", "TP1", {}, {}},
      {"B6-missing-up", kQwenMoe, "TP1", "TP1", {}, {}},
      {"B7-default-stage", kSuper, "TP2", "TP1", {}, {}},
      {"B7-default-stage", kQwenMoe, "PP2", "TP1", {}, {}},
      {"B8-whole-kv-heads", kSuper, "TP2", "TP1", {}, {}},
      {"B18-scales-out-of-band", "qwen3-4b-small", "TP1", "TP1", {}, {}},
      {"stale-kv-scales", "qwen3-4b-small", "TP1", "TP1", {}, {}},
      {"default-kv-scales", "qwen3-4b-small", "TP1", "TP1", fp8(kOne, "fp8"), {}},
      {"B4-router-bytes", "qwen3-4b-small", "TP1", "TP1", {}, {}},
      {"B10-discarded", kNano, "TP1", "TP1", {}, {}},
      {"B13-tp-of-world", "qwen3-4b-small", "TP1", "TP4", {}, {}},
      {"B13b-silent-skip", "qwen3-4b-small", "TP1", "TP1", {}, {}},
      {"B14-tied-head", "qwen3-4b-small", "TP1", "TP1", {}, {}},
      {"B36-rank-per-node", "qwen3-4b-small", "TP1", "TP1", {}, {}},
      {"B22-canonical-w13", kNano, "TP1", "TP1", {}, {}},
      {"B23-narrow-by-tp-rank", "deepseek-v3-small", "TP1", "TP1", {}, {}},
      {"B25-squeezed-scales", kQwenMoe, "TP1", "TP1", {}, {}},
      {"B28-experts-not-quantised", kQwenMoe, "TP1", "TP1", {}, {}},
      {"B29-local-layers", kQwenMoe, "TP2", "TP1", {}, {}},
      {"B32-unpatched-scales", kQwenMoe, "TP1", "TP1", {}, {}},
      {"B33-scales-on-wrong-axis", "qwen3-wide.json", "TP1", "TP1", fp8(kOne, "fp8"), {}},
      {"B37-local-expert-ids", kQwenMoe, "TP2", "TP1", {}, {}},
      {"B38-halves-of-all", "qwen3-4b-small", "TP1", "TP2", {}, {}},
      {"B39-lost-mamba-d", kQwenMoe, "TP1", "TP1", {}, {}},
      {"B42-scales-by-local-names", "qwen3-0.6b-small", "TP1", "TP1", fp8(kOne, "fp8"), {}},
      {"B46-initial-slots", kQwenMoe, "EP2", "TP4", {}, {}},
      {"B47-shards-as-replicas", "qwen3-4b-small", "DP2", "TP1", {}, {}},
      {"B48-heads-of-tp", "qwen3-4b-small", "TP2", "TP1", {}, {}},
      {"cp-as-tp", "qwen3-4b-small", "DP2", "TP1", {}, {}},
      {"B25-squeezed-scales", kQwenMoe, "EP2", "TP1", as_it_is("fp8_tensor"), {}},
      {"B33-scales-on-wrong-axis", "qwen3-wide.json", "TP2", "TP1", as_it_is("fp8_tensor"), {}},
      {"B49-old-global-scales", kQwenMoe, "TP1", "TP1", as_it_is("mxfp4"), {}},
      {"B50-old-block-scales", kQwenMoe, "TP1", "TP1", as_it_is("fp8_tensor"), {}},
      {"B51-scale-of-first", kQwenMoe, "TP1", "TP1", as_it_is("fp8_channel"), {}},
      {"B52-inverted-scales", kQwenMoe, "TP1", "TP1", as_it_is("fp8_tensor"), {}},
      {"B53-swapped-nibbles", kQwenMoe, "TP1", "TP1", as_it_is("fp8"), {}},
      {"B54-cut-row-scales", "qwen3-0.6b-small", "TP1", "TP1", as_it_is("fp8_channel"), {}},
      {"B55-swapped-w13-scales", kQwenMoe, "TP1", "TP1", {}, {}},
  };
  for (const Row& row : rows) {
    EXPECT_THAT(refusal(row),
                HasSubstr(fmt::format("run.inject: {} changes nothing in this case: it needs ", row.injection)));
  }
}

/// The lie about a layout is the truth.
TEST(Injections, RefuseLiesThatAreTrue) {
  const Row rows[] = {
      {"B46-initial-slots", kQwenMoe, "EP2", "TP4xEP4", {}, {}},
      {"B46-initial-slots", kQwenMoe, "EP2", "TP4xEP4", {"gen.redundant_experts=4"}, {}},
      {"B48-heads-of-tp", "qwen3-4b-small", "TP2", "TP4", {"gen.engine=sglang"}, {}},
      {"B48-heads-of-tp", "qwen3-4b-small", "TP2", "TP4", {}, {}},
  };
  for (const Row& row : rows) {
    std::string refused;
    try {
      engine::faults_of_run(cases::Setup(case_of(row)));
    } catch (const Error& error) {
      refused = error.what();
    }
    EXPECT_THAT(refused,
                HasSubstr(fmt::format("run.inject: {} changes nothing in this job: it needs ", row.injection)));
  }
}

/// Planning itself refuses these.
TEST(Injections, LeadToLayoutsThatAreRefused) {
  EXPECT_THAT(
      refusal({"B23-narrow-by-tp-rank", "deepseek-v3-small", "TP1", "TP2", {kOne}, {}}),
      HasSubstr("rank 1 has [96:192, 0:64] of model.layers.0.self_attn.q_a_proj.weight, whose shape is [96, 64]"));
  EXPECT_THAT(refusal({"B25-squeezed-scales", kQwenMoe, "EP2", "TP1", fp8(kOne, "fp8"), {}}),
              HasSubstr("has [0:2] of model.layers.0.mlp.experts.0.gate_proj.weight_scale_inv, whose shape is [2, 1]"));
}

TEST(Injections, OneLieForEachSide) {
  EXPECT_EQ(refusal({"B3-single-expert-mesh,B1-contiguous-w13", kQwenMoe, "TP2xEP4xDP4", "TP2", {kOne}, {}}), "");
  EXPECT_THAT(
      refusal({"B1-contiguous-w13,swap-gate-up", kQwenMoe, "TP1", "TP2", {kOne}, {}}),
      HasSubstr("run.inject: B1-contiguous-w13 and swap-gate-up distort the same side's layout; give one of them"));
}

}  // namespace
}  // namespace refit::inject
