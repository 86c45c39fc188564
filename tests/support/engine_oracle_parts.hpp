#pragma once
// What the oracles of both engines are written with: arrays as in numpy, and the parts of a checkpoint.

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/engine_oracle.hpp"

namespace refit::test_support::oracle {

using Sizes = std::vector<std::int64_t>;

/// a[begin : begin + count] along dimension `dim`; what lies beyond the end is 0.
Array slice(const Array& a, std::int64_t begin, std::int64_t count, std::size_t dim = 0);
/// The t-th of `parts` equal parts. The fuzzer draws legal sizes only, so a remainder is a mistake of the rules.
Array part(const Array& a, std::int64_t t, std::int64_t parts, std::size_t dim = 0);
/// One behind the other along the first dimension.
Array concat(const std::vector<Array>& all);
/// Along a new first dimension.
Array stack(const std::vector<Array>& all);
/// a[index].
Array at(const Array& a, std::int64_t index);
Array transposed(const Array& a);
/// a[first::2].
Array every_other(const Array& a, std::int64_t first);
Array plus(Array a, std::uint64_t tag);
Array zeros_like(Array a);
/// Cuts `a` into consecutive runs of rows.
std::vector<Array> split_rows(const Array& a, const Sizes& rows);
/// Part t of every component, one behind the other.
Array parts_of(const std::vector<Array>& components, std::int64_t t, std::int64_t parts);

/// One expert, as [out, in] matrices.
struct Expert {
  std::optional<Array> gate;
  Array up, down;
};

/// What both engines read of a checkpoint, by Hugging Face's names.
struct Source {
  Source(const Checkpoint& checkpoint, const model::Config& config) : hf(checkpoint), c(config) {}

  bool has(const std::string& name) const { return hf.count(name) != 0; }
  const Array& get(const std::string& name) const;
  /// Qwen's prediction layer counts from 0 in a module of its own.
  std::string prefix(std::int64_t layer) const {
    if (layer >= c.layers && has("mtp.fc.weight")) return fmt::format("mtp.layers.{}.", layer - c.layers);
    return fmt::format("{}.layers.{}.", c.family == "nemotron_h" ? "backbone" : "model", layer);
  }
  std::string embedding() const {
    return c.family == "nemotron_h" ? "backbone.embeddings.weight" : "model.embed_tokens.weight";
  }
  std::string norm() const { return c.family == "nemotron_h" ? "backbone.norm_f.weight" : "model.norm.weight"; }
  /// Of a layer: the experts' module, with its dot; empty where the layer has none.
  std::string moe_module(const std::string& layer) const;
  Expert expert(const std::string& module, std::int64_t e) const;
  /// Of an experts' module: that of its shared experts, or nothing.
  std::string shared_module(const std::string& moe) const;
  /// Of an experts' module: what its router is called, with its dot.
  std::string router(const std::string& moe) const;
  /// The name of the bias by which the router selects, within the experts' module; empty where there is none.
  std::string correction(const std::string& moe) const;
  std::optional<Array> optional(const std::string& name) const;
  /// q, k and v ("weight" or "bias"); empty where an attention has none of them.
  std::vector<Array> qkv(const std::string& module, const std::string& kind) const;
  /// Gate and up of a dense MLP; up alone where it has no gate.
  std::vector<Array> gate_up(const std::string& module) const;
  /// z, x, B, C, dt of a Mamba2 mixer, or its last channels only.
  std::vector<Array> mamba(const Array& a, bool channels) const;
  /// Rows of q, k and v of a Gated DeltaNet.
  Sizes gdn_qkv() const;
  /// q, k, v, z, b, a of a Gated DeltaNet.
  std::vector<Array> gdn(const std::string& module) const;

  const Checkpoint& hf;
  const model::Config& c;
};

/// The parameters of a rank while they are written down.
struct RankWriter : Source {
  RankWriter(const Checkpoint& checkpoint, const model::Config& config, DType of)
      : Source(checkpoint, config), dtype(of) {}
  void put(const std::string& name, Array array) { put(name, std::move(array), dtype); }
  void put(const std::string& name, Array array, DType as) {
    if (!out.emplace(name, Parameter{std::move(array), as}).second) fail_runtime("oracle: {} twice", name);
  }
  /// No engine knows them: they are as in the checkpoint.
  void put_unknown() {
    for (const auto& [name, array] : hf) {
      if (name.starts_with(kUnknownTensors)) put(name, array, c.dtype);
    }
  }

  DType dtype;
  Parameters out;
};

/// What vLLM's t-th rank of T stores of a vision tower, if the checkpoint has one, and the language model's own names
/// behind that of its module. `data_mode`: mm_encoder_tp_mode = "data".
void add_vllm_vision(RankWriter& out, std::int64_t t, std::int64_t T, bool data_mode);
/// The same for Megatron, whose towers are on the first pipeline stage only.
void add_megatron_vision(RankWriter& out, std::int64_t t, std::int64_t T, bool first_stage);

}  // namespace refit::test_support::oracle
