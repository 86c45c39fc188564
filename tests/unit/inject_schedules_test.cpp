// Changes by injected bugs of schedules on each side; without injections nothing changes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "app/case_reader.hpp"
#include "engine/faults.hpp"
#include "inject/late.hpp"

namespace refit::inject {
namespace {

using model::Role;
using model::Tensor;
using ::testing::ElementsAre;

/// A case and its lies.
struct Injected : cases::Setup {
  explicit Injected(const cases::Case& given) : Setup(given), faults(engine::faults_of(*this)) {}
  inject::Faults faults;
};

/// qwen3-30b-a3b-small with 2 layers, TP2 -> TP4, only the FFN in bulk.
Injected setup_of(const std::string& injection) {
  const std::string config = REFIT_SOURCE_DIR "/inputs/models/qwen3-30b-a3b-small/config.json";
  std::vector<app::Option> options = {{"model.config", config, ""},
                                      {"model.layers", "2", ""},
                                      {"train.layout", "TP2", ""},
                                      {"gen.layout", "TP4", ""},
                                      {"refit.bulk", "ffn", ""}};
  if (!injection.empty()) options.push_back({"run.inject", injection, ""});
  return Injected(app::read_case("", options));
}

std::vector<Tensor> stream(const Injected& setup, Group group) {
  return setup.faults.misc_stream(setup.model, group, setup.split.bulk, setup.split.misc);
}

std::vector<std::string> names(const std::vector<Tensor>& tensors) {
  std::vector<std::string> result;
  for (const Tensor& tensor : tensors) result.push_back(tensor.name);
  return result;
}

std::vector<plan::Copy> copies(const Injected& setup, Group group) {
  const plan::Planner planner(setup.model.tensors, *setup.train, *setup.gen);
  return planner.rank_plan(group == Group::train ? Side::source : Side::destination, Rank{1}).copies;
}

TEST(Schedules, AreTrueWithoutInjections) {
  const Injected setup = setup_of("");
  for (Group group : {Group::train, Group::gen}) {
    EXPECT_EQ(names(stream(setup, group)), names(setup.split.misc));
    EXPECT_FALSE(setup.faults.misc_first(group));
    EXPECT_FALSE(setup.faults.skips_bulk(group, Rank{0}, 2));
    EXPECT_EQ(setup.faults.plans_as(group, Rank{3}), Rank{3});
    std::vector<plan::Copy> distorted = copies(setup, group);
    setup.faults.distort_copies(setup.model, group, distorted);
    EXPECT_EQ(distorted.size(), copies(setup, group).size());
  }
}

TEST(Schedules, OneSideHasAnotherMiscStream) {
  const Injected tied = setup_of("B14-tied-head");
  std::vector<std::string> shorter = names(tied.split.misc);
  std::erase(shorter, "lm_head.weight");
  EXPECT_EQ(names(stream(tied, Group::train)), names(tied.split.misc));
  EXPECT_EQ(names(stream(tied, Group::gen)), shorter);
  EXPECT_EQ(shorter.size() + 1, tied.split.misc.size());

  const std::string config = REFIT_SOURCE_DIR "/inputs/models/qwen3-4b-small/config.json";
  const Injected dense(app::read_case("", {{"model.config", config, ""},
                                           {"model.layers", "1", ""},
                                           {"train.layout", "TP1", ""},
                                           {"gen.layout", "TP1", ""},
                                           {"run.inject", "B9-megatron-names", ""}}));
  EXPECT_THAT(names(stream(dense, Group::gen)), ElementsAre());
  const std::string layer = "model.layers.0.";
  EXPECT_THAT(names(stream(dense, Group::train)),
              ElementsAre(layer + "self_attn.q_proj.weight", layer + "self_attn.k_proj.weight",
                          layer + "self_attn.v_proj.weight", layer + "self_attn.o_proj.weight",
                          layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight"));
}

TEST(Schedules, OneSideComesToTheMiscPathFirst) {
  const Injected setup = setup_of("B16-misc-first");
  EXPECT_TRUE(setup.faults.misc_first(Group::gen));
  EXPECT_FALSE(setup.faults.misc_first(Group::train));
}

TEST(Schedules, OneGenRankLeavesOutTheSecondRefit) {
  const Injected setup = setup_of("B20-swallowed-error");
  for (std::int32_t rank : {0, 1}) {
    for (std::int64_t refit : {1, 2, 3}) {
      EXPECT_EQ(setup.faults.skips_bulk(Group::gen, Rank{rank}, refit), rank == 0 && refit == 2);
      EXPECT_FALSE(setup.faults.skips_bulk(Group::train, Rank{rank}, refit));
    }
  }
}

TEST(Schedules, SecondHalfOfGenCountsFromZero) {
  const Injected setup = setup_of("B36-rank-per-node");
  const std::int32_t expected[] = {0, 1, 0, 1};
  for (std::int32_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(setup.faults.plans_as(Group::gen, Rank{rank}), Rank{expected[rank]});
    EXPECT_EQ(setup.faults.plans_as(Group::train, Rank{rank}), Rank{rank});
  }
}

TEST(Schedules, TrainSendsNothingOfTheFirstExperts) {
  const Injected setup = setup_of("B13b-silent-skip");
  for (Group group : {Group::train, Group::gen}) {
    const std::vector<plan::Copy> truth = copies(setup, group);
    std::vector<plan::Copy> distorted = truth;
    setup.faults.distort_copies(setup.model, group, distorted);
    std::set<std::int32_t> lost;
    for (const plan::Copy& copy : truth) lost.insert(copy.tensor);
    for (const plan::Copy& copy : distorted) lost.erase(copy.tensor);
    EXPECT_EQ(lost.empty(), group == Group::gen);
    for (std::int32_t index : lost) {
      const Tensor& tensor = setup.model[index];
      EXPECT_TRUE(tensor.layer == 0 && tensor.expert >= 0) << tensor.name;
    }
  }
}

TEST(Schedules, GenExpectsHalfTheBytesOfRouters) {
  const Injected setup = setup_of("B4-router-bytes");
  for (Group group : {Group::train, Group::gen}) {
    const std::vector<plan::Copy> truth = copies(setup, group);
    std::vector<plan::Copy> distorted = truth;
    setup.faults.distort_copies(setup.model, group, distorted);
    ASSERT_EQ(distorted.size(), truth.size());
    for (std::size_t i = 0; i < truth.size(); ++i) {
      const Tensor& tensor = setup.model[truth[i].tensor];
      const bool narrow = group == Group::gen && tensor.role == Role::router;
      EXPECT_EQ(distorted[i].wire_bytes() * (narrow ? 2 : 1), truth[i].wire_bytes()) << tensor.name;
    }
  }
}

/// Records the destinations of bytes.
class Recorder final : public transport::Communicator {
 public:
  explicit Recorder(std::vector<std::byte*>& seen) : seen_(seen) {}
  int rank() const override { return 3; }
  int size() const override { return 5; }
  std::unique_ptr<transport::Request> make_request(std::int64_t) override { return nullptr; }
  void post(std::span<const transport::Message> group, int, transport::Request&) override {
    for (const transport::Message& message : group) seen_.push_back(message.data);
  }
  void broadcast(std::byte* data, std::int64_t, int, transport::Request&) override { seen_.push_back(data); }

 private:
  std::vector<std::byte*>& seen_;
};

class Idle final : public transport::Request {
 public:
  bool test() override { return true; }
};

TEST(Late, OnlyStagedReceivesGoAside) {
  std::vector<std::byte*> seen;
  std::byte weights[64], staging[64];
  const auto late = setup_of("B15-copy-race").faults.distort_bulk(std::make_unique<Recorder>(seen), weights);
  using Kind = transport::Message::Kind;
  Idle request;
  const transport::Message group[] = {{Kind::receive, 0, weights, 64},
                                      {Kind::send, 0, staging, 8},
                                      {Kind::receive, 0, staging, 8},
                                      {Kind::receive, 1, staging + 8, 8}};
  late->post(group, 0, request);
  late->post(group, 0, request);
  ASSERT_EQ(seen.size(), 8U);
  EXPECT_EQ(seen[0], weights);
  EXPECT_EQ(seen[1], staging);
  for (std::size_t i : {2U, 3U}) {
    EXPECT_FALSE(seen[i] >= staging && seen[i] < staging + 64);
    EXPECT_EQ(seen[i], seen[i + 4]);
  }
  EXPECT_NE(seen[2], seen[3]);
  EXPECT_EQ(late->rank(), 3);
  EXPECT_EQ(late->size(), 5);
}

TEST(Late, OnlyTheLastBroadcastsOfARefitGoAside) {
  std::vector<std::byte*> seen;
  std::byte slots[2][8];
  const auto late = setup_of("B17-undrained-stream").faults.distort_stream(std::make_unique<Recorder>(seen), 5);
  Idle request;
  for (int refit = 0; refit < 2; ++refit) {
    for (int buffer = 0; buffer < 5; ++buffer) late->broadcast(slots[buffer % 2], 8, 0, request);
  }
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i] == slots[i % 5 % 2], i % 5 < 3) << i;
}

TEST(Late, TransportsAreTheTrueOnesWithoutInjections) {
  std::vector<std::byte*> seen;
  const Injected setup = setup_of("");
  auto truth = std::make_unique<Recorder>(seen);
  const transport::Communicator* address = truth.get();
  transport::Communicator* bulk = setup.faults.distort_bulk(std::move(truth), {}).release();
  EXPECT_EQ(bulk, address);
  EXPECT_EQ(setup.faults.distort_stream(std::unique_ptr<transport::Communicator>(bulk), 1).get(), address);
  EXPECT_EQ(setup_of("B15-copy-race").faults.distort_bulk(nullptr, {}), nullptr);
}

class Everybody final : public transport::PeerMemory {
 public:
  std::byte* local() const override { return arena_; }
  std::byte* map(int) const override { return arena_; }
  void fence() override {}

 private:
  mutable std::byte arena_[1];
};

TEST(Unmapped, MapsOnlyItsOwn) {
  const auto peers = setup_of("B34-silent-fallback").faults.distort_peers(std::make_unique<Everybody>(), 2);
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(peers->map(rank) != nullptr, rank == 2);
  EXPECT_EQ(peers->local(), peers->map(2));
  EXPECT_NE(setup_of("").faults.distort_peers(std::make_unique<Everybody>(), 2)->map(0), nullptr);
}

}  // namespace
}  // namespace refit::inject
