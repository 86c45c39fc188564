#pragma once
// The tensors of which a quantised weight consists, as libraries write them in checkpoints and engines keep them.
//
// Example: NVFP4 of a weight X.weight [N, K] by compressed-tensors is X.weight_packed U8 [N, K/2], X.weight_scale
// F8_E4M3 [N, K/16] and X.weight_global_scale F32 [1]. Formats of 8 bits keep the weight itself, as F8_E4M3, beside its
// scales; the elements of others are a part of their own.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/box.hpp"
#include "core/dtype.hpp"
#include "core/stored_format.hpp"
#include "model/role.hpp"

namespace refit::model {

struct Tensor;
struct Model;

/// Whose names and shapes parts have.
enum class Naming : std::uint8_t {
  fp8,                 ///< quant_method fp8: DeepSeek's blocks, static FP8 per tensor
  mxfp8,               ///< quant_method mxfp8
  compressed_tensors,  ///< llm-compressor too; scales are divisors in NVFP4
  modelopt,            ///< scales are multipliers
  fbgemm_fp8,
  mxfp4,  ///< gpt-oss: experts only, in blocks of their own dimension
  gptq,
  awq
};

/// The format of a model's quantised weights, and how it is written down.
struct Quantisation {
  StoredFormat format = StoredFormat::unquantised;
  Naming naming = Naming::fp8;
  std::int64_t group = 128;         ///< columns of a group, in formats of integers
  DType scale_dtype = DType::bf16;  ///< of compressed-tensors' scales of FP8 and of integers
  bool has_input_scales = false;    ///< static scales of activations
  double input_scale_bound = 0;     ///< fbgemm_fp8's activation_scale_ub

  constexpr Quantisation() = default;
  constexpr Quantisation(StoredFormat of)  // NOLINT(google-explicit-constructor): the usual names of a format
      : format(of), naming(usual(of)) {}
  constexpr Quantisation(StoredFormat of, Naming by) : format(of), naming(by) {}
  friend constexpr bool operator==(const Quantisation&, const Quantisation&) = default;

 private:
  static constexpr Naming usual(StoredFormat of) {
    switch (of) {
      case StoredFormat::unquantised:
      case StoredFormat::fp8_block: return Naming::fp8;
      case StoredFormat::mxfp8: return Naming::mxfp8;
      case StoredFormat::gptq: return Naming::gptq;
      case StoredFormat::awq: return Naming::awq;
      default: return Naming::compressed_tensors;
    }
  }
};

/// One part of a quantised weight.
struct Part {
  Role role = Role::block_scale;  ///< packed_values, block_scale, tensor_scale, ...
  std::string_view suffix;        ///< in place of ".weight", or behind a name without it
  Shape shape;                    ///< as layouts see it
  DType dtype = DType::f32;
  Shape written{};  ///< in checkpoints, where they have other dimensions
};

/// Returns the parts of `weight`, in the order in which a model lists them behind it. Errors (usage): a shape that the
/// format does not divide, or that the naming has no form for.
std::vector<Part> parts_of(const Quantisation& how, const Tensor& weight);

/// Returns the name of a part: "a.q_proj.weight" and ".input_scale" make "a.q_proj.input_scale".
std::string part_name(std::string_view weight, std::string_view suffix);

/// Returns the elements of a weight that share one of a part: [1, 2] for bytes of two values, [128, 128] for a scale of
/// FP8 in blocks. kWhole: all of a dimension.
BlockSize block_of(const Quantisation& how, Role part);

/// Returns whether the role is quantised where its module is not excepted.
bool is_quantised(const Quantisation& how, Role role);

/// Returns the dimensions of a weight as [..., rows, columns]: experts that checkpoints store transposed are not.
Shape rows_and_columns(const Tensor& weight);

/// Returns, for each tensor of a model, the index of the first weight whose scale of the tensor it shares; of most
/// tensors, and in most formats, their own. Libraries give one NVFP4 scale to what engines fuse: q, k and v; gate and
/// up, also those of one expert; q_a and kv_a. ModelOpt gives one FP8 scale to gate and up of an expert.
std::vector<std::int32_t> scale_groups(const Model& model);

/// Returns, for each tensor of a model, the index of the first quantised weight with which it lies in one parameter of
/// engines, of most tensors their own.
std::vector<std::int32_t> fused_groups(const Model& model);

/// Returns the words for messages: "fp8", "nvfp4 (modelopt)".
std::string described(const Quantisation& how);

}  // namespace refit::model
