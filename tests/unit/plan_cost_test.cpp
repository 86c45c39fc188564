// The lower bound against numbers worked out by hand and against the published table.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>

#include "gen/vllm/layout.hpp"
#include "plan/cost.hpp"
#include "plan/model.hpp"
#include "plan/traffic.hpp"
#include "support/random_layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::plan {
namespace {

struct Row {
  const char *model, *train, *gen;
  double device_rate;
  std::int64_t devices_per_domain;
  double domain_rate;
  const char* expected;  ///< milliseconds
  const char* term;
};

Rates ports(double device_rate, double domain_rate = 0) {
  Rates rates;
  rates.device_in = rates.device_out = device_rate;
  rates.domain_in = rates.domain_out = domain_rate;
  return rates;
}

/// A published model, and how both sides keep it.
struct Sides {
  model::Model model;
  std::unique_ptr<Layout> train, gen;

  Sides(const char* name, const char* train_layout, const char* gen_layout) {
    const auto config = model::read_config(fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, name));
    model = build_model(config, false);
    train::megatron::Options train_options;
    train_options.sizes = layout::with_data_parallel(layout::parse_parallelism(train_layout));
    gen::vllm::Options gen_options;
    gen_options.sizes = layout::parse_parallelism(gen_layout);
    EXPECT_TRUE(train::megatron::violations(model, train_options).empty());
    EXPECT_TRUE(gen::vllm::violations(model, gen_options).empty());
    train = train::megatron::make_layout(model, train_options);
    gen = gen::vllm::make_layout(model, gen_options);
  }
};

/// `placement`: nullopt = the sides apart, `row.devices_per_domain` devices each.
Bound bound_of(const Row& row, const Rates& rates, const std::optional<Placement>& placement = std::nullopt) {
  const Sides sides(row.model, row.train, row.gen);
  return lower_bound(
      sides.model.tensors, *sides.train, *sides.gen, rates,
      placement ? *placement : apart(sides.train->ranks(), sides.gen->ranks(), 1, row.devices_per_domain));
}

/// A rank that stores a box three times receives it once at least, and writes it three times.
TEST(Bound, CountsEveryPlaceInMemoryAndOneOnTheWire) {
  const std::vector<Tensor> tensors{{0, "t0", {100, 10}, DType::bf16, model::Role::unknown, -1, -1}};
  test_support::MeshLayout source;
  source.tensors = tensors;
  source.mesh = {1};
  source.cuts = {{}};
  source.storage_of = {0};
  source.reversed = {false};
  source.format_of = {DType::bf16};
  test_support::MeshLayout destination = source;
  destination.mesh = {3};
  destination.most_places = {3};
  const Bound bound = lower_bound(tensors, source, destination, {}, apart(1, 3));
  EXPECT_EQ(bound.device.ingress, 2000);
  EXPECT_EQ(bound.memory, 3 * 2000);  // of rank 2; the source reads 2,000
}

TEST(Bound, IsAsPublished) {
  const Row rows[] = {{"qwen3-8b", "TP2", "TP2", 370e9, 1, 0, "22.1", "ingress"},
                      {"qwen3-8b", "TP2", "DP2", 370e9, 1, 0, "44.3", "ingress"},
                      {"qwen3-8b", "DP2", "TP2", 370e9, 1, 0, "22.1", "ingress"},
                      {"qwen3-8b", "TP1", "DP3", 370e9, 3, 0, "44.3", "ingress"},
                      // The same behind ports of their own: whoever has a part can pass it on.
                      {"qwen3-8b", "TP1", "DP3", 370e9, 1, 0, "44.3", "ingress"},
                      {"qwen3-8b", "PP2", "TP2", 370e9, 1, 0, "22.1", "ingress"},
                      {"qwen3-0.6b", "TP2", "TP2", 370e9, 1, 0, "1.6", "ingress"},
                      // 82.5 is half of the 61.1 GB; routers and norms, 25 MB, go whole to both.
                      {"qwen3-30b-a3b", "EP2", "TP2", 370e9, 1, 0, "82.6", "ingress"},
                      // 50 GB/s of network for every GPU.
                      {"qwen3-4b", "DP8", "TP8", 50e9, 1, 0, "20.1", "ingress"},
                      {"qwen3-30b-a3b", "EP8xPP2xDP8", "TP8xDP2", 370e9, 8, 400e9, "152.7", "ingress"},
                      // A domain of two train devices sends the whole model once, into one of both gen domains.
                      {"qwen3-8b", "TP2", "TP2xDP2", 370e9, 2, 400e9, "41.0", "ingress"}};
  for (const Row& row : rows) {
    const Bound bound = bound_of(row, ports(row.device_rate, row.domain_rate));
    EXPECT_EQ(fmt::format("{:.1f}", 1e3 * bound.total()), row.expected)
        << row.model << ' ' << row.train << " -> " << row.gen;
    EXPECT_EQ(bound.term(), row.term) << row.model << ' ' << row.train << " -> " << row.gen;
  }
}

/// Whoever shares a device or a domain needs no link for what is there. Qwen3-8B, 16.38 GB.
TEST(Bound, KnowsWhoSharesWhat) {
  using Sites = std::vector<Placement::Site>;
  struct Shared {
    const char *train, *gen;
    Sites source, destination;
    const char *ingress, *egress, *fanout, *memory;  ///< GB
  };
  const Shared rows[] = {
      // Three copies arrive, and four devices can send.
      {"TP1", "DP3", {{0, 0}}, {{1, 0}, {2, 0}, {3, 0}}, "16.4", "16.4", "12.3", "16.4"},
      // One gen rank beside the train rank: its copy is read and stored, and the link carries one for two ranks.
      {"TP1", "DP3", {{0, 0}}, {{0, 0}, {1, 0}, {1, 0}}, "16.4", "16.4", "8.2", "32.8"},
      // Ranks on devices 0 1 0 1: half of what a device needs is there.
      {"TP2", "DP2", {{0, 0}, {1, 0}}, {{0, 0}, {1, 0}}, "8.2", "8.2", "8.2", "24.6"},
      {"DP2", "TP2", {{0, 0}, {1, 0}}, {{0, 0}, {1, 0}}, "0.0", "0.0", "0.0", "16.4"},
      {"TP2", "TP2", {{0, 0}, {0, 0}}, {{0, 0}, {0, 0}}, "0.0", "0.0", "0.0", "32.8"},
      // One beside it, one behind the network: both copies may come from the other of them.
      {"TP1", "DP2", {{0, 0}}, {{1, 0}, {2, 1}}, "16.4", "16.4", "10.9", "16.4"}};
  for (const Shared& row : rows) {
    const Bound bound =
        bound_of({"qwen3-8b", row.train, row.gen, 0, 1, 0, "", ""}, ports(1e9), Placement{row.source, row.destination});
    const auto gigabytes = [](std::int64_t bytes) { return fmt::format("{:.1f}", static_cast<double>(bytes) / 1e9); };
    const std::string name = fmt::format("{} -> {}", row.train, row.gen);
    EXPECT_EQ(gigabytes(bound.device.ingress), row.ingress) << name;
    EXPECT_EQ(gigabytes(bound.device.egress), row.egress) << name;
    EXPECT_EQ(gigabytes(bound.device.fanout), row.fanout) << name;
    EXPECT_EQ(gigabytes(bound.memory), row.memory) << name;
  }
}

/// The network carries only what a domain has not: both replicas for TP1 -> DP2 lie in the train rank's domain, or one.
TEST(Bound, CountsTheNetworkBetweenDomainsOnly) {
  const Row row{"qwen3-8b", "TP1", "DP2", 0, 1, 0, "", ""};
  const Placement one{{{0, 0}}, {{1, 0}, {2, 0}}};
  const Placement two{{{0, 0}}, {{1, 0}, {2, 1}}};
  EXPECT_EQ(bound_of(row, ports(0, 1e9), one).total(), 0);
  EXPECT_EQ(fmt::format("{:.1f}", bound_of(row, ports(0, 1e9), two).seconds.ingress), "16.4");
  EXPECT_EQ(fmt::format("{:.1f}", bound_of(row, ports(0, 1e9), two).seconds.egress), "16.4");
}

/// Links that differ: a domain's bytes at its own rate, and holders share the sending as their links allow.
TEST(Bound, KnowsTheLinkOfEveryDomain) {
  const Row one{"qwen3-8b", "TP1", "DP2", 0, 1, 0, "", ""};
  Rates rates = ports(0, 1e9);
  rates.each_domain_in = {1e9, 1e9, 0.25e9};
  rates.each_domain_out = {1e9, 0.25e9, 0.25e9};
  const auto seconds = [](double value) { return fmt::format("{:.1f}", value); };
  // Both takers are behind links of their own, one of them slow.
  Bound bound = bound_of(one, rates, Placement{{{0, 0}}, {{1, 1}, {2, 2}}});
  EXPECT_EQ(seconds(bound.seconds.ingress), "65.5");
  EXPECT_EQ(seconds(bound.seconds.egress), "16.4");
  EXPECT_EQ(seconds(bound.seconds.fanout), "21.8");  // 32.8 GB by 1.5 GB/s together
  // Two holders for one taker: 1.25 GB/s together.
  const Row shared{"qwen3-8b", "DP2", "TP1", 0, 1, 0, "", ""};
  bound = bound_of(shared, rates, Placement{{{0, 0}, {1, 1}}, {{2, 2}}});
  EXPECT_EQ(seconds(bound.seconds.egress), "13.1");
  // The same bytes at other rates.
  bound.time(ports(0, 1e9));
  EXPECT_EQ(seconds(bound.seconds.egress), "8.2");
  EXPECT_EQ(seconds(bound.seconds.ingress), "16.4");
  rates.each_domain_in[2] = 1e9;
  bound.time(rates);
  EXPECT_EQ(seconds(bound.seconds.ingress), "16.4");
}

/// Four replicas behind one node's ports: 0.611 s of network without fan-out, 0.153 s with it. The devices' ports alone
/// see no difference worth it.
TEST(FanOut, IsChosenForTheNetwork) {
  const Sides sides("qwen3-30b-a3b", "EP8xPP2xDP8", "TP2xDP8");
  const Placement nodes = apart(sides.train->ranks(), sides.gen->ranks(), 1, 8);
  const auto chosen = [&](const Rates& rates) {
    return largest_domain(
        choose_fan_out(sides.model.tensors, *sides.train, *sides.gen, rates, {.placement = nodes}).domains);
  };
  EXPECT_EQ(chosen(ports(370e9, 400e9)), 8);
  EXPECT_EQ(chosen(ports(0, 400e9)), 8);
  EXPECT_EQ(chosen(ports(370e9)), 0);
}

/// The seconds of the busiest port if whole boxes go from holders to takers as well as they can: all ways are tried.
double best_by_trying(const Placement& placement, double bytes, const Rates& rates) {
  const std::size_t holders = placement.source.size(), takers = placement.destination.size();
  double best = 1e300;
  std::vector<std::size_t> choice(takers, 0);
  for (std::size_t number = 0, all = static_cast<std::size_t>(std::pow(holders, takers)); number < all; ++number) {
    std::map<std::pair<int, int>, double> load;  // kind of a port and its number -> seconds
    for (std::size_t taker = 0, rest = number; taker < takers; ++taker, rest /= holders) {
      const auto from = placement.source[rest % holders], to = placement.destination[taker];
      if (from.device != to.device) {
        load[{0, from.device}] += bytes / rates.device_out;
        load[{1, to.device}] += bytes / rates.device_in;
      }
      if (from.domain == to.domain) continue;
      load[{2, from.domain}] += bytes / rates.domain_out;
      load[{3, to.domain}] += bytes / rates.domain_in;
    }
    double busiest = 0;
    for (const auto& [port, seconds] : load) busiest = std::max(busiest, seconds);
    best = std::min(best, busiest);
  }
  return best;
}

/// Bytes stay in a domain as long as no port is busier by that than it need be.
TEST(NearHolders, KeepPortsLevel) {
  using Sites = std::vector<Placement::Site>;
  struct Near {
    Sites source, destination;
    double domain;  ///< a domain's rate, where a device has 100
    bool near;
  };
  const Near rows[] = {
      // A holder and a taker on each of two hosts: nothing crosses.
      {{{0, 0}, {2, 1}}, {{1, 0}, {3, 1}}, 100, true},
      {{{0, 0}, {2, 1}}, {{1, 0}, {3, 1}}, 1000, true},
      // One holder beside four takers, three elsewhere: four boxes by one device, or one by each and three by a link.
      {{{0, 0}, {5, 1}, {6, 2}, {7, 3}}, {{1, 0}, {2, 0}, {3, 0}, {4, 0}}, 300, false},
      {{{0, 0}, {5, 1}, {6, 2}, {7, 3}}, {{1, 0}, {2, 0}, {3, 0}, {4, 0}}, 25, true},
      {{{0, 0}, {5, 1}, {6, 2}, {7, 3}}, {{1, 0}, {2, 0}, {3, 0}, {4, 0}}, 1, true},
      // Two and two on one host, four more holders elsewhere: spreading gains nothing.
      {{{0, 0}, {1, 0}, {4, 1}, {5, 1}}, {{2, 0}, {3, 0}}, 1000, true}};
  for (const Near& row : rows) {
    const Placement placement{row.source, row.destination};
    const Sides sides("qwen3-0.6b", fmt::format("DP{}", row.source.size()).c_str(),
                      fmt::format("DP{}", row.destination.size()).c_str());
    Rates rates;
    rates.device_in = rates.device_out = 100e9;
    rates.domain_in = rates.domain_out = row.domain * 1e9;
    Rules rules{.placement = placement};
    rules.near_domains = choose_near_domains(sides.model.tensors, *sides.train, *sides.gen, rates, rules);
    const std::string what =
        fmt::format("{} holders, {} takers, {}", row.source.size(), row.destination.size(), row.domain);
    EXPECT_EQ(rules.near_domains, row.near) << what;
    const Planner planner(sides.model.tensors, *sides.train, *sides.gen, rules);
    const Loads loads = traffic(planner, placement, {.hash = false}).loads;
    double bytes = 0;
    for (const PortLoad& load : loads.sent) bytes += static_cast<double>(load.bytes);
    bytes /= static_cast<double>(row.destination.size());
    // Boxes may be cut, and those of unlike sizes take turns: a part of a percent.
    EXPECT_LE(seconds_at_once(loads, {rates, placement}), 1.01 * best_by_trying(placement, bytes, rates)) << what;
    // Without rates bytes stay where they are.
    EXPECT_TRUE(choose_near_domains(sides.model.tensors, *sides.train, *sides.gen, {}, rules)) << what;
  }
}

/// Qwen3-4B's q, k and v lie in eight boxes, each of which eight holders cut: small parts, of which none may come in
/// eight times.
TEST(FanOut, BringsEachBoxIntoADomainOnce) {
  const Sides sides("qwen3-4b", "DP8", "DP8");
  std::int64_t bytes = 0;
  for (const Tensor& tensor : sides.model.tensors) bytes += tensor.bytes();
  for (const std::int64_t domain_ranks : {4, 8}) {
    const Traffic all = traffic(
        Planner(sides.model.tensors, *sides.train, *sides.gen, {.fan_out = {domains_of_neighbours(8, domain_ranks)}}));
    EXPECT_EQ(all.bytes - all.forwarded(), bytes * 8 / domain_ranks);
    EXPECT_EQ(all.bytes, 8 * bytes);
    // Small boxes take turns among their takers: all forward the same within a hundredth.
    std::int64_t most = 0;
    for (const PortLoad& rank : all.loads.forwarded_out) most = std::max(most, rank.bytes);
    EXPECT_LE(static_cast<double>(most), 1.01 * static_cast<double>(all.forwarded()) / 8);
  }
}

}  // namespace
}  // namespace refit::plan
