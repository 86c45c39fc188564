// agree(): equal plans pass; one rank with another layout is found before the first byte, on all ranks alike.

#include <gmock/gmock.h>

#include <algorithm>

#include "support/thread_control.hpp"
#include "transport_models.hpp"

namespace refit::test_support {
namespace {

/// A layout that is wrong about some tensors: its answers for `tensor` are those of `other` for `instead`.
class WrongLayout final : public layout::Layout {
 public:
  struct Lie {
    std::int32_t tensor;
    std::int32_t instead;
  };
  WrongLayout(const layout::Layout& truth, const layout::Layout& other, const model::Model& model,
              std::vector<Lie> lies)
      : truth_(truth), other_(other), model_(model), lies_(std::move(lies)) {}

  std::int32_t ranks() const override { return truth_.ranks(); }
  std::int32_t stage(Rank rank) const override { return truth_.stage(rank); }
  std::int32_t stages() const override { return truth_.stages(); }
  std::uint64_t placement_class(const model::Tensor& tensor) const override {
    // Other boxes are another class; other places of the same boxes are not.
    const bool lies = &truth_ != &other_ && std::any_of(lies_.begin(), lies_.end(),
                                                        [&](const Lie& lie) { return lie.tensor == tensor.index; });
    return truth_.placement_class(tensor) + (lies ? 1 : 0);
  }
  std::optional<Format> format(const model::Tensor& tensor) const override { return truth_.format(tensor); }
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override {
    for (const Lie& lie : lies_) {
      if (lie.tensor == tensor.index) {
        return other_.pieces(model_[lie.instead], rank, out);
      }
    }
    truth_.pieces(tensor, rank, out);
  }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override { return truth_.storage(key, rank); }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank rank) const override { return truth_.coordinates(rank); }

 private:
  const layout::Layout& truth_;
  const layout::Layout& other_;
  const model::Model& model_;
  std::vector<Lie> lies_;
};

struct World {
  model::Model model = transport_model("qwen3");
  std::unique_ptr<layout::Layout> train = make_train("TP2xDP2");
  std::unique_ptr<layout::Layout> other_train = make_train("TP4");
  std::unique_ptr<layout::Layout> gen = gen::vllm::make_layout(model, {.sizes = layout::parse_parallelism("TP2")});

  std::unique_ptr<layout::Layout> make_train(const char* sizes) const {
    train::megatron::Options options;
    options.sizes = layout::parse_parallelism(sizes);
    return train::megatron::make_layout(model, options);
  }
  std::int32_t index(const std::string& name) const { return model.find(name)->index; }

  /// Returns the message that each rank gets where world rank `odd` uses `wrong` instead of the train layout; "" where
  /// agree returns.
  std::vector<std::string> agree(int odd, const layout::Layout& wrong, bool colocated = false,
                                 const plan::Placement& odd_placement = {}) const {
    const WorldMap map{train->ranks(), gen->ranks(), colocated};
    const int ranks = map.size();
    const auto hub = std::make_shared<ThreadHub>(ranks);
    std::vector<std::string> told(static_cast<std::size_t>(ranks));
    run_ranks(ranks, [&](int rank) {
      ThreadControl control(hub, rank);
      const plan::Planner planner(
          model.tensors, rank == odd ? wrong : *train, *gen,
          {.colocated = map.colocated, .placement = rank == odd ? odd_placement : plan::Placement()});
      try {
        transport::agree(control, map, planner.rank_plan(map.own(rank)).copies, model.tensors);
      } catch (const Error& error) {
        told[static_cast<std::size_t>(rank)] = error.what();
      }
    });
    return told;
  }
};

TEST(Agree, PassesEqualPlans) {
  const World world;
  EXPECT_THAT(world.agree(-1, *world.train), testing::Each(""));
  EXPECT_THAT(world.agree(-1, *world.train, true), testing::Each(""));
}

TEST(Agree, NamesTheTensorThatOneRankCutsOtherwise) {
  const World world;
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  const WrongLayout wrong(*world.train, *world.other_train, world.model, {{world.index(name), world.index(name)}});
  for (const auto& [odd, colocated] : {std::pair(0, false), {2, false}, {4, false}, {5, false}, {1, true}, {3, true}}) {
    const std::vector<std::string> told = world.agree(odd, wrong, colocated);
    EXPECT_THAT(told, testing::Each(told.front()));
    EXPECT_THAT(told.front(), testing::HasSubstr(name));
    EXPECT_THAT(told.front(), testing::ContainsRegex(fmt::format("ranks .*{}.* disagree", odd)));
  }
}

/// The rank takes, or sends, by the devices that it believes in.
TEST(Agree, FindsARankThatKnowsOtherDevices) {
  const World world;
  const std::vector<std::int64_t> devices{0, 1, 2, 3, 2, 3};
  const plan::Placement placement = plan::listed({4, 2}, devices, 4);
  for (const int odd : {0, 2, 4, 5}) {
    const std::vector<std::string> told = world.agree(odd, *world.train, false, placement);
    EXPECT_THAT(told, testing::Each(told.front()));
    EXPECT_THAT(told.front(), testing::ContainsRegex(fmt::format("ranks .*{}.* disagree", odd)));
  }
}

TEST(Agree, NamesTheTensorThatOneRankPlacesOtherwise) {
  const World world;
  // The lie is about all layers: replicas take turns, so no single tensor is sent by every rank.
  std::vector<WrongLayout::Lie> lies;
  for (const model::Tensor& tensor : world.model.tensors) {
    if (tensor.role == model::Role::gate_proj) lies.push_back({tensor.index, tensor.index + 1});
    if (tensor.role == model::Role::up_proj) lies.push_back({tensor.index, tensor.index - 1});
  }
  const WrongLayout wrong(*world.train, *world.train, world.model, lies);
  for (int odd : {1, 5}) {
    const std::vector<std::string> told = world.agree(odd, wrong);
    EXPECT_THAT(told, testing::Each(told.front()));
    EXPECT_THAT(told.front(), testing::HasSubstr("mlp.gate_proj"));
    EXPECT_THAT(told.front(), testing::ContainsRegex(fmt::format("ranks .*{}.* disagree", odd)));
  }
}

/// Returns the message that each of three ranks gets about its stream; "" where agree_on_stream returns.
std::vector<std::string> agree_on_stream(const model::Model& model,
                                         const std::vector<std::vector<model::Tensor>>& streams) {
  const auto hub = std::make_shared<ThreadHub>(3);
  std::vector<std::string> told(3);
  run_ranks(3, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    ThreadControl control(hub, rank);
    try {
      transport::agree_on_stream(control, streams[r], model.tensors);
    } catch (const Error& error) {
      told[r] = error.what();
    }
  });
  return told;
}

TEST(AgreeOnStream, NamesTheFirstTensorThatOneRankHasElsewhere) {
  const model::Model model = transport_model("qwen3");
  const std::vector<model::Tensor> all(model.tensors.begin(), model.tensors.begin() + 4);
  const std::vector<model::Tensor> shorter(all.begin(), all.end() - 1);
  const std::vector<model::Tensor> swapped{all[0], all[2], all[1], all[3]};
  EXPECT_THAT(agree_on_stream(model, {all, all, all}), testing::Each(""));
  EXPECT_THAT(agree_on_stream(model, {{}, {}, {}}), testing::Each(""));
  const struct {
    std::vector<std::vector<model::Tensor>> streams;
    int odd;
    std::string tensor;
  } rows[] = {{{all, all, shorter}, 2, all[3].name},
              {{shorter, all, all}, 1, all[3].name},
              {{all, swapped, all}, 1, all[1].name},
              {{all, all, {}}, 2, all[0].name}};
  for (const auto& row : rows) {
    const std::vector<std::string> told = agree_on_stream(model, row.streams);
    EXPECT_THAT(told, testing::Each(told.front()));
    EXPECT_THAT(told.front(), testing::HasSubstr(fmt::format("ranks 0 and {} disagree on the misc stream", row.odd)));
    EXPECT_THAT(told.front(), testing::HasSubstr("first in tensor " + row.tensor + ":"));
  }
}

}  // namespace
}  // namespace refit::test_support
