#include <fmt/format.h>

#include "report/format.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"

namespace refit::report {
namespace {

/// Text for an element or attribute. XML 1.0 has no way to write control characters: they become U+FFFD.
std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\n': out += "&#10;"; break;
      case '\t': out += "&#9;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? std::string("\xEF\xBF\xBD") : std::string(1, c);
    }
  }
  return out;
}

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
    text += fmt::format("\n{} on gen rank {}: {}, first at [{}]", wrong.tensor, wrong.gen_rank,
                        counted(wrong.elements_wrong, "element"), fmt::join(wrong.first_index, ","));
  }
  return text;
}

std::string outcome(const Result& result) {
  const std::string message = escape(verdict(result));
  if (result.status == Status::passed) return "";
  if (result.status == Status::waived) return fmt::format("      <skipped message=\"{}\"/>\n", message);
  const char* element = result.status == Status::failed ? "failure" : "error";
  const std::string type = result.error ? escape(result.error->kind) : "data";
  return fmt::format("      <{0} type=\"{1}\" message=\"{2}\">{3}</{0}>\n", element, type, message,
                     escape(details(result)));
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
      command, count(Status::failed), count(Status::error), count(Status::waived), elapsed(result),
      escape(result.test_case.name), outcome(result), escape(output));
}

}  // namespace refit::report
