#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "core/console.hpp"

namespace refit {
namespace {

TEST(Meter, SaysNothingInItsFirstSecondAndHowFarItIsThen) {
  testing::internal::CaptureStderr();
  Meter meter("writing weights", 2'000'000'000);
  meter.add(100'000'000);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  meter.add(400'000'000);
  meter.add(500'000'000);  // a pause follows
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::MatchesRegex("refit: writing weights: 25 % of 2.00 GB after [0-9]+ s\n"));
}

}  // namespace
}  // namespace refit
