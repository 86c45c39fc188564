#include "report/timeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "report/format.hpp"
#include "report/svg.hpp"

namespace refit::report {
namespace {

using Json = nlohmann::ordered_json;

/// A row of a rank: the kinds of steps that stand in it.
struct Row {
  const char* name;
  const char* style;
  const char* legend;
};

enum RowNumber : std::size_t { kPhases, kKernel, kEngine, kStaging, kMessages, kWait, kRows };

constexpr Row kRowsOf[kRows] = {{"phases", "", ""},
                                {"kernel", "c4", "kernel: copies between storages"},
                                {"copy engine", "c2", "copy engine"},
                                {"staging", "c0", "staging: pack, unpack"},
                                {"messages", "c1", "messages in flight"},
                                {"wait", "c7", "waits for other ranks"}};

RowNumber row_of(StepKind kind) {
  switch (kind) {
    case StepKind::kernel: return kKernel;
    case StepKind::engine: return kEngine;
    case StepKind::pack:
    case StepKind::unpack: return kStaging;
    case StepKind::message: return kMessages;
    case StepKind::wait: return kWait;
  }
  return kWait;
}

const char* name_of(StepKind kind) {
  constexpr const char* kNames[] = {"kernel", "copy engine", "pack", "unpack", "message", "wait"};
  return kNames[static_cast<std::size_t>(kind)];
}

double end_of(const TimelineRank& rank) {
  double end = 0;
  for (const TimelinePhase& phase : rank.phases) end = std::max(end, phase.end);
  return end;
}

std::string label_of(const TimelineRank& rank) { return fmt::format("rank {} {}", rank.rank, rank.group); }

/// Notes on what the figures are worth.
std::vector<std::string> notes_of(const Timeline& timeline) {
  std::vector<std::string> notes;
  double within = 0;
  for (const TimelineHost& host : timeline.hosts) within = std::max(within, host.within);
  if (timeline.hosts.size() > 1)
    notes.push_back(fmt::format("the hosts' clocks are brought together to {}", format_seconds(within)));
  std::int64_t left_out = 0;
  for (const TimelineRank& rank : timeline.ranks) left_out += rank.left_out;
  if (left_out > 0) notes.push_back(fmt::format("{} later steps are left out: there was no room for them", left_out));
  return notes;
}

// --- trace events ---------------------------------------------------------------------------------------------------

constexpr std::int64_t kThreads = 1000;  ///< numbers of threads of a rank

/// Returns the thread of a rank's row; messages in flight at the same time have several, by `number`.
std::int64_t thread_of(const TimelineRank& rank, RowNumber row, std::size_t number = 0) {
  // Waits are of the host's thread, and lie within its phases.
  const auto first = static_cast<std::int64_t>(row == kWait ? kPhases : row);
  return rank.rank * kThreads + first + static_cast<std::int64_t>(number);
}

double microseconds(double seconds) { return std::round(seconds * 1e9) / 1e3; }

class Events {
 public:
  void name_process(std::size_t host, const std::string& name) {
    append({{"ph", "M"}, {"name", "process_name"}, {"pid", host}, {"tid", 0}, {"args", {{"name", name}}}});
  }
  void name_thread(std::size_t host, std::int64_t thread, const std::string& name) {
    append({{"ph", "M"}, {"name", "thread_name"}, {"pid", host}, {"tid", thread}, {"args", {{"name", name}}}});
    append({{"ph", "M"},
            {"name", "thread_sort_index"},
            {"pid", host},
            {"tid", thread},
            {"args", {{"sort_index", thread}}}});
  }
  void add(std::size_t host, std::int64_t thread, const char* category, const std::string& name, double begin,
           double end, Json arguments) {
    const double from = microseconds(begin);
    Json event{{"ph", "X"},
               {"name", name},
               {"cat", category},
               {"pid", host},
               {"tid", thread},
               {"ts", from},
               {"dur", std::max(0.0, std::round((microseconds(end) - from) * 1e3) / 1e3)}};
    if (!arguments.empty()) event["args"] = std::move(arguments);
    append(event);
  }
  const std::string& text() const { return text_; }

 private:
  void append(const Json& event) {
    text_ += text_.empty() ? "" : ",\n";
    text_ += event.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  std::string text_;
};

void add_rank(const TimelineRank& rank, Events& events) {
  std::map<std::int64_t, std::string> threads{{thread_of(rank, kPhases), label_of(rank)}};
  for (const TimelinePhase& phase : rank.phases)
    events.add(rank.host, thread_of(rank, kPhases), "phase", phase.name, phase.begin, phase.end, Json::object());
  std::vector<double> busy;  // until when, of the threads for messages
  std::vector<const TimelineStep*> steps;
  for (const TimelineStep& step : rank.steps) steps.push_back(&step);
  std::ranges::stable_sort(steps, {}, &TimelineStep::begin);
  for (const TimelineStep* step : steps) {
    const RowNumber row = row_of(step->kind);
    std::size_t number = 0;
    if (row == kMessages) {
      number = static_cast<std::size_t>(std::ranges::find_if(busy, [&](double end) { return end <= step->begin; }) -
                                        busy.begin());
      if (number == busy.size()) busy.push_back(0);
      busy[number] = step->end;
    }
    const std::int64_t thread = thread_of(rank, row, number);
    threads.try_emplace(thread, fmt::format("{}: {}", label_of(rank), kRowsOf[row].name));
    Json arguments = Json::object();
    if (step->bytes > 0) arguments["bytes"] = step->bytes;
    if (!step->tensor.empty()) arguments["tensor"] = step->tensor;
    if (step->peer >= 0) arguments["peer"] = step->peer;
    events.add(rank.host, thread, kRowsOf[row].name, name_of(step->kind), step->begin, step->end, std::move(arguments));
  }
  for (const auto& [thread, name] : threads) events.name_thread(rank.host, thread, name);
}

// --- picture --------------------------------------------------------------------------------------------------------

constexpr std::size_t kRanksShown = 64;
constexpr double kLeft = 142;  ///< for names of ranks
constexpr double kRight = 706;
constexpr double kPhaseHeight = 20;
constexpr double kRowHeight = 10;
constexpr double kGap = 10;
constexpr double kLeastWidth = 0.4;  ///< of a step on the page; nearer ones are one

/// A scale of times.
struct Scale {
  double end;
  double x(double seconds) const { return kLeft + (kRight - kLeft) * std::clamp(seconds / end, 0.0, 1.0); }
};

/// Returns the rows that stand under the phases: of kinds of which any rank has a step.
std::vector<RowNumber> rows_of(const std::vector<const TimelineRank*>& ranks) {
  bool has[kRows] = {};
  for (const TimelineRank* rank : ranks)
    for (const TimelineStep& step : rank->steps) has[row_of(step.kind)] = true;
  std::vector<RowNumber> rows;
  for (std::size_t row = kKernel; row < kRows; ++row)
    if (has[row]) rows.push_back(static_cast<RowNumber>(row));
  return rows;
}

/// Draws a row's steps as one path; those that overlap or nearly meet are one.
std::string draw_row(const TimelineRank& rank, RowNumber row, double y, const Scale& scale) {
  std::vector<std::pair<double, double>> spans;
  for (const TimelineStep& step : rank.steps)
    if (row_of(step.kind) == row) spans.emplace_back(scale.x(step.begin), scale.x(step.end));
  std::ranges::sort(spans);
  std::string path;
  for (std::size_t i = 0; i < spans.size();) {
    auto [begin, end] = spans[i];
    for (++i; i < spans.size() && spans[i].first < end + kLeastWidth; ++i) end = std::max(end, spans[i].second);
    path += fmt::format("M{:.1f} {:.1f}h{:.1f}v{:.1f}h-{:.1f}z", begin, y, std::max(end - begin, kLeastWidth),
                        kRowHeight - 1, std::max(end - begin, kLeastWidth));
  }
  return path.empty() ? "" : fmt::format("<path class=\"{}\" d=\"{}\"/>\n", kRowsOf[row].style, path);
}

std::string draw_phases(const TimelineRank& rank, double y, double height, const Scale& scale) {
  std::string drawn;
  for (const TimelinePhase& phase : rank.phases) {
    const double begin = scale.x(phase.begin);
    const double width = std::max(scale.x(phase.end) - begin, kLeastWidth);
    drawn +=
        svg::rectangle("phase", begin, y, width, height,
                       fmt::format("rank {}: {}, {}", rank.rank, phase.name, format_seconds(phase.end - phase.begin)));
    const std::string text = fmt::format("{} {}", phase.name, format_seconds(phase.end - phase.begin));
    const std::string& shown = static_cast<double>(text.size()) * svg::kLetter < width - 8 ? text : phase.name;
    if (static_cast<double>(shown.size()) * svg::kLetter < width - 8)
      drawn += svg::text(begin + 4, y + svg::kText - 1, "start", "", shown);
  }
  return drawn;
}

/// Draws the axis: a line and a time at round distances.
std::string draw_axis(double top, double bottom, const Scale& scale) {
  double step = std::pow(10.0, std::floor(std::log10(scale.end / 4)));
  for (const double factor : {5.0, 2.0})
    if (scale.end / (step * factor) >= 3.0) {
      step *= factor;
      break;
    }
  std::string drawn;
  for (double at = 0; at <= scale.end * 1.0001; at += step) {
    drawn += svg::line("tick", scale.x(at), top, scale.x(at), bottom);
    drawn += svg::text(scale.x(at), bottom + svg::kText + 2, at == 0 ? "start" : "middle", "",
                       fmt::format("{:.4g}", at * 1e3));
  }
  return drawn + svg::text(kLeft - 10, bottom + svg::kText + 2, "end", "", "ms");
}

}  // namespace

std::string to_chrome_trace(const Result& result, const Timeline& timeline) {
  Events events;
  for (std::size_t host = 0; host < timeline.hosts.size(); ++host)
    events.name_process(host, "host " + timeline.hosts[host].name);
  for (const TimelineRank& rank : timeline.ranks) add_rank(rank, events);
  Json clocks = Json::array();
  for (const TimelineHost& host : timeline.hosts)
    clocks.push_back(
        {{"host", host.name}, {"offset_us", microseconds(host.offset)}, {"within_us", microseconds(host.within)}});
  std::int64_t left_out = 0;
  for (const TimelineRank& rank : timeline.ranks) left_out += rank.left_out;
  const Json other{{"refit", result.environment.refit},
                   {"case", result.test_case.name},
                   {"refit_number", timeline.refit},
                   {"clocks", clocks},
                   {"steps_left_out", left_out}};
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\n\"otherData\":{},\n\"traceEvents\":[\n{}\n]}}\n",
                     other.dump(-1, ' ', false, Json::error_handler_t::replace), events.text());
}

std::string to_svg(const Result& result, const Timeline& timeline) {
  std::vector<const TimelineRank*> ranks;
  for (const TimelineRank& rank : timeline.ranks) ranks.push_back(&rank);
  if (ranks.size() > kRanksShown) {
    std::ranges::stable_sort(ranks, [](const auto* a, const auto* b) { return end_of(*a) > end_of(*b); });
    ranks.resize(kRanksShown);
  }
  std::ranges::stable_sort(
      ranks, [](const auto* a, const auto* b) { return std::pair(a->host, a->rank) < std::pair(b->host, b->rank); });
  Scale scale{1e-9};
  for (const TimelineRank* rank : ranks) scale.end = std::max(scale.end, end_of(*rank));
  const std::vector<RowNumber> rows = rows_of(ranks);
  const double rank_height = kPhaseHeight + kRowHeight * static_cast<double>(rows.size()) + 3;

  std::string body = svg::name(30, fmt::format("refit {} of {}", timeline.refit, result.test_case.name));
  double y = 50;
  const double top = y;
  std::string drawn;
  std::size_t host = timeline.hosts.size();
  for (const TimelineRank* rank : ranks) {
    if (timeline.hosts.size() > 1 && rank->host != host) {
      drawn += svg::line("border", 10, y, kRight, y) +
               svg::text(14, y + svg::kText + 2, "start", "", "host " + timeline.hosts[rank->host].name);
      y += svg::kText + 10;
    }
    host = rank->host;
    drawn += draw_phases(*rank, y, rank_height, scale);
    drawn += svg::text(kLeft - 10, y + svg::kText, "end", "rank", label_of(*rank));
    for (std::size_t i = 0; i < rows.size(); ++i)
      drawn += draw_row(*rank, rows[i], y + kPhaseHeight + kRowHeight * static_cast<double>(i), scale);
    y += rank_height + kGap;
  }
  body += draw_axis(top - 4, y, scale) + drawn;
  y += svg::kText + 22;
  for (const RowNumber row : rows) {
    body += svg::rectangle(kRowsOf[row].style, kLeft, y - 11, 26, 12) +
            svg::text(kLeft + 36, y, "start", "", kRowsOf[row].legend);
    y += svg::kText + 8;
  }
  std::vector<std::string> notes = notes_of(timeline);
  if (ranks.size() < timeline.ranks.size())
    notes.insert(notes.begin(), fmt::format("the {} ranks of {} that end last", ranks.size(), timeline.ranks.size()));
  for (const std::string& note : notes) {
    for (const std::string& line : svg::wrapped(note, kRight - kLeft)) {
      body += svg::text(kLeft, y, "start", "", line);
      y += svg::kText + 4;
    }
  }
  return svg::document(y, fmt::format("Timeline of refit {} of {}", timeline.refit, result.test_case.name),
                       "For every rank its phases as boxes, and in them rows of coloured bars: what runs when.", body,
                       ".phase { fill: #888888; fill-opacity: 0.14; stroke: #888888; stroke-width: 0.8; }\n"
                       ".tick { fill: none; stroke: #888888; stroke-width: 0.6; stroke-dasharray: 2 3; }\n");
}

}  // namespace refit::report
