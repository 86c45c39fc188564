#pragma once
// The tests of `refit probe` between pairs of ranks: matrices over all pairs, and a row per size for one pair.

#include <cstdint>
#include <string>
#include <vector>

#include "report/probe.hpp"
#include "transport/pair_rates.hpp"
#include "transport/places.hpp"

namespace refit::engine {

/// A world with more ranks has its pairs measured in rounds, unless it is told otherwise: each rank has one partner at
/// a time, and all pairs of a round are measured at once. Their number grows with the ranks then, not with their
/// square.
inline constexpr int kMostAlone = 16;

/// Returns groups of pairs that are measured together, each a subset of a round in which every rank has one partner:
/// every unordered pair once, `from` before `to`. Pairs within hosts and between hosts are in different groups; alone:
/// each pair is a group.
std::vector<std::vector<transport::Flow>> groups_of_pairs(const std::vector<int>& hosts, bool alone);

/// How a matrix is measured.
struct PairTest {
  transport::Mechanism mechanism;
  bool both_ways = false;
  bool alone = true;
  std::int64_t bytes = 0;
  std::int64_t bytes_between_hosts = 0;  ///< 0: there is one host
};

/// Measures every pair. Collective over the world; the same on all ranks.
report::PairMatrix measure_matrix(transport::PairRates& pairs, const std::vector<int>& hosts, const PairTest& test);

/// Measures one pair with each size and each of `mechanisms` that serves it. A size whose transfer would take longer
/// than `most_seconds` at the rate of the size before is left out; returns them as notes. Collective likewise.
std::vector<report::SizeRow> measure_sizes(transport::PairRates& pairs, const std::string& pair,
                                           const transport::Flow& flow,
                                           const std::vector<transport::Mechanism>& mechanisms,
                                           const std::vector<std::int64_t>& sizes, double most_seconds,
                                           std::vector<std::string>& notes);

/// The slowest and the fastest pair, each by its best mechanism in the one-way matrices; equal where there is one pair
/// or all are alike (within a tenth).
struct Extremes {
  transport::Flow slowest, fastest;
  bool has_any = false;  ///< pair at all
};
Extremes extremes(const std::vector<report::PairMatrix>& matrices);

}  // namespace refit::engine
