#pragma once
// Numbers of a side's ranks along each axis of parallelism, as cases write them: "TP2xPP2", "TP3, DP2".
//
// Example: parse_parallelism("EP8xPP2xDP8") is {tp 1, cp 1, ep 8, dp 8, pp 2}; to_string prints it as "EP8xDP8xPP2".
// The folders train/ and gen/ derive a rank's coordinates from the numbers.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace refit::layout {

/// Sizes of the parallel axes of one side. Which of them a side has is its own business.
struct Parallelism {
  std::int64_t tp = 1;
  std::int64_t cp = 1;
  std::int64_t ep = 1;
  std::int64_t etp = 1;  ///< expert tensor parallelism; train only
  std::int64_t dp = 0;   ///< 0 = absent: see `with_data_parallel`
  std::int64_t pp = 1;
  std::int64_t hsdp = 1;  ///< replicas of shards
  std::int64_t fsdp = 1;  ///< shards of every parameter

  /// Returns the product of all but EP and ETP, which share the others' ranks; an absent DP counts as 1.
  std::int64_t ranks() const { return tp * cp * pp * hsdp * fsdp * (dp == 0 ? 1 : dp); }
  friend constexpr bool operator==(const Parallelism&, const Parallelism&) = default;
};

using AxisNames = std::span<const std::string_view>;

inline constexpr std::string_view kUsualAxes[] = {"TP", "CP", "EP", "ETP", "DP", "PP"};
/// Those that engines have; they refuse the other usual ones themselves.
inline constexpr std::string_view kGenAxes[] = {"TP", "EP", "DP", "PP"};

/// Parses "TP2xPP2" or "TP3, DP2": the side's axes in any order and case, separated by `x` or `,`, values 1..65536.
/// Errors (usage): an unknown or repeated axis, a value that is missing or out of range; the message quotes `text`,
/// and offers the axes `offered` (empty: all of `axes`).
Parallelism parse_parallelism(std::string_view text, AxisNames axes = kUsualAxes, AxisNames offered = {});

/// Returns "TP2xPP2": axes of size 1 are dropped; "TP1" where all are 1.
std::string to_string(const Parallelism& parallelism);

/// Returns the same with an absent DP set to the smallest that lets EP x ETP divide TP x CP x DP.
Parallelism with_data_parallel(Parallelism parallelism);

}  // namespace refit::layout
