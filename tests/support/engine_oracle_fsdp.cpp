// What torch's FSDP2 leaves on a rank, by names of parameters alone.

#include <algorithm>
#include <charconv>
#include <numeric>

#include "support/engine_oracle_parts.hpp"

namespace refit::test_support {
namespace {

using namespace oracle;
using train::fsdp::ExpertForm;
using train::fsdp::Recipe;

/// torch.chunk along a dimension.
Array chunk(const Array& a, std::int64_t k, std::int64_t parts, std::size_t dim) {
  const std::int64_t n = a.shape.at(dim);
  const std::int64_t c = (n + parts - 1) / parts;
  const std::int64_t begin = std::min(k * c, n);
  return slice(a, begin, std::min((k + 1) * c, n) - begin, dim);
}

/// Coordinates of `rank` on a mesh whose last dimension is fastest.
Sizes on_mesh(std::int64_t rank, const Sizes& mesh) {
  Sizes result(mesh.size());
  for (std::size_t d = mesh.size(); d-- > 0; rank /= mesh[d]) result[d] = rank % mesh[d];
  return result;
}

bool has_end(const std::string& name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
}

bool is_buffer(const std::string& name) { return name.ends_with("e_score_correction_bias"); }

/// ColwiseParallel 0, RowwiseParallel 1, neither -1; experts one by one are in no plan.
int plan_of(const std::string& name) {
  if (name.find(".experts.") != std::string::npos) return -1;
  if (has_end(name, {"q_proj.weight", "k_proj.weight", "v_proj.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias",
                     "gate_proj.weight", "up_proj.weight", "q_b_proj.weight", "kv_b_proj.weight", "embed_tokens.weight",
                     "lm_head.weight"}))
    return 0;
  return has_end(name, {"o_proj.weight", "down_proj.weight"}) ? 1 : -1;
}

/// Names are those of the rules; W: ranks of a mesh dimension, k: a coordinate.
class Fsdp : public RankWriter {
 public:
  Fsdp(const Checkpoint& checkpoint, const model::Config& config, const train::fsdp::Options& options, std::int64_t r)
      : RankWriter(checkpoint, config, options.precision),
        o(options),
        R(o.sizes.hsdp),
        S(o.sizes.fsdp),
        C(o.sizes.cp),
        T(o.sizes.tp),
        E(o.sizes.ep) {
    const std::int64_t ranks = R * S * C * T;
    pp = r / ranks;
    const std::int64_t s = r % ranks;
    const Sizes dense = on_mesh(s, {R, S, C, T});
    k_dense = dense[1] * C + dense[2];
    t = dense[3];
    if (o.recipe == Recipe::automodel) {
      const Sizes at = on_mesh(s, {ranks / E, E});
      W_experts = ranks / E, k_experts = at[0], ep = at[1];
    } else if (o.sizes.etp > 1) {
      const Sizes at = on_mesh(s, {R, S * C / E, E, T});
      W_experts = S * C / E, k_experts = at[1], ep = at[2];
    } else {
      const Sizes at = on_mesh(s, {R, S * C * T / E, E});
      W_experts = S * C * T / E, k_experts = at[1], ep = at[2];
    }
  }

  Parameters run() {
    const Sizes homes = layer_homes();
    for (const auto& [name, array] : hf) {
      if (name.starts_with(kUnknownTensors) || name.starts_with("mtp.")) continue;
      const std::int64_t layer = layer_of(name);
      if (layer >= c.layers || (layer >= 0 && homes.at(static_cast<std::size_t>(layer)) != pp)) continue;
      if (layer < 0 && !has_ends(name)) continue;
      if (is_matrix_of_experts(name)) continue;
      put_cut(name, array);
    }
    if (c.tied && last_home() == pp && o.sizes.pp > 1) put_cut("lm_head.weight", get(embedding()));
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string module = moe_module(prefix(layer));
      if (form() != ExpertForm::checkpoint && !module.empty() && homes.at(static_cast<std::size_t>(layer)) == pp)
        put_stacks(module);
    }
    put_unknown();
    return std::move(out);
  }

 private:
  static std::int64_t layer_of(const std::string& name) {
    const std::size_t at = name.find("layers.");
    if (at == std::string::npos) return -1;
    std::int64_t layer = -1;
    std::from_chars(name.data() + at + 7, name.data() + name.size(), layer);
    return layer;
  }

  /// The first stage has the embedding, the last one norm and head; a tied model's head is another name for it.
  bool has_ends(const std::string& name) const {
    if (name == embedding()) return pp == 0;
    if (name == "lm_head.weight" && c.tied) return false;
    return pp == last_home();
  }
  std::int64_t stages() const { return o.sizes.pp * o.virtual_stages; }
  std::int64_t home(std::int64_t stage) const {
    const bool v = o.pipeline_style == train::fsdp::PipelineStyle::v;
    return v ? std::min(stage, stages() - 1 - stage) : stage % o.sizes.pp;
  }
  std::int64_t last_home() const { return home(stages() - 1); }

  /// By layer: the place along pp that has it.
  Sizes layer_homes() const {
    Sizes counts = o.stage_layers;
    if (counts.empty()) {
      const bool titan = o.recipe == Recipe::torchtitan;
      const std::int64_t all = titan ? c.layers + 2 : c.layers;
      for (std::int64_t stage = 0; stage < stages(); ++stage)
        counts.push_back(all / stages() + (stage < all % stages() ? 1 : 0));
      if (titan) --counts.front(), --counts.back();
    }
    Sizes result;
    for (std::size_t stage = 0; stage < counts.size(); ++stage)
      result.insert(result.end(), static_cast<std::size_t>(counts[stage]), home(static_cast<std::int64_t>(stage)));
    return result;
  }

  bool is_single() const {
    return std::any_of(hf.begin(), hf.end(), [](const auto& entry) {
      const std::size_t at = entry.first.find(".experts.");
      return at != std::string::npos && std::isdigit(static_cast<unsigned char>(entry.first.at(at + 9))) != 0;
    });
  }

  ExpertForm form() const {
    if (o.experts != ExpertForm::checkpoint || E == 1 || !is_single()) return o.experts;
    if (o.recipe == Recipe::automodel) return ExpertForm::transposed;
    return o.recipe == Recipe::roll ? ExpertForm::stacked : ExpertForm::w123;
  }

  bool is_matrix_of_experts(const std::string& name) const {
    return form() != ExpertForm::checkpoint && name.find(".experts.") != std::string::npos;
  }

  void put_stacks(const std::string& module) {
    std::vector<Array> gates, ups, downs;
    for (std::int64_t e = 0; e < c.experts; ++e) {
      const Expert found = expert(module, e);
      gates.push_back(found.gate.value());
      ups.push_back(found.up);
      downs.push_back(found.down);
    }
    const std::string to = module + "experts.";
    if (form() == ExpertForm::w123) {
      put_cut(to + "w1", stack(gates));
      put_cut(to + "w2", stack(downs));
      return put_cut(to + "w3", stack(ups));
    }
    std::vector<Array> both;
    for (std::size_t e = 0; e < gates.size(); ++e) both.push_back(concat({gates[e], ups[e]}));
    if (form() == ExpertForm::stacked) {
      put_cut(to + "gate_up_proj", stack(both));
      return put_cut(to + "down_proj", stack(downs));
    }
    for (Array& matrix : both) matrix = transposed(matrix);
    for (Array& matrix : downs) matrix = transposed(matrix);
    put_cut(to + "gate_and_up_projs", stack(both));
    put_cut(to + "down_projs", stack(downs));
  }

  static std::size_t first_divisible(const Sizes& shape, std::int64_t W) {
    for (std::size_t d = 0; d < shape.size(); ++d) {
      if (shape[d] % W == 0) return d;
    }
    return 0;
  }

  /// The dimension that FSDP cuts; `local`: the shape that EP leaves.
  std::size_t dimension(const Sizes& shape, const Sizes& local, bool experts, std::int64_t W) const {
    const bool by_ep = experts && E > 1;
    for (const std::string& rule : o.shard_dim) {  // the fuzzer draws rules for all names only
      const auto dims = static_cast<std::int64_t>(shape.size());
      if (rule == "*=first_divisible") return first_divisible(by_ep ? local : shape, W);
      const std::int64_t dim = rule == "*=1" ? 1 : dims - 1;
      if (dim < dims) return static_cast<std::size_t>(dim);
    }
    if (o.recipe == Recipe::roll) return first_divisible(by_ep ? local : shape, W);
    if (!experts || shape.size() < 2) return 0;
    if (o.recipe == Recipe::automodel) return by_ep ? 1 : 0;
    if (o.recipe != Recipe::torchtitan) return 0;
    const std::int64_t spmd = o.dtensors == train::fsdp::Dtensors::spmd_types ? T : 1;
    return (by_ep ? W * E : R * S * C * spmd) > c.experts ? 1 : 0;
  }

  void put_cut(const std::string& name, const Array& whole) {
    if (is_buffer(name)) return put(name, whole, DType::f32);
    const std::size_t at = name.find(".experts.");
    const bool experts = at != std::string::npos && std::isdigit(static_cast<unsigned char>(name.at(at + 9))) == 0;
    const bool by_ep = experts && E > 1;
    Array local = by_ep ? chunk(whole, ep, E, 0) : whole;
    const bool w123 = experts && has_end(name, {".w1", ".w2", ".w3"});
    if (w123 && T > 1 && o.recipe == Recipe::torchtitan && (by_ep ? o.sizes.etp > 1 : true)) {
      local = chunk(local, t, T, name.ends_with(".w2") ? 2 : 1);
    } else if (!experts && T > 1 && plan_of(name) >= 0) {
      local = chunk(local, t, T, static_cast<std::size_t>(plan_of(name)));
    }
    const std::int64_t W = by_ep ? W_experts : S * C;
    const std::size_t dim = dimension(whole.shape, local.shape, experts, W);
    if (!by_ep || W > 1 || o.recipe != Recipe::automodel) {
      const bool empty = local.values.empty();
      local = chunk(local, by_ep ? k_experts : k_dense, W, dim);
      if (empty) local.shape.at(dim) = 0;
    }
    const bool router = c.family == "deepseek_v3" && name.ends_with(".mlp.gate.weight");
    put(name, local, router ? DType::f32 : dtype);
  }

  const train::fsdp::Options& o;
  std::int64_t R, S, C, T, E;                         // sizes
  std::int64_t pp = 0, t = 0, k_dense = 0;            // on the mesh of dense parameters
  std::int64_t ep = 0, k_experts = 0, W_experts = 1;  // on that of experts
};

}  // namespace

Parameters fsdp_parameters(const Checkpoint& checkpoint, const model::Config& config,
                           const train::fsdp::Options& options, std::int64_t rank) {
  return Fsdp(checkpoint, config, options, rank).run();
}

}  // namespace refit::test_support
