#pragma once
// The parameters of Megatron-Core, FSDP2, vLLM and SGLang on every rank, written out by hand from observations of the
// real engines (Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2, torch 2.15, vLLM 0.33.0, SGLang 0.5.23): gather,
// merge, slice, on small arrays of numbers. Slow, and independent of lib/layout, lib/train and lib/gen except for the
// options.
//
// Values are opaque. A checkpoint's elements are different numbers below 2^56, and engines pad with 0. An engine that
// stores another value than the element's stores the number plus a tag.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "gen/sglang/layout.hpp"
#include "gen/vllm/layout.hpp"
#include "model/model.hpp"
#include "train/fsdp/layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::test_support {

/// A row-major array, as in numpy.
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<std::uint64_t> values;
};

inline constexpr std::uint64_t kMinusOneTag = std::uint64_t{1} << 56;     ///< x - 1 is stored
inline constexpr std::uint64_t kNegativeExpTag = std::uint64_t{1} << 60;  ///< -exp(x) is stored
inline constexpr std::string_view kUnknownTensors = "model.unknown_";     ///< prefix of names that no engine knows

struct Parameter {
  Array array;
  DType dtype = DType::bf16;
};

using Checkpoint = std::map<std::string, Array>;      ///< by Hugging Face name, in the shapes of files
using Parameters = std::map<std::string, Parameter>;  ///< by the engine's name

/// Returns the parameters of Megatron's `rank`. Names of a rank with several model chunks begin with "chunk N: ".
Parameters megatron_parameters(const Checkpoint& checkpoint, const model::Config& config,
                               const train::megatron::Options& options, std::int64_t rank);

/// Returns the parameters of a `rank` of torch's FSDP2. Of the rules of train.shard_dim it knows those for all names
/// ("*=1").
Parameters fsdp_parameters(const Checkpoint& checkpoint, const model::Config& config,
                           const train::fsdp::Options& options, std::int64_t rank);

/// Returns the parameters of vLLM's `rank`. The zeros of flashinfer_trtllm were not observed; they follow from its
/// source.
Parameters vllm_parameters(const Checkpoint& checkpoint, const model::Config& config, const gen::vllm::Options& options,
                           std::int64_t rank);

/// What SGLang's `rank` holds.
Parameters sglang_parameters(const Checkpoint& checkpoint, const model::Config& config,
                             const gen::sglang::Options& options, std::int64_t rank);

}  // namespace refit::test_support
