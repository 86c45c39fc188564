#include "engine/reporting.hpp"

#include <fmt/format.h>

#include <sstream>

#include "core/console.hpp"
#include "core/error.hpp"
#include "core/files.hpp"
#include "engine/expect.hpp"
#include "engine/supervisor.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::engine {

std::pair<report::Result, int> judge_failed(const cases::Case& c, const Findings& findings, const Failure& failure) {
  if (failure.ending == Ending::timeout) {
    if (std::optional<report::Result> verdict = findings.verdict()) {
      const int code = verdict->exit_code;
      return {*std::move(verdict), code};
    }
  }
  report::Result result = findings.copy();
  const int code = judge_failure(c, failure, result);
  return {std::move(result), code};
}

int report_failure(report::Result& result, int code, Board& board, Outputs& outputs, bool is_root,
                   const Failure& failure) {
  // Messages about a rank by other ranks name the rank themselves.
  const bool own = failure.ending == Ending::error || failure.ending == Ending::interruption;
  say(fmt::format("{}{}{}", own ? fmt::format("rank {}: ", failure.rank) : "", code == 0 ? "as expected: " : "",
                  failure.message));
  if (!board.may_write() && outputs.take_older_away()) board.may_write() = true;
  if (!board.may_write()) return code;
  outputs.assume_checked();
  if (!is_root) outputs.leave_written();
  outputs.write(result);
  return result.exit_code;
}

void end_job(int code) {
  remove_temporaries();
  transport::MpiSession::abort(code);
}

void say_error(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) print_error("refit: error: {}\n", line);
}

}  // namespace refit::engine
