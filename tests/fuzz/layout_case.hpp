#pragma once
// One case of the layout fuzzer: a tiny model, a layout of either side and a policy, drawn at random; and how to make a
// failing one smaller.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gen/vllm/layout.hpp"
#include "model/model.hpp"
#include "plan/policy.hpp"
#include "train/megatron/layout.hpp"

namespace refit::fuzz {

struct Case {
  model::Config config;
  bool lm_head = false;         ///< a tied model's checkpoint has its own lm_head.weight
  bool single_experts = false;  ///< qwen3_5_moe: experts one by one instead of packed
  bool packed_experts = false;  ///< the other way round, in families with experts one by one
  bool mtp_vocabulary = true;   ///< MTP layers repeat the embedding and the head
  bool unknown = false;         ///< a tensor that the family does not list
  bool wide = false;            ///< large enough that replicas share the sending of one box
  train::megatron::Options train;
  gen::vllm::Options gen;
  plan::Policy policy = plan::Policy::all;
  std::int64_t buffer_bytes = 1024;  ///< of the misc stream
};

/// The families, one case after the other.
const std::vector<std::string>& families();

/// Case `number` of `seed`; nothing else decides it. Most are legal.
Case draw_case(std::uint64_t seed, std::uint64_t number);

/// What cases can have, to count how often it was tried.
struct Feature {
  std::string name;
  bool (*has)(const Case&);
};
const std::vector<Feature>& features();

/// The model, built as from a checkpoint.
model::Model build(const Case& c);

/// Nothing is violated on either side.
bool is_legal(const Case& c, const model::Model& model);

/// All of it, a line for each part.
std::string describe(const Case& c);

/// The smallest case found by reducing one thing after the other for which `fails` still holds.
Case shrink(Case c, const std::function<bool(const Case&)>& fails);

}  // namespace refit::fuzz
