#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "report/format.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"
#include "report/sweep.hpp"

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

/// Returns one test case.
std::string test_case(const Result& result, const char* command, const std::string& called) {
  std::string output = result.payload ? payload_line(*result.payload) + "\n" : "";
  if (const auto summary = summarise(weight_sync_samples(result))) {
    output += fmt::format("weight_sync median {}\n", format_seconds(summary->median));
  }
  return fmt::format(
      "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.6f}\">\n"
      "{}"
      "      <system-out>{}</system-out>\n"
      "    </testcase>\n",
      command, xml_escape(called), elapsed(result), outcome(result), xml_escape(output));
}

/// Returns the document with one suite of test cases.
std::string suite(const std::vector<const Result*>& results, const char* command, const std::string& cases) {
  const auto count = [&results](std::initializer_list<Status> wanted) {
    return std::ranges::count_if(
        results, [&](const Result* one) { return std::ranges::find(wanted, one->status) != wanted.end(); });
  };
  double seconds = 0;
  for (const Result* result : results) seconds += elapsed(*result);
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<testsuites>\n"
      "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.6f}\">\n"
      "{}"
      "  </testsuite>\n"
      "</testsuites>\n",
      command, results.size(), count({Status::failed}), count({Status::error, Status::interrupted}),
      count({Status::waived}), seconds, cases);
}

}  // namespace

std::string to_junit(const Result& result) {
  const char* command = result.plan ? "refit.plan" : "refit.run";
  return suite({&result}, command, test_case(result, command, result.test_case.name));
}

std::string to_junit(const Sweep& sweep) {
  constexpr const char* kCommand = "refit.run";
  std::vector<const Result*> results;
  std::string cases;
  for (const Combination& one : sweep.combinations) {
    results.push_back(&one.result);
    cases += test_case(one.result, kCommand, one.result.test_case.name + " " + label(one.values));
  }
  return suite(results, kCommand, cases);
}

}  // namespace refit::report
