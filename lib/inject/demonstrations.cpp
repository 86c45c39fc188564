#include "inject/fault.hpp"

namespace refit::inject {
namespace {

/// Returns whether this is the norm that layer 0 begins with, where that is a mixer's.
bool is_first_norm(const Setting& /*setting*/, const Tensor& tensor) {
  const auto of = facts_of(tensor.role).norm_of;
  return tensor.layer == 0 && of && *of != model::Mixer::mlp && *of != model::Mixer::experts;
}

bool is_first_o_proj(const Setting& /*setting*/, const Tensor& tensor) {
  return tensor.layer == 0 && (tensor.role == Role::o_proj || tensor.role == Role::mla_o_proj);
}

constexpr const char* kFp8Cache = "gen.kv_cache_dtype = fp8";
constexpr const char* kFirstNorm = "a first layer with a mixer's norm";

}  // namespace

std::vector<Fault> demonstrations() {
  return {{{"drop-tensor", "layer 0's o_proj is on neither path: gen never gets it"},
           "attention in the first layer",
           Act::drop,
           is_first_o_proj},
          {{"corrupt-replica", "one bit of train rank 1's copy of layer 0's input_layernorm is wrong after loading"},
           kFirstNorm,
           Act::load,
           is_first_norm},
          {{"lost-update", "train rank 1 leaves out layer 0's input_layernorm in the update before refit 2"},
           kFirstNorm,
           Act::update,
           is_first_norm},
          {{"stale-refit", "no rank runs the bulk path after refit 1: gen keeps the weights of the first"},
           "",
           Act::stale,
           nullptr},
          {{"skip-send", "train rank 0 leaves out the bulk path of refit 2: its peers wait for ever (golden, p2p)"},
           "",
           Act::skip,
           nullptr},
          {{"stale-kv-scales", "the FP8 KV cache's scales are not finalised after refit 1: attention keeps the first"},
           kFp8Cache,
           Act::keep_scales,
           nullptr},
          {{"default-kv-scales", "the FP8 KV cache's scales are finalised as if none had been loaded: all are 1"},
           kFp8Cache,
           Act::forget_scales,
           nullptr},
          {{"stale-derived",
            "what gen derives of its weights is not made anew after refit 1: it computes with the first's"},
           "gen.derived = true",
           Act::keep_derived,
           nullptr}};
}

}  // namespace refit::inject
