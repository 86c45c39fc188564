#pragma once
// Parts of quantised weights as parameters: their rules follow from the weight's own.
//
// Example: qkv_proj.weight over T ranks is the components {q_proj, rows 0..1023, T parts}, {k_proj, 0..511, T parts},
// {v_proj, 0..511, T parts}. qkv_proj.weight_scale_inv is the same with rows 0..7, 0..3 and 0..3: one row for 128.

#include <functional>
#include <string>
#include <vector>

#include "layout/parameter.hpp"

namespace refit::layout {

/// The rules by which a side keeps quantised weights.
struct ScaleRules {
  StoredFormat weight_format = StoredFormat::unquantised;
  bool blocks_of_storage = false;    ///< blocks count from the storage's first row, not from each component's
  std::int64_t row_multiple = 1;     ///< the rows of a storage of scales are rounded up to a multiple
  std::int64_t column_multiple = 1;  ///< and its columns
  double fill = 0.0;                 ///< the value of the rows and columns added by rounding up
  std::int64_t expert_repeats = 1;   ///< experts have blocks finer than the tensor's by this, in both directions
  /// An engine's names and dtypes: "qkv_proj.input_scale" beside "qkv_proj.weight", scales of 8 bits and of whole
  /// tensors in float32. Else a part's name is the weight's with a suffix, and its dtype the checkpoint's.
  bool by_engine = false;
  bool input_scales_of_all = false;  ///< every rank has the input scales of all experts
  /// Numbers beside every quantised weight that only the engine has, in float32: their names' last words, and values.
  std::vector<std::pair<std::string, double>> constants = {};
};

/// Returns the parameter that holds a part of `weight`'s tensors: `part` is one of them.
Parameter part_of(const Parameter& weight, const ScaleRules& rules, const model::Quantisation& how, const Tensor& part);

/// Returns the parameter of one of ScaleRules::constants beside `weight`.
Parameter constant_of(const Parameter& weight, const std::string& word, double value);

/// Returns every reason why a side cannot keep `model`'s quantised weights by those rules, as sentences: weights that
/// are stored otherwise, a fused parameter of which only a part is quantised, cuts through a block. `size` returns the
/// number of ranks over which a parameter is cut.
std::vector<std::string> scale_violations(const model::Model& model, const std::vector<Parameter>& parameters,
                                          const ScaleRules& rules,
                                          const std::function<std::int64_t(const Parameter&)>& size);

}  // namespace refit::layout
