#pragma once
// Rows of keys that trainers and engines have in common. Sources only: {fmt}'s ranges are slow to compile.

#include <string>
#include <utility>

#include "core/error.hpp"
#include "core/key_rows.hpp"
#include "layout/side.hpp"

namespace refit::layout {

using SideRows = keys::Rows<SideSpec>;

/// A layout by axes, such as "TP2xPP2". `axes`: those of the side, which outlive all keys.
template <typename Access>
SideKey parallelism_key(std::string name, std::string help, Access access, std::string option,
                        AxisNames axes = kUsualAxes) {
  const auto assign = [axes](Parallelism& member, const keys::Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    if (given == nullptr) return "needs a layout such as \"TP2xPP2\"";
    if (given->find('+') != std::string::npos) return "lists several layouts where only one can stand";
    try {
      member = parse_parallelism(*given, axes);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto print = [](const Parallelism& member) {
    return member == Parallelism{} ? "" : keys::quoted(to_string(member));
  };
  return SideRows::make_key(std::move(name), keys::Kind::layout, "layout", std::move(help), std::move(option), access,
                            assign, print);
}

/// Adds a complaint about a gen.quantiser that makes no weights of that precision.
inline void check_quantiser(const std::string& given, Precision precision, Complaints& complaints) {
  const bool mx = precision == Precision::mxfp8;
  const auto quantiser = parse_quantiser(given);
  if (quantiser && is_mx(*quantiser) == mx) return;
  const char* problem = quantiser ? "is not one of" : "is unknown; use one of";
  complaints.add("gen.quantiser", fmt::format("\"{}\" {} those for gen.precision = \"{}\": {}", given, problem,
                                              name(precision), fmt::join(quantiser_names(mx), ", ")));
}

/// Returns the quantiser of that name, or the precision's default; nothing where the precision has none.
inline std::optional<Quantiser> quantiser_of(const std::string& given, Precision precision) {
  if (!is_quantised(precision)) return std::nullopt;
  if (!given.empty()) return parse_quantiser(given);
  return precision == Precision::mxfp8 ? Quantiser::mxfp8 : Quantiser::nemo_rl;
}

}  // namespace refit::layout
