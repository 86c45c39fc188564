// Plans for several engines at once: random joined sides, executed element by element on plain arrays, and compared
// with each engine's layout by itself.

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <tuple>

#include "layout/joined_layout.hpp"
#include "plan/plan.hpp"
#include "plan/traffic.hpp"
#include "support/random_layout.hpp"

namespace refit::plan {
namespace {

using layout::JoinedLayout;
using test_support::MeshLayout;

/// Every element of a side, by its rank, storage and place there.
using Memory = std::map<std::tuple<std::int32_t, std::int32_t, std::int64_t>, std::int64_t>;

std::int64_t number_of(const Tensor& tensor, const Extents& index) {
  return tensor.index * (std::int64_t{1} << 40) + test_support::flat(index, tensor.shape);
}

/// Writes what a mesh holds; its ranks begin at `first`.
void fill(const MeshLayout& mesh, const std::vector<Tensor>& tensors, std::int32_t first, Memory& memory) {
  std::vector<Piece> pieces;
  for (std::int32_t rank = 0; rank < mesh.ranks(); ++rank) {
    for (const Tensor& tensor : tensors) {
      pieces.clear();
      mesh.pieces(tensor, Rank{rank}, pieces);
      for (const Piece& piece : pieces) {
        test_support::for_each_index(piece.box.extent, [&](const Extents& index) {
          memory[{first + rank, piece.place.storage.parameter, test_support::position(piece.place, index)}] =
              number_of(tensor, test_support::shifted(piece.box.lower, index));
        });
      }
    }
  }
}

struct World {
  std::vector<Tensor> tensors;
  MeshLayout source;
  std::vector<MeshLayout> engines;
  std::unique_ptr<JoinedLayout> destination;

  Memory right() const {
    Memory memory;
    std::int32_t first = 0;
    for (const MeshLayout& engine : engines) {
      fill(engine, tensors, first, memory);
      first += engine.ranks();
    }
    return memory;
  }
};

World random_world(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  World world;
  world.tensors = test_support::random_tensors(random, 6, 6);
  world.source = test_support::random_layout(random, world.tensors);
  std::vector<JoinedLayout::Engine> joined;
  for (std::uint64_t engine = 0; engine < 2 + seed % 2; ++engine) {
    world.engines.push_back(test_support::random_layout(random, world.tensors));
    if (random() % 2 == 0) test_support::repeat_some(random, world.engines.back());
    joined.push_back({std::make_unique<MeshLayout>(world.engines.back()), world.engines.back().ranks()});
  }
  world.destination = std::make_unique<JoinedLayout>(std::move(joined));
  return world;
}

/// Carries out the plans of all gen ranks, forwarded copies last; every element may be written once.
Memory execute(const World& world, const Planner& planner) {
  Memory source, destination;
  fill(world.source, world.tensors, 0, source);
  for (const bool forwarded : {false, true}) {
    for (std::int32_t rank = 0; rank < world.destination->ranks(); ++rank) {
      for (const Copy& copy : planner.rank_plan(Side::destination, Rank{rank}).copies) {
        if (copy.destination.rank != Rank{rank} || (copy.fan_out == FanOut::forwarded) != forwarded) continue;
        EXPECT_TRUE(!forwarded || copy.source.format == copy.destination.format);
        const Memory& from = forwarded ? destination : source;
        test_support::for_each_index(copy.box.extent, [&](const Extents& index) {
          const auto at = [&](const End& end) {
            return std::tuple(to_int(end.rank), end.place.storage.parameter, test_support::position(end.place, index));
          };
          EXPECT_TRUE(destination.emplace(at(copy.destination), from.at(at(copy.source))).second) << "written twice";
        });
      }
    }
  }
  return destination;
}

class RandomEngines : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomEngines, GetEveryElementOnce) {
  const World world = random_world(GetParam());
  for (const std::int64_t domain_ranks : {0, 2, 64}) {
    // Cut between holders, and between the takers of a domain, down to single elements.
    const Planner planner(
        world.tensors, world.source, *world.destination,
        {.fan_out = {domains_of_neighbours(world.destination->ranks(), domain_ranks)}, .striping = {8, 1}});
    EXPECT_EQ(execute(world, planner), world.right());
  }
}

/// What an engine is sent does not depend on the others.
TEST_P(RandomEngines, GetAsManyBytesAsAlone) {
  const World world = random_world(GetParam());
  const std::vector<std::int64_t> together =
      traffic(Planner(world.tensors, world.source, *world.destination)).received();
  std::vector<std::int64_t> alone;
  for (const MeshLayout& engine : world.engines) {
    const auto received = traffic(Planner(world.tensors, world.source, engine)).received();
    alone.insert(alone.end(), received.begin(), received.end());
  }
  EXPECT_EQ(together, alone);
}

/// With fan-out over all gen ranks a box that several engines want in one form leaves the holders once.
TEST_P(RandomEngines, ShareWhatEntersADomain) {
  const World world = random_world(GetParam());
  std::set<std::tuple<std::int32_t, Box, Format>> wanted;
  std::int64_t expected = 0;
  for (const Tensor& tensor : world.tensors) {
    for (const MeshLayout& engine : world.engines) {
      for (const Holding& holding : holdings(engine, tensor)) {
        for (const Holding& held : holdings(world.source, tensor)) {
          const auto box = intersect(held.box, holding.box);
          if (!box) continue;
          const bool is_new = wanted.emplace(tensor.index, *box, holding.format).second;
          // A scalar comes to every rank from a holder.
          if (tensor.shape.size() == 0)
            expected += std::ssize(holding.ranks);
          else if (is_new)
            expected += box->volume();
        }
      }
    }
  }
  std::int64_t entering = 0;
  std::tuple<std::int32_t, Box, Rank> last{-1, {}, {}};  // of which a rank may have several places
  Planner(world.tensors, world.source, *world.destination,
          {.fan_out = {domains_of_neighbours(world.destination->ranks(), 64)}})
      .for_each_copy([&](const Copy& copy) {
        if (copy.fan_out == FanOut::forwarded) return;
        const std::tuple mine(copy.tensor, copy.box, copy.destination.rank);
        if (std::exchange(last, mine) != mine) entering += copy.elements();
      });
  EXPECT_EQ(entering, expected);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomEngines, ::testing::Range(std::uint64_t{0}, std::uint64_t{48}));

/// Of three ranks with all of a tensor two are of one engine; one of them, or the other engine's, feeds the others.
TEST(PlanEngines, FeedEachOther) {
  const std::vector<Tensor> tensors{{0, "t0", {6'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const auto replicas = [&](std::int64_t count, DType dtype) {
    MeshLayout mesh;
    mesh.tensors = tensors;
    mesh.mesh = {count};
    mesh.format_of = {dtype};
    mesh.storage_of = {0};
    mesh.reversed = {false};
    mesh.cuts = {{}};
    return mesh;
  };
  const auto joined = [&](DType second) {
    std::vector<JoinedLayout::Engine> engines;
    engines.push_back({std::make_unique<MeshLayout>(replicas(2, DType::bf16)), 2});
    engines.push_back({std::make_unique<MeshLayout>(replicas(1, second)), 1});
    return JoinedLayout(std::move(engines));
  };
  const MeshLayout train = replicas(1, DType::bf16);
  const std::int64_t bytes = tensors[0].bytes();
  EXPECT_EQ(traffic(Planner(tensors, train, joined(DType::bf16), {.fan_out = {{0, 0, 0}}})).forwarded(), 2 * bytes);
  EXPECT_EQ(traffic(Planner(tensors, train, joined(DType::bf16), {.fan_out = {{0, 0, 0}}})).egress_max(), bytes);
  // In another form the box goes to the other engine by itself.
  EXPECT_EQ(traffic(Planner(tensors, train, joined(DType::f32), {.fan_out = {{0, 0, 0}}})).forwarded(), bytes);
  EXPECT_EQ(traffic(Planner(tensors, train, joined(DType::f32), {.fan_out = {{0, 0, 0}}})).egress_max(), 2 * bytes);
}

}  // namespace
}  // namespace refit::plan
