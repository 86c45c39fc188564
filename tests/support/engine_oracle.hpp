#pragma once
// What Megatron-Core, FSDP2 and vLLM hold on every rank, written out by hand from what the real ones were seen to store
// (Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2, torch 2.15, vLLM 0.33.0): gather, merge, slice, on small arrays of
// numbers. Slow, and independent of lib/layout, lib/train and lib/gen, of which it uses the options only.
//
// Values are opaque: a checkpoint's elements are different numbers below 2^56; 0 is what an engine pads with; what an
// engine stores instead of the value is the number plus a tag.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "gen/vllm/layout.hpp"
#include "model/model.hpp"
#include "train/fsdp/layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::test_support {

/// Row-major, as numpy would hold it.
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<std::uint64_t> values;
};

inline constexpr std::uint64_t kMinusOneTag = std::uint64_t{1} << 56;     ///< x - 1 is stored
inline constexpr std::uint64_t kNegativeExpTag = std::uint64_t{1} << 60;  ///< -exp(x) is stored
inline constexpr std::string_view kUnknownTensors = "model.unknown_";     ///< so begin names that no engine knows

struct Parameter {
  Array array;
  DType dtype = DType::bf16;
};

using Checkpoint = std::map<std::string, Array>;      ///< by Hugging Face name, in the shapes of files
using Parameters = std::map<std::string, Parameter>;  ///< by the engine's name

/// What Megatron's `rank` holds. ETP > 1 was not observed: experts are then cut like a dense MLP over etp.
Parameters megatron_parameters(const Checkpoint& checkpoint, const model::Config& config,
                               const train::megatron::Options& options, std::int64_t rank);

/// What a `rank` of torch's FSDP2 holds. Of the rules of train.shard_dim it knows those for all names ("*=1").
Parameters fsdp_parameters(const Checkpoint& checkpoint, const model::Config& config,
                           const train::fsdp::Options& options, std::int64_t rank);

/// What vLLM's `rank` holds. The zeros of flashinfer_trtllm were not observed, they follow from reading its source.
Parameters vllm_parameters(const Checkpoint& checkpoint, const model::Config& config, const gen::vllm::Options& options,
                           std::int64_t rank);

}  // namespace refit::test_support
