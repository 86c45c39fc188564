#include "engine/upstream.hpp"

#include <algorithm>

#include "core/box.hpp"

namespace refit::engine {
namespace {

using model::Model;
using model::Role;
using model::Tensor;

bool has(const Model& model, Role role) {
  return std::any_of(model.tensors.begin(), model.tensors.end(), [&](const Tensor& t) { return t.role == role; });
}

/// The first bulk tensor that `wanted` picks, or nullptr.
template <typename Wanted>
const Tensor* first_bulk(const Case& c, const Model& model, const Wanted& wanted) {
  const bool carved = plan::qkv_to_misc(c.refit.bulk, model.config.kv_heads, c.train.layout.tp, c.gen.layout.tp);
  for (const Tensor& tensor : model.tensors) {
    if (plan::is_bulk(c.refit.bulk, tensor, model.config.layers, carved) && wanted(tensor)) return &tensor;
  }
  return nullptr;
}

class Rules {
 public:
  Rules(const Case& c, const Model& model) : case_(c), model_(model), seed_(c.run.strict_upstream == Strict::seed) {}

  std::vector<std::string> check() {
    check_stages();
    check_mappings();
    check_shapes();
    check_experts();
    return std::move(texts_);
  }

 private:
  void refuse(const char* rule, const std::string& text) {
    texts_.push_back(fmt::format("strict_upstream = {}: {} [{}]", seed_ ? "seed" : "merged", text, rule));
  }

  /// Stage maps know decoder layers only; the merged version keeps multi-token prediction on misc.
  void check_stages() {
    const auto beyond = [this](const Tensor& tensor) { return tensor.layer >= model_.config.layers; };
    const Tensor* tensor = case_.train.layout.pp > 1 ? first_bulk(case_, model_, beyond) : nullptr;
    if (tensor != nullptr) {
      refuse("L3", fmt::format("layer {} of {} is in no stage of PP{}; legal: refit.bulk = ffn, or PP1", tensor->layer,
                               tensor->name, case_.train.layout.pp));
    }
    const bool any = first_bulk(case_, model_, [](const Tensor& t) { return t.layer >= 0; }) != nullptr;
    if (!any && !takes_packed_names()) {
      refuse("L5",
             fmt::format("refit.bulk = {} takes no layer's tensor of {}, so that no layer prefix is known; legal: "
                         "a policy under which something is bulk",
                         name(case_.refit.bulk), model_.config.family));
    }
  }

  /// The merged rule takes gpt-oss's experts by their names, without being able to move them.
  bool takes_packed_names() const { return has(model_, Role::interleaved_gate_up) && case_.refit.bulk == Bulk::ffn; }

  void check_mappings() {
    if (seed_ && has(model_, Role::gdn_conv)) {
      refuse("L6",
             "Gated DeltaNet's in_proj is a compound mapping that is neither QKV nor a gated MLP; legal: models "
             "without it");
    }
    if (takes_packed_names()) {
      refuse("L8",
             "the packed, interleaved experts of gpt-oss have no expert group on the train side; legal: "
             "refit.bulk = whitelist");
    }
  }

  /// Both sides cut shapes evenly, and by Hugging Face's shapes.
  void check_shapes() {
    const std::int64_t pad = case_.train.make_vocab_size_divisible_by;
    const std::int64_t vocab = model_.config.vocab_size;
    const std::int64_t padded = pad == 0 ? vocab : round_up(vocab, pad * case_.train.layout.tp);
    const auto is_vocabulary = [](const Tensor& t) { return t.role == Role::embedding || t.role == Role::lm_head; };
    if (padded != vocab && first_bulk(case_, model_, is_vocabulary) != nullptr) {
      refuse("L12", fmt::format("the train vocabulary has {} rows, the tensor {}; legal: "
                                "train.make_vocab_size_divisible_by = 0, or refit.bulk = ffn",
                                padded, vocab));
    }
  }

  void check_experts() {
    if (model_.config.experts == 0) return;
    const std::int64_t ep = case_.gen.layout.ep;
    if (ep > 1 && model_.config.experts % ep != 0) {
      refuse("L12", fmt::format("{} experts are not divisible by gen EP{}", model_.config.experts, ep));
    }
    if (case_.gen.data_parallel == DataParallel::internal && case_.gen.layout.dp > 1) {
      refuse("L12", "experts of internal data parallelism are cut over DP x TP; legal: gen.data_parallel = engines");
    }
    const MoeBackend backend = case_.gen.moe_backend;
    if (backend == MoeBackend::flashinfer_trtllm || backend == MoeBackend::deep_gemm) {
      refuse("L12", fmt::format("gen.moe_backend = {} rounds the expert width up; legal: triton", name(backend)));
    }
    // Newer versions of vLLM keep finer blocks.
    constexpr std::int64_t kBlock = kFp8Block.rows;
    const std::int64_t width = model_.config.expert_intermediate_size;
    const std::int64_t part = ep > 1 ? width : width / case_.gen.layout.tp;
    if (case_.gen.precision == Precision::fp8 && part % kBlock != 0) {
      refuse("L14",
             fmt::format("{} of the experts' width {} a rank are not whole blocks of {}; legal: a smaller gen TP{}",
                         part, width, kBlock, seed_ ? "" : ", or EP"));
    }
    if (case_.gen.precision == Precision::mxfp8 && has(model_, Role::packed_gate_up)) {
      refuse("L11", "packed experts cannot become mxfp8; legal: gen.precision = bf16");
    }
  }

  const Case& case_;
  const Model& model_;
  bool seed_;
  std::vector<std::string> texts_;
};

}  // namespace

std::vector<std::string> upstream_violations(const Case& c, const Model& model) {
  return c.run.strict_upstream == Strict::off ? std::vector<std::string>{} : Rules(c, model).check();
}

}  // namespace refit::engine
