#include "report/sweep.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>

#include "core/error.hpp"
#include "report/format.hpp"
#include "report/statistics.hpp"
#include "report/table.hpp"

namespace refit::report {
namespace {

/// A column behind those of the swept keys.
struct Column {
  const char* name;
  const char* unit;
  int width;
  std::string (*text)(const Result& result);
};

std::string milliseconds(double seconds) { return fmt::format("{:.3f}", seconds * 1e3); }

template <double Summary::*member>
std::string weight_sync(const Result& result) {
  const auto summary = summarise(weight_sync_samples(result));
  return summary ? milliseconds((*summary).*member) : "-";
}

std::string bandwidth(const Result& result) {
  const auto summary = summarise(weight_sync_samples(result));
  if (!summary || !result.payload || !(summary->median > 0)) return "-";
  return fmt::format("{:.2f}", static_cast<double>(result.payload->total_bytes()) / summary->median / 1e9);
}

std::string wrong(const Result& result) {
  if (!result.verification) return "N/A";
  const bool is_least = result.verification->tensors_not_counted > 0;
  return fmt::format("{}{}", is_least ? ">=" : "", result.verification->elements_wrong);
}

constexpr std::array<Column, 9> kColumns{{
    {"ranks", "", 5, [](const Result& result) { return fmt::format("{}", result.ranks); }},
    {"min", "(ms)", 10, weight_sync<&Summary::min>},
    {"median", "(ms)", 10, weight_sync<&Summary::median>},
    {"algbw", "(GB/s)", 8, bandwidth},
    {"bound", "(ms)", 10,
     [](const Result& result) {
       return result.bound && result.bound->seconds ? milliseconds(*result.bound->seconds) : std::string("-");
     }},
    {"efficiency", "", 10,
     [](const Result& result) { return result.efficiency ? fmt::format("{:.3f}", *result.efficiency) : "-"; }},
    {"#wrong", "(elements)", 10, wrong},
    {"KL max", "", 9,
     [](const Result& result) {
       return result.verification && result.verification->kl ? fmt::format("{:.3g}", result.verification->kl->max)
                                                             : "N/A";
     }},
    {"status", "", 11, [](const Result& result) { return std::string(name(result.status)); }},
}};

/// Returns the widths of the swept keys' columns.
std::vector<std::size_t> widths(const Sweep& sweep) {
  std::vector<std::size_t> result;
  for (const auto& [key, value] : sweep.planned.front()) result.push_back(key.size());
  for (const SweptValues& values : sweep.planned)
    for (std::size_t k = 0; k < values.size(); ++k) result[k] = std::max(result[k], values[k].second.size());
  return result;
}

/// Returns a table's line: the first column begins behind `begin`, two characters.
std::string line(const char* begin, const Sweep& sweep, const std::vector<std::string>& keys,
                 const std::vector<std::string>& values) {
  std::string text = begin;
  const std::vector<std::size_t> wide = widths(sweep);
  for (std::size_t k = 0; k < keys.size(); ++k) text += fmt::format("{:<{}}  ", keys[k], wide[k]);
  for (std::size_t i = 0; i < values.size(); ++i)
    text += fmt::format("{:>{}}{}", values[i], kColumns[i].width, i + 1 < values.size() ? " " : "");
  text.erase(text.find_last_not_of(' ') + 1);
  return text + '\n';
}

/// Returns how grave the end of a combination is.
int gravity(const Result& result) {
  if (result.status == Status::waived) return 1;
  return result.exit_code == 0 ? 0 : 1 + result.exit_code;
}

std::string counts(const Sweep& sweep) {
  std::map<Status, std::int64_t> found;
  for (const Combination& one : sweep.combinations) ++found[one.result.status];
  std::string text = counted(std::ssize(sweep.planned), "combination");
  for (const auto& [status, number] : found) text += fmt::format(", {} {}", number, name(status));
  const std::int64_t missing = std::ssize(sweep.planned) - std::ssize(sweep.combinations);
  if (missing > 0) text += fmt::format(", {} not run", missing);
  return text;
}

}  // namespace

std::string label(const SweptValues& values) {
  std::vector<std::string> words;
  for (const auto& [key, value] : values) words.push_back(key + "=" + value);
  return fmt::format("{}", fmt::join(words, " "));
}

void judge(const Sweep& sweep, Result& whole) {
  whole.status = Status::passed;
  whole.exit_code = 0;
  whole.error.reset();
  const auto worst = std::ranges::max_element(
      sweep.combinations, [](const auto& a, const auto& b) { return gravity(a.result) < gravity(b.result); });
  const bool is_whole = sweep.combinations.size() == sweep.planned.size();
  const bool all_waived = is_whole && std::ranges::all_of(sweep.combinations, [](const Combination& one) {
                            return one.result.status == Status::waived;
                          });
  if (worst != sweep.combinations.end() && (gravity(worst->result) > 1 || all_waived)) {
    whole.status = worst->result.status;
    whole.exit_code = worst->result.exit_code;
    whole.error = worst->result.error;
    if (whole.error) whole.error->message = label(worst->values) + ": " + whole.error->message;
  } else if (!is_whole) {
    whole.status = Status::error;
    whole.exit_code = static_cast<int>(ErrorKind::runtime);
    whole.error = Failure{name(ErrorKind::runtime), "the sweep did not come to its end: " + counts(sweep), {}, ""};
  }
}

void print_sweep_header(std::ostream& out, const Result& whole, const Sweep& sweep) {
  print_start(out, whole);
  std::string keys;
  const SweptValues& first = sweep.planned.front();
  for (std::size_t k = 0; k < first.size(); ++k) {
    std::vector<std::string> values;
    for (const SweptValues& one : sweep.planned)
      if (std::ranges::find(values, one[k].second) == values.end()) values.push_back(one[k].second);
    keys += fmt::format("{}={} ", first[k].first, fmt::join(values, ","));
  }
  out << labelled("sweep", fmt::format("{}: {}on {}", counted(std::ssize(sweep.planned), "combination"), keys,
                                       counted(whole.ranks, "rank")));
  if (const std::string job = job_text(whole.environment.job); !job.empty()) out << labelled("started", job);
  std::vector<std::string> names;
  std::vector<std::string> blanks;
  for (const auto& [key, value] : first) {
    names.push_back(key);
    blanks.emplace_back();
  }
  std::vector<std::string> heads;
  std::vector<std::string> units;
  for (const Column& column : kColumns) {
    heads.emplace_back(column.name);
    units.emplace_back(column.unit);
  }
  out << "#\n"
      << line("# ", sweep, blanks, {"", "", "weight_sync"}) << line("# ", sweep, names, heads)
      << line("# ", sweep, blanks, units) << std::flush;
}

void print_sweep_row(std::ostream& out, const Sweep& sweep, const Combination& combination) {
  std::vector<std::string> values;
  std::vector<std::string> texts;
  for (const auto& [key, value] : combination.values) values.push_back(value);
  for (const Column& column : kColumns) texts.push_back(column.text(combination.result));
  out << line("  ", sweep, values, texts) << std::flush;
}

void print_sweep_summary(std::ostream& out, const Result& whole, const Sweep& sweep) {
  out << "#\n";
  for (const Combination& one : sweep.combinations) {
    if (one.result.error && one.result.status != Status::passed)
      out << labelled(name(one.result.status), label(one.values) + ": " + one.result.error->message);
  }
  std::vector<std::string> told;
  for (const Combination& one : sweep.combinations) {
    for (const std::string& note : one.result.notes) {
      if (std::ranges::find(told, note) != told.end()) continue;
      told.push_back(note);
      out << labelled("note", label(one.values) + ": " + note);
    }
  }
  out << labelled("sweep", counts(sweep));
  if (whole.elapsed_seconds) out << labelled("elapsed", format_seconds(*whole.elapsed_seconds) + " from start to end");
  out << verdict(whole) << '\n' << std::flush;
}

}  // namespace refit::report
