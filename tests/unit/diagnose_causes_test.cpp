// Close values are told apart by the trace of their cause, and without a trace no cause is named; many wrong tensors of
// one cause are one finding; names of other versions mean the same parameters.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

#include "core/hash.hpp"
#include "diagnose/closeness.hpp"
#include "diagnose/elements.hpp"
#include "diagnose/names.hpp"
#include "kernels/bits.hpp"
#include "unit/diagnose_world.hpp"

namespace refit::diagnose {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::uint16_t bf16_of(double value) {
  return static_cast<std::uint16_t>(kernels::bits_from_double(value, DType::bf16));
}

double value_of(std::uint16_t bits) { return diagnose::value_of(bits, DType::bf16); }

class Causes : public testing::Test {
 protected:
  Causes() : Causes("qwen3-4b-small", 1) {}
  Causes(const char* model, int layers)
      : world(case_of(model, {fmt::format("model.layers={}", layers), "gen.layout=TP2"})) {
    world.dump(folder("right"));
  }

  /// Calls change(element, index in its tensor, row, column) for every element of all tensors on a rank.
  template <typename Change>
  void change_all(std::int32_t rank, const Change& change) {
    for (const model::Tensor& tensor : world.setup().model.tensors) change_tensor(rank, tensor, change);
  }

  template <typename Change>
  void change_tensor(std::int32_t rank, const model::Tensor& tensor, const Change& change) {
    const layout::Piece piece = world.piece(rank, tensor.name);
    std::uint16_t* first = elements_of(world, rank, tensor);
    const Extents strides = row_major_strides(tensor.shape);
    for_each_element(piece, [&](std::int64_t offset, const Extents& index) {
      change(first[offset - piece.place.offset], tensor, offset_of(index, strides));
    });
  }

  /// Returns the first element of a tensor's only piece on a rank.
  static std::uint16_t* elements_of(World& where, std::int32_t rank, const model::Tensor& tensor) {
    const Box& box = where.piece(rank, tensor.name).box;
    if (tensor.shape.size() == 1) return &where.at(rank, tensor.name, box.lower[0]);
    return &where.at(rank, tensor.name, box.lower[0], box.lower[1]);
  }

  /// Gives every element of `tensor` on a rank the value that `other` of `source` has in the same place.
  void copy_tensor(std::int32_t rank, const model::Tensor& tensor, World& source, const std::string& other) {
    const std::uint16_t* from = elements_of(source, rank, source.tensor(other));
    std::uint16_t* to = elements_of(world, rank, tensor);
    const auto offset = source.piece(rank, other).place.offset;
    std::int64_t next = 0;
    std::vector<std::uint16_t> values;
    for_each_element(source.piece(rank, other),
                     [&](std::int64_t at, const Extents&) { values.push_back(from[at - offset]); });
    const layout::Piece& own = world.piece(rank, tensor.name);
    for_each_element(own, [&](std::int64_t at, const Extents&) {
      to[at - own.place.offset] = values[static_cast<std::size_t>(next++)];
    });
  }

  /// Applies refit's updates `first` to `last` to a rank's weights.
  void update(std::int32_t rank, std::int64_t first, std::int64_t last) {
    change_all(rank, [&](std::uint16_t& element, const model::Tensor& tensor, std::int64_t index) {
      for (std::int64_t step = first; step <= last; ++step)
        element ^= static_cast<std::uint16_t>(kernels::perturbation(hash_name(tensor.name), index, step));
    });
  }

  Diagnosis found() {
    world.dump(folder("wrong"));
    return diagnose({world.setup().c, false, folder("wrong"), "", folder("right")});
  }

  /// Returns the only finding about `name` after its elements on rank 0 became f(value).
  template <typename Function>
  Finding after(const std::string& name, const Function& f) {
    change_tensor(0, world.tensor(name),
                  [&](std::uint16_t& element, const auto&, std::int64_t) { element = bf16_of(f(value_of(element))); });
    const Diagnosis all = found();
    EXPECT_EQ(all.findings.size(), 1U) << to_text(all);
    EXPECT_THAT(all.bugs, IsEmpty()) << to_text(all);
    EXPECT_EQ(all.cause, "") << to_text(all);
    return all.findings.empty() ? Finding{} : all.findings.front();
  }

  static std::string folder(const std::string& name) { return testing::TempDir() + "refit_causes_" + name; }

  World world;
};

const std::string kMatrix = "model.layers.0.mlp.gate_proj.weight";

TEST_F(Causes, NoiseIsOnlyClose) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(1, 0.01);
  const Finding finding = after(kMatrix, [&](double value) { return value * noise(random); });
  EXPECT_EQ(finding.kind, "near");
  EXPECT_THAT(finding.candidates, testing::IsSupersetOf({"another step's values", "requantisation", "noise"}));
  EXPECT_THAT(finding.text, HasSubstr("relative difference: median 0.85 %"));
  EXPECT_LT(finding.differences.largest(), 0.1);
}

TEST_F(Causes, NoiseOfOneScaleIsCloseToo) {  // far from the smallest elements
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.0003);
  EXPECT_EQ(after(kMatrix, [&](double value) { return value + noise(random); }).kind, "near");
}

TEST_F(Causes, ACastIsTold) {
  const Finding finding = after(kMatrix, [](double value) {
    return diagnose::value_of(cast_through(bf16_of(value), DType::bf16, DType::f8_e4m3), DType::bf16);
  });
  EXPECT_EQ(finding.kind, "rounded");
  EXPECT_THAT(finding.text, HasSubstr("cast to FP8 E4M3 on the way"));
}

TEST_F(Causes, ACastThatChangesLittleIsTold) {  // what is below float16's smallest
  change_tensor(0, world.tensor(kMatrix), [](std::uint16_t& element, const auto&, std::int64_t index) {
    if (index % 100 == 0) element = bf16_of(3e-9 + 1e-12 * static_cast<double>(index));
  });
  world.dump(folder("right"));
  const Finding finding = after(kMatrix, [](double value) {
    return diagnose::value_of(cast_through(bf16_of(value), DType::bf16, DType::f16), DType::bf16);
  });
  EXPECT_EQ(finding.kind, "rounded");
  EXPECT_THAT(finding.candidates, testing::ElementsAre("a cast to float16"));
}

TEST_F(Causes, AGridIsTold) {
  const double unit = 0.1 / 127;
  const Finding finding = after(kMatrix, [&](double value) { return std::round(value / unit) * unit; });
  EXPECT_EQ(finding.kind, "requantised");
  EXPECT_THAT(finding.text, HasSubstr("8 bits can tell"));
}

TEST_F(Causes, AFactorNearOneIsAFactor) {
  const Finding finding = after(kMatrix, [](double value) { return 1.04 * value; });
  EXPECT_EQ(finding.kind, "factor");
  EXPECT_THAT(finding.text, HasSubstr("is 1.04 times"));
}

TEST_F(Causes, OneStaleRankIsOneRank) {
  update(1, 2, 3);
  const Diagnosis one = found();
  ASSERT_EQ(one.findings.size(), 1U) << to_text(one);
  EXPECT_EQ(one.findings[0].kind, "updated");
  EXPECT_THAT(one.findings[0].text, HasSubstr("updates of steps 2 to 3"));
  EXPECT_EQ(
      one.cause,
      "gen rank 1 was not refitted, or once more than the others: another step's values (1 of 2 gen ranks, and nothing "
      "is wrong on the others)");
  EXPECT_THAT(one.bugs, IsEmpty()) << to_text(one);
}

TEST_F(Causes, Rank0AloneIsB20) {
  update(0, 2, 2);
  const Diagnosis one = found();
  ASSERT_EQ(one.bugs.size(), 1U) << to_text(one);
  EXPECT_EQ(one.bugs[0].name, "B20-swallowed-error");
}

TEST_F(Causes, AllRanksAreOfAnotherStep) {
  for (std::int32_t rank = 0; rank < 2; ++rank) update(rank, 2, 2);
  const Diagnosis all = found();
  EXPECT_THAT(all.cause, HasSubstr("gen and expectation are of different steps, on all 2 gen ranks"));
  EXPECT_THAT(all.bugs, IsEmpty()) << to_text(all);
}

TEST_F(Causes, ClosenessEverywhereMayBeAnotherStep) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(1, 0.01);
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    change_all(rank, [&](std::uint16_t& element, const auto&, std::int64_t) {
      element = bf16_of(value_of(element) * noise(random));
    });
  }
  const Diagnosis all = found();
  EXPECT_THAT(all.cause, HasSubstr("may be of different steps"));
  EXPECT_THAT(all.bugs, IsEmpty()) << to_text(all);
}

class Layers : public Causes {
 protected:
  Layers() : Causes("qwen3-4b-small", 2) {}
};

TEST_F(Layers, ThatMovedAreOneFinding) {
  World source(world.setup().c);
  for (const model::Tensor& tensor : world.setup().model.tensors) {
    if (tensor.layer < 0) continue;
    std::string name = tensor.name;
    name[name.find(tensor.layer == 0 ? ".0." : ".1.") + 1] = tensor.layer == 0 ? '1' : '0';
    for (std::int32_t rank = 0; rank < 2; ++rank) copy_tensor(rank, tensor, source, name);
  }
  const Diagnosis all = found();
  ASSERT_EQ(all.findings.size(), 1U) << to_text(all);
  EXPECT_THAT(all.findings[0].text,
              HasSubstr("2 layers hold other layers' weights, whole and in place: 0 <- 1, 1 <- 0"));
}

class Experts : public Causes {
 protected:
  Experts() : Causes("qwen3-30b-a3b-small", 1) {}
};

TEST_F(Experts, PermutedSlotsAreOneFinding) {
  constexpr std::array<int, 4> kFrom{2, 0, 3, 1};
  World source(world.setup().c);
  for (const model::Tensor& tensor : world.setup().model.tensors) {
    if (tensor.expert < 0 || tensor.expert >= std::ssize(kFrom)) continue;
    std::string name = tensor.name;
    name.replace(name.find("experts.") + 8, 1, std::to_string(kFrom[static_cast<std::size_t>(tensor.expert)]));
    for (std::int32_t rank = 0; rank < 2; ++rank) copy_tensor(rank, tensor, source, name);
  }
  const Diagnosis all = found();
  ASSERT_EQ(all.findings.size(), 1U) << to_text(all);
  EXPECT_EQ(all.findings[0].tensors.size(), 12U);
  EXPECT_THAT(all.findings[0].text,
              HasSubstr("4 experts hold other experts' weights, whole and in place: 0 <- 2, 1 <- 0, 2 <- 3, 3 <- 1"));
}

TEST(Names, OtherVersionsMeanTheSame) {
  struct Row {
    const char *there, *wanted;
  };
  for (const Row& row : std::vector<Row>{
           {"model.layers.0.mlp.experts.w13_weight", "model.layers.0.mlp.experts.routed_experts.w13_weight"},
           {"decoder.layers.0.mlp.experts.local_experts.3.linear_fc1.weight",
            "decoder.layers.0.mlp.experts.linear_fc1.weight3"},
           {"decoder.layers.1.input_layernorm.weight", "decoder.layers.1.self_attention.linear_qkv.layer_norm_weight"},
           {"decoder.layers.1.pre_mlp_layernorm.weight", "decoder.layers.1.mlp.linear_fc1.layer_norm_weight"},
           {"module.module.decoder.final_layernorm.weight", "decoder.final_layernorm.weight"},
           {"policy.lm_head.weight", "lm_head.weight"},
           {"_orig_mod.model.layers.0._checkpoint_wrapped_module.mlp.down_proj.weight",
            "model.layers.0.mlp.down_proj.weight"},
           {"model.layers.0.self_attn.qkv_proj.base_layer.weight", "model.layers.0.self_attn.qkv_proj.weight"},
       }) {
    const Spellings spellings({"another.weight", row.there});
    EXPECT_EQ(spellings.find(row.wanted), 1) << row.wanted;
  }
}

TEST(Names, NothingIsGuessed) {
  EXPECT_EQ(Spellings({"a.model.norm.weight", "b.model.norm.weight"}).find("model.norm.weight"), -1);
  EXPECT_EQ(Spellings({"draft.model.norm.weight", "model.norm.weight"}).find("model.norm.weight"), 1);
  EXPECT_EQ(Spellings({"xmodel.norm.weight"}).find("model.norm.weight"), -1);
  EXPECT_EQ(Spellings({}).find("model.norm.weight"), -1);
}

TEST(Names, WhoseTheyLookLike) {
  const auto looks = [](const char* name) { return looks_like(std::vector<std::string>{"x.weight", name}); };
  EXPECT_THAT(looks("decoder.layers.0.self_attention.linear_qkv.weight"), HasSubstr("Megatron-Core"));
  EXPECT_THAT(looks("model.layers.0.self_attn.q_proj.weight"), HasSubstr("Hugging Face"));
  EXPECT_THAT(looks("model.layers.0.self_attn.qkv_proj.weight"), HasSubstr("vLLM"));
  EXPECT_THAT(looks("_fsdp_wrapped_module._flat_param"), HasSubstr("flat"));
  EXPECT_EQ(looks("y.weight"), "");
}

}  // namespace
}  // namespace refit::diagnose
