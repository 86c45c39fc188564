#pragma once
// The text on stdout, in the manner of nccl-tests: `#` lines with versions and ranks, one row per refit, a summary.
// Only one rank prints. Every function writes whole lines and flushes, so that a log can be followed.

#include <ostream>
#include <string>

#include "report/result.hpp"

namespace refit::report {

/// Prints versions, start, command and case: what a header begins with.
void print_start(std::ostream& out, const Result& result);
/// Returns one line: "# refit 0.1.0  GNU 12.2.0  ...".
std::string versions_text(const Environment& environment);
/// Returns e.g. "Slurm 4711 by srun; 2 hosts: 96 cores, AMD EPYC 9654, mlx5_0 200 Gb/sec (4X HDR)"; "" for one host
/// outside of batch systems.
std::string job_text(const JobInfo& job);
/// Returns the text of all settings: "key=value key=value ".
std::string settings_text(const Settings& settings);

/// Prints versions, case, model, layouts, settings and ranks: everything known before the first refit. Ranks beyond 64
/// are summarised.
void print_header(std::ostream& out, const Result& result);

/// Prints the heading of the step table, in two lines: call it once, before the first print_step. Refits that are not
/// committed in place have a column more: the time in which gen may not generate.
void print_step_heading(std::ostream& out, const Result& result);

/// Prints one row of the step table. algbw is the payload (result.payload) over weight_sync.
void print_step(std::ostream& out, const Result& result, const Refit& refit);

/// Prints payload, preparation, weight_sync, bound, model, efficiency, memory, load, verification, KL and, as the last
/// line, the verdict.
void print_summary(std::ostream& out, const Result& result);

/// Prints the text of `refit plan`: payload, copies, bytes per rank, bound and, up to 16 ranks a side, the byte matrix.
void print_plan(std::ostream& out, const Result& result);

/// Returns the byte matrix over world ranks (train first, then gen) as whitespace-separated text, one line per sending
/// rank: square, because alltoallv benchmarks read as many columns as there are ranks.
std::string byte_matrix_text(const ByteMatrix& matrix, bool colocated = false);

}  // namespace refit::report
