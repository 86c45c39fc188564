#pragma once
// One case of the layout fuzzer: a tiny model, a layout of either side and a policy, drawn at random; and the shrinking
// of a failing one.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gen/sglang/layout.hpp"
#include "gen/vllm/layout.hpp"
#include "model/model.hpp"
#include "plan/policy.hpp"
#include "train/fsdp/layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::fuzz {

/// An engine of the gen side.
struct Engine {
  gen::vllm::Options vllm;
  std::optional<gen::sglang::Options> sglang = {};  ///< in place of vLLM

  std::int64_t tp() const { return sglang ? sglang->sizes.tp : vllm.sizes.tp; }
  DType precision() const { return sglang ? sglang->precision : vllm.precision; }
  layout::Mtp mtp() const { return sglang ? sglang->mtp : vllm.mtp; }
};

struct Case {
  model::Config config;
  bool lm_head = false;         ///< a tied model's checkpoint has its own lm_head.weight
  bool single_experts = false;  ///< qwen3_5_moe: experts one by one instead of packed
  bool packed_experts = false;  ///< the other way round, in families with experts one by one
  bool mtp_vocabulary = true;   ///< MTP layers repeat the embedding and the head
  bool unknown = false;         ///< a tensor that the family does not list
  bool wide = false;            ///< large enough that replicas share the sending of one box
  train::megatron::Options train;
  std::optional<train::fsdp::Options> fsdp;  ///< the trainer, in place of Megatron-Core
  gen::vllm::Options gen;
  std::optional<gen::sglang::Options> sglang;  ///< gen is this engine, not vLLM
  std::vector<Engine> more;                    ///< engines of gen behind that one
  plan::Policy policy = plan::Policy::all;
  std::int64_t buffer_bytes = 1024;  ///< of the misc stream

  /// Returns all engines.
  std::vector<Engine> engines() const;
};

/// Returns the families, one case after the other.
const std::vector<std::string>& families();

/// Returns case `number` of `seed`; it depends on nothing else. Most are legal.
Case draw_case(std::uint64_t seed, std::uint64_t number);

/// A feature of cases; its tries are counted.
struct Feature {
  std::string name;
  bool (*has)(const Case&);
};
const std::vector<Feature>& features();

/// Builds the model as from a checkpoint.
model::Model build(const Case& c);

/// Returns the train side of a legal case. `model` must outlive it.
std::unique_ptr<layout::Layout> train_layout(const Case& c, const model::Model& model);

/// Returns the layout of an engine of a legal case. `model` must outlive it.
std::unique_ptr<layout::Layout> engine_layout(const Engine& engine, const model::Model& model);

/// Returns whether neither side's rules are violated.
bool is_legal(const Case& c, const model::Model& model);

/// Describes all of a case, a line for each part.
std::string describe(const Case& c);

/// Returns the smallest case found by reducing one thing after the other for which `fails` still holds.
Case shrink(Case c, const std::function<bool(const Case&)>& fails);

}  // namespace refit::fuzz
