#pragma once
// Parameter names as other versions of engines and trainers, and wrappers around them, spell them: finds a dump's
// parameter by a layout's name, and the owner of the names in a dump that fits no layout.
//
// Example: "decoder.layers.0.mlp.experts.linear_fc1.weight3" is there as
// "module.decoder.layers.0.mlp.experts.local_experts.3.linear_fc1.weight", where Megatron-Core groups no experts.

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace refit::diagnose {

/// Returns one spelling for all that are known: without wrappers ("module.", "_orig_mod.", "base_layer.", ...), experts
/// as vLLM before 0.24 and SGLang name them ("experts.w13_weight"), local experts as if they were grouped, and norms by
/// the names that they have where they are not fused into the linear layer behind them.
std::string plain_name(std::string_view name);

/// The names of a dump by their plain spelling. Keeps views of `names`.
class Spellings {
 public:
  explicit Spellings(const std::vector<std::string>& names);

  /// Returns the place in `names` of the only one that means `wanted`, with or without a prefix; -1 where there is
  /// none, or more than one.
  std::int64_t find(std::string_view wanted) const;

 private:
  std::vector<std::string> plain_;
  std::unordered_map<std::string_view, std::int64_t> whole_, ends_;  ///< of names, and of their ends; -1: of several
};

/// Describes whose names these look like: "a Hugging Face checkpoint's"; empty where that is not known.
std::string looks_like(std::span<const std::string> names);

}  // namespace refit::diagnose
