#pragma once
// Small models of every family with the layouts that tests move them between, as jobs for the executor harness.

#include <memory>
#include <string>

#include "gen/vllm/layout.hpp"
#include "plan/policy.hpp"
#include "support/executor_harness.hpp"
#include "train/megatron/layout.hpp"

namespace refit::test_support {

/// "llama" (tied), "qwen2" (biases), "qwen3" (2 KV heads), "qwen3_padvocab" (V 250), "qwen3_moe" (8 experts) and
/// "six_heads" (llama, 6 KV heads): two layers each; or one of layout_models.hpp. A tensor without a rule (I64) is at
/// the end.
model::Model transport_model(const std::string& name);

/// A train and a gen layout of one model, and everything that a TransportCase borrows.
class Job {
 public:
  /// Sides as cases write them, e.g. "TP2xPP2"; a gen side that ends in "i" has internal data parallelism.
  /// Throws (usage) where a side is not legal for the model.
  Job(const std::string& model, const std::string& train, const std::string& gen, DType train_precision = DType::bf16,
      DType gen_precision = DType::bf16);
  Job(model::Model model, const train::megatron::Options& train, const gen::vllm::Options& gen);

  /// A case over them.
  TransportCase make(plan::Policy policy, ExecutorKind executor);

 private:
  model::Model model_;
  train::megatron::Options train_options_;
  gen::vllm::Options gen_options_;
  std::unique_ptr<layout::Layout> train_;
  std::unique_ptr<layout::Layout> gen_;
  Truth truth_;
};

/// Options as Job reads them. A vocabulary that vLLM pads is padded on the train side too.
train::megatron::Options train_options(const model::Model& model, const std::string& sizes, DType precision);
gen::vllm::Options gen_options(const std::string& sizes, DType precision);

/// Runs the case on threads and reports every rank's mismatch as a test failure.
std::vector<RankOutcome> expect_right(const TransportCase& job, const std::string& what);

}  // namespace refit::test_support
