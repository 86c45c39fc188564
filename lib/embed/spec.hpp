#pragma once
// Texts of the C interface: a side ("vllm TP2 precision=fp8"), and options ("executor=p2p timeout=60").
//
// Words are apart by blanks. A word with "=" is a key with its value, in the words of case files; a value with blanks
// stands in double quotes, the entries of a list are apart by commas.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "pair/sides.hpp"
#include "plan/policy.hpp"
#include "session/exchange.hpp"

namespace refit::embed {

/// Parses both sides, completes and checks them. Errors (usage): an unknown trainer, engine or key, with the nearest
/// ones; values that a key refuses; everything that pair::check_sides complains about.
pair::Sides parse_sides(std::string_view train, std::span<const std::string> engines);

struct PlanOptions {
  plan::Policy policy = plan::Policy::all;
  bool colocated = false;
  std::int64_t layers = 0;  ///< the first layers only; 0 = all
};

struct WorldOptions {
  double timeout_seconds = 60;  ///< 0 = for ever
  std::string interface;        ///< empty: chosen
};

enum class Executor : std::uint8_t { automatic, direct, p2p, golden };
Choices choices(Executor);

struct SessionOptions {
  Executor executor = Executor::automatic;
  bool fan_out = false;
  transport::Delta delta = transport::Delta::off;
  std::int64_t streams = session::How().tuning.streams;
  std::int64_t misc_buffer_bytes = session::How().misc_buffer_bytes;
};

/// Parse options; nullptr or "": all defaults. Errors (usage): unknown keys, values that a key refuses.
PlanOptions parse_plan_options(const char* text);
WorldOptions parse_world_options(const char* text);
SessionOptions parse_session_options(const char* text);

}  // namespace refit::embed
