#pragma once
// One side of a refit as a case describes it: its trainer or engine, and its options. Every trainer and every engine is
// a class of SideSpec and a row of its table (train/trainers.hpp, gen/engines.hpp), in a folder of its own; a side
// whose tensors and meshes a file lists (m2n/) is one more. Nothing outside asks which one it is.
//
// Example: train.layout = "TP2xPP2" of the trainer megatron, gen.layout = "TP4" of the engine vllm: two specs, from
// which make_side makes two layouts of a model.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/choice.hpp"
#include "core/cloned.hpp"
#include "core/complaints.hpp"
#include "core/keys.hpp"
#include "core/stored_format.hpp"
#include "layout/layout.hpp"
#include "layout/parallelism.hpp"
#include "layout/processed.hpp"

namespace refit::layout {

/// Precision in which a side keeps its weights.
enum class Precision : std::uint8_t {
  bf16,
  fp16,
  fp32,
  fp8,
  mxfp8,
  fp8_tensor,
  fp8_channel,
  nvfp4,
  mxfp4,
  int4,
  int4_asym,
  gptq,
  awq
};
Choices choices(Precision);
/// Returns the dtype of the weights that a side of that precision does not quantise.
DType dtype_of(Precision precision);
/// Returns the form in which a side of that precision keeps the weights of linear layers.
StoredFormat weight_format_of(Precision precision);
inline bool is_quantised(Precision precision) { return weight_format_of(precision) != StoredFormat::unquantised; }

class SideSpec;
using SideKey = keys::Key<SideSpec>;
using SideSettings = std::vector<std::pair<std::string, keys::Scalar>>;

/// Everything that differs between trainers, and between engines, before a case says more.
struct SideRow {
  std::string_view name;       ///< as train.trainer and gen.engine have it
  std::string_view sentence;   ///< for lists
  std::string_view chosen_by;  ///< for messages about keys that mean nothing to the row: `gen.engine = "vllm"`
  std::string_view example;    ///< a layout, for messages; empty: its layout is not a key
  /// The side's keys, "train.layout" and so on. Each `set` and `get` is for specs that `make` has made.
  const std::vector<SideKey>& (*keys)();
  std::unique_ptr<SideSpec> (*make)();
};

class SideSpec {
 public:
  virtual ~SideSpec() = default;
  virtual std::unique_ptr<SideSpec> clone() const = 0;

  const SideRow& row() const { return row_; }
  /// Returns the side's key of that name, or nullptr where that key means nothing to the side.
  const SideKey* find_key(std::string_view name) const;

  /// Fills in values that follow from others, e.g. DP. Errors (usage): those of files that are read for this.
  virtual void complete() = 0;
  /// Adds complaints that hold for any model. This spec and `other`, that of the other side, are complete.
  virtual void check(Complaints& /*complaints*/, const SideSpec& /*other*/) const {}
  /// Adds complaints about keys that mean nothing for that model.
  virtual void check_model(Complaints& /*complaints*/, const model::Model& /*model*/) const {}
  /// Returns what a user may not expect of the side's keys with `model`, as sentences.
  virtual std::vector<std::string> notes(const model::Model& /*model*/) const { return {}; }
  /// Returns every rule that the side breaks for `model`, as sentences; empty if legal.
  virtual std::vector<std::string> violations(const model::Model& /*model*/) const { return {}; }
  /// Returns the TP sizes with which the side is legal, everything else unchanged; none where TP is not a choice.
  virtual std::vector<std::int64_t> legal_tp(const model::Model& /*model*/) const { return {}; }

  /// Returns the side's ranks along the axes that trainers and engines have in common.
  virtual Parallelism sizes() const = 0;
  /// Returns the precision; nothing where every tensor has a dtype of its own.
  virtual std::optional<Precision> precision() const = 0;
  /// Returns what a result says of the side besides keys that have not their defaults; `quantises`: weights, for it.
  virtual SideSettings settings(bool /*quantises*/) const { return {}; }
  /// Returns the files that the side reads, each behind its key.
  virtual std::vector<std::pair<std::string, std::string>> inputs() const { return {}; }

  /// Adds to a model the tensors that only this side has (scales of an FP8 KV cache), before anything reads the model.
  /// Returns the values of tensors that the side's files give, by index. `source`: of the model, for messages.
  virtual std::map<std::int32_t, float> extend(model::Model& /*model*/, const std::string& /*source*/) const {
    return {};
  }
  /// Gives the tensors of a model the form in which this side has them, for the layouts of both sides, which must be
  /// legal for the model.
  virtual void refine(model::Model& /*model*/) const {}
  /// Returns whether the side has a rule for LoRA pairs beside their weights.
  virtual bool keeps_adapters() const { return false; }
  /// Makes the layout. `model` must outlive it. The spec is complete, and legal for the model.
  virtual std::unique_ptr<Layout> make_layout(const model::Model& model) const = 0;

  // The next members concern engines only.

  /// Makes the layout of derived storages, which the engine computes from its loaded weights at the end of every refit;
  /// nullptr if there are none. Each of their elements is an element of a tensor, in another place or dtype. `loaded`:
  /// the engine's layout. Both arguments must outlive the result.
  virtual std::unique_ptr<Layout> make_derived(const model::Model& /*model*/, const Layout& /*loaded*/) const {
    return nullptr;
  }
  /// Returns the storages that the engine makes of its loaded ones by arithmetic at the end of every refit. `loaded`:
  /// what a rank stores by the engine's layout of the model.
  virtual std::vector<Processed> processed(const model::Model& /*model*/, const LocalLayout& /*loaded*/) const {
    return {};
  }
  /// Returns whether it makes any.
  virtual bool processes() const { return false; }
  /// Returns whether the engine, once it is loaded, has one scale of a whole tensor for all tensors of a parameter.
  virtual bool joins_scales() const { return false; }
  /// Returns whose bits the engine gets, where weights of a trainer that are not quantised are quantised for it;
  /// nothing if the engine's are not quantised.
  virtual std::optional<Library> quantiser() const { return std::nullopt; }
  /// Returns whether the engine's KV cache is FP8, with scales that refits bring.
  virtual bool has_cache_scales() const { return false; }
  /// Returns the scales that the engine's attention computes from a layer's loaded ones at the end of every refit.
  virtual model::CacheScales finalise(const model::CacheScales& loaded) const { return loaded; }

 protected:
  explicit SideSpec(const SideRow& row) : row_(row) {}
  SideSpec(const SideSpec&) = default;
  SideSpec& operator=(const SideSpec&) = delete;

 private:
  const SideRow& row_;
};

using Side = Cloned<SideSpec>;

/// Returns the row of that name, or nullptr.
const SideRow* find_row(std::span<const SideRow* const> rows, std::string_view name);

/// Makes the layout of one side.
std::unique_ptr<Layout> make_side(const SideSpec& spec, const model::Model& model);

/// The layouts of a side of one or several engines, whose ranks follow each other.
struct Engines {
  std::unique_ptr<Layout> loaded;
  std::unique_ptr<Layout> derived;  ///< SideSpec::make_derived; nullptr where no engine derives anything
};
/// Makes them. `model` must outlive the result.
Engines make_engines(std::span<const Side> engines, const model::Model& model);

/// Returns the TP sizes with which `violations(model, options)` is empty, everything else unchanged.
template <typename Options, typename Violations>
std::vector<std::int64_t> legal_tp(const model::Model& model, Options options, const Violations& violations) {
  std::vector<std::int64_t> legal;
  for (std::int64_t tp = 1; tp <= model.config.attention_heads; ++tp) {
    if (model.config.attention_heads % tp != 0) continue;
    options.sizes.tp = tp;
    if (violations(model, options).empty()) legal.push_back(tp);
  }
  return legal;
}

}  // namespace refit::layout
