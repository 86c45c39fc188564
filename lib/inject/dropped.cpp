// Faults in which tensors get lost on their way: gen keeps what it had.

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

bool is_expert(const Tensor& tensor) { return tensor.expert >= 0; }

}  // namespace

std::vector<Fault> dropped_faults() {
  return {{{"B6-missing-up", "experts without a gate: their up projection is skipped with the gate"},
           "experts without a gate",
           Act::drop,
           [](const Setting& setting, const Tensor& tensor) {
             return tensor.role == Role::expert_up && other_half(setting.model, tensor) == nullptr;
           }},
          {{"B18-scales-out-of-band", "the KV cache's scales are not in the misc stream"},
           "scales of a KV cache",
           Act::drop,
           [](const Setting& /*setting*/, const Tensor& tensor) { return facts_of(tensor.role).is_cache_scale; }},
          {{"B28-experts-not-quantised", "the filter of what becomes FP8 matches *_proj modules only, not w13 and w2"},
           "a tensor for each expert, quantised on gen",
           Act::drop,
           [](const Setting& /*setting*/, const Tensor& tensor) {
             return is_expert(tensor) && (tensor.scales >= 0 || tensor.scale_of >= 0);
           }},
          {{"B32-unpatched-scales", "gen gets no block scales: their loader was copied before it was patched"},
           "weights quantised on gen",
           Act::drop,
           [](const Setting& /*setting*/, const Tensor& tensor) { return tensor.scale_of >= 0; }},
          {{"B37-local-expert-ids", "all EP ranks name their experts 0 to N-1; those of the first are what arrives"},
           "a tensor for each expert, train EP > 1",
           Act::drop,
           [](const Setting& setting, const Tensor& tensor) {
             return is_expert(tensor) && tensor.expert >= setting.model.config.experts / setting.train.ep;
           }},
          {{"B45-stale-drafter", "only the main model's weights are sent: the drafter keeps those that it has"},
           "layers of multi-token prediction",
           Act::drop,
           [](const Setting& setting, const Tensor& tensor) { return tensor.layer >= setting.model.config.layers; }},
          {{"B67-merged-rounded-twice", "s B A is rounded to the weight's type before it is added to the weight"},
           "adapters that are merged (adapters.send = merged)",
           Act::round_twice,
           [](const Setting& setting, const Tensor& tensor) {
             return setting.model.adapters == model::SendAdapters::merged && tensor.adapters >= 0;
           }},
          {{"B66-adapter-without-base", "LoRA pairs are sent, and the weights that they adapt stay those of refit 1"},
           "adapters ([adapters]), with what they adapt refitted too",
           Act::keep,
           [](const Setting& setting, const Tensor& tensor) {
             return tensor.adapters >= 0 && setting.model.moves(tensor);
           }},
          {{"B39-lost-mamba-d", "the load of mixer.D is lost in a layerwise reload"},
           "Mamba layers",
           Act::drop,
           [](const Setting& /*setting*/, const Tensor& tensor) { return tensor.role == Role::mamba_d; }},
          {{"B62-stale-engine", "an engine that is made anew claims the newest version, and is left out of refits"},
           "run.drill with an engine that joins again",
           Act::trust_new_engines,
           nullptr}};
}

}  // namespace refit::inject
