#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "report/format.hpp"
#include "report/table.hpp"

namespace refit::report {
namespace {

constexpr std::size_t kRanksShown = 64;
constexpr std::size_t kMatrixShown = 16;

std::size_t columns(const ByteMatrix& matrix) { return matrix.empty() ? 0 : matrix.front().size(); }

std::vector<std::int64_t> sent_by_train(const ByteMatrix& matrix) {
  std::vector<std::int64_t> sums;
  for (const auto& row : matrix) sums.push_back(std::accumulate(row.begin(), row.end(), std::int64_t{0}));
  return sums;
}

std::vector<std::int64_t> received_by_gen(const ByteMatrix& matrix) {
  std::vector<std::int64_t> sums(columns(matrix));
  for (const auto& row : matrix) {
    std::transform(row.begin(), row.end(), sums.begin(), sums.begin(), std::plus<>());
  }
  return sums;
}

void print_rank_bytes(std::ostream& out, const char* label, const char* what, const std::vector<std::int64_t>& bytes) {
  if (bytes.empty()) return;
  const auto least = std::min_element(bytes.begin(), bytes.end());
  const auto most = std::max_element(bytes.begin(), bytes.end());
  const auto total = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
  out << labelled(label, fmt::format("{} per rank: min {}, mean {}, max {} (rank {})", what, format_bytes(*least),
                                     format_bytes(total / static_cast<std::int64_t>(bytes.size())), format_bytes(*most),
                                     most - bytes.begin()));
}

/// One line per train or gen rank, up to `kRanksShown`.
void print_per_rank(std::ostream& out, const ByteMatrix& matrix) {
  const auto sent = sent_by_train(matrix);
  const auto received = received_by_gen(matrix);
  const auto rows = std::min(std::max(sent.size(), received.size()), kRanksShown);
  const auto cell = [](const std::vector<std::int64_t>& bytes, std::size_t i) {
    return i < bytes.size() ? fmt::format("{}", bytes[i]) : std::string("-");
  };
  out << fmt::format("#\n# {:>6} {:>18} {:>18}\n# {:>6} {:>18} {:>18}\n", "rank", "sent by train", "received by gen",
                     "", "(bytes)", "(bytes)");
  for (std::size_t i = 0; i < rows; ++i) {
    out << fmt::format("  {:>6} {:>18} {:>18}\n", i, cell(sent, i), cell(received, i));
  }
  const auto all = std::max(sent.size(), received.size());
  if (all > rows) out << fmt::format("#    ... and {} more, in the JSON document\n", all - rows);
}

void print_matrix(std::ostream& out, const ByteMatrix& matrix) {
  if (matrix.size() > kMatrixShown || columns(matrix) > kMatrixShown) {
    out << fmt::format("#\n# byte matrix: {} x {} ranks, in the JSON document\n", matrix.size(), columns(matrix));
    return;
  }
  std::size_t width = 1;
  for (const auto& row : matrix) {
    for (std::int64_t bytes : row) width = std::max(width, std::to_string(bytes).size());
  }
  out << "#\n# byte matrix: a row per train rank, a column per gen rank\n";
  for (const auto& row : matrix) {
    for (std::int64_t bytes : row) out << fmt::format(" {:>{}}", bytes, width);
    out << '\n';
  }
}

void print_plan_part(std::ostream& out, const Plan& plan) {
  std::string text =
      fmt::format("{} copies of one rank, planned in {}", format_count(plan.copies), format_seconds(plan.seconds));
  if (plan.peak_bytes > 0) text += fmt::format(", peak memory {}", format_bytes(plan.peak_bytes));
  out << labelled("plan", text);
  if (plan.world) {
    out << labelled("world", fmt::format("{} copies, planned in {}", format_count(plan.world->copies),
                                         format_seconds(plan.world->seconds)));
  }
  if (!plan.hash.empty()) out << labelled("hash", plan.hash);
}

}  // namespace

void print_plan(std::ostream& out, const Result& result) {
  out << "#\n";
  if (result.payload) out << payload_line(*result.payload) << '\n';
  if (result.plan) print_plan_part(out, *result.plan);
  if (result.wire)
    out << labelled("wire", fmt::format("{} in all{}", format_bytes(result.wire->bytes), forwarded_text(*result.wire)));
  if (result.m2n) out << m2n_text(*result.m2n);
  print_rank_bytes(out, "train", "sent", sent_by_train(result.byte_matrix));
  print_rank_bytes(out, "gen", "received", received_by_gen(result.byte_matrix));
  if (result.bound) out << labelled("bound", format_bound(*result.bound));
  for (const std::string& note : result.notes) out << labelled("note", note);
  if (!result.byte_matrix.empty()) {
    print_per_rank(out, result.byte_matrix);
    print_matrix(out, result.byte_matrix);
  }
  out << verdict(result) << '\n' << std::flush;
}

std::string byte_matrix_text(const ByteMatrix& matrix) {
  const auto train = matrix.size();
  const auto world = train + columns(matrix);
  std::string text;
  for (std::size_t sender = 0; sender < world; ++sender) {
    for (std::size_t receiver = 0; receiver < world; ++receiver) {
      const bool moves = sender < train && receiver >= train;
      text += fmt::format("{}{}", receiver == 0 ? "" : " ", moves ? matrix[sender][receiver - train] : 0);
    }
    text += '\n';
  }
  return text;
}

}  // namespace refit::report
