#pragma once
// What `refit probe` reports beside the parts that it has in common with a run (a Result's command, start_time, status,
// environment, settings, rates and notes), and its observers: text in the manner of nvbandwidth, and JSON.

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "report/result.hpp"

namespace refit::report {

/// One way of moving bytes between ranks, between every pair of them.
struct PairMatrix {
  std::string direction;  ///< "one_way", or "both_ways": the pair's two ranks send to each other at once
  std::string mechanism;  ///< "stores", "engines", "messages"
  bool alone = true;      ///< nothing else is under way; else pairs of a round are measured at the same time
  std::int64_t bytes = 0;
  std::int64_t bytes_between_hosts = 0;  ///< of pairs of different hosts, where the link is slow; 0: there are none
  /// Bytes per second by sender and receiver; absent where this mechanism does not serve the pair.
  std::vector<std::vector<std::optional<double>>> rates;
};

/// The matrix's pairs in numbers.
struct PairSummary {
  std::int64_t pairs = 0;  ///< that are served
  double sum = 0, min = 0, max = 0, mean = 0;
  std::int64_t min_from = 0, min_to = 0, max_from = 0, max_to = 0;
};
PairSummary summary_of(const PairMatrix& matrix);

/// Transfers of one size between the ranks of one pair, one way.
struct SizeRow {
  std::string pair;  ///< "slowest" or "fastest", of all pairs by their best mechanism
  std::int64_t from = 0, to = 0;
  std::string mechanism;
  std::int64_t bytes = 0;
  double seconds = 0;  ///< of one transfer with nothing else under way
  double rate = 0;     ///< bytes per second of transfers that follow each other
};

struct ProbeResult {
  std::vector<PairMatrix> matrices;
  std::vector<SizeRow> sizes;
  double latency = 0;  ///< seconds between groups of messages, as the bound's model has it; 0: not measured
};

/// Prints versions, start, command, settings, hosts, and a line per rank.
void print_probe_header(std::ostream& out, const Result& job);
/// Prints a matrix of GB/s with its sum, least, largest and mean; of more than 32 ranks these alone.
void print_matrix(std::ostream& out, const PairMatrix& matrix);
/// Prints a table for each pair: a row per size, two columns per mechanism.
void print_sizes(std::ostream& out, const std::vector<SizeRow>& rows);

/// Returns the document of schema `refit.probe` version 1: a probe that failed has no measurements.
std::string to_json(const Result& job, const ProbeResult& probe);

}  // namespace refit::report
