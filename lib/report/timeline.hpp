#pragma once
// The timeline of a refit: what every rank did when, on one clock. Two files are made of it: a trace that Chrome's
// about:tracing and Perfetto open, and a picture.

#include <cstdint>
#include <string>
#include <vector>

#include "report/result.hpp"

namespace refit::report {

/// Kinds of steps, in the order in which a rank's rows stand.
enum class StepKind : std::uint8_t { kernel, engine, pack, unpack, message, wait };

/// A step of a rank. Seconds count from the first rank's leaving of the barrier before the refit.
struct TimelineStep {
  StepKind kind = StepKind::kernel;
  double begin = 0, end = 0;
  std::int64_t bytes = 0;
  std::string tensor;      ///< the first one; empty: many
  std::int32_t peer = -1;  ///< rank in the communicator of a message; -1: none
};

/// A phase of a rank, as Refit::phases names it.
struct TimelinePhase {
  std::string name;
  double begin = 0, end = 0;
};

struct TimelineRank {
  std::int64_t rank = 0;
  std::string group;     ///< "train", "gen"; colocated, "train+gen"
  std::size_t host = 0;  ///< index into Timeline::hosts
  std::vector<TimelinePhase> phases;
  std::vector<TimelineStep> steps;
  std::int64_t left_out = 0;  ///< steps for which there was no room
};

struct TimelineHost {
  std::string name;
  double offset = 0;  ///< seconds by which its clock is ahead of rank 0's host's: taken off
  double within = 0;  ///< seconds: most by which that can be wrong; 0 = of rank 0's host
};

struct Timeline {
  std::int64_t refit = 0;
  std::vector<TimelineHost> hosts;
  std::vector<TimelineRank> ranks;
};

/// Returns the timeline as JSON in the trace event format: a process for each host, and for each rank a thread for its
/// phases, with waits in them, and one for each kind of step; messages that are in flight at the same time have
/// several. Source: "Trace Event Format", the object form.
std::string to_chrome_trace(const Result& result, const Timeline& timeline);

/// Returns the timeline as SVG: rows of each rank, or of the 64 that end last.
std::string to_svg(const Result& result, const Timeline& timeline);

}  // namespace refit::report
