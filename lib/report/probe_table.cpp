#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "report/format.hpp"
#include "report/probe.hpp"
#include "report/table.hpp"

namespace refit::report {
namespace {

constexpr std::size_t kRanksShown = 64;
constexpr std::size_t kHostsShown = 8;
constexpr std::size_t kMatrixShown = 32;

std::string host_text(const HostInfo& host) {
  std::string text = fmt::format("{}: {}", host.name, counted(host.cores, "core"));
  if (!host.cpu.empty()) text += ", " + host.cpu;
  for (const Nic& nic : host.nics) text += ", " + nic.name + (nic.rate.empty() ? "" : " " + nic.rate);
  return text;
}

std::string gigabytes(std::optional<double> rate) { return rate ? fmt::format("{:.4g}", *rate / 1e9) : "-"; }

/// Returns e.g. "one way, stores, 64MiB of each pair, less between hosts (4MiB), each pair alone".
std::string title(const PairMatrix& matrix) {
  std::string text = fmt::format("{}, {}, {}", matrix.direction == "one_way" ? "one way" : "both ways",
                                 matrix.mechanism, bytes_text(matrix.bytes));
  if (matrix.bytes_between_hosts > 0 && matrix.bytes_between_hosts != matrix.bytes)
    text += fmt::format(" ({} between hosts)", bytes_text(matrix.bytes_between_hosts));
  return text + (matrix.alone ? ", each pair alone" : ", the pairs of a round at once");
}

}  // namespace

PairSummary summary_of(const PairMatrix& matrix) {
  PairSummary result;
  for (std::size_t from = 0; from < matrix.rates.size(); ++from) {
    for (std::size_t to = 0; to < matrix.rates[from].size(); ++to) {
      const std::optional<double>& rate = matrix.rates[from][to];
      if (!rate) continue;
      const auto note = [&](double& value, std::int64_t& sender, std::int64_t& receiver) {
        value = *rate;
        sender = static_cast<std::int64_t>(from);
        receiver = static_cast<std::int64_t>(to);
      };
      if (result.pairs == 0 || *rate < result.min) note(result.min, result.min_from, result.min_to);
      if (result.pairs == 0 || *rate > result.max) note(result.max, result.max_from, result.max_to);
      ++result.pairs;
      result.sum += *rate;
    }
  }
  if (result.pairs > 0) result.mean = result.sum / static_cast<double>(result.pairs);
  return result;
}

void print_probe_header(std::ostream& out, const Result& job) {
  out << versions_text(job.environment) << labelled("start", job.start_time) << labelled("command", job.command)
      << labelled("settings", settings_text(job.settings));
  const std::vector<HostInfo>& hosts = job.environment.job.hosts;
  if (hosts.size() <= kHostsShown) {
    for (const HostInfo& host : hosts) out << labelled("host", host_text(host));
  } else {
    out << labelled("started", job_text(job.environment.job));
  }
  const std::vector<RankInfo>& ranks = job.environment.ranks;
  std::size_t width = 4;
  for (const RankInfo& info : ranks) width = std::max(width, info.host.size());
  out << fmt::format("#\n# {:>5}  {:>8}  {:<{}}  device\n", "rank", "pid", "host", width);
  for (std::size_t i = 0; i < std::min(ranks.size(), kRanksShown); ++i) {
    const RankInfo& info = ranks[i];
    out << fmt::format("# {:>5}  {:>8}  {:<{}}  {}\n", info.rank, info.pid, info.host, width, info.device);
  }
  if (ranks.size() > kRanksShown)
    out << fmt::format("#   ... and {} more ranks; {} in all\n", ranks.size() - kRanksShown,
                       counted(std::ssize(hosts), "host"));
  out << std::flush;
}

void print_matrix(std::ostream& out, const PairMatrix& matrix) {
  const bool is_shown = matrix.rates.size() <= kMatrixShown;
  out << fmt::format("#\n# {}: GB/s{}\n", title(matrix), is_shown ? ", rows send, columns receive" : "");
  if (is_shown) {
    out << fmt::format("# {:>4}", "");
    for (std::size_t to = 0; to < matrix.rates.size(); ++to) out << fmt::format("{:>9}", to);
    for (std::size_t from = 0; from < matrix.rates.size(); ++from) {
      out << fmt::format("\n  {:>4}", from);
      for (const std::optional<double>& rate : matrix.rates[from]) out << fmt::format("{:>9}", gigabytes(rate));
    }
    out << '\n';
  }
  const PairSummary all = summary_of(matrix);
  if (all.pairs == 0) {
    out << "# no pair\n";
  } else {
    out << fmt::format("# SUM {}  MIN {} ({} -> {})  MAX {} ({} -> {})  MEAN {}  of {}\n", gigabytes(all.sum),
                       gigabytes(all.min), all.min_from, all.min_to, gigabytes(all.max), all.max_from, all.max_to,
                       gigabytes(all.mean), counted(all.pairs, "pair"));
  }
  out << std::flush;
}

void print_sizes(std::ostream& out, const std::vector<SizeRow>& rows) {
  using Columns = std::map<std::int64_t, std::map<std::string, const SizeRow*>>;
  std::vector<std::string> pairs;
  for (const SizeRow& row : rows) {
    if (std::ranges::find(pairs, row.pair) == pairs.end()) pairs.push_back(row.pair);
  }
  for (const std::string& pair : pairs) {
    Columns by_size;
    std::vector<std::string> mechanisms;
    const SizeRow* one = nullptr;
    for (const SizeRow& row : rows) {
      if (row.pair != pair) continue;
      by_size[row.bytes][row.mechanism] = one = &row;
      if (std::ranges::find(mechanisms, row.mechanism) == mechanisms.end()) mechanisms.push_back(row.mechanism);
    }
    out << fmt::format("#\n# sizes, rank {} -> {} (the {} pair), one way, alone\n# {:>12}", one->from, one->to, pair,
                       "size");
    for (const std::string& mechanism : mechanisms) out << fmt::format("{:>22}", mechanism);
    out << fmt::format("\n# {:>12}", "(B)");
    for (std::size_t i = 0; i < mechanisms.size(); ++i) out << fmt::format("{:>12}{:>10}", "(us)", "(GB/s)");
    for (const auto& [bytes, columns] : by_size) {
      out << fmt::format("\n  {:>12}", bytes);
      for (const std::string& mechanism : mechanisms) {
        const auto found = columns.find(mechanism);
        if (found == columns.end()) {
          out << fmt::format("{:>12}{:>10}", "-", "-");
        } else {
          out << fmt::format("{:>12.2f}{:>10.4g}", found->second->seconds * 1e6, found->second->rate / 1e9);
        }
      }
    }
    out << '\n';
  }
  out << std::flush;
}

}  // namespace refit::report
