// Several engines as one side, compared with the layout of each engine by itself.

#include <gtest/gtest.h>

#include "gen/sglang/layout.hpp"
#include "gen/vllm/layout.hpp"
#include "layout/joined_layout.hpp"
#include "layout_models.hpp"

namespace refit::layout {
namespace {

std::unique_ptr<Layout> vllm(const model::Model& model, const std::string& sizes, DType precision = DType::bf16) {
  gen::vllm::Options options;
  options.sizes = parse_parallelism(sizes);
  options.precision = precision;
  if (model.config.mtp_layers > 0) options.mtp = gen::vllm::Mtp::only;
  return gen::vllm::make_layout(model, options);
}

std::unique_ptr<Layout> sglang(const model::Model& model, const std::string& sizes) {
  gen::sglang::Options options;
  options.sizes = parse_parallelism(sizes);
  return gen::sglang::make_layout(model, options);
}

/// A joined side, and the same layouts by themselves.
struct Joined {
  std::vector<std::unique_ptr<Layout>> alone;
  std::unique_ptr<JoinedLayout> side;

  template <typename Make>
  explicit Joined(const Make& make) : alone(make()) {
    std::vector<JoinedLayout::Engine> engines;
    for (std::unique_ptr<Layout>& layout : make()) {
      const std::int32_t ranks = layout->ranks();
      engines.push_back({std::move(layout), ranks});
    }
    side = std::make_unique<JoinedLayout>(std::move(engines));
  }
};

std::vector<std::unique_ptr<Layout>> list(std::unique_ptr<Layout> a, std::unique_ptr<Layout> b) {
  std::vector<std::unique_ptr<Layout>> result;
  result.push_back(std::move(a));
  result.push_back(std::move(b));
  return result;
}

void expect_equal(const LocalLayout& found, const LocalLayout& right) {
  ASSERT_EQ(found.storages.size(), right.storages.size());
  for (std::size_t i = 0; i < found.storages.size(); ++i) {
    EXPECT_EQ(found.storages[i].name, right.storages[i].name);
    EXPECT_EQ(found.storages[i].shape, right.storages[i].shape);
    EXPECT_EQ(found.storages[i].dtype, right.storages[i].dtype);
  }
  ASSERT_EQ(found.pieces.size(), right.pieces.size());
  for (std::size_t i = 0; i < found.pieces.size(); ++i) {
    EXPECT_EQ(found.pieces[i].tensor, right.pieces[i].tensor);
    EXPECT_EQ(found.pieces[i].piece.box, right.pieces[i].piece.box);
    EXPECT_EQ(found.pieces[i].piece.place, right.pieces[i].piece.place);
    EXPECT_EQ(found.pieces[i].piece.format, right.pieces[i].piece.format);
  }
  EXPECT_EQ(found.fills.size(), right.fills.size());
  EXPECT_EQ(found.by_key, right.by_key);
}

void expect_joined(const Joined& joined, const model::Model& model) {
  const JoinedLayout& side = *joined.side;
  ASSERT_EQ(side.engines(), std::ssize(joined.alone));
  const std::vector<EngineLayout> engines = engines_of(side);
  std::int32_t first = 0;
  for (std::int32_t e = 0; e < side.engines(); ++e) {
    const Layout& alone = *joined.alone[static_cast<std::size_t>(e)];
    const EngineLayout& engine = engines[static_cast<std::size_t>(e)];
    EXPECT_EQ(engine.first(), first);
    ASSERT_EQ(engine.ranks(), alone.ranks());
    for (std::int32_t r = 0; r < alone.ranks(); ++r) {
      const Rank rank{first + r};
      SCOPED_TRACE(fmt::format("engine {} rank {}", e, r));
      EXPECT_EQ(side.engine(rank), e);
      EXPECT_EQ(side.stage(rank), alone.stage(Rank{r}));
      EXPECT_EQ(side.coordinates(rank), fmt::format("engine={} {}", e, alone.coordinates(Rank{r})));
      EXPECT_EQ(side.constant_storages(rank), alone.constant_storages(Rank{r}));
      expect_equal(materialise(side, model.tensors, rank), materialise(alone, model.tensors, Rank{r}));
      expect_equal(materialise(engine, model.tensors, Rank{r}), materialise(alone, model.tensors, Rank{r}));
    }
    for (const model::Tensor& tensor : model.tensors) EXPECT_EQ(engine.format(tensor), alone.format(tensor));
    first += alone.ranks();
  }
  EXPECT_EQ(side.ranks(), first);
}

/// Returns how many classes of tensors a layout tells apart.
std::size_t classes(const Layout& layout, const model::Model& model) {
  std::set<std::uint64_t> seen;
  for (const model::Tensor& tensor : model.tensors) seen.insert(layout.placement_class(tensor));
  return seen.size();
}

TEST(JoinedLayout, IsItsEnginesSideBySide) {
  for (const char* name : {"llama_tied", "qwen3_moe", "gpt_oss", "nemotron_h", "qwen3_next"}) {
    SCOPED_TRACE(name);
    const model::Model model = small_model(name);
    expect_joined(Joined([&] { return list(vllm(model, "TP4"), vllm(model, "TP1xDP2")); }), model);
    const Joined mixed([&] { return list(vllm(model, "TP2xPP2"), sglang(model, "TP2")); });
    expect_joined(mixed, model);
    EXPECT_EQ(mixed.side->stages(), 2);
    EXPECT_GE(classes(*mixed.side, model), classes(*mixed.alone[0], model));
    EXPECT_GE(classes(*mixed.side, model), classes(*mixed.alone[1], model));
  }
}

/// A drafter beside a model: the side has what either stores.
TEST(JoinedLayout, HasWhatAnyEngineStores) {
  const model::Model model = small_model("deepseek_v3");
  const Joined joined([&] { return list(sglang(model, "TP2"), vllm(model, "TP2")); });
  expect_joined(joined, model);
  std::size_t only_first = 0, only_second = 0;
  for (const model::Tensor& tensor : model.tensors) {
    const bool first = joined.alone[0]->format(tensor).has_value(),
               second = joined.alone[1]->format(tensor).has_value();
    EXPECT_EQ(joined.side->format(tensor).has_value(), first || second) << tensor.name;
    only_first += first && !second ? 1 : 0;
    only_second += second && !first ? 1 : 0;
  }
  EXPECT_GT(only_first, 0U);
  EXPECT_GT(only_second, 0U);
}

TEST(JoinedLayout, NamesAnUnlikeForm) {
  const model::Model model = small_model("llama");
  const Joined alike([&] { return list(vllm(model, "TP4"), vllm(model, "TP2")); });
  EXPECT_FALSE(find_unlike_form(*alike.side, model.tensors));
  const Joined unlike([&] { return list(vllm(model, "TP4"), vllm(model, "TP2", DType::f32)); });
  expect_joined(unlike, model);
  const auto found = find_unlike_form(*unlike.side, model.tensors);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->engine, 1);
  EXPECT_EQ(found->tensor, 0);
  EXPECT_EQ(found->form.dtype, DType::f32);
  EXPECT_EQ(unlike.side->format(model.tensors[0])->dtype, DType::bf16);
}

/// Ranks of an engine without a layout store nothing, e.g. derived storages of one that derives none.
TEST(JoinedLayout, MayHaveEnginesThatStoreNothing) {
  const model::Model model = small_model("llama");
  std::vector<JoinedLayout::Engine> engines;
  engines.push_back({nullptr, 2});
  engines.push_back({vllm(model, "TP2"), 2});
  const JoinedLayout side(std::move(engines));
  EXPECT_EQ(side.ranks(), 4);
  EXPECT_TRUE(materialise(side, model.tensors, Rank{1}).storages.empty());
  EXPECT_TRUE(side.constant_storages(Rank{1}).empty());
  EXPECT_EQ(side.coordinates(Rank{1}), "engine=0");
  expect_equal(materialise(side, model.tensors, Rank{3}), materialise(*vllm(model, "TP2"), model.tensors, Rank{1}));
}

}  // namespace
}  // namespace refit::layout
