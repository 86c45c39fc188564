// The executors' schedules against numbers worked out by hand, against published runs, and against the bound.

#include <gtest/gtest.h>

#include <algorithm>

#include "gen/vllm/layout.hpp"
#include "plan/model.hpp"
#include "plan/moved.hpp"
#include "plan/policy.hpp"
#include "support/random_layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::plan {
namespace {

/// Eight H100 a node: inputs/hardware/h100-50gbps.toml.
Machine h100(std::int64_t train_ranks, std::int64_t gen_ranks) {
  Machine machine;
  machine.rates.device_in = machine.rates.device_out = 370e9;
  machine.rates.domain_in = machine.rates.domain_out = 400e9;
  machine.rates.memory = 2930e9;
  machine.rates.launch_seconds = 20e-6;
  machine.placement = apart(train_ranks, gen_ranks, 1, 8);
  machine.broadcast = 100e9;
  return machine;
}

Knobs streams(std::int64_t number) {
  Knobs knobs;
  knobs.streams = number;
  knobs.per_stage = true;
  return knobs;
}

/// DeepSeek-V3, PP16xEP16 of 256 ranks to TP32xDP8.
struct DeepSeek {
  model::Model model =
      build_model(model::read_config(fmt::format("{}/inputs/models/deepseek-v3/config.json", REFIT_SOURCE_DIR)), false);
  std::unique_ptr<Layout> train, gen;
  Split split;
  Machine machine = h100(256, 256);

  DeepSeek() {
    train::megatron::Options train_options;
    train_options.sizes = layout::with_data_parallel(layout::parse_parallelism("PP16xDP16xEP16"));
    train_options.first_stage_layers = 3;
    train_options.last_stage_layers = 2;
    gen::vllm::Options gen_options;
    gen_options.sizes = layout::parse_parallelism("TP32xDP8");
    train = train::megatron::make_layout(model, train_options);
    gen = gen::vllm::make_layout(model, gen_options);
    split = plan::split(model, Policy::whitelist, *train, *gen, 1, 32);
  }
};

/// Stages one after the other: 16 times what all of them take at once.
TEST(Model, ExplainsDeepSeekByItsStages) {
  const DeepSeek world;
  const Planner planner(world.split.bulk, *world.train, *world.gen);
  const Loads loads = traffic(planner, world.machine.placement, {.hash = false}).loads;
  const Broadcasts all = broadcasts(world.split.bulk, *world.train, 64 << 20);
  EXPECT_EQ(all.total(), world.split.payload.bulk_bytes);
  const auto ordered = [](const ModelSeconds& model) { return fmt::format("{:.1f}", model.wire + model.schedule); };
  for (const auto& [number, expected] : {std::pair(1, "13.4"), {2, "6.7"}}) {
    const ModelSeconds golden = golden_seconds(all, loads, world.machine, streams(number));
    EXPECT_EQ(ordered(golden), expected) << number;
    EXPECT_EQ(golden.port, "device in");
    EXPECT_EQ(fmt::format("{:.2f}", golden.wire), "3.62");  // 1,340 GB into every device
  }
  // p2p: the busiest stages have four layers, and train's nodes send every shard to eight replicas.
  const ModelSeconds serial = p2p_seconds(loads, world.machine, streams(1));
  const ModelSeconds two = p2p_seconds(loads, world.machine, streams(2));
  const ModelSeconds sixteen = p2p_seconds(loads, world.machine, streams(16));
  EXPECT_NEAR(serial.wire + serial.schedule, 13.4, 0.3);
  EXPECT_NEAR(two.wire + two.schedule, 6.7, 0.3);
  EXPECT_EQ(sixteen.schedule, 0);
  EXPECT_NEAR(sixteen.wire, 0.91, 0.02);
  // The broadcasts of one communicator are in flight one at a time.
  Knobs single = streams(2);
  single.per_stage = false;
  EXPECT_EQ(ordered(golden_seconds(all, loads, world.machine, single)), "13.4");
}

/// `replicas` x `parts` ranks, every tensor cut by rows over the parts.
test_support::MeshLayout rows_layout(const std::vector<Tensor>& tensors, std::int64_t replicas, std::int64_t parts) {
  test_support::MeshLayout layout;
  layout.tensors = tensors;
  layout.mesh = {replicas, parts};
  layout.format_of = {DType::bf16};
  layout.storage_of.assign(tensors.size(), 0);
  layout.reversed.assign(tensors.size(), false);
  layout.cuts.assign(tensors.size(), {{1, 0, test_support::Rule::chunk}});
  return layout;
}

std::vector<Tensor> one_tensor(const Shape& shape) {
  return {{0, "t0", shape, DType::bf16, model::Role::unknown, -1, -1}};
}

/// 10 GB from one rank to two others, 100 GB/s a port.
TEST(Model, CountsPortsStagingAndSteps) {
  const std::vector<Tensor> tensors = one_tensor({5'000'000, 1'000});
  const auto source = rows_layout(tensors, 1, 1);
  const auto replicas = rows_layout(tensors, 2, 1);
  Machine machine;
  machine.rates.device_in = machine.rates.device_out = 100e9;
  machine.rates.memory = 2000e9;
  machine.rates.launch_seconds = 1e-3;
  machine.placement = apart(1, 2, 1, 4);
  const Loads loads = traffic(Planner(tensors, source, replicas), machine.placement).loads;
  const ModelSeconds direct = direct_seconds(loads, machine, Knobs());
  EXPECT_DOUBLE_EQ(direct.wire, 0.2);
  EXPECT_EQ(direct.port, "device out");
  EXPECT_EQ(direct.term, "wire");
  EXPECT_DOUBLE_EQ(direct.total, 0.2 + 1e-3);  // one launch
  const Loads shared =
      traffic(Planner(tensors, source, replicas, {.fan_out = {domains_of_neighbours(replicas.ranks(), 2)}}),
              machine.placement)
          .loads;
  EXPECT_DOUBLE_EQ(direct_seconds(shared, machine, Knobs()).wire, 0.1);  // each forwards its half
  EXPECT_EQ(direct_seconds(shared, machine, Knobs(), 10).schedule, 0);   // of what nobody hands on there are no parts

  // A broadcast is on its way once, packed and placed before and after: 20 GB read and 20 GB written.
  const Broadcasts all = broadcasts(tensors, source, 64 << 20);
  EXPECT_EQ(all.count, std::vector<std::int64_t>{150});
  const ModelSeconds golden = golden_seconds(all, loads, machine, Knobs());
  EXPECT_DOUBLE_EQ(golden.wire, 0.1);
  EXPECT_DOUBLE_EQ(golden.schedule, 0);
  EXPECT_DOUBLE_EQ(golden.staging, 0.02);
  EXPECT_DOUBLE_EQ(golden.latency, 0.15);
  EXPECT_EQ(golden.term, "latency");

  // Columns are not contiguous at the source: p2p packs them while they travel, but for the first chunk and the last.
  auto columns = rows_layout(tensors, 1, 2);
  columns.cuts.front() = {{1, 1, test_support::Rule::chunk}};
  const Loads strided = traffic(Planner(tensors, source, columns), machine.placement).loads;
  EXPECT_EQ(strided.sent.front().staged, 10'000'000'000);
  EXPECT_EQ(strided.received.front().front().staged, 0);
  const ModelSeconds p2p = p2p_seconds(strided, machine, Knobs());
  EXPECT_DOUBLE_EQ(p2p.wire, 0.1);
  EXPECT_DOUBLE_EQ(p2p.staging, 2.0 * (64 << 20) / 1000e9);
  EXPECT_DOUBLE_EQ(p2p.latency, 38e-3);  // 149.01 chunks on four lanes

  // Ranks that share a memory have all of it in one queue: 20 GB of copies, read and written, and 10 GB packed.
  machine.rates.memory_is_shared = true;
  machine.rates.memory = 100e9;
  for (auto* sites : {&machine.placement.source, &machine.placement.destination})
    for (Placement::Site& site : *sites) site.domain = 0;
  EXPECT_DOUBLE_EQ(direct_seconds(loads, machine, Knobs()).wire, 0.4);
  EXPECT_EQ(direct_seconds(loads, machine, Knobs()).port, "memory");
  const Loads on_one_host = traffic(Planner(tensors, source, columns), machine.placement).loads;
  EXPECT_DOUBLE_EQ(p2p_seconds(on_one_host, machine, Knobs()).staging, 0.2);
}

/// direct sends the form that the destination stores; all others send the source's.
TEST(Model, CountsBytesInTheFormThatTravels) {
  Copy copy;
  copy.box = Box{{0, 0}, {30, 10}};
  copy.source.format.dtype = DType::f32;
  copy.destination.format.dtype = DType::bf16;
  const Planner::Lie lie;
  for (const auto& [form, bytes] : {std::pair(Form::sent, 1200), {Form::stored, 600}}) {
    const std::vector<Tensor> tensors = one_tensor({30, 10});
    const auto layout = rows_layout(tensors, 1, 1);
    Loads loads(layout, 1);
    loads.add(copy, 2, lie, apart(1, 1), form);
    EXPECT_EQ(loads.sent.front().device, 2 * bytes);
    EXPECT_EQ(loads.received_by(0).device, 2 * bytes);
    EXPECT_EQ(loads.sent.front().memory, 2 * 1200);
    EXPECT_EQ(loads.received_by(0).memory, 2 * 600);
  }
}

/// A matrix that both rank 0's have twice: the stream has it once, and gen's rank stores it twice.
TEST(Model, CountsThePlacesThatMiscFills) {
  const std::vector<Tensor> tensors = one_tensor({100, 10});
  auto twice = rows_layout(tensors, 2, 1);
  twice.most_places = {2};
  EXPECT_EQ(twice.places(tensors[0], Rank{1}), 2);
  // Ranks in reverse, so that rank 0 is the one that has it twice.
  class Reversed final : public layout::Layout {
   public:
    explicit Reversed(const test_support::MeshLayout& mesh) : mesh_(mesh) {}
    std::int32_t ranks() const override { return mesh_.ranks(); }
    std::int32_t stage(Rank) const override { return 0; }
    std::int32_t stages() const override { return 1; }
    std::uint64_t placement_class(const Tensor& tensor) const override { return mesh_.placement_class(tensor); }
    std::optional<Format> format(const Tensor& tensor) const override { return mesh_.format(tensor); }
    void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
      mesh_.pieces(tensor, Rank{ranks() - 1 - to_int(rank)}, out);
    }
    layout::Storage storage(const layout::StorageKey& key, Rank rank) const override {
      return mesh_.storage(key, Rank{ranks() - 1 - to_int(rank)});
    }
    void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
    std::string coordinates(Rank) const override { return ""; }

   private:
    const test_support::MeshLayout& mesh_;
  };
  const MiscLoad load = misc_load(tensors, Reversed(twice), Reversed(twice), 1'000'000);
  EXPECT_EQ(load.bytes, 2000);
  EXPECT_EQ(load.gathered, 0);
  EXPECT_EQ(load.kept, 4000);
}

/// 10 GB of misc, half of it on train rank 0; 2 gen ranks store halves.
TEST(Model, SendsMiscThroughOnePort) {
  const std::vector<Tensor> tensors = one_tensor({5'000'000, 1'000});
  const auto source = rows_layout(tensors, 1, 2);
  const auto destination = rows_layout(tensors, 1, 2);
  const MiscLoad load = misc_load(tensors, source, destination, 1'000'000'000);
  EXPECT_EQ(load.bytes, 10'000'000'000);
  EXPECT_EQ(load.gathered, 5'000'000'000);
  EXPECT_EQ(load.kept, 5'000'000'000);
  EXPECT_EQ(load.buffers, 10);
  Machine machine;
  machine.rates.device_in = machine.rates.device_out = 100e9;
  machine.rates.memory = 2000e9;
  machine.rates.launch_seconds = 1e-3;
  machine.placement = apart(2, 2, 1, 4);
  ModelSeconds model;
  add_misc(load, machine, model);
  // The broadcast, the first buffer's gathering, a buffer packed and placed, and two steps for each of ten.
  EXPECT_DOUBLE_EQ(model.misc, 0.1 + 0.05 / 10 + 0.01 / 10 + 0.02);
  EXPECT_EQ(model.term, "misc");
  machine.broadcast = 10e9;  // the sides are two domains
  ModelSeconds apart_model;
  add_misc(load, machine, apart_model);
  EXPECT_GT(apart_model.misc, 1.0);
}

/// Three hosts: train's halves on hosts 0 and 1, two replicas on hosts 1 and 2; 20 kB, links of 1 kB/s.
struct Hosts {
  std::vector<Tensor> tensors = one_tensor({1'000, 10});
  test_support::MeshLayout source = rows_layout(tensors, 1, 2), destination = rows_layout(tensors, 2, 1);
  Machine machine;
  std::vector<Tensor> none;

  Hosts() {
    machine.rates.device_in = machine.rates.device_out = 1e9;
    machine.rates.domain_in = machine.rates.domain_out = 1e3;
    machine.rates.memory = 1e12;
    machine.rates.memory_is_shared = true;
    machine.placement = {{{0, 0}, {1, 1}}, {{2, 1}, {3, 2}}};
  }
  Loads loads() const {
    return traffic(Planner(tensors, source, destination, {.placement = machine.placement}), machine.placement).loads;
  }
};

/// A half goes from host to host: that of host 0 to 1 and 2, that of host 1 to 2 and 0. Host 2 takes in both, and host
/// 1 sends both.
TEST(Model, BroadcastsFromHostToHost) {
  Hosts hosts;
  const Broadcasts all = broadcasts(hosts.tensors, hosts.source, 1 << 20);
  const ModelSeconds golden = golden_seconds(all, hosts.loads(), hosts.machine, Knobs());
  EXPECT_NEAR(golden.wire, 20, 1e-3);
  EXPECT_EQ(golden.port, "domain in");
  hosts.machine.rates.each_domain_in = {1e3, 1e3, 1e3};
  hosts.machine.rates.each_domain_out = {1e3, 0.5e3, 1e3};
  EXPECT_NEAR(golden_seconds(all, hosts.loads(), hosts.machine, Knobs()).wire, 40, 1e-3);
  hosts.machine.rates.each_domain_out.clear();
  hosts.machine.rates.messages = 500;  // within host 1: both halves to its other rank
  EXPECT_NEAR(golden_seconds(all, hosts.loads(), hosts.machine, Knobs()).wire, 40, 1e-3);

  const Paths paths{hosts.tensors, hosts.none, hosts.source, hosts.destination};
  const Wire wire = moved_by(paths, hosts.loads(), hosts.machine.placement, all, false).wire;
  EXPECT_EQ(wire.bytes, 60'000);
  EXPECT_EQ(wire.between_hosts_bytes, 40'000);
  EXPECT_EQ(wire.within_hosts_bytes, 20'000);
}

/// Misc gathers host 1's half, and sends all to hosts 1 and 2, one after the other.
TEST(Model, SendsMiscFromHostToHost) {
  Hosts hosts;
  const MiscLoad load =
      misc_load(hosts.tensors, hosts.source, hosts.destination, 1 << 20, false, hosts.machine.placement);
  EXPECT_EQ(load.gathered, 10'000);
  EXPECT_EQ(load.gathered_far, 10'000);
  ModelSeconds model;
  add_misc(load, hosts.machine, model);
  EXPECT_NEAR(model.misc, 30, 1e-3);

  const Paths paths{hosts.none, hosts.tensors, hosts.source, hosts.destination};
  const Wire wire = moved_by(paths, Loads(hosts.source, 2), hosts.machine.placement, std::nullopt, false).wire;
  EXPECT_EQ(wire.between_hosts_bytes, 50'000);
  EXPECT_EQ(wire.within_hosts_bytes, 0);
}

/// Planned copies: the half that is on host 1 does not cross for the replica there.
TEST(Model, CountsWhatCrossesBetweenHosts) {
  Hosts hosts;
  const Paths paths{hosts.tensors, hosts.none, hosts.source, hosts.destination};
  const Wire wire = moved_by(paths, hosts.loads(), hosts.machine.placement, std::nullopt, false).wire;
  EXPECT_EQ(wire.between_hosts_bytes, 30'000);
  EXPECT_EQ(wire.within_hosts_bytes, 10'000);
  EXPECT_NEAR(p2p_seconds(hosts.loads(), hosts.machine, Knobs()).wire, 20, 1e-3);
  EXPECT_NEAR(direct_seconds(hosts.loads(), hosts.machine, Knobs()).wire, 20, 1e-3);
  hosts.machine.rates.messages = 200;  // of p2p; direct stores
  EXPECT_NEAR(p2p_seconds(hosts.loads(), hosts.machine, Knobs()).wire, 50, 1e-3);
  EXPECT_NEAR(direct_seconds(hosts.loads(), hosts.machine, Knobs()).wire, 20, 1e-3);
}

/// For any layouts: no executor is faster than the bytes that must enter or leave a device; more streams do not slow it
/// down; and each rank's counts of its own copies add up to the world's totals.
TEST(Model, IsNeverBelowTheBoundsPorts) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    std::vector<Tensor> tensors = test_support::random_tensors(random, 6, 40);
    const auto source = test_support::random_layout(random, tensors);
    const auto destination = test_support::random_layout(random, tensors);
    Machine machine;
    const auto rate = [&] { return static_cast<double>(1 + random() % 100) * 1e3; };
    machine.rates.device_in = machine.rates.device_out = rate();
    machine.rates.domain_in = machine.rates.domain_out = random() % 2 == 0 ? rate() : 0;
    machine.rates.memory = 100 * rate();
    machine.rates.memory_is_shared = random() % 4 == 0;
    if (machine.rates.memory_is_shared) machine.rates.domain_in = machine.rates.domain_out = machine.rates.device_in;
    const auto neighbours = static_cast<std::int64_t>(1 + random() % 3);
    const WorldMap map{source.ranks(), destination.ranks(), seed % 3 == 0};
    const auto place = map.colocated ? colocated : apart;
    if (!machine.rates.memory_is_shared)
      machine.placement = place(source.ranks(), destination.ranks(), 1, neighbours);
    else
      machine.placement = place(source.ranks(), destination.ranks(), 1, 1);
    const Planner planner(tensors, source, destination, {.colocated = map.colocated});
    const Traffic total = traffic(planner, machine.placement);

    Loads own(source, destination.ranks());
    for (std::int32_t r = 0; r < map.size(); ++r) {
      const std::vector<Copy> copies = planner.rank_plan(map.own(r)).copies;
      own.put(map.own(r), loads_of(copies, map.own(r), source, machine.placement, Form::sent));
    }
    for (std::size_t r = 0; r < own.sent.size(); ++r) {
      EXPECT_EQ(own.sent[r].bytes, total.loads.sent[r].bytes);
      EXPECT_EQ(own.sent[r].domain, total.loads.sent[r].domain);
      EXPECT_EQ(own.sent[r].copies, total.loads.sent[r].copies);
      EXPECT_EQ(own.sent[r].self_bytes, total.loads.sent[r].self_bytes);
    }
    for (std::size_t r = 0; r < own.forwarded_in.size(); ++r) {
      EXPECT_EQ(own.received_by(r).device, total.loads.received_by(r).device);
      EXPECT_EQ(own.received_by(r).memory, total.loads.received_by(r).memory);
      EXPECT_EQ(own.received_by(r).self_copies, total.loads.received_by(r).self_copies);
    }

    const Bound bound = lower_bound(tensors, source, destination, machine.rates, machine.placement);
    const double ports = std::max(bound.seconds.ingress, bound.seconds.egress);
    const Broadcasts all = broadcasts(tensors, source, 64, map.colocated ? &destination : nullptr);
    for (const std::int64_t number : {1, 4}) {
      EXPECT_GE(p2p_seconds(total.loads, machine, streams(number)).total * (1 + 1e-9), ports);
      EXPECT_GE(golden_seconds(all, total.loads, machine, streams(number)).total * (1 + 1e-9), bound.seconds.ingress);
    }
    EXPECT_GE(direct_seconds(total.loads, machine, Knobs()).total * (1 + 1e-9), ports);
    EXPECT_GE(p2p_seconds(total.loads, machine, streams(1)).schedule + 1e-12,
              p2p_seconds(total.loads, machine, streams(4)).schedule);
  }
}

/// Two domains of one replica each: the second gets from the first what that has from the holder, a part later.
TEST(Model, HandingOnTakesAPartForEachHop) {
  const std::vector<Tensor> tensors{{0, "t0", {50'000, 1'000}, DType::bf16, model::Role::unknown, -1, -1}};
  const auto source = rows_layout(tensors, 1, 1);
  const auto replicas = rows_layout(tensors, 3, 1);
  const Placement placement{{{0, 0}}, {{1, 1}, {2, 2}, {3, 3}}};
  Machine machine{{}, placement, 0};
  machine.rates.domain_in = machine.rates.domain_out = machine.rates.device_in = machine.rates.device_out = 1e9;
  machine.rates.launch_seconds = 1e-3;
  Rules rules;
  rules.fan_out = {domains_of(placement), true};
  rules.placement = placement;
  const Loads loads = traffic(Planner(tensors, source, replicas, rules), placement).loads;
  EXPECT_DOUBLE_EQ(handing_on_seconds(loads, 0.1, machine.rates, 10), 0.1 * 2 / 10 + 12e-3);
  const ModelSeconds model = direct_seconds(loads, machine, Knobs(), 10);
  EXPECT_DOUBLE_EQ(model.wire, 0.1);  // each link carries 100 MB once in each direction
  EXPECT_DOUBLE_EQ(model.schedule, 0.1 * 2 / 10 + 12e-3);
  rules.fan_out = {};
  const Loads alone = traffic(Planner(tensors, source, replicas, rules), placement).loads;
  EXPECT_EQ(handing_on_seconds(alone, 0.3, machine.rates, 10), 0);
}

TEST(HandedOn, HasPartsOfAMebibyteAtLeast) {
  const auto parts = [](std::int64_t rows) {
    return HandedOn().parts({{0, "t0", {rows, 1 << 19}, DType::bf16, model::Role::unknown, -1, -1}});  // rows of 1 MiB
  };
  EXPECT_EQ(parts(1), 1);
  EXPECT_EQ(parts(7), 7);
  EXPECT_EQ(parts(24), 24);
  EXPECT_EQ(parts(25), 24);
  EXPECT_EQ(HandedOn().parts({}), 1);
}

}  // namespace
}  // namespace refit::plan
