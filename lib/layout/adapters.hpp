#pragma once
// Matrices of LoRA pairs as parameters: their rules follow from that of the weight which they adapt.
//
// Example: qkv_proj.weight over T ranks is the components {q_proj, rows 0..1023, T parts}, {k_proj, 0..511, T parts},
// {v_proj, 0..511, T parts}, and the rank of the pairs is 16. vLLM's k slice is A, rows 0..15 whole on every rank, and
// B, rows 0..511 in T parts. Megatron-Core's adapter of linear_qkv has one A of all three, rows 0..15 in T parts, and
// B, whose rows are those of linear_qkv.
//
// | weight cut by | A of engines | B of engines     | A of trainers | B of trainers        |
// |---------------|--------------|------------------|---------------|----------------------|
// | rows          | whole        | as the weight    | rows (of r)   | as the weight        |
// | columns       | columns      | whole            | columns       | rows, one part each  |
// | nothing       | whole        | whole            | rows (of r)   | rows, one part each  |

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "layout/parameter.hpp"

namespace refit::layout {

/// A matrix of a pair, for names.
struct AdapterMatrix {
  const Parameter& weight;  ///< the parameter that it adapts
  model::Role role;         ///< of the tensor that it adapts; of a fused matrix the first one's
  bool is_a = false;
  bool is_fused = false;   ///< of all tensors of the parameter
  std::int64_t slice = 0;  ///< the tensor's number among those of the parameter
};

/// The rules by which a side keeps LoRA pairs.
struct AdapterRules {
  bool are_kept = false;
  /// Returns Parameter::name of a matrix.
  std::function<std::string(const AdapterMatrix&)> name = {};
  bool cuts_both = false;          ///< trainers: both matrices are cut over all ranks, whatever the weight is
  bool fuses = false;              ///< the tensors of a parameter have one pair: one A, and B with the parameter's rows
  bool fuses_experts = false;      ///< likewise those of experts
  std::int64_t rank_multiple = 1;  ///< A's rows and B's columns are rounded up with zeros
  std::function<std::int64_t(const Parameter&)> ranks = [](const Parameter&) { return 1; };  ///< that cut a parameter

  /// Returns whether the tensors of a parameter have one pair. Those whose rows are of one tensor always do.
  bool is_fused(const Parameter& weight) const;
};

/// Returns the parameter of a matrix `tensor` beside `weight`, which has the components of its base's role.
Parameter matrix_of(const Parameter& weight, const model::Model& model, const Tensor& tensor,
                    const AdapterRules& rules);

/// Gives an A that several modules have in common by those rules its Tensor::same_as. Errors (usage): a fused parameter
/// of whose modules some have pairs and others not, or pairs of several ranks.
void share_matrices(model::Model& model, const std::vector<Parameter>& parameters, const AdapterRules& rules,
                    const std::string& key);

/// Returns every reason why a side cannot keep `model`'s pairs by those rules, as sentences.
std::vector<std::string> adapter_violations(const model::Model& model, const std::vector<Parameter>& parameters,
                                            const AdapterRules& rules);

}  // namespace refit::layout
