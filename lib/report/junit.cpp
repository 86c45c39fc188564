#include <fmt/format.h>

#include "report/format.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"

namespace refit::report {
namespace {

/// Seconds of everything that was timed.
double elapsed(const Result& result) {
  double seconds = 0;
  for (const auto& [phase, value] : result.prepare) seconds += value;
  for (const Refit& refit : result.refits) seconds += refit.weight_sync;
  return seconds;
}

std::string details(const Result& result) {
  std::string text = verdict(result);
  if (result.error && result.error->rank) text += fmt::format("\nrank {}", *result.error->rank);
  if (result.error && !result.error->phase.empty()) text += fmt::format("\nphase {}", result.error->phase);
  if (!result.verification) return text;
  for (const WrongTensor& wrong : result.verification->wrong) {
    text +=
        fmt::format("\n{} on {}: {}", wrong.tensor, gen_rank_text(result.engines, wrong.gen_rank), wrong_text(wrong));
  }
  return text;
}

std::string outcome(const Result& result) {
  const std::string message = xml_escape(verdict(result));
  if (result.status == Status::passed) return "";
  if (result.status == Status::waived) return fmt::format("      <skipped message=\"{}\"/>\n", message);
  const char* element = result.status == Status::failed ? "failure" : "error";
  const std::string type = result.error ? xml_escape(result.error->kind) : "data";
  return fmt::format("      <{0} type=\"{1}\" message=\"{2}\">{3}</{0}>\n", element, type, message,
                     xml_escape(details(result)));
}

}  // namespace

std::string to_junit(const Result& result) {
  const char* command = result.plan ? "refit.plan" : "refit.run";
  const auto count = [&result](Status status) { return result.status == status ? 1 : 0; };
  std::string output = result.payload ? payload_line(*result.payload) + "\n" : "";
  if (const auto summary = summarise(weight_sync_samples(result))) {
    output += fmt::format("weight_sync median {}\n", format_seconds(summary->median));
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<testsuites>\n"
      "  <testsuite name=\"{0}\" tests=\"1\" failures=\"{1}\" errors=\"{2}\" skipped=\"{3}\" time=\"{4:.6f}\">\n"
      "    <testcase classname=\"{0}\" name=\"{5}\" time=\"{4:.6f}\">\n"
      "{6}"
      "      <system-out>{7}</system-out>\n"
      "    </testcase>\n"
      "  </testsuite>\n"
      "</testsuites>\n",
      command, count(Status::failed), count(Status::error) + count(Status::interrupted), count(Status::waived),
      elapsed(result), xml_escape(result.test_case.name), outcome(result), xml_escape(output));
}

}  // namespace refit::report
