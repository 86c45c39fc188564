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

std::optional<Quantiser> quantiser_of(StoredFormat format, Library library) {
  if (format == StoredFormat::mxfp8) {
    if (library == Library::vllm) return Quantiser::mxfp8;
    return library == Library::nemo_rl ? std::optional(Quantiser::mxfp8_nemo_rl) : std::nullopt;
  }
  if (format != StoredFormat::fp8_block) return std::nullopt;
  switch (library) {
    case Library::nemo_rl: return Quantiser::nemo_rl;
    case Library::nemo_rl_pow2: return Quantiser::nemo_rl_pow2;
    case Library::te: return Quantiser::te;
    case Library::te_pow2: return Quantiser::te_pow2;
    case Library::vllm: return Quantiser::vllm;
    case Library::vllm_ue8m0: return Quantiser::vllm_ue8m0;
    default: return std::nullopt;
  }
}

}  // namespace refit
