#include <gmock/gmock.h>

#include <algorithm>
#include <sstream>

#include "core/error.hpp"
#include "report/environment.hpp"
#include "report/format.hpp"
#include "report/table.hpp"
#include "report_sample.hpp"

namespace refit::report {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;

std::string header_of(const Result& result) {
  std::ostringstream out;
  print_header(out, result);
  return out.str();
}

std::string summary_of(const Result& result) {
  std::ostringstream out;
  print_summary(out, result);
  return out.str();
}

std::string plan_of(const Result& result) {
  std::ostringstream out;
  print_plan(out, result);
  return out.str();
}

std::size_t longest_line(const std::string& text) {
  std::istringstream lines(text);
  std::size_t longest = 0;
  for (std::string line; std::getline(lines, line);) longest = std::max(longest, line.size());
  return longest;
}

struct PayloadRow {
  Payload payload;
  std::string expected;
};

TEST(ReportText, PayloadLineToThePrintedDigit) {
  const std::vector<PayloadRow> rows = {
      // Qwen3-30B-A3B, ffn: 48 layers of 128 experts, three 768 x 2048 matrices each, of 30,532,122,624 parameters.
      {{2LL * 48 * 128 * 3 * 768 * 2048, 2LL * (30532122624 - 48LL * 128 * 3 * 768 * 2048), false, 0},
       "[xferd-payload] qkv_to_misc=False nccl_xfer=54.00GiB bcast_misc=2.87GiB total=56.87GiB xfer_frac=95.0%"},
      {{1LL << 30, 1LL << 20, true, 7},
       "[xferd-payload] qkv_to_misc=True nccl_xfer=1.00GiB bcast_misc=0.00GiB total=1.00GiB xfer_frac=99.9%"},
      {{0, 0, false, 0},
       "[xferd-payload] qkv_to_misc=False nccl_xfer=0.00GiB bcast_misc=0.00GiB total=0.00GiB xfer_frac=0.0%"},
  };
  for (const PayloadRow& row : rows) EXPECT_EQ(payload_line(row.payload), row.expected);
}

TEST(ReportText, NumbersAsPeopleReadThem) {
  EXPECT_EQ(format_seconds(0), "0 s");
  EXPECT_EQ(format_seconds(12.34e-6), "12.3 us");
  EXPECT_EQ(format_seconds(0.02195), "21.950 ms");
  EXPECT_EQ(format_seconds(13.4), "13.400 s");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(8'390'000), "8.39 MB");
  EXPECT_EQ(format_bytes(61'064'245'248), "61.06 GB");
  EXPECT_EQ(grouped(7), "7");
  EXPECT_EQ(grouped(123), "123");
  EXPECT_EQ(grouped(8'190'735'360), "8,190,735,360");
  EXPECT_EQ(counted(1, "rank") + " " + counted(2, "rank"), "1 rank 2 ranks");
}

TEST(ReportText, LongTextContinuesBelowItsLabel) {
  const std::string text = labelled("command", std::string(60, 'a') + " " + std::string(60, 'b'));
  EXPECT_EQ(text, "# command        " + std::string(60, 'a') + "\n#                " + std::string(60, 'b') + "\n");
}

TEST(ReportText, HeaderNamesVersionsAndRanksInCommentLines) {
  const std::string header = header_of(sample_result());
  EXPECT_THAT(header, StartsWith("# refit 0.1.0 (15a3c14e0b2d)  GNU 12.2.0  Open MPI 4.1.4\n"));
  EXPECT_THAT(header, HasSubstr("# settings       bulk=ffn executor=p2p steps=2 check_agreement=true fraction=0.5\n"));
  EXPECT_THAT(header, HasSubstr("#     1  gen         101  alpha  cpu     tp0\n"));
  EXPECT_THAT("\n" + header, Not(HasSubstr("\n ")));
  EXPECT_THAT(header, Not(HasSubstr("more ranks")));
}

TEST(ReportText, RanksBeyondSixtyFourAreSummarised) {
  Result result = sample_result();
  result.environment.ranks.clear();
  for (int rank = 0; rank < 70; ++rank) {
    result.environment.ranks.push_back({rank, "train", 1, rank < 40 ? "alpha" : "beta", "cpu", {}});
  }
  const std::string header = header_of(result);
  EXPECT_THAT(header, HasSubstr("#    63  train"));
  EXPECT_THAT(header, Not(HasSubstr("#    64  train")));
  EXPECT_THAT(header, HasSubstr("... and 6 more ranks; 2 hosts in all"));
}

TEST(ReportText, StepsAlignWithTheirHeading) {
  const Result result = sample_result();
  std::ostringstream heading;
  print_step_heading(heading, result);
  EXPECT_EQ(heading.str(),
            "#\n"
            "# refit weight_sync      bulk      misc  finalize   algbw     #wrong    KL max\n"
            "#              (ms)      (ms)      (ms)      (ms)  (GB/s) (elements)\n");
  std::ostringstream rows;
  for (const Refit& refit : result.refits) print_step(rows, result, refit);
  EXPECT_EQ(rows.str(),
            "      1    1000.000   750.000   250.000         -    0.00          0         0 w\n"
            "      2     500.000   375.000   125.000         -    0.00        N/A       N/A\n"
            "      3     250.000   125.000   125.000         -    0.00          1       0.5\n");
  EXPECT_LE(std::max(longest_line(heading.str()), longest_line(rows.str())), 80U);
}

TEST(ReportText, SummaryOfAFailedRun) {
  const std::string summary = summary_of(sample_result());
  for (const char* line : {
           "\n[xferd-payload] qkv_to_misc=True nccl_xfer=0.00GiB",
           "# payload        besides, 64 B that no train rank has came from the checkpoint\n",
           "# prepare        load 2.000 s, plan 500.000 ms\n",
           "# weight_sync    first 1.000 s; min 250.000 ms, median 375.000 ms, p95 487.500\n"
           "#                ms, p99 497.500 ms, max 500.000 ms of 2 refits\n",
           "# host           median 46.875 ms, max 62.500 ms until all copies are enqueued\n",
           "# bound          250.000 ms by ingress (ingress 250.000 ms, egress 200.000 ms,\n"
           "#                fanout 0 s, memory 125.000 ms)\n",
           "# model          750.000 ms by latency (wire 125.000 ms at device in, schedule 0\n"
           "#                s, staging 62.500 ms, latency 500.000 ms, misc 62.500 ms)\n",
           "# efficiency     0.500 = bound / median weight_sync\n",
           "# hosts          1.50 kB between hosts, 500 B within them\n",
           "# memory         at most per rank: train 2.00 kB, gen 2.10 kB, staging 0 B\n",
           "# schedule       at most per rank: 8 groups, 4 one after the other, 1,024\n"
           "#                operations in one\n",
           "# load           2.06 kB read, 2.06 kB needed\n",
           "# verification   2 refits, 3 tensors, 1,000 elements: 1 wrong in 1 tensor\n",
           "# wrong          norm.weight on gen rank 0: 1 element, first at [7]\n",
           "# KL             max 0.5, mean 0.25, largest in w\n",
           "# elapsed        4.500 s from start to end\n",
       }) {
    EXPECT_THAT(summary, HasSubstr(line));
  }
  EXPECT_THAT(summary, EndsWith("\nFAILED: 1 element is wrong\n"));
  EXPECT_LE(longest_line(summary.substr(summary.find("\n# "))), 80U);  // the field's own line is as long as it is
}

TEST(ReportText, TenOverflowsAreNamed) {
  Result result = sample_result();
  EXPECT_THAT(summary_of(result), Not(HasSubstr("overflow")));
  result.verification->overflows.assign(12, {"w", "F16", 1234, {1, 9}, 2});
  const std::string summary = summary_of(result);
  const std::string line =
      "# overflow       1,234 elements of w became infinite as F16 in refit 2, first at\n"
      "#                [1,9]\n";
  const std::string rest = line + "#                ... and of 2 more tensors\n";
  EXPECT_THAT(summary, HasSubstr(rest));
  std::int64_t lines = 0;
  for (std::size_t at = 0; (at = summary.find(line, at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 10);
}

TEST(ReportText, EachEngineHasALine) {
  const std::string header = header_of(sample_engines());
  EXPECT_THAT(header, HasSubstr("# gen            vllm+sglang TP1+DP2 bf16, 3 ranks\n"
                                "# engine 0       vllm, TP1 bf16, 1 rank from gen rank 0 on\n"
                                "# engine 1       sglang, DP2 bf16, 2 ranks from gen rank 1 on\n"));
  const std::string summary = summary_of(sample_engines());
  EXPECT_THAT(summary, HasSubstr("# engine 0       vllm TP1, payload 2.00 kB, 2.10 kB stored; 3 tensors, 400\n"
                                 "#                elements: 0 wrong in 0 tensors, KL max 0\n"
                                 "# engine 1       sglang DP2, payload 1.50 kB, 3.00 kB stored; 3 tensors, 600\n"
                                 "#                elements: 1 wrong in 1 tensor, KL max 0.5\n"));
  EXPECT_THAT(summary, HasSubstr("# wrong          norm.weight on gen rank 2 (engine 1, DP2): 1 element, first at\n"));
  EXPECT_THAT(summary_of(sample_result()), Not(HasSubstr("# engine")));
}

TEST(ReportText, TheLastLineIsTheVerdict) {
  Result result;
  EXPECT_EQ(verdict(result), "OK");
  result.error = Failure{"timeout", "rank 2 waits", {}, ""};
  EXPECT_EQ(verdict(result), "OK, as expected: rank 2 waits");
  result.error.reset();
  result.status = Status::failed;
  result.verification = Verification{};
  result.verification->elements_wrong = 1234;
  result.verification->tensors_wrong = 1;
  EXPECT_EQ(verdict(result), "FAILED: 1,234 elements wrong in 1 tensor");
  result.status = Status::passed;
  EXPECT_EQ(verdict(result), "OK, as expected: 1,234 elements wrong in 1 tensor");
  result.status = Status::failed;
  result.error = Failure{"data", "kl_max is 0.1, expected 0", {}, ""};
  EXPECT_EQ(verdict(result), "FAILED: kl_max is 0.1, expected 0");
  result.status = Status::error;
  EXPECT_EQ(verdict(result), "FAILED: kl_max is 0.1, expected 0");
  result.status = Status::waived;
  EXPECT_EQ(verdict(result), "WAIVED: kl_max is 0.1, expected 0");
}

TEST(ReportText, AnEarlyErrorPrintsOnlyWhatIsKnown) {
  Result result;
  result.status = Status::error;
  result.error = Failure{"usage", "no such file", {}, "load"};
  EXPECT_EQ(summary_of(result), "#\nFAILED: no such file\n");
}

TEST(ReportText, PlanPrintsBytesWithoutRatesAndTheMatrix) {
  Result result = sample_plan();
  result.byte_matrix = {{100, 2000, 0}, {5, 6, 7}};
  result.plan->world->sent = {2100, 18};
  result.plan->world->received = {105, 2006, 7};
  const std::string text = plan_of(result);
  EXPECT_THAT(text, HasSubstr("# bound          no rates; bytes of the busiest device: ingress 2.00 kB"));
  EXPECT_THAT(text, HasSubstr("# train          sent per rank: min 18 B, mean 1.06 kB, max 2.10 kB (rank 0)\n"));
  EXPECT_THAT(text, HasSubstr("# gen            received per rank: min 7 B, mean 706 B, max 2.01 kB (rank 1)\n"));
  EXPECT_THAT(text, HasSubstr("       1                 18               2006\n"));
  EXPECT_THAT(text, HasSubstr("       2                  -                  7\n"));
  EXPECT_THAT(text, HasSubstr("  100 2000    0\n    5    6    7\n"));
  EXPECT_THAT(text, EndsWith("\nOK\n"));
  result.bound = sample_result().bound;
  EXPECT_THAT(plan_of(result), HasSubstr("# bound          250.000 ms by ingress ("));
}

TEST(ReportText, PlanComparesPoliciesAndExecutors) {
  Result result = sample_plan();
  result.model_seconds = sample_result().model_seconds;
  result.plan->models = {{"all", "direct", {0.5, "wire", "device out", 0.5, 0, 0, 0, 0}},
                         {"ffn", "golden", {2, "misc", "domain in", 0.5, 0.25, 0, 0, 1.25}}};
  const std::string text = plan_of(result);
  EXPECT_THAT(text, HasSubstr("# model          750.000 ms by latency (wire 125.000 ms at device in, schedule 0\n"));
  EXPECT_THAT(
      text, testing::ContainsRegex("\n  all +direct +500.000 ms  wire +500.000 ms +0 s +0 s +0 s +0 s +device out\n"));
  EXPECT_THAT(text, testing::ContainsRegex(
                        "\n  ffn +golden +2.000 s  misc +500.000 ms +250.000 ms +0 s +0 s +1.250 s +domain in\n"));
}

TEST(ReportText, PlanOfALargeWorldLeavesTheMatrixToTheDocument) {
  Result result = sample_plan();
  result.byte_matrix = ByteMatrix(80, std::vector<std::int64_t>(17, 3));
  result.plan->world->sent.assign(80, 51);
  result.plan->world->received.assign(17, 240);
  const std::string text = plan_of(result);
  EXPECT_THAT(text, HasSubstr("byte matrix: 80 x 17 ranks, in the JSON document"));
  EXPECT_THAT(text, HasSubstr("... and 16 more, in the JSON document"));
  result.byte_matrix.clear();
  EXPECT_THAT(plan_of(result), HasSubstr("byte matrix: of so many ranks only with --byte-matrix FILE"));
}

TEST(ReportText, ByteMatrixIsSquareOverWorldRanks) {
  EXPECT_EQ(byte_matrix_text({{1, 2}, {3, 4}, {5, 6}}), "0 0 0 1 2\n0 0 0 3 4\n0 0 0 5 6\n0 0 0 0 0\n0 0 0 0 0\n");
}

TEST(ReportText, EnvironmentKnowsItsVersions) {
  const Environment environment = local_environment();
  for (const std::string& version : {environment.refit, environment.hdf5}) {
    EXPECT_THAT(version, MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  }
  EXPECT_THAT(environment.compiler, MatchesRegex("[A-Za-z]+ [0-9].*"));
  EXPECT_THAT(current_time(), MatchesRegex("20[0-9][0-9]-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+Z"));
}

}  // namespace
}  // namespace refit::report
