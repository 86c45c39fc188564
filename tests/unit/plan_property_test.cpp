// Plans between random layouts, executed element by element on plain arrays and compared with the layouts.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "plan/cost.hpp"
#include "plan/plan.hpp"
#include "plan/traffic.hpp"
#include "support/random_layout.hpp"

namespace refit::plan {
namespace {

using layout::StorageKey;
using test_support::flat;
using test_support::for_each_index;
using test_support::MeshLayout;
using test_support::position;
using test_support::shifted;

constexpr std::int64_t kUnwritten = -1;

/// One side's memory: a plain array for every storage of every rank.
using Memory = std::vector<std::map<StorageKey, std::vector<std::int64_t>>>;

Memory empty_memory(const MeshLayout& layout) {
  Memory memory(static_cast<std::size_t>(layout.ranks()));
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    for (const Tensor& tensor : layout.tensors) {
      const StorageKey key{layout.storage_of[static_cast<std::size_t>(tensor.index)], -1, -1};
      const auto elements = static_cast<std::size_t>(layout.storage(key, Rank{r}).elements());
      memory[static_cast<std::size_t>(r)][key].assign(elements, kUnwritten);
    }
  }
  return memory;
}

/// Returns the right memory of a side: every element of a box has its own number, gaps have nothing.
Memory full_memory(const MeshLayout& layout) {
  Memory memory = empty_memory(layout);
  std::vector<Piece> pieces;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    for (const Tensor& tensor : layout.tensors) {
      pieces.clear();
      layout.pieces(tensor, Rank{r}, pieces);
      for (const Piece& piece : pieces) {
        auto& storage = memory[static_cast<std::size_t>(r)][piece.place.storage];
        for_each_index(piece.box.extent, [&](const Extents& index) {
          const std::int64_t element = flat(shifted(piece.box.lower, index), tensor.shape);
          storage.at(static_cast<std::size_t>(position(piece.place, index))) =
              tensor.index * (std::int64_t{1} << 40) + element;
        });
      }
    }
  }
  return memory;
}

struct World {
  std::vector<Tensor> tensors;
  MeshLayout source, destination;
  Striping striping;

  Planner planner(std::int64_t domain_ranks = 0, bool colocated = false, Placement placement = {}) const {
    return {tensors,
            source,
            destination,
            {{domains_of_neighbours(destination.ranks(), domain_ranks)}, colocated, std::move(placement), striping}};
  }
};

/// `large`: a few tensors large enough to be cut between replicas. Odd seeds: some boxes are stored several times.
World random_world(std::uint64_t seed, bool large) {
  std::mt19937_64 random(seed);
  World world;
  world.tensors = test_support::random_tensors(random, 8, 6);
  if (large) {
    const Shape shapes[] = {{70'001}, {1, 300, 200}, {3, 40'000}, {257, 129, 2}, {2, 2, 90, 130}};
    world.tensors.resize(3);
    for (Tensor& tensor : world.tensors) tensor.shape = shapes[random() % std::size(shapes)];
  }
  world.source = test_support::random_layout(random, world.tensors);
  world.destination = test_support::random_layout(random, world.tensors);
  // Tensors of a few elements are cut too, and those between single elements.
  const std::int64_t bytes[] = {1, 8, 100, Striping().min_bytes};
  world.striping = {bytes[random() % std::size(bytes)], random() % 2 == 0 ? 1 : Striping().min_rows};
  if (seed % 2 == 1) test_support::repeat_some(random, world.destination);
  return world;
}

/// Returns whether a rank of a side stores the box, whole.
bool stores(const Layout& layout, const Tensor& tensor, Rank rank, const Box& box) {
  if (to_int(rank) >= layout.ranks()) return false;
  std::vector<Piece> pieces;
  layout.pieces(tensor, rank, pieces);
  return std::ranges::any_of(pieces, [&](const Piece& piece) { return intersect(piece.box, box) == box; });
}

/// Carries out the destinations' plans, hop by hop, and forwarded copies last of each; every element may be written
/// once.
Memory execute(const World& world, const Planner& planner) {
  const Memory source = full_memory(world.source);
  Memory destination = empty_memory(world.destination);
  const auto turn_of = [](const Copy& copy) { return 2 * copy.hops + (copy.fan_out == FanOut::forwarded ? 1 : 0); };
  for (int turn = 0; turn < 2 * std::max(1, world.destination.ranks()); ++turn) {
    for (std::int32_t r = 0; r < world.destination.ranks(); ++r) {
      for (const Copy& copy : planner.rank_plan(Side::destination, Rank{r}).copies) {
        if (copy.destination.rank != Rank{r} || turn_of(copy) != turn) continue;
        const Memory& sender = copy.is_from_taker() ? destination : source;
        const auto& from = sender[static_cast<std::size_t>(to_int(copy.source.rank))].at(copy.source.place.storage);
        auto& to = destination[static_cast<std::size_t>(r)].at(copy.destination.place.storage);
        for_each_index(copy.box.extent, [&](const Extents& index) {
          auto& element = to.at(static_cast<std::size_t>(position(copy.destination.place, index)));
          EXPECT_EQ(element, kUnwritten) << "written twice";
          element = from.at(static_cast<std::size_t>(position(copy.source.place, index)));
        });
      }
    }
  }
  return destination;
}

using Key = std::tuple<std::int32_t, Box, Rank, Rank, Format, Format>;
Key key_of(const Copy& copy) {
  return {copy.tensor, copy.box, copy.source.rank, copy.destination.rank, copy.source.format, copy.destination.format};
}

std::vector<Key> keys_of(const RankPlan& plan) {
  std::vector<Key> keys;
  for (const Copy& copy : plan.copies) keys.push_back(key_of(copy));
  return keys;
}

std::vector<Key> all_copies(const Planner& planner) {
  std::vector<Key> keys;
  planner.for_each_copy([&](const Copy& copy) { keys.push_back(key_of(copy)); });
  return keys;
}

class RandomPlan : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomPlan, BringsEveryElementOnceAndNothingElse) {
  const World world = random_world(GetParam(), GetParam() % 8 == 0);
  const Planner planner = world.planner();
  EXPECT_EQ(execute(world, planner), full_memory(world.destination));
}

/// Every element arrives once; whoever holds what it takes takes it from itself, and nobody else does; a process's plan
/// is the plans of the ranks that it is.
TEST(Plan, ColocatedTakersTakeFromThemselvesWhatTheyHold) {
  std::int64_t to_self = 0, between = 0;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const World world = random_world(seed, seed % 5 == 0);
    const WorldMap map{world.source.ranks(), world.destination.ranks(), true};
    for (const std::int64_t domain_ranks : {std::int64_t{0}, std::int64_t{2}, std::int64_t{map.destination}}) {
      const Planner planner = world.planner(domain_ranks, true);
      EXPECT_EQ(execute(world, planner), full_memory(world.destination));
      std::vector<std::vector<Key>> expected(static_cast<std::size_t>(map.size()));
      planner.for_each_copy([&](const Copy& copy) {
        const bool forwarded = copy.fan_out == FanOut::forwarded;
        const Tensor& tensor = world.tensors[static_cast<std::size_t>(copy.tensor)];
        const auto from = static_cast<std::size_t>(to_int(copy.source.rank));
        const auto to = static_cast<std::size_t>(to_int(copy.destination.rank));
        EXPECT_EQ(copy.to_self, stores(world.source, tensor, copy.destination.rank, copy.box)) << to_string(copy.box);
        EXPECT_EQ(copy.to_self, !forwarded && from == to);
        expected[from].push_back(key_of(copy));
        if (from != to) expected[to].push_back(key_of(copy));
        ++(copy.to_self ? to_self : between);
      });
      for (std::int32_t r = 0; r < map.size(); ++r)
        EXPECT_EQ(keys_of(planner.rank_plan(map.own(r))), expected[static_cast<std::size_t>(r)]) << r;
    }
  }
  EXPECT_GT(to_self, 1000);
  EXPECT_GT(between, 1000);
}

/// Returns sites on a few devices and domains, in any order.
Placement random_placement(std::uint64_t seed, const WorldMap& map) {
  std::mt19937_64 random(seed);
  std::vector<std::int64_t> devices(static_cast<std::size_t>(map.size()));
  const std::uint64_t count = 1 + random() % devices.size();
  for (std::int64_t& device : devices) device = static_cast<std::int64_t>(random() % count);
  return listed(map, devices, 1 + static_cast<std::int64_t>(random() % count));
}

/// Returns the source ranks that a taker of the box may take from: the holders on its device, or else in its domain, or
/// else all.
std::set<Rank> nearest_holders(const World& world, const Placement& placement, const Copy& copy) {
  const auto at = [](const std::vector<Placement::Site>& sites, Rank rank) {
    return sites[static_cast<std::size_t>(to_int(rank))];
  };
  const Placement::Site taker = at(placement.destination, copy.destination.rank);
  std::set<Rank> on_device, in_domain, all;
  for (std::int32_t r = 0; r < world.source.ranks(); ++r) {
    const Rank rank{r};
    if (!stores(world.source, world.tensors[static_cast<std::size_t>(copy.tensor)], rank, copy.box)) continue;
    all.insert(rank);
    if (at(placement.source, rank).domain == taker.domain) in_domain.insert(rank);
    if (at(placement.source, rank).device == taker.device) on_device.insert(rank);
  }
  return !on_device.empty() ? on_device : !in_domain.empty() ? in_domain : all;
}

/// Every element arrives once, from the nearest holders; those that feed each other have no holder on their devices;
/// every rank sees its own part, and the hash is that of all copies.
TEST(Plan, TakersTakeFromTheNearestHolders) {
  std::int64_t on_device = 0, in_domain = 0, far = 0, forwards = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const World world = random_world(seed, seed % 5 == 0);
    const WorldMap map{world.source.ranks(), world.destination.ranks(), seed % 3 == 0};
    const Placement placement = random_placement(seed, map);
    for (const std::int64_t domain_ranks : {std::int64_t{0}, std::int64_t{2}, std::int64_t{map.destination}}) {
      const Planner planner = world.planner(domain_ranks, map.colocated, placement);
      EXPECT_EQ(execute(world, planner), full_memory(world.destination));
      std::vector<std::vector<Key>> expected(static_cast<std::size_t>(map.size()));
      Sum128 sum;
      planner.for_each_copy([&](const Copy& copy) {
        const bool forwarded = copy.fan_out == FanOut::forwarded;
        const int from = map.world_rank(forwarded ? Side::destination : Side::source, copy.source.rank);
        const int to = map.world_rank(Side::destination, copy.destination.rank);
        expected[static_cast<std::size_t>(from)].push_back(key_of(copy));
        if (from != to) expected[static_cast<std::size_t>(to)].push_back(key_of(copy));
        sum += hash(copy, hash_factor(world.tensors[static_cast<std::size_t>(copy.tensor)].name));
        if (copy.to_self) return;
        const std::set<Rank> nearest = nearest_holders(world, placement, copy);
        const auto& senders = forwarded ? placement.destination : placement.source;
        const Placement::Site sender = senders[static_cast<std::size_t>(to_int(copy.source.rank))];
        const Placement::Site taker = placement.destination[static_cast<std::size_t>(to_int(copy.destination.rank))];
        if (forwarded) {
          const Placement::Site holder = placement.source[static_cast<std::size_t>(to_int(*nearest.begin()))];
          EXPECT_NE(holder.device, taker.device);
          ++forwards;
          return;
        }
        EXPECT_TRUE(nearest.contains(copy.source.rank)) << to_string(copy.box);
        ++(sender.device == taker.device ? on_device : sender.domain == taker.domain ? in_domain : far);
      });
      EXPECT_EQ(traffic(planner, placement).hash, sum);
      for (std::int32_t r = 0; r < map.size(); ++r)
        EXPECT_EQ(keys_of(planner.rank_plan(map.own(r))), expected[static_cast<std::size_t>(r)]) << r;
    }
  }
  for (const std::int64_t count : {on_device, in_domain, far, forwards}) EXPECT_GT(count, 1000);
}

/// Every element arrives, leaves the holders for domains without one once, and each domain at most once; every rank
/// sees its own part.
TEST(PlanFanOut, DomainsHandOn) {
  std::int64_t relayed = 0, passed = 0, forwarded = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const World world = random_world(seed, seed % 5 == 0);
    const WorldMap map{world.source.ranks(), world.destination.ranks(), seed % 3 == 0};
    const Placement placement = random_placement(seed, map);
    Rules rules{{domains_of(placement), true}, map.colocated, placement, world.striping};
    const Planner planner(world.tensors, world.source, world.destination, rules);
    EXPECT_EQ(execute(world, planner), full_memory(world.destination));

    std::vector<std::vector<Key>> expected(static_cast<std::size_t>(map.size()));
    using Leaving = std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t>;
    Leaving from_holders, from_takers;  // elements by tensor and domain, of takers' domains alone
    Sum128 sum;
    Key last{-1, {}, {}, {}, {}, {}};
    planner.for_each_copy([&](const Copy& copy) {
      const int from = map.world_rank(copy.is_from_taker() ? Side::destination : Side::source, copy.source.rank);
      const int to = map.world_rank(Side::destination, copy.destination.rank);
      expected[static_cast<std::size_t>(from)].push_back(key_of(copy));
      if (from != to) expected[static_cast<std::size_t>(to)].push_back(key_of(copy));
      sum += hash(copy, hash_factor(world.tensors[static_cast<std::size_t>(copy.tensor)].name));
      relayed += copy.fan_out == FanOut::relayed ? 1 : 0;
      passed += copy.fan_out == FanOut::passed ? 1 : 0;
      forwarded += copy.fan_out == FanOut::forwarded ? 1 : 0;
      if (copy.box.extent.size() == 0 || copy.to_self || key_of(copy) == std::exchange(last, key_of(copy))) return;
      const auto& senders = copy.is_from_taker() ? placement.destination : placement.source;
      const std::int32_t leaves = senders[static_cast<std::size_t>(to_int(copy.source.rank))].domain;
      const std::int32_t enters = placement.destination[static_cast<std::size_t>(to_int(copy.destination.rank))].domain;
      if (leaves == enters) return;
      if (copy.is_from_taker()) {
        from_takers[{copy.tensor, leaves}] += copy.elements();
      } else {
        from_holders[{copy.tensor, 0}] += copy.elements();
      }
    });
    for (const Leaving& leaving : {from_holders, from_takers})
      for (const auto& [where, elements] : leaving)
        EXPECT_LE(elements, world.tensors[static_cast<std::size_t>(where.first)].elements());
    EXPECT_EQ(traffic(planner, placement).hash, sum);
    for (std::int32_t r = 0; r < map.size(); ++r)
      EXPECT_EQ(keys_of(planner.rank_plan(map.own(r))), expected[static_cast<std::size_t>(r)]) << r;
  }
  for (const std::int64_t count : {relayed, passed, forwarded}) EXPECT_GT(count, 200);
}

class RandomFanOut : public ::testing::TestWithParam<std::uint64_t> {};

/// Returns the elements that come from holders into domains, by tensor: of the copies, to further places of a rank left
/// out, and of the boxes that a domain needs, each once. Scalars come to every rank.
std::map<std::int32_t, std::int64_t> entering(const Planner& planner) {
  std::map<std::int32_t, std::int64_t> elements;
  Key last{-1, {}, {}, {}, {}, {}};
  planner.for_each_copy([&](const Copy& copy) {
    if (copy.fan_out == FanOut::forwarded || key_of(copy) == std::exchange(last, key_of(copy))) return;
    elements[copy.tensor] += copy.elements();
  });
  return elements;
}
std::map<std::int32_t, std::int64_t> wanted(const World& world, std::int64_t domain_ranks) {
  std::map<std::int32_t, std::int64_t> elements;
  for (const Tensor& tensor : world.tensors) {
    std::set<std::pair<std::int64_t, Box>> seen;
    for (std::int32_t r = 0; r < world.destination.ranks(); ++r) {
      const Box box = world.destination.box(tensor, Rank{r});
      const std::int64_t domain = tensor.shape.size() == 0 ? r : r / domain_ranks;
      if (!box.empty() && seen.emplace(domain, box).second) elements[tensor.index] += box.volume();
    }
  }
  return elements;
}

/// Domains of two ranks, and one of all; with boxes that are cut, and boxes that are too small to be cut.
TEST_P(RandomFanOut, BringsEveryElementOnce) {
  const World world = random_world(GetParam(), GetParam() % 3 == 0);
  for (const std::int64_t domain_ranks : {2, 8}) {
    const Planner planner = world.planner(domain_ranks);
    EXPECT_EQ(execute(world, planner), full_memory(world.destination));
    EXPECT_EQ(entering(planner), wanted(world, domain_ranks));
    // Each rank sees its own of the world's copies, in the same order.
    std::vector<Copy> all;
    planner.for_each_copy([&](const Copy& copy) { all.push_back(copy); });
    for (std::int32_t r = 0; r < world.destination.ranks(); ++r) {
      std::vector<Key> expected;
      for (const Copy& copy : all) {
        const bool forwards = copy.fan_out == FanOut::forwarded && copy.source.rank == Rank{r};
        if (copy.destination.rank == Rank{r} || forwards) expected.push_back(key_of(copy));
      }
      EXPECT_EQ(keys_of(planner.rank_plan(Side::destination, Rank{r})), expected) << r;
    }
    // A forwarded copy has been relayed to the rank that forwards it, to its first place, just before, and stays in the
    // domain.
    const Copy* relayed = nullptr;
    for (const Copy& copy : all) {
      if (copy.fan_out == FanOut::relayed) relayed = &copy;
      if (copy.fan_out != FanOut::forwarded) continue;
      ASSERT_NE(relayed, nullptr);
      EXPECT_EQ(relayed->box, copy.box);
      EXPECT_EQ(relayed->tensor, copy.tensor);
      EXPECT_EQ(relayed->destination.rank, copy.source.rank);
      EXPECT_EQ(to_int(copy.source.rank) / domain_ranks, to_int(copy.destination.rank) / domain_ranks);
    }
  }
}

TEST_P(RandomPlan, IsTheSameSeenFromEveryRank) {
  const World world = random_world(GetParam(), GetParam() % 8 == 0);
  const Planner planner = world.planner();
  const std::vector<Key> all = all_copies(planner);
  const auto only = [&](const auto& wanted) {
    std::vector<Key> some;
    std::copy_if(all.begin(), all.end(), std::back_inserter(some), wanted);
    return some;
  };
  std::vector<RankPlan> senders;
  Sum128 sent, received;
  for (std::int32_t r = 0; r < world.source.ranks(); ++r) {
    senders.push_back(planner.rank_plan(Side::source, Rank{r}));
    EXPECT_EQ(keys_of(senders.back()), only([&](const Key& key) { return std::get<2>(key) == Rank{r}; })) << r;
    for (const Copy& copy : senders.back().copies)
      sent += hash(copy, hash_factor(world.tensors[std::size_t(copy.tensor)].name));
  }
  for (std::int32_t r = 0; r < world.destination.ranks(); ++r) {
    const RankPlan receiver = planner.rank_plan(Side::destination, Rank{r});
    EXPECT_EQ(keys_of(receiver), only([&](const Key& key) { return std::get<3>(key) == Rank{r}; })) << r;
    // Both ends of a pair have the same copies in the same order, places included.
    std::vector<std::size_t> next(senders.size(), 0);
    for (const Copy& copy : receiver.copies) {
      const auto s = static_cast<std::size_t>(to_int(copy.source.rank));
      while (next[s] < senders[s].copies.size() && senders[s].copies[next[s]].destination.rank != Rank{r}) ++next[s];
      ASSERT_LT(next[s], senders[s].copies.size());
      const Copy& other = senders[s].copies[next[s]++];
      EXPECT_EQ(key_of(other), key_of(copy));
      EXPECT_EQ(other.source, copy.source);
      EXPECT_EQ(other.destination, copy.destination);
    }
    for (const Copy& copy : receiver.copies)
      received += hash(copy, hash_factor(world.tensors[std::size_t(copy.tensor)].name));
  }
  EXPECT_EQ(sent, received);
  const Traffic total = traffic(planner);
  EXPECT_EQ(total.hash, sent);
  EXPECT_EQ(total.copies, static_cast<std::int64_t>(all.size()));
}

TEST_P(RandomPlan, IsInItsDocumentedOrder) {
  const World world = random_world(GetParam(), GetParam() % 8 == 0);
  const Planner planner = world.planner();
  using Order = std::tuple<std::int32_t, Box, Rank, Box>;
  std::vector<Order> order;
  planner.for_each_copy([&](const Copy& copy) {
    const Tensor& tensor = world.tensors[std::size_t(copy.tensor)];
    const auto overlap =
        intersect(world.source.box(tensor, copy.source.rank), world.destination.box(tensor, copy.destination.rank));
    ASSERT_TRUE(overlap);
    EXPECT_EQ(intersect(*overlap, copy.box), copy.box);
    order.emplace_back(copy.tensor, *overlap, copy.destination.rank, copy.box);
  });
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  for (auto same = order.begin(); same != order.end();) {
    const auto end = std::upper_bound(same, order.end(), *same);
    const auto& [tensor, overlap, taker, box] = *same;
    EXPECT_EQ(end - same, world.destination.places(world.tensors[std::size_t(tensor)], taker)) << to_string(box);
    same = end;
  }
}

TEST_P(RandomPlan, CountsItsBytes) {
  const World world = random_world(GetParam(), GetParam() % 8 == 0);
  const Planner planner = world.planner();
  const Traffic total = traffic(planner);
  std::int64_t bytes = 0, busiest = 0;
  for (std::int32_t r = 0; r < world.destination.ranks(); ++r) {
    std::int64_t mine = 0;
    for (const Tensor& tensor : world.tensors) {
      const std::int64_t elements = world.destination.box(tensor, Rank{r}).volume();
      mine += elements * world.destination.places(tensor, Rank{r}) * byte_size(world.source.format(tensor)->dtype);
    }
    bytes += mine;
    busiest = std::max(busiest, mine);
  }
  EXPECT_EQ(total.bytes, bytes);
  EXPECT_EQ(total.ingress_max(), busiest);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomFanOut, ::testing::Range(std::uint64_t{0}, std::uint64_t{32}));
INSTANTIATE_TEST_SUITE_P(Seeds, RandomPlan, ::testing::Range(std::uint64_t{0}, std::uint64_t{96}));

TEST(PlanHash, ChangesWithTheLayoutAndWithTheName) {
  int changed = 0, compared = 0;
  for (std::uint64_t seed = 1000; seed < 1040; ++seed) {
    const World world = random_world(seed, seed % 8 == 0);
    const Traffic before = traffic(Planner(world.tensors, world.source, world.destination));
    MeshLayout other = world.destination;
    for (Format& format : other.format_of) format.dtype = format.dtype == DType::f32 ? DType::bf16 : DType::f32;
    const Traffic casts = traffic(Planner(world.tensors, world.source, other));
    EXPECT_NE(before.hash, casts.hash);
    other.format_of = world.destination.format_of;
    for (Format& format : other.format_of) format.conversion = Conversion::minus_one;
    EXPECT_NE(before.hash, traffic(Planner(world.tensors, world.source, other)).hash);
    auto renamed = world.tensors;
    renamed.back().name = "other";
    EXPECT_NE(before.hash, traffic(Planner(renamed, world.source, world.destination)).hash);
    for (auto& cuts : other.cuts) cuts.clear();  // whole on every rank
    other.format_of = world.destination.format_of;
    const bool was_whole = std::all_of(world.tensors.begin(), world.tensors.end(), [&](const Tensor& tensor) {
      for (std::int32_t r = 0; r < world.destination.ranks(); ++r) {
        if (world.destination.box(tensor, Rank{r}) != Box::whole(tensor.shape)) return false;
      }
      return true;
    });
    if (was_whole) continue;
    ++compared;
    if (traffic(Planner(world.tensors, world.source, other)).hash != before.hash) ++changed;
  }
  EXPECT_GT(compared, 10);
  EXPECT_EQ(changed, compared);
}

/// `replicas` x `parts` ranks, every tensor cut by rows over the parts.
MeshLayout rows_layout(const std::vector<Tensor>& tensors, std::int64_t replicas, std::int64_t parts) {
  MeshLayout layout;
  layout.tensors = tensors;
  layout.mesh = {replicas, parts};
  layout.format_of = {DType::bf16};
  layout.storage_of.assign(tensors.size(), 0);
  layout.reversed.assign(tensors.size(), false);
  layout.cuts.assign(tensors.size(), {{1, 0, test_support::Rule::chunk}});
  return layout;
}

struct Replicas {
  std::int64_t train_dp, train_tp, gen_dp, gen_tp;
};

TEST(PlanHolders, ShareTheSending) {
  const std::vector<std::vector<Shape>> models = {{{40'960, 512}, {10'240, 5'120}, {5'120, 20'480}, {5'120}},
                                                  {{2, 3'000'000}},
                                                  {{1, 3, 4'000'000}},
                                                  {{6'000, 5'000}, {6'000, 5'000}, {6'000, 5'000}}};
  const Replicas cases[] = {{2, 1, 1, 2}, {3, 1, 1, 2}, {3, 1, 1, 4}, {2, 1, 3, 1}, {8, 1, 1, 3},
                            {4, 2, 1, 3}, {8, 1, 1, 1}, {3, 2, 2, 2}, {5, 1, 2, 1}, {4, 1, 6, 1}};
  for (const auto& shapes : models) {
    std::vector<Tensor> tensors;
    for (const Shape& shape : shapes) {
      const auto index = static_cast<std::int32_t>(tensors.size());
      tensors.push_back({index, fmt::format("t{}", index), shape, DType::bf16, model::Role::unknown, -1, -1});
    }
    for (const Replicas& c : cases) {
      const MeshLayout source = rows_layout(tensors, c.train_dp, c.train_tp);
      const MeshLayout destination = rows_layout(tensors, c.gen_dp, c.gen_tp);
      const Traffic total = traffic(Planner(tensors, source, destination));
      // The replicas of a part have the same share of everything that gen needs of it.
      std::int64_t held = 0;
      for (std::int32_t rank = 0; rank < source.ranks(); ++rank) {
        std::int64_t bytes = 0;
        for (const Tensor& tensor : tensors) bytes += source.box(tensor, Rank{rank}).volume() * byte_size(DType::bf16);
        held = std::max(held, bytes);
      }
      const double share = static_cast<double>(held * c.gen_dp) / static_cast<double>(c.train_dp);
      EXPECT_GE(static_cast<double>(total.egress_max()) + 1, share);
      EXPECT_LE(static_cast<double>(total.egress_max()), 1.02 * share + static_cast<double>(Striping().min_bytes))
          << "DP" << c.train_dp << "xTP" << c.train_tp << " -> DP" << c.gen_dp << "xTP" << c.gen_tp << ", "
          << to_string(shapes[0]);
    }
  }
}

/// One holder, three replicas: each gets a third from the holder and two from the others.
TEST(PlanFanOut, SendsEachBoxIntoTheDomainOnce) {
  const std::vector<Tensor> tensors{{0, "t0", {6'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const MeshLayout source = rows_layout(tensors, 1, 1);
  const MeshLayout destination = rows_layout(tensors, 3, 1);
  const std::int64_t bytes = tensors[0].bytes();
  const Traffic with = traffic(Planner(tensors, source, destination, {.fan_out = {{0, 0, 0}}}), {.matrix = true});
  EXPECT_EQ(with.bytes, 3 * bytes);
  EXPECT_EQ(with.forwarded(), 2 * bytes);
  EXPECT_EQ(with.matrix, (std::vector<std::vector<std::int64_t>>{{bytes / 3, bytes / 3, bytes / 3}}));
  for (const PortLoad& load : with.loads.forwarded_out) EXPECT_EQ(load.bytes, 2 * bytes / 3);
  EXPECT_EQ(with.egress_max(), bytes);
  EXPECT_EQ(with.ingress_max(), bytes);
  const Traffic without = traffic(Planner(tensors, source, destination));
  EXPECT_EQ(without.egress_max(), 3 * bytes);
  EXPECT_NE(with.hash, without.hash);
  // Domains are fed one by one: here two domains of two ranks.
  const MeshLayout four = rows_layout(tensors, 4, 1);
  const Traffic domains = traffic(Planner(tensors, source, four, {.fan_out = {{0, 0, 1, 1}}}));
  EXPECT_EQ(domains.egress_max(), 2 * bytes);
  EXPECT_EQ(domains.forwarded(), 2 * bytes);
}

struct Choice {
  Replicas replicas;
  bool fans_out;
};

TEST(PlanFanOut, IsChosenWhereTheHoldersPortsAreTheBusiest) {
  const std::vector<Tensor> tensors{{0, "t0", {60'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const Choice cases[] = {{{1, 1, 3, 1}, true},  {{1, 1, 2, 1}, true},  {{1, 2, 2, 1}, false}, {{1, 2, 4, 1}, true},
                          {{2, 1, 1, 2}, false}, {{3, 1, 3, 1}, false}, {{1, 1, 1, 4}, false}, {{2, 1, 4, 1}, true}};
  Rates rates;
  rates.device_in = rates.device_out = 370e9;
  for (const auto& [c, fans_out] : cases) {
    const MeshLayout source = rows_layout(tensors, c.train_dp, c.train_tp);
    const MeshLayout destination = rows_layout(tensors, c.gen_dp, c.gen_tp);
    const Placement domain = apart(source.ranks(), destination.ranks(), 1, 8);
    EXPECT_EQ(largest_domain(choose_fan_out(tensors, source, destination, rates, {.placement = domain}).domains),
              fans_out ? destination.ranks() : 0)
        << "DP" << c.train_dp << "xTP" << c.train_tp << " -> DP" << c.gen_dp << "xTP" << c.gen_tp;
    // Fan-out pays neither without rates, nor where every device is a domain, nor where all ports are one memory.
    EXPECT_EQ(choose_fan_out(tensors, source, destination, {}, {.placement = domain}), FanOutRules());
    EXPECT_EQ(
        choose_fan_out(tensors, source, destination, rates, {.placement = apart(source.ranks(), destination.ranks())}),
        FanOutRules());
    Rates shared = rates;
    shared.memory_is_shared = true;
    shared.memory = 2 * 370e9;
    EXPECT_EQ(choose_fan_out(tensors, source, destination, shared,
                             {.placement = filled(source.ranks(), destination.ranks(), 1, 16)}),
              FanOutRules());
  }
}

/// One holder: ranks that share a device need no port; domains may be of any ranks.
TEST(PlanFanOut, KnowsWhoSharesWhat) {
  const std::vector<Tensor> tensors{{0, "t0", {60'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const MeshLayout source = rows_layout(tensors, 1, 1);
  Rates rates;
  rates.device_in = rates.device_out = 370e9;
  struct Shared {
    std::vector<Placement::Site> takers;
    Domains domains;
  };
  const Shared rows[] = {{{{0, 0}, {0, 0}, {0, 0}}, {}},                    // all beside the holder
                         {{{0, 0}, {1, 0}, {1, 0}}, {0, 0, 0}},             // two behind one link: one forwards
                         {{{0, 0}, {1, 0}}, {}},                            // one behind it
                         {{{1, 0}, {2, 0}, {3, 1}, {4, 1}}, {0, 0, 1, 1}},  // two domains
                         {{{1, 0}, {2, 0}, {3, 0}, {4, 1}}, {0, 0, 0, 1}},  // the last has fewer
                         {{{1, 0}, {2, 1}, {3, 1}, {4, 1}}, {0, 1, 1, 1}},  // the first has
                         {{{1, 0}, {2, 1}, {3, 0}, {4, 1}}, {0, 1, 0, 1}},  // in turns
                         {{{1, 1}, {2, 2}, {3, 3}, {4, 4}}, {}}};           // each alone
  for (const auto& [takers, domains] : rows) {
    const MeshLayout destination = rows_layout(tensors, std::ssize(takers), 1);
    EXPECT_EQ(choose_fan_out(tensors, source, destination, rates, {.placement = {{{0, 0}}, takers}}).domains, domains)
        << &takers - &rows[0].takers;
  }
}

/// What is asked for though it does not pay: within hosts, and between them where each has one gen rank.
TEST(PlanFanOut, AskedForGoesWithinHostsOrBetweenThem) {
  EXPECT_EQ(any_fan_out({{{0, 0}}, {{1, 1}, {2, 1}, {3, 2}}}), FanOutRules({{1, 1, 2}, false}));
  EXPECT_EQ(any_fan_out({{{0, 0}}, {{1, 1}, {2, 2}}}), FanOutRules({{1, 2}, true}));
}

/// A memory that a host's ranks share gains nothing from fan-out; a slow link between hosts does, wherever takers are.
TEST(PlanFanOut, PaysBehindALinkBetweenHosts) {
  const std::vector<Tensor> tensors{{0, "t0", {60'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const MeshLayout source = rows_layout(tensors, 1, 1);
  Rates rates;
  rates.device_in = rates.device_out = 5e9;
  rates.memory = 10e9;
  rates.memory_is_shared = true;
  struct Hosts {
    std::vector<Placement::Site> takers;
    bool fans_out, passes_on;
  };
  const Hosts rows[] = {{{{1, 0}, {2, 0}, {3, 0}}, false, false},  // all on the holder's host
                        {{{1, 0}, {2, 1}}, false, false},          // one elsewhere
                        {{{1, 1}, {2, 1}}, true, false},           // two
                        {{{1, 1}, {2, 1}, {3, 2}}, true, true},    // two, and one on a third
                        {{{1, 1}, {2, 2}}, true, true},
                        {{{1, 0}, {2, 1}, {3, 2}, {4, 2}}, true, true},
                        {{{1, 0}, {2, 1}, {3, 0}, {4, 1}}, true, false}};  // in turns
  for (const auto& [takers, fans_out, passes_on] : rows) {
    const MeshLayout destination = rows_layout(tensors, std::ssize(takers), 1);
    const Placement placement{{{0, 0}}, takers};
    rates.domain_in = rates.domain_out = 0.1e9;
    const FanOutRules chosen = choose_fan_out(tensors, source, destination, rates, {.placement = placement});
    EXPECT_EQ(chosen.domains, fans_out ? domains_of(placement) : Domains()) << &takers - &rows[0].takers;
    EXPECT_EQ(chosen.passes_on, passes_on) << &takers - &rows[0].takers;
    const Planner planner(tensors, source, destination, {.fan_out = chosen, .placement = placement});
    std::map<std::int32_t, std::int64_t> entering, leaving;  // by domain
    planner.for_each_copy([&](const Copy& copy) {
      const auto& from = copy.is_from_taker() ? placement.destination : placement.source;
      const std::int32_t sender = from[static_cast<std::size_t>(to_int(copy.source.rank))].domain;
      const std::int32_t taker = placement.destination[static_cast<std::size_t>(to_int(copy.destination.rank))].domain;
      if (sender == taker) return;
      entering[taker] += copy.wire_bytes();
      leaving[sender] += copy.wire_bytes();
    });
    for (const auto& ports : {entering, leaving})
      for (const auto& [domain, bytes] : ports) EXPECT_EQ(bytes, tensors[0].bytes());
  }
}

/// What comes from a rank of the same domain is stored by its sender, who tells nobody when; only what comes from
/// another domain may be handed on, whichever holders and takers share a host and whatever rates make of that.
TEST(PlanFanOut, HandsOnlyOnWhatComesFromElsewhere) {
  const std::vector<Tensor> tensors{{0, "t0", {60'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  std::mt19937_64 random(7);
  const auto one_of = [&](std::initializer_list<double> values) { return values.begin()[random() % values.size()]; };
  int handed_on = 0, far = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::size_t holders = 1 + random() % 4, takers = 2 + random() % 6, hosts = 2 + random() % 3;
    const bool share = random() % 4 == 0;  // one or two devices of a host have all its ranks
    Placement placement;
    std::int32_t device = 0;
    for (const auto& [sites, count] : {std::pair(&placement.source, holders), {&placement.destination, takers}}) {
      for (std::size_t r = 0; r < count; ++r) {
        const auto host = static_cast<std::int32_t>(random() % hosts);
        sites->push_back({share ? 2 * host + static_cast<std::int32_t>(random() % 2) : device++, host});
      }
    }
    Rates rates;
    rates.device_in = rates.device_out = one_of({1e9, 5e9});
    rates.domain_in = rates.domain_out = one_of({0.1e9, 0.9e9, 2e9, 4e9, 30e9});
    const MeshLayout source = rows_layout(tensors, std::ssize(placement.source), 1);
    const MeshLayout destination = rows_layout(tensors, std::ssize(placement.destination), 1);
    Rules rules{.placement = placement};
    rules.near_domains = choose_near_domains(tensors, source, destination, rates, rules);
    rules.fan_out = choose_fan_out(tensors, source, destination, rates, rules);
    if (i % 2 == 0) rules.fan_out = {domains_of(placement), true};
    if (!rules.near_domains) ++far;
    const Planner planner(tensors, source, destination, rules);
    std::vector<Copy> copies;
    planner.for_each_copy([&](const Copy& copy) { copies.push_back(copy); });
    const auto domain_of = [](const std::vector<Placement::Site>& sites, Rank rank) {
      return sites[static_cast<std::size_t>(to_int(rank))].domain;
    };
    for (const Copy& next : copies) {
      if (!next.is_from_taker()) continue;
      const std::int32_t here = domain_of(placement.destination, next.source.rank);
      if (here == domain_of(placement.destination, next.destination.rank)) continue;
      ++handed_on;
      for (const Copy& before : copies) {
        if (before.destination.rank != next.source.rank || !intersect(before.box, next.box)) continue;
        EXPECT_NE(domain_of(before.is_from_taker() ? placement.destination : placement.source, before.source.rank),
                  here)
            << i;
      }
    }
  }
  EXPECT_GT(handed_on, 1000);
  EXPECT_GT(far, 100);
}

/// The copies of one box, in order: "s0>d1@2" from the holder to the third place of taker 1, "d1>d0@0" forwarded, "*"
/// relayed, "=" to itself. Taker r stores the box 1 + r % 3 times.
TEST(Plan, BringsABoxToEveryPlaceOfATaker) {
  struct Row {
    const char* name;
    std::int64_t rows;  ///< of 1,000 bytes
    std::int64_t holders, takers, domain_ranks;
    bool colocated;
    const char* copies;
  };
  const Row rows[] = {
      {"once or twice", 1, 1, 2, 0, false, "s0>d0@0 s0>d1@0 s0>d1@1"},
      {"three times", 1, 1, 3, 0, false, "s0>d0@0 s0>d1@0 s0>d1@1 s0>d2@0 s0>d2@1 s0>d2@2"},
      {"holders share", 1, 2, 2, 0, false, "s0>d0@0 s1>d1@0 s1>d1@1"},
      {"cut between holders", 200, 2, 1, 0, false, "s0>d0@0 s1>d0@0"},
      {"fan-out, whole", 1, 1, 2, 2, false, "s0>d0@0* d0>d1@0 d0>d1@1"},
      {"fan-out, in two stripes", 200, 1, 2, 2, false, "s0>d0@0* d0>d1@0 d0>d1@1 s0>d1@0* s0>d1@1 d1>d0@0"},
      {"to itself", 1, 2, 2, 0, true, "s0>d0@0= s1>d1@0= s1>d1@1="},
      {"to itself and others", 1, 1, 2, 0, true, "s0>d0@0= s0>d1@0 s0>d1@1"}};
  for (const Row& row : rows) {
    const std::vector<Tensor> tensors{{0, "t0", {row.rows, 500}, DType::bf16, model::Role::unknown, -1, -1}};
    const MeshLayout source = rows_layout(tensors, row.holders, 1);
    MeshLayout destination = rows_layout(tensors, row.takers, 1);
    destination.most_places = {3};
    const Planner planner(tensors, source, destination,
                          {{domains_of_neighbours(row.takers, row.domain_ranks)}, row.colocated, {}, {}});
    const auto text = [&](const Copy& copy) {
      const auto place = copy.destination.place.offset / (tensors[0].elements() + 1);
      return fmt::format("{}{}>d{}@{}{}", copy.fan_out == FanOut::forwarded ? 'd' : 's', to_int(copy.source.rank),
                         to_int(copy.destination.rank), place,
                         copy.to_self                      ? "="
                         : copy.fan_out == FanOut::relayed ? "*"
                                                           : "");
    };
    // Each taker's own, which are the copies that it gets and forwards, and each holder's.
    const std::string all = fmt::format(" {} ", row.copies);
    const auto expected = [&](const std::string& from, const std::string& to) {
      std::string mine;
      for (std::size_t at = 1; at < all.size();) {
        const std::string one = all.substr(at, all.find(' ', at) - at);
        if (one.starts_with(from) || (!to.empty() && one.find(to) != std::string::npos)) mine += one + " ";
        at += one.size() + 1;
      }
      return mine;
    };
    const auto planned = [&](Side side, std::int32_t rank) {
      std::string mine;
      for (const Copy& copy : planner.rank_plan(side, Rank{rank}).copies) mine += text(copy) + " ";
      return mine;
    };
    for (std::int32_t r = 0; r < row.takers; ++r)
      EXPECT_EQ(planned(Side::destination, r), expected(fmt::format("d{}>", r), fmt::format(">d{}@", r))) << row.name;
    for (std::int32_t r = 0; r < row.holders; ++r)
      EXPECT_EQ(planned(Side::source, r), expected(fmt::format("s{}>", r), "")) << row.name;
    const auto copies = std::ranges::count(all, '>');
    const auto to_self = std::ranges::count(all, '=');
    EXPECT_EQ(std::ssize(all_copies(planner)), copies) << row.name;
    EXPECT_EQ(traffic(planner).copies, copies - to_self) << row.name;
    Sum128 hash_of_all;
    planner.for_each_copy([&](const Copy& copy) { hash_of_all += hash(copy, hash_factor("t0")); });
    EXPECT_EQ(traffic(planner).hash, hash_of_all) << row.name;
  }
}

/// The byte matrix of one tensor by devices, of which two are a domain: takers that have a holder on their device, or
/// else in their domain, share those holders; the others share all.
TEST(PlanHolders, NearOnesComeFirst) {
  const std::vector<Tensor> tensors{{0, "t0", {6'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const std::int64_t part = tensors[0].bytes() / 12;
  struct Row {
    const char* name;
    Replicas replicas;
    std::vector<std::int64_t> devices;
    std::vector<std::vector<std::int64_t>> matrix;  ///< in twelfths of the tensor
  };
  const Row rows[] = {{"GPUs 0 1 0 1", {2, 1, 1, 2}, {0, 1, 0, 1}, {{6, 0}, {0, 6}}},
                      {"GPUs 0 1 1 0", {2, 1, 1, 2}, {0, 1, 1, 0}, {{0, 6}, {6, 0}}},
                      {"all on one", {2, 1, 1, 2}, {0, 0, 0, 0}, {{3, 3}, {3, 3}}},
                      {"a device each", {2, 1, 1, 2}, {0, 4, 8, 12}, {{3, 3}, {3, 3}}},
                      {"in the other's domain", {2, 1, 1, 2}, {0, 2, 3, 1}, {{0, 6}, {6, 0}}},
                      {"two holders on a device", {3, 1, 2, 1}, {0, 0, 2, 0, 4}, {{6, 4}, {6, 4}, {0, 4}}},
                      {"a device before a domain", {2, 1, 2, 1}, {0, 1, 1, 8}, {{0, 6}, {12, 6}}},
                      {"one near, two far", {2, 1, 3, 1}, {0, 8, 0, 4, 4}, {{12, 12, 0}, {0, 0, 12}}}};
  for (const Row& row : rows) {
    const MeshLayout source = rows_layout(tensors, row.replicas.train_dp, row.replicas.train_tp);
    const MeshLayout destination = rows_layout(tensors, row.replicas.gen_dp, row.replicas.gen_tp);
    const Placement placement = listed({source.ranks(), destination.ranks()}, row.devices, 2);
    auto matrix = traffic(Planner(tensors, source, destination, {.placement = placement}), {.matrix = true}).matrix;
    for (auto& sent : matrix) {
      for (std::int64_t& bytes : sent) bytes /= part;
    }
    // The first holder is the overlap's turn: either of equals.
    EXPECT_EQ(matrix, row.matrix) << row.name;
  }
}

/// One holder, three replicas, one of them on its GPU: that one takes all of the box from it, and the others get half
/// of it each and forward that, so that the holder's device sends the box once.
TEST(PlanFanOut, LeavesOutWhoHasAHolderOnItsDevice) {
  const std::vector<Tensor> tensors{{0, "t0", {6'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
  const MeshLayout source = rows_layout(tensors, 1, 1);
  const MeshLayout destination = rows_layout(tensors, 3, 1);
  const Placement placement = listed({1, 3}, std::vector<std::int64_t>{0, 0, 1, 2}, 4);
  const Planner planner(tensors, source, destination, {.fan_out = {{0, 0, 0}}, .placement = placement});
  const Traffic all = traffic(planner, placement, {.matrix = true});
  const std::int64_t bytes = tensors[0].bytes();
  EXPECT_EQ(all.matrix, (std::vector<std::vector<std::int64_t>>{{bytes, bytes / 2, bytes / 2}}));
  EXPECT_EQ(all.local(), bytes);
  EXPECT_EQ(all.forwarded(), bytes);
  EXPECT_EQ(all.loads.sent[0].device, bytes);
  EXPECT_EQ(all.loads.forwarded_out[0].bytes, 0);
}

/// What a run knows of its ranks' devices and what a hardware file lists give one plan, whatever the numbers are.
TEST(PlanHolders, NumbersOfDevicesDoNotMatter) {
  const World world = random_world(25, true);
  const WorldMap map{world.source.ranks(), world.destination.ranks()};
  const Placement placement = random_placement(2, map);
  Placement other = placement;
  for (auto* sites : {&other.source, &other.destination}) {
    for (Placement::Site& site : *sites) site = {1000 - 3 * site.device, 7 - site.domain};
  }
  const Sum128 hash = traffic(world.planner(0, false, placement)).hash;
  EXPECT_EQ(traffic(world.planner(0, false, other)).hash, hash);
  EXPECT_NE(traffic(world.planner()).hash, hash);
}

TEST(PlanHolders, CutNothingSmall) {
  const std::vector<Tensor> tensors{{0, "t0", {64, 512}, DType::bf16, model::Role::unknown, -1, -1}};  // 64 KiB
  const MeshLayout source = rows_layout(tensors, 2, 1);
  const MeshLayout destination = rows_layout(tensors, 1, 1);
  EXPECT_EQ(all_copies(Planner(tensors, source, destination)).size(), 1u);
}

/// Boxes that are too small to be cut go to the holders in turn, those of one tensor too.
TEST(PlanHolders, TakeTurnsWithSmallBoxes) {
  std::vector<Tensor> tensors;
  for (std::int32_t i = 0; i < 4; ++i) {
    tensors.push_back({i, fmt::format("t{}", i), {64, 64}, DType::bf16, model::Role::unknown, -1, -1});
  }
  const MeshLayout source = rows_layout(tensors, 4, 1);
  const MeshLayout destination = rows_layout(tensors, 1, 4);
  const Traffic total = traffic(Planner(tensors, source, destination));
  EXPECT_EQ(total.copies, 16);
  EXPECT_EQ(total.egress_max(), 4 * 16 * 64 * 2);
  const std::vector<Tensor> first{tensors[0]};  // a planner keeps a reference
  const Traffic one = traffic(Planner(first, source, destination));
  EXPECT_EQ(one.egress_max(), 16 * 64 * 2);
}

/// A layout whose boxes overlap without being equal has no plan.
TEST(Holdings, RefuseBoxesThatOverlapInPart) {
  class Overlapping final : public layout::Layout {
   public:
    std::int32_t ranks() const override { return 2; }
    std::int32_t stage(Rank) const override { return 0; }
    std::int32_t stages() const override { return 1; }
    std::uint64_t placement_class(const Tensor&) const override { return 0; }
    std::optional<Format> format(const Tensor&) const override { return DType::bf16; }
    void pieces(const Tensor&, Rank rank, std::vector<Piece>& out) const override {
      out.push_back({{{2 * to_int(rank)}, {3}}, {{}, 0, {1}}, DType::bf16});
    }
    layout::Storage storage(const StorageKey& key, Rank) const override { return {key, "s", {3}, DType::bf16}; }
    void fills(const StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
    std::string coordinates(Rank) const override { return ""; }
  };
  const Tensor tensor{0, "some.weight", {5}, DType::bf16, model::Role::unknown, -1, -1};
  try {
    holdings(Overlapping(), tensor);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("some.weight"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("[0:3]"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("[2:5]"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace refit::plan
