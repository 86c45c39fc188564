#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "report/format.hpp"
#include "report/table.hpp"

namespace refit::report {
namespace {

constexpr std::size_t kRanksShown = 64;
constexpr std::size_t kMatrixShown = 16;

std::size_t columns(const ByteMatrix& matrix) { return matrix.empty() ? 0 : matrix.front().size(); }

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
void print_per_rank(std::ostream& out, const std::vector<std::int64_t>& sent,
                    const std::vector<std::int64_t>& received) {
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
  if (matrix.empty()) {
    out << "#\n# byte matrix: of so many ranks only with --byte-matrix FILE\n";
    return;
  }
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
  out << labelled(
      "plan", fmt::format("{} copies of one rank, planned in {}", grouped(plan.copies), format_seconds(plan.seconds)));
  if (plan.world) {
    std::string text =
        fmt::format("{} copies, planned in {}", grouped(plan.world->copies), format_seconds(plan.world->seconds));
    if (plan.peak_bytes > 0) text += fmt::format(", peak memory {}", format_bytes(plan.peak_bytes));
    out << labelled("world", text);
  }
  if (!plan.hash.empty()) out << labelled("hash", plan.hash);
  if (!plan.memory) return;
  const RankMemory& memory = *plan.memory;
  out << labelled("memory", fmt::format("weights of rank 0: train {}, gen {}; beside gen's refit.commit = in_place and "
                                        "layers take nothing, stage {}; refit.delta keeps at most {} beside train's",
                                        format_bytes(memory.train), format_bytes(memory.gen),
                                        format_bytes(memory.staged), format_bytes(memory.kept)));
}

/// Every policy with every executor, the fastest first.
void print_models(std::ostream& out, const std::vector<ModelRow>& rows) {
  if (rows.empty()) return;
  out << fmt::format("#\n# {:<10} {:<8} {:>12}  {:<9} {:>11} {:>11} {:>11} {:>11} {:>11}  {}\n", "bulk", "executor",
                     "model", "by", "wire", "schedule", "staging", "latency", "misc", "port");
  for (const ModelRow& row : rows) {
    const ModelSeconds& model = row.model;
    out << fmt::format("  {:<10} {:<8} {:>12}  {:<9} {:>11} {:>11} {:>11} {:>11} {:>11}  {}\n", row.bulk, row.executor,
                       format_seconds(model.total), model.term, format_seconds(model.wire),
                       format_seconds(model.schedule), format_seconds(model.staging), format_seconds(model.latency),
                       format_seconds(model.misc), model.port);
  }
}

}  // namespace

void print_plan(std::ostream& out, const Result& result) {
  out << "#\n";
  if (result.payload) out << payload_line(*result.payload) << '\n';
  if (result.plan) print_plan_part(out, *result.plan);
  out << engines_text(result.engines);
  if (result.wire) {
    out << labelled("wire", fmt::format("{} in all{}", format_bytes(result.wire->bytes), beside_text(*result.wire)));
    out << hosts_text(*result.wire);
  }
  if (result.m2n) out << m2n_text(*result.m2n);
  const PlanWorld world = result.plan && result.plan->world ? *result.plan->world : PlanWorld();
  print_rank_bytes(out, "train", "sent", world.sent);
  print_rank_bytes(out, "gen", "received", world.received);
  if (result.bound) out << labelled("bound", format_bound(*result.bound));
  if (result.model_seconds) out << labelled("model", format_model(*result.model_seconds));
  for (const std::string& note : result.notes) out << labelled("note", note);
  if (result.plan) print_models(out, result.plan->models);
  if (!world.sent.empty()) {
    print_per_rank(out, world.sent, world.received);
    print_matrix(out, result.byte_matrix);
  }
  out << verdict(result) << '\n' << std::flush;
}

std::string byte_matrix_text(const ByteMatrix& matrix, bool colocated) {
  const auto train = matrix.size();
  const auto first = colocated ? 0 : train;  // gen rank
  const auto end = first + columns(matrix);
  const auto world = std::max(train, end);
  std::string text;
  for (std::size_t sender = 0; sender < world; ++sender) {
    for (std::size_t receiver = 0; receiver < world; ++receiver) {
      const bool moves = sender < train && receiver >= first && receiver < end;
      text += fmt::format("{}{}", receiver == 0 ? "" : " ", moves ? matrix[sender][receiver - first] : 0);
    }
    text += '\n';
  }
  return text;
}

}  // namespace refit::report
