#pragma once
// Bounds that a case sets for figures of its result: "schedule.serial_groups_max <= 4". Only figures that the case
// determines, bytes and counts: times belong to the machine.

#include <string>

#include "report/result.hpp"

namespace refit::report {

/// Describes the error in the text of a bound; empty if it can be checked.
std::string figure_problem(const std::string& bound);

/// Describes why a result does not keep a bound; empty if it does, or if the run did not come to the figure.
std::string missed_figure(const std::string& bound, const Result& result);

}  // namespace refit::report
