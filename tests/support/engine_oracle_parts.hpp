#pragma once
// The parts of the oracles of both engines: arrays as in numpy, and access to a checkpoint.

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/engine_oracle.hpp"

namespace refit::test_support::oracle {

using Sizes = std::vector<std::int64_t>;

/// Returns a[begin : begin + count] along dimension `dim`; elements beyond the end are 0.
Array slice(const Array& a, std::int64_t begin, std::int64_t count, std::size_t dim = 0);
/// Returns the t-th of `parts` equal parts. The fuzzer draws legal sizes only, so a remainder is a mistake of the
/// rules.
Array part(const Array& a, std::int64_t t, std::int64_t parts, std::size_t dim = 0);
/// Returns the arrays one behind the other along the first dimension.
Array concat(const std::vector<Array>& all);
/// Returns the arrays along a new first dimension.
Array stack(const std::vector<Array>& all);
/// Returns a[index].
Array at(const Array& a, std::int64_t index);
Array transposed(const Array& a);
/// Returns a[first::2].
Array every_other(const Array& a, std::int64_t first);
Array plus(Array a, std::uint64_t tag);
Array zeros_like(Array a);
/// Cuts `a` into consecutive runs of rows.
std::vector<Array> split_rows(const Array& a, const Sizes& rows);
/// Returns part t of every component, one behind the other.
Array parts_of(const std::vector<Array>& components, std::int64_t t, std::int64_t parts);

/// One expert, as [out, in] matrices.
struct Expert {
  std::optional<Array> gate;
  Array up, down;
};

/// Access to a checkpoint for both engines, by Hugging Face's names.
struct Source {
  Source(const Checkpoint& checkpoint, const model::Config& config) : hf(checkpoint), c(config) {}

  bool has(const std::string& name) const { return hf.count(name) != 0; }
  const Array& get(const std::string& name) const;
  /// Returns the prefix of a layer's names. Qwen's prediction layer counts from 0 in a module of its own.
  std::string prefix(std::int64_t layer) const {
    if (layer >= c.layers && has("mtp.fc.weight")) return fmt::format("mtp.layers.{}.", layer - c.layers);
    return fmt::format("{}.layers.{}.", c.family == "nemotron_h" ? "backbone" : "model", layer);
  }
  std::string embedding() const {
    return c.family == "nemotron_h" ? "backbone.embeddings.weight" : "model.embed_tokens.weight";
  }
  std::string norm() const { return c.family == "nemotron_h" ? "backbone.norm_f.weight" : "model.norm.weight"; }
  /// Returns the experts' module of a layer, with its dot; empty if the layer has none.
  std::string moe_module(const std::string& layer) const;
  Expert expert(const std::string& module, std::int64_t e) const;
  /// Returns the shared experts' module beside an experts' module; empty if there is none.
  std::string shared_module(const std::string& moe) const;
  /// Returns the name of an experts' module's router, with its dot.
  std::string router(const std::string& moe) const;
  /// Returns the name, within the experts' module, of the bias by which the router selects; empty if there is none.
  std::string correction(const std::string& moe) const;
  std::optional<Array> optional(const std::string& name) const;
  /// Returns q, k and v ("weight" or "bias"); empty if an attention has none of them.
  std::vector<Array> qkv(const std::string& module, const std::string& kind) const;
  /// Returns gate and up of a dense MLP; up alone if it has no gate.
  std::vector<Array> gate_up(const std::string& module) const;
  /// Returns z, x, B, C, dt of a Mamba2 mixer; with `channels` only x, B, C.
  std::vector<Array> mamba(const Array& a, bool channels) const;
  /// Returns the numbers of rows of q, k and v of a Gated DeltaNet.
  Sizes gdn_qkv() const;
  /// Returns q, k, v, z, b, a of a Gated DeltaNet.
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
  /// Adds the tensors that no engine knows, as they are in the checkpoint.
  void put_unknown() {
    for (const auto& [name, array] : hf) {
      if (name.starts_with(kUnknownTensors)) put(name, array, c.dtype);
    }
  }

  DType dtype;
  Parameters out;
};

/// Adds the parameters of a vision tower on vLLM's t-th rank of T, and puts the language model's names behind that of
/// its module; does nothing if the checkpoint has no tower. `data_mode`: mm_encoder_tp_mode = "data".
void add_vllm_vision(RankWriter& out, std::int64_t t, std::int64_t T, bool data_mode);
/// Does the same for Megatron, whose towers are on the first pipeline stage only.
void add_megatron_vision(RankWriter& out, std::int64_t t, std::int64_t T, bool first_stage);

}  // namespace refit::test_support::oracle
