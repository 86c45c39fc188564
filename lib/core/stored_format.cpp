#include "core/stored_format.hpp"

namespace refit {
namespace {

constexpr std::string_view kFormats[] = {"unquantised", "fp8_block", "mxfp8",     "fp8_tensor", "fp8_channel", "nvfp4",
                                         "mxfp4",       "int4",      "int4_asym", "gptq",       "awq"};
constexpr std::string_view kLibraries[] = {
    "compressed_tensors", "flashinfer",   "modelopt",     "modelopt_qtensor", "nemo_rl",
    "nemo_rl_pow2",       "te",           "te_16x16",     "te_pow2",          "torchao",
    "torchao_floor",      "torchao_ceil", "torchao_even", "torchao_rceil",    "triton",
    "triton_round_down",  "vllm",         "vllm_ue8m0"};

using enum Library;
constexpr Library kBlockwise[] = {nemo_rl, nemo_rl_pow2, te, te_pow2, vllm, vllm_ue8m0};
constexpr Library kMxfp8[] = {nemo_rl, vllm};
constexpr Library kFp8Tensor[] = {compressed_tensors, modelopt, modelopt_qtensor, torchao, vllm};
constexpr Library kFp8Channel[] = {compressed_tensors, modelopt, torchao, vllm};
constexpr Library kNvfp4[] = {compressed_tensors, flashinfer, modelopt, te, te_16x16, torchao, vllm};
constexpr Library kNvfp4OnTheWay[] = {compressed_tensors, flashinfer, modelopt, te, torchao, vllm};
constexpr Library kMxfp4[] = {compressed_tensors, flashinfer,    modelopt, torchao_floor,    torchao_ceil,
                              torchao_even,       torchao_rceil, triton,   triton_round_down};
constexpr Library kInt4[] = {compressed_tensors};
constexpr Library kVllm[] = {vllm};

}  // namespace

Choices choices(StoredFormat) { return kFormats; }
Choices choices(Library) { return kLibraries; }

std::span<const Library> libraries(StoredFormat format) {
  switch (format) {
    case StoredFormat::unquantised: return {};
    case StoredFormat::fp8_block: return kBlockwise;
    case StoredFormat::mxfp8: return kMxfp8;
    case StoredFormat::fp8_tensor: return kFp8Tensor;
    case StoredFormat::fp8_channel: return kFp8Channel;
    case StoredFormat::nvfp4: return kNvfp4;
    case StoredFormat::mxfp4: return kMxfp4;
    case StoredFormat::int4:
    case StoredFormat::int4_asym: return kInt4;
    case StoredFormat::gptq:
    case StoredFormat::awq: return kVllm;
  }
  return {};
}

std::span<const Library> libraries_on_the_way(StoredFormat format) {
  switch (format) {
    case StoredFormat::nvfp4: return kNvfp4OnTheWay;
    case StoredFormat::int4_asym:
    case StoredFormat::gptq:
    case StoredFormat::awq: return {};
    default: return libraries(format);
  }
}

}  // namespace refit
