#include <gmock/gmock.h>

#include "report/statistics.hpp"
#include "report_sample.hpp"

namespace refit::report {
namespace {

using testing::ElementsAre;
using testing::Pair;

struct Row {
  std::vector<double> samples;
  Summary expected;
};

TEST(ReportStatistics, SummariesByTable) {
  const std::vector<Row> rows = {
      {{3}, {3, 3, 3, 3, 3, 3}},
      {{2, 1}, {1, 1.5, 1.5, 1.95, 1.99, 2}},
      {{4, 1, 3, 2}, {1, 2.5, 2.5, 3.85, 3.97, 4}},
      {{9, 1, 2}, {1, 2, 4, 8.3, 8.86, 9}},
      {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 200},
       {0, 10, 390.0 / 21, 19, 163.8, 200}},
  };
  for (const Row& row : rows) {
    const auto summary = summarise(row.samples);
    ASSERT_TRUE(summary.has_value());
    EXPECT_DOUBLE_EQ(summary->min, row.expected.min);
    EXPECT_DOUBLE_EQ(summary->median, row.expected.median);
    EXPECT_DOUBLE_EQ(summary->mean, row.expected.mean);
    EXPECT_DOUBLE_EQ(summary->p95, row.expected.p95);
    EXPECT_DOUBLE_EQ(summary->p99, row.expected.p99);
    EXPECT_DOUBLE_EQ(summary->max, row.expected.max);
  }
}

TEST(ReportStatistics, NoSamplesHaveNoSummary) { EXPECT_FALSE(summarise({}).has_value()); }

TEST(ReportStatistics, WarmUpIsNotASample) {
  EXPECT_THAT(weight_sync_samples(sample_result()), ElementsAre(0.5, 0.25));
  EXPECT_THAT(host_samples(sample_result()), ElementsAre(0.0625, 0.03125));
}

TEST(ReportStatistics, PhasesArePreparationThenMeasuredRefits) {
  EXPECT_THAT(phase_samples(sample_result()),
              ElementsAre(Pair("load", ElementsAre(2)), Pair("plan", ElementsAre(0.5)),
                          Pair("bulk", ElementsAre(0.375, 0.125)), Pair("misc", ElementsAre(0.125, 0.125))));
}

TEST(ReportStatistics, BandwidthIsDecimalAndAbsentWithoutPayloadOrTime) {
  Result result;
  Refit refit;
  refit.weight_sync = 2;
  EXPECT_FALSE(algorithm_bandwidth(result, refit).has_value());
  result.payload = Payload{3'000'000'000, 1'000'000'000, false, 5};
  EXPECT_DOUBLE_EQ(algorithm_bandwidth(result, refit).value(), 2.0);
  refit.weight_sync = 0;
  EXPECT_FALSE(algorithm_bandwidth(result, refit).has_value());
}

}  // namespace
}  // namespace refit::report
