#pragma once
// The parameters of a model as its modules have them in training, before anything cuts them, and where each tensor of
// the checkpoint lies in them. Private to this folder.
//
// Example: Automodel's gate_and_up_projs [E, H, 2 I] holds expert 3's up_proj [I, H] transposed: index 3 of dimension
// 0, its columns along dimension 1, its rows as I .. 2 I - 1 along dimension 2.

#include <optional>
#include <string>
#include <vector>

#include "train/fsdp/layout.hpp"

namespace refit::train::fsdp {

/// A parameter, or a buffer.
struct Parameter {
  std::string name;
  Shape shape;
  DType dtype = DType::bf16;
  std::int32_t stage = 0;           ///< the pipeline stage that has it; kEveryStage
  bool is_whole = false;            ///< nothing cuts it: a buffer, or a tensor without a rule
  bool is_stacked = false;          ///< dimension 0 are a layer's experts
  int tp_dim = -1;                  ///< the dimension that tensor parallelism cuts; -1 = none
  int shard_dim = 0;                ///< the dimension that FSDP cuts
  bool is_first_divisible = false;  ///< instead the first that its ranks divide, else 0
};
inline constexpr std::int32_t kEveryStage = -1;

/// One dimension of a parameter: its indices `begin` and following are `size` of the tensor's, counted from
/// `tensor_begin` over the dimensions `first` .. `first` + `count` - 1, which checkpoints have as one.
struct Axis {
  int first = 0;
  int count = 1;
  std::int64_t tensor_begin = 0;
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

/// The place of a tensor, or of a part of it, in a parameter.
struct Image {
  std::int32_t parameter = 0;
  std::int64_t expert = -1;  ///< the index along dimension 0 of a tensor that has no such dimension; -1 = it has
  std::vector<Axis> axes;    ///< of the parameter's other dimensions
};

struct Parameters {
  std::vector<Parameter> all;
  std::vector<std::vector<Image>> images;  ///< by tensor; none where the trainer does not have it
};

/// Precondition: `experts_problem` is empty. `stages`: layers of every stage.
Parameters parameters_of(const model::Model& model, const Options& options, const std::vector<std::int64_t>& stages);

/// Returns why the model's experts cannot be held as the options say, as a sentence; empty where they can.
std::string experts_problem(const model::Model& model, const Options& options);

/// Returns the dimension that tensor parallelism cuts of parameters of that role, -1 where it cuts none; nothing where
/// no plan with a known rule has it.
std::optional<int> tensor_parallel_dim(model::Role role);

}  // namespace refit::train::fsdp
