// No plan is below the lower bound. Layouts, precisions, devices, domains and fan-out are random, and the plan's copies
// are counted here port by port.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>

#include "layout/joined_layout.hpp"
#include "plan/cost.hpp"
#include "support/random_layout.hpp"

namespace refit::plan {
namespace {

using test_support::MeshLayout;
using Site = Placement::Site;

constexpr std::uint64_t kWorlds = 400;

struct World {
  std::vector<Tensor> tensors;
  MeshLayout source;
  std::unique_ptr<Layout> destination;  ///< of one engine, or of several
  Placement placement;
  std::int64_t ranks_per_device = 1;
  std::int64_t domain_ranks = 0;  ///< of fan-out
  bool hands_on = false;          ///< between the domains of `placement`
  bool apart = true;              ///< the sides share no device
  bool colocated = false;         ///< rank r of either side is one process

  Planner planner() const {
    return {tensors,
            source,
            *destination,
            {hands_on ? FanOutRules{domains_of(placement), true}
                      : FanOutRules{domains_of_neighbours(destination->ranks(), domain_ranks)},
             colocated,
             placement,
             {}}};
  }
};

/// One to three engines, each with a mesh and dtypes of its own.
std::unique_ptr<Layout> random_engines(std::mt19937_64& random, const std::vector<Tensor>& tensors) {
  std::vector<layout::JoinedLayout::Engine> engines(1 + random() % 3);
  for (auto& [layout, ranks] : engines) {
    MeshLayout mesh = test_support::random_layout(random, tensors);
    if (random() % 6 == 0) test_support::repeat_some(random, mesh);
    layout = std::make_unique<MeshLayout>(std::move(mesh));
    ranks = layout->ranks();
  }
  if (engines.size() == 1) return std::move(engines.front().layout);
  return std::make_unique<layout::JoinedLayout>(std::move(engines));
}

/// Devices in blocks or in turns, domains of neighbouring devices; the gen side behind train's devices or on them.
World random_world(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  World world;
  world.tensors = test_support::random_tensors(random, 8, 6);
  const Shape large[] = {{70'001}, {1, 300, 200}, {3, 40'000}, {257, 129, 2}, {2, 2, 90, 130}};
  for (Tensor& tensor : world.tensors) {
    if (random() % 4 == 0) tensor.shape = large[random() % std::size(large)];
  }
  world.source = test_support::random_layout(random, world.tensors);
  world.destination = random_engines(random, world.tensors);
  world.ranks_per_device = static_cast<std::int64_t>(1 + random() % 3);
  const auto devices_per_domain = static_cast<std::int64_t>(1 + random() % 4);
  world.placement = apart(world.source.ranks(), world.destination->ranks(), world.ranks_per_device, devices_per_domain);
  if (random() % 3 == 0) {
    world.apart = false;
    world.colocated = true;
    world.placement =
        colocated(world.source.ranks(), world.destination->ranks(), world.ranks_per_device, devices_per_domain);
  } else if (random() % 2 == 0) {
    world.apart = false;
    const auto devices = static_cast<std::int32_t>(1 + random() % 6);
    for (auto* sites : {&world.placement.source, &world.placement.destination}) {
      for (std::size_t rank = 0; rank < sites->size(); ++rank) {
        const auto device = static_cast<std::int32_t>(random() % 3 == 0 ? random() : rank) % devices;
        (*sites)[rank] = {std::abs(device), std::abs(device) / static_cast<std::int32_t>(devices_per_domain)};
      }
    }
  }
  const std::int64_t fan_outs[] = {0, 2, 3, 4, world.destination->ranks()};
  world.domain_ranks = fan_outs[random() % std::size(fan_outs)];
  world.hands_on = world.domain_ranks == 4;
  return world;
}

using Bytes = std::map<std::int32_t, std::int64_t>;

std::int64_t busiest(const Bytes& bytes) {
  std::int64_t most = 0;
  for (const auto& [number, amount] : bytes) most = std::max(most, amount);
  return most;
}

/// The bytes that a plan's copies put through every port, in the narrowest form, and read and write.
struct Counted {
  Bytes device_out, device_in, domain_out, domain_in, memory, host_memory;
  bool casts = false;

  explicit Counted(const World& world) {
    world.planner().for_each_copy([&](const Copy& copy) {
      const bool forwarded = copy.is_from_taker();
      const auto& senders = forwarded ? world.placement.destination : world.placement.source;
      const Site from = senders.at(static_cast<std::size_t>(to_int(copy.source.rank)));
      const Site to = world.placement.destination.at(static_cast<std::size_t>(to_int(copy.destination.rank)));
      const Tensor& tensor = world.tensors[std::size_t(copy.tensor)];
      const std::int64_t stored = byte_size(world.source.format(tensor)->dtype);
      const std::int64_t wanted = byte_size(copy.destination.format.dtype);
      const std::int64_t wire = copy.elements() * std::min(stored, wanted);
      casts = casts || copy.source.format != copy.destination.format;
      if (from.device != to.device) {
        device_out[from.device] += wire;
        device_in[to.device] += wire;
      }
      if (from.domain != to.domain) {
        domain_out[from.domain] += wire;
        domain_in[to.domain] += wire;
      }
      const std::int64_t read = copy.elements() * (forwarded ? wanted : stored);
      memory[from.device] += read;
      memory[to.device] += copy.elements() * wanted;
      host_memory[from.domain] += read;
      host_memory[to.domain] += copy.elements() * wanted;
    });
  }
};

bool is_stored_once(const Layout& layout, const Tensor& tensor) {
  return std::ranges::all_of(holdings(layout, tensor), [](const Holding& each) { return each.repeats.empty(); });
}

TEST(Bound, IsBelowEveryRandomPlan) {
  std::int64_t with_fan_out = 0, with_network = 0, with_casts = 0, with_engines = 0, with_forms = 0, ratios = 0;
  std::int64_t exact_colocated = 0, stored_repeatedly = 0;
  for (std::uint64_t seed = 1; seed <= kWorlds; ++seed) {
    const World world = random_world(seed);
    const Counted counted(world);
    Rates hosts;
    hosts.memory_is_shared = true;
    const Bound bound = lower_bound(world.tensors, world.source, *world.destination, {}, world.placement);
    const Bound on_hosts = lower_bound(world.tensors, world.source, *world.destination, hosts, world.placement);
    SCOPED_TRACE(fmt::format("seed {}, fan-out {}", seed, world.domain_ranks));
    EXPECT_LE(bound.device.ingress, busiest(counted.device_in));
    EXPECT_LE(bound.device.egress, busiest(counted.device_out));
    EXPECT_LE(bound.device.fanout, busiest(counted.device_out));
    EXPECT_LE(bound.domain.ingress, busiest(counted.domain_in));
    EXPECT_LE(bound.domain.egress, busiest(counted.domain_out));
    EXPECT_LE(bound.domain.fanout, busiest(counted.domain_out));
    EXPECT_LE(bound.memory, busiest(counted.memory));
    EXPECT_LE(on_hosts.memory, busiest(counted.host_memory));
    with_fan_out += world.domain_ranks > 1 ? 1 : 0;
    with_network += busiest(counted.domain_in) > 0 ? 1 : 0;
    with_casts += counted.casts ? 1 : 0;
    with_engines += world.destination->engines() > 1 ? 1 : 0;
    with_forms += layout::find_unlike_form(*world.destination, world.tensors) ? 1 : 0;
    // The bound is also large enough: where every rank has a device of its own, each takes in just the boxes that it
    // lacks, those of which it has several places more than once.
    const bool once = std::ranges::all_of(
        world.tensors, [&](const Tensor& tensor) { return is_stored_once(*world.destination, tensor); });
    stored_repeatedly += once ? 0 : 1;
    if (!once) continue;
    if (world.apart && world.ranks_per_device == 1) {
      EXPECT_EQ(bound.device.ingress, busiest(counted.device_in));
      ++ratios;
    }
    // Colocated ranks take what they hold from themselves, and so no rank takes in more than it lacks.
    if (world.colocated && world.ranks_per_device == 1) {
      EXPECT_EQ(bound.device.ingress, busiest(counted.device_in));
      ++exact_colocated;
    }
  }
  std::cout << fmt::format(
      "seeds 1 to {}: {} with fan-out, {} with a network, {} with casts, {} with engines, {} of unlike "
      "forms, {} exact\n",
      kWorlds, with_fan_out, with_network, with_casts, with_engines, with_forms, ratios);
  EXPECT_GT(with_fan_out, 100);
  EXPECT_GT(with_network, 100);
  EXPECT_GT(with_casts, 100);
  EXPECT_GT(with_engines, 100);
  EXPECT_GT(with_forms, 50);
  EXPECT_GT(ratios, 25);
  EXPECT_GT(exact_colocated, 25);
  EXPECT_GT(stored_repeatedly, 40);
}

/// `replicas` x `parts` ranks, every tensor cut by rows over the parts.
MeshLayout rows_layout(const std::vector<Tensor>& tensors, std::int64_t replicas, std::int64_t parts, DType dtype) {
  MeshLayout layout;
  layout.tensors = tensors;
  layout.mesh = {replicas, parts};
  layout.format_of = {dtype};
  layout.storage_of.assign(tensors.size(), 0);
  layout.reversed.assign(tensors.size(), false);
  layout.cuts.assign(tensors.size(), {{1, 0, test_support::Rule::chunk}});
  return layout;
}

const std::vector<Tensor> kOne{{0, "t0", {6'000, 500}, DType::bf16, model::Role::unknown, -1, -1}};
constexpr std::int64_t kElements = 3'000'000;

/// The narrower side may be either: a cast can be at both ends.
TEST(Bound, CountsTheNarrowerForm) {
  for (const auto& [train, gen, width, memory] : {std::tuple(DType::f32, DType::bf16, 2, 4),
                                                  {DType::bf16, DType::f32, 2, 4},
                                                  {DType::f32, DType::f32, 4, 4},
                                                  {DType::bf16, DType::f8_e4m3, 1, 2}}) {
    const Bound bound =
        lower_bound(kOne, rows_layout(kOne, 1, 1, train), rows_layout(kOne, 1, 1, gen), {}, apart(1, 1));
    EXPECT_EQ(bound.device.ingress, width * kElements);
    EXPECT_EQ(bound.device.egress, width * kElements);
    EXPECT_EQ(bound.memory, memory * kElements);  // of the side that stores more
  }
}

/// Scales that an engine stores for finer blocks cross a link once.
TEST(Bound, CountsRepeatedScalesOnce) {
  std::vector<Tensor> scales{{0, "scales", {10, 2, 20, 2}, DType::f32, model::Role::unknown, -1, -1}};
  scales.front().repeats = 2;
  const MeshLayout one = rows_layout(scales, 1, 1, DType::f32);
  const Bound bound = lower_bound(scales, one, one, {}, apart(1, 1));
  EXPECT_EQ(bound.device.ingress, 4 * 200);
  EXPECT_EQ(bound.memory, 4 * 800);
}

/// Two nodes of two ranks share each node's memory: the bound has all stores of both gen ranks, and one read of each
/// box that they lack.
TEST(Bound, CountsTheMemoryOfEachNode) {
  Rates hosts;
  hosts.memory_is_shared = true;
  hosts.memory = 1e9;
  const MeshLayout train = rows_layout(kOne, 1, 2, DType::bf16), gen = rows_layout(kOne, 2, 1, DType::bf16);
  const Placement one{{{0, 0}, {1, 0}}, {{2, 0}, {3, 0}}}, two{{{0, 0}, {1, 0}}, {{2, 1}, {3, 1}}};
  EXPECT_EQ(lower_bound(kOne, train, gen, hosts, one).memory, 3 * 2 * kElements);
  EXPECT_EQ(lower_bound(kOne, train, gen, hosts, two).memory, 2 * 2 * kElements);
  EXPECT_EQ(lower_bound(kOne, train, gen, hosts, two).domain.ingress, 2 * kElements);
}

}  // namespace
}  // namespace refit::plan
