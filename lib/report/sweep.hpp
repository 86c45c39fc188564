#pragma once
// The report of a sweep: several cases that differ in a few keys, run one after the other by the same processes.

#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "report/result.hpp"

namespace refit::report {

/// Values of the swept keys as they were given, in the order of the keys: {"executor", "p2p"}, {"gen", "TP2"}.
using SweptValues = std::vector<std::pair<std::string, std::string>>;

struct Combination {
  SweptValues values;
  Result result;
};

struct Sweep {
  std::vector<SweptValues> planned;       ///< all combinations; at least one
  std::vector<Combination> combinations;  ///< those that have run, in order
};

/// Returns "executor=p2p gen=TP2".
std::string label(const SweptValues& values);

/// Judges a sweep: sets status, exit_code and error of `whole` by its gravest combination. It is an error where not all
/// have run, and waived where all are.
void judge(const Sweep& sweep, Result& whole);

/// Returns the document of schema `refit.sweep` version 1. `whole`: case, command, environment and verdict of the
/// sweep.
std::string to_json(const Result& whole, const Sweep& sweep);

/// Returns the rows of all combinations as to_csv of one result has them, with a first column `sweep`, the label.
std::string to_csv(const Sweep& sweep);

/// Returns a JUnit document with a test case for each combination, called by case and label.
std::string to_junit(const Sweep& sweep);

/// Prints versions, command, case, how many combinations there are, and the heading of their table.
void print_sweep_header(std::ostream& out, const Result& whole, const Sweep& sweep);

/// Prints the row of one combination.
void print_sweep_row(std::ostream& out, const Sweep& sweep, const Combination& combination);

/// Prints what went wrong where, how many combinations have which status and, as the last line, the verdict.
void print_sweep_summary(std::ostream& out, const Result& whole, const Sweep& sweep);

}  // namespace refit::report
