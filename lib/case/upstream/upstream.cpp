#include "case/upstream/upstream.hpp"

#include <algorithm>

#include "core/box.hpp"
#include "gen/vllm/side.hpp"
#include "train/megatron/side.hpp"

namespace refit::cases {
namespace {

using gen::vllm::DataParallel;
using gen::vllm::MoeBackend;
using layout::Precision;
using model::Model;
using model::Role;
using model::Tensor;

/// The only trainer and the only engine that those versions know, each if it is the case's.
struct Sides {
  const train::megatron::Side* train;
  const gen::vllm::Side* gen;

  explicit Sides(const Case& c)
      : train(dynamic_cast<const train::megatron::Side*>(&*c.train)),
        gen(dynamic_cast<const gen::vllm::Side*>(&c.engine())) {}
  bool known() const { return train != nullptr && gen != nullptr; }
};

bool has(const Model& model, Role role) {
  return std::any_of(model.tensors.begin(), model.tensors.end(), [&](const Tensor& t) { return t.role == role; });
}

/// Returns the first bulk tensor that `wanted` picks, or nullptr.
template <typename Wanted>
const Tensor* first_bulk(const Case& c, const Model& model, const Wanted& wanted) {
  const bool carved = plan::qkv_to_misc(c.refit.bulk, model.config.kv_heads, c.train->sizes().tp, c.gen_tp());
  for (const Tensor& tensor : model.tensors) {
    if (plan::is_bulk(c.refit.bulk, tensor, model.config.layers, carved) && wanted(tensor)) return &tensor;
  }
  return nullptr;
}

/// Checks precisions in the upstream versions' terms: a quantised train side has fp8_param, and gen's mxfp8 is fp8 with
/// is_mx, which the original did not have.
template <typename Require>
void check_precisions(Precision train, Precision gen, bool seed, const Require& require) {
  const bool fp8_param = is_quantised(train);
  const bool fp8 = is_quantised(gen);
  const bool mx = gen == Precision::mxfp8;
  require(gen != Precision::fp32 && gen != Precision::fp16, "gen.precision",
          fmt::format("{} is none of bf16 and fp8 [V12]", name(gen)));
  require(seed || !fp8_param || !mx, "gen.precision",
          "train weights in FP8 cannot feed mxfp8; legal: train.precision = bf16, or fp8 on both sides [V13]");
  require(!fp8 || train != Precision::mxfp8, "train.precision",
          "the FP8 recipe must be blockwise, not mxfp8; legal: fp8 [V14]");
  require(seed || fp8_param || !mx || train == Precision::bf16, "train.precision",
          fmt::format("mxfp8 is made of bf16, not of {}; legal: bf16 [V15]", name(train)));
  require(!fp8 || fp8_param || (mx && !seed), "gen.precision",
          fmt::format("{} needs train weights in FP8; legal: train.precision = fp8 [V16]", name(gen)));
  require(!fp8_param || fp8, "train.precision",
          fmt::format("{} weights have no {} consumer; legal: gen.precision = fp8 [V17]", name(train), name(gen)));
}

template <typename Require>
void check_train(const train::megatron::Side& train, const Require& require) {
  const std::int64_t etp = train.written.sizes.etp;
  require(etp == 1, "train.layout", fmt::format("ETP{} is not supported; legal: ETP1 [V7]", etp));
  const train::megatron::Options& pipeline = train.written;
  require(pipeline.stage_layers.empty(), "train.stage_layers",
          "a list of stages is not supported; legal: first_stage_layers and last_stage_layers [V8]");
  require(pipeline.pipeline_layout.empty(), "train.pipeline_layout",
          "a pipeline layout is not supported; legal: first_stage_layers and last_stage_layers [V8]");
  require(pipeline.hybrid_layer_pattern.empty(), "train.hybrid_layer_pattern",
          "its bars are not read; legal: first_stage_layers and last_stage_layers [V8]");
  require(pipeline.virtual_stages == 1, "train.virtual_stages",
          fmt::format("{} virtual stages are not supported; legal: 1 [V9]", pipeline.virtual_stages));
  require(!pipeline.account_for_embedding, "train.account_for_embedding",
          "layers are counted without the embedding; legal: false [V10]");
  require(!pipeline.account_for_loss, "train.account_for_loss",
          "layers are counted without the loss; legal: false [V11]");
}

/// Returns whether the engine may have experts elsewhere than at its start, or more than once.
bool has_eplb(const gen::vllm::Side& gen) {
  return gen.written.redundant_experts > 0 || !parse_choice<gen::vllm::ExpertPlacement>(gen.expert_placement);
}

class Rules {
 public:
  Rules(const Case& c, const Sides& sides, const Model& model)
      : case_(c), train_(*sides.train), gen_(*sides.gen), model_(model), seed_(c.run.strict_upstream == Strict::seed) {}

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
    const Tensor* tensor = train_.written.sizes.pp > 1 ? first_bulk(case_, model_, beyond) : nullptr;
    if (tensor != nullptr) {
      refuse("L3", fmt::format("layer {} of {} is in no stage of PP{}; legal: refit.bulk = ffn, or PP1", tensor->layer,
                               tensor->name, train_.written.sizes.pp));
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
    const std::int64_t pad = train_.written.make_vocab_size_divisible_by;
    const std::int64_t vocab = model_.config.vocab_size;
    const std::int64_t padded = pad == 0 ? vocab : round_up(vocab, pad * train_.written.sizes.tp);
    const auto is_vocabulary = [](const Tensor& t) { return t.role == Role::embedding || t.role == Role::lm_head; };
    if (padded != vocab && first_bulk(case_, model_, is_vocabulary) != nullptr) {
      refuse("L12", fmt::format("the train vocabulary has {} rows, the tensor {}; legal: "
                                "train.make_vocab_size_divisible_by = 0, or refit.bulk = ffn",
                                padded, vocab));
    }
  }

  void check_experts() {
    if (model_.config.experts == 0) return;
    const std::int64_t ep = gen_.written.sizes.ep;
    if (ep > 1 && model_.config.experts % ep != 0) {
      refuse("L12", fmt::format("{} experts are not divisible by gen EP{}", model_.config.experts, ep));
    }
    if (gen_.written.expert_placement == gen::vllm::ExpertPlacement::round_robin) {
      refuse("L12",
             "experts of a gen rank that are no neighbours are not cut out; legal: gen.expert_placement = linear");
    }
    if (gen_.data_parallel == DataParallel::internal && gen_.written.sizes.dp > 1) {
      refuse("L12", "experts of internal data parallelism are cut over DP x TP; legal: gen.data_parallel = engines");
    }
    const MoeBackend backend = gen_.written.moe_backend;
    if (backend == MoeBackend::flashinfer_trtllm || backend == MoeBackend::deep_gemm) {
      refuse("L12", fmt::format("gen.moe_backend = {} rounds the expert width up; legal: triton", name(backend)));
    }
    // Newer versions of vLLM keep finer blocks.
    constexpr std::int64_t kBlock = kFp8Block.rows;
    const std::int64_t width = model_.config.expert_intermediate_size;
    const std::int64_t part = ep > 1 ? width : width / gen_.written.sizes.tp;
    if (gen_.kept_as == Precision::fp8 && part % kBlock != 0) {
      refuse("L14",
             fmt::format("{} of the experts' width {} a rank are not whole blocks of {}; legal: a smaller gen TP{}",
                         part, width, kBlock, seed_ ? "" : ", or EP"));
    }
    if (gen_.kept_as == Precision::mxfp8 && has(model_, Role::packed_gate_up)) {
      refuse("L11", "packed experts cannot become mxfp8; legal: gen.precision = bf16");
    }
  }

  const Case& case_;
  const train::megatron::Side& train_;
  const gen::vllm::Side& gen_;
  const Model& model_;
  bool seed_;
  std::vector<std::string> texts_;
};

}  // namespace

void check_upstream(const Case& c, Complaints& complaints) {
  if (c.run.strict_upstream == Strict::off) return;
  if (c.gen.size() > 1) {
    return complaints.add("run.strict_upstream",
                          fmt::format("{}: it refits one engine, not {}; legal: off, or one [gen]",
                                      name(c.run.strict_upstream), c.gen.size()));
  }
  complaints.require(
      !c.run.colocated, "run.colocated",
      fmt::format("strict_upstream = {}: train and gen ranks must be apart; legal: run.colocated = false "
                  "[V1]",
                  name(c.run.strict_upstream)));
  const Sides sides(c);
  const bool seed = c.run.strict_upstream == Strict::seed;
  const auto require = [&](bool legal, const char* key, const std::string& what) {
    complaints.require(legal, key, fmt::format("strict_upstream = {}: {}", name(c.run.strict_upstream), what));
  };
  require(sides.gen != nullptr, "gen.engine",
          fmt::format("the engine must be vllm, not {}; legal: vllm [V2]", c.engine().row().name));
  require(sides.train != nullptr, "train.trainer",
          fmt::format("the trainer must be megatron, not {}; legal: megatron [V5]", c.train->row().name));
  if (sides.train != nullptr) check_train(*sides.train, require);
  if (sides.gen != nullptr) {
    require(!has_eplb(*sides.gen),
            sides.gen->written.redundant_experts > 0 ? "gen.redundant_experts" : "gen.expert_placement",
            "an engine that balances experts (EPLB) is not supported; legal: gen.expert_placement = linear, and "
            "gen.redundant_experts = 0 [V3]");
  }
  const std::optional<Precision> train = c.train->precision(), gen = c.engine().precision();
  if (train && gen) {
    check_precisions(*train, *gen, seed, require);
    require(is_quantised(*gen) || is_quantised(*train) || *train == *gen, "train.precision",
            fmt::format("{} bytes cannot be copied into {}; legal: equal precisions [L11]", name(*train), name(*gen)));
  }
  const layout::Parallelism sizes = c.engine().sizes();
  const std::int64_t pp = sizes.pp, ep = sizes.ep, tp = sizes.tp;
  require(pp == 1, "gen.layout", fmt::format("gen PP{} is not supported; legal: PP1 [V19]", pp));
  require(ep == 1 || (!seed && ep == tp), "gen.layout",
          seed ? fmt::format("EP{} must be 1 [V18]", ep) : fmt::format("EP{} must be 1 or TP, {} [V18]", ep, tp));
}

std::vector<std::string> upstream_violations(const Case& c, const Model& model) {
  const Sides sides(c);
  if (c.run.strict_upstream == Strict::off || !sides.known()) return {};
  return Rules(c, sides, model).check();
}

}  // namespace refit::cases
