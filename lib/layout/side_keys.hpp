#pragma once
// Rows of keys that trainers and engines have in common. Sources only: {fmt}'s ranges are slow to compile.

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/key_rows.hpp"
#include "layout/side.hpp"

namespace refit::layout {

using SideRows = keys::Rows<SideSpec>;

inline constexpr char kQuantiserHelp[] =
    "The library whose bits gen gets, when gen alone is quantised: for fp8 nemo_rl (the default), nemo_rl_pow2, te, "
    "te_pow2, vllm or vllm_ue8m0; for mxfp8 vllm (the default) or nemo_rl; for the other formats "
    "compressed_tensors (the default) or any other of docs/precisions.md.";

/// A layout by axes, such as "TP2xPP2". `axes`: those of the side, `offered`: those that a message offers; both outlive
/// all keys.
template <typename Access>
SideKey parallelism_key(std::string name, std::string help, Access access, std::string option,
                        AxisNames axes = kUsualAxes, AxisNames offered = {}) {
  const auto assign = [axes, offered](Parallelism& member, const keys::Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    if (given == nullptr) return "needs a layout such as \"TP2xPP2\"";
    if (given->find('+') != std::string::npos) return "lists several layouts where only one can stand";
    try {
      member = parse_parallelism(*given, axes, offered);
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

/// Returns the library of that name. MXFP8's two were once words of their own.
inline std::optional<Library> parse_library(std::string_view given, Precision precision) {
  const bool is_mx = precision == Precision::mxfp8;
  if (is_mx && given == "mxfp8") return Library::vllm;
  if (is_mx && given == "mxfp8_nemo_rl") return Library::nemo_rl;
  return parse_choice<Library>(given);
}

/// Adds a complaint where no library makes weights of that precision on the way, or not the one that is given.
inline void check_quantiser(const std::string& given, Precision precision, Complaints& complaints) {
  const std::span<const Library> known = libraries_on_the_way(weight_format_of(precision));
  if (known.empty()) {
    complaints.add("gen.precision", fmt::format("{0} is not made on the way; set train.precision = {0}, and "
                                                "model.checkpoint to weights that are {0}",
                                                name(precision)));
    return;
  }
  const auto library = parse_library(given, precision);
  if (given.empty() || (library && std::ranges::find(known, *library) != known.end())) return;
  std::vector<std::string_view> names;
  for (const Library one : known) names.push_back(name(one));
  const char* problem = library ? "is not one of" : "is unknown; use one of";
  complaints.add("gen.quantiser", fmt::format("\"{}\" {} those for gen.precision = \"{}\": {}", given, problem,
                                              name(precision), fmt::join(names, ", ")));
}

/// Returns the library of that name, or the precision's default; nothing where the precision has none.
inline std::optional<Library> quantiser_of(const std::string& given, Precision precision) {
  if (!is_quantised(precision)) return std::nullopt;
  if (!given.empty()) return parse_library(given, precision);
  if (precision == Precision::fp8) return Library::nemo_rl;
  return precision == Precision::mxfp8 ? Library::vllm : Library::compressed_tensors;
}

}  // namespace refit::layout
