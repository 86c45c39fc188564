#pragma once
// Conversion of the engine's values to the report's: sections of a result that are known before anything moves.

#include <string>
#include <vector>

#include "case/setup.hpp"
#include "core/text.hpp"
#include "plan/cost.hpp"
#include "plan/reshard.hpp"
#include "report/result.hpp"
#include "transport/rates.hpp"
#include "verify/result.hpp"

namespace refit::engine {

using cases::Case;
using cases::Setup;

/// Fills in case, command, environment without ranks, model, sides, settings and payload.
report::Result describe(const Setup& setup, const std::vector<std::string>& command);

/// Fills in case, command and environment alone, for a case whose setup failed.
report::Result describe(const Case& c, const std::vector<std::string>& command);

/// Fills in command, start and environment alone: of a job without a case.
report::Result describe(const std::vector<std::string>& command);

/// Returns the rates that were measured, bytes per second by name.
std::vector<std::pair<std::string, double>> to_report(const transport::ProbedRates& rates);

/// Returns everything in a case that all ranks must have in common, as "key=value" words.
std::string common_text(const Case& c);

/// Returns coordinates "tp=0 pp=1" as pairs.
std::vector<std::pair<std::string, std::int64_t>> parse_coordinates(const std::string& text);

report::Bound to_report(const plan::Bound& bound, bool has_rates);

/// Reports how the executor m2n moves the tensors `bulk`.
report::M2n to_report(const plan::Resharding& resharding, const model::Model& model,
                      const std::vector<model::Tensor>& bulk, const layout::Layout& source,
                      const layout::Layout& destination);

using refit::hexadecimal;

}  // namespace refit::engine
