#include "core/quantiser.hpp"

#include <array>
#include <utility>

namespace refit {
namespace {

constexpr std::array<std::pair<Quantiser, std::string_view>, 8> kNames{{
    {Quantiser::nemo_rl, "nemo_rl"},
    {Quantiser::nemo_rl_pow2, "nemo_rl_pow2"},
    {Quantiser::te, "te"},
    {Quantiser::te_pow2, "te_pow2"},
    {Quantiser::vllm, "vllm"},
    {Quantiser::vllm_ue8m0, "vllm_ue8m0"},
    {Quantiser::mxfp8, "mxfp8"},
    {Quantiser::mxfp8_nemo_rl, "mxfp8_nemo_rl"},
}};

}  // namespace

std::string_view name(Quantiser quantiser) {
  for (const auto& [value, text] : kNames) {
    if (value == quantiser) return text;
  }
  return "unknown";
}

std::optional<Quantiser> parse_quantiser(std::string_view name) {
  for (const auto& [value, text] : kNames) {
    if (text == name) return value;
  }
  return std::nullopt;
}

std::vector<std::string_view> quantiser_names(bool mx) {
  std::vector<std::string_view> names;
  for (const auto& [value, text] : kNames) {
    if (is_mx(value) == mx) names.push_back(text);
  }
  return names;
}

}  // namespace refit
