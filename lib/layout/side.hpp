#pragma once
// One side of a refit as a case describes it: which trainer or engine it is, and with which options. Every trainer and
// every engine is a class of SideSpec and a row of its table (train/trainers.hpp, gen/engines.hpp), in a folder of its
// own; a side whose tensors and meshes a file lists (m2n/) is one more. Nothing outside asks "which one is it?".
//
// Example: train.layout = "TP2xPP2" of the trainer megatron, gen.layout = "TP4" of the engine vllm: two specs, of which
// make_side makes two layouts of a model.

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
#include "core/quantiser.hpp"
#include "layout/layout.hpp"
#include "layout/parallelism.hpp"

namespace refit::layout {

/// What the weights of a side are kept as.
enum class Precision : std::uint8_t { bf16, fp32, fp8, mxfp8 };
Choices choices(Precision);
/// The dtype of what a side of that precision does not quantise.
DType dtype_of(Precision precision);
/// How it keeps the weights of linear layers.
model::WeightFormat weight_format_of(Precision precision);
inline bool is_quantised(Precision precision) {
  return weight_format_of(precision) != model::WeightFormat::unquantised;
}

class SideSpec;
using SideKey = keys::Key<SideSpec>;
using SideSettings = std::vector<std::pair<std::string, keys::Scalar>>;

/// All that differs between trainers, and between engines, before a case says more.
struct SideRow {
  std::string_view name;       ///< as train.trainer and gen.engine have it
  std::string_view sentence;   ///< for lists
  std::string_view chosen_by;  ///< for messages about keys that mean nothing to it: `gen.engine = "vllm"`
  std::string_view example;    ///< a layout, for messages; empty: its layout is not a key
  /// The keys that it reads, "train.layout" and so on. Each `set` and `get` is for specs that `make` has made.
  const std::vector<SideKey>& (*keys)();
  std::unique_ptr<SideSpec> (*make)();
};

class SideSpec {
 public:
  virtual ~SideSpec() = default;
  virtual std::unique_ptr<SideSpec> clone() const = 0;

  const SideRow& row() const { return row_; }
  /// Its key of that name, or nullptr where that key means nothing to it.
  const SideKey* find_key(std::string_view name) const;

  /// Puts values where absent ones follow from others, e.g. DP. Errors (usage): those of files that are read for it.
  virtual void complete() = 0;
  /// What is wrong with a complete spec beside `other`, the complete other side, whatever the model.
  virtual void check(Complaints& /*complaints*/, const SideSpec& /*other*/) const {}
  /// Keys that mean nothing for that model.
  virtual void check_model(Complaints& /*complaints*/, const model::Model& /*model*/) const {}
  /// Every rule that it breaks for `model`, as sentences; empty if legal.
  virtual std::vector<std::string> violations(const model::Model& /*model*/) const { return {}; }
  /// The TP sizes with which it is legal, all else as it is; none where TP is not its to choose.
  virtual std::vector<std::int64_t> legal_tp(const model::Model& /*model*/) const { return {}; }

  /// Its ranks along the axes that trainers and engines have in common.
  virtual Parallelism sizes() const = 0;
  /// Nothing where every tensor has a dtype of its own.
  virtual std::optional<Precision> precision() const = 0;
  /// What a result says of its options beside layout and precision; `quantises`: weights are quantised for it.
  virtual SideSettings settings(bool /*quantises*/) const { return {}; }
  /// The files that it reads, each behind its key.
  virtual std::vector<std::pair<std::string, std::string>> inputs() const { return {}; }

  /// Adds to a model what this side has beside it, before anybody looks at it: scales of an FP8 KV cache. Returns the
  /// values that its files have for tensors, by index. `source`: of the model, for messages.
  virtual std::map<std::int32_t, float> extend(model::Model& /*model*/, const std::string& /*source*/) const {
    return {};
  }
  /// Gives the tensors of a model with which the sides are legal the form in which this side has them, for layouts of
  /// both sides.
  virtual void refine(model::Model& /*model*/) const {}
  /// The layout. `model` must outlive it. The spec is complete, and legal for it.
  virtual std::unique_ptr<Layout> make_layout(const model::Model& model) const = 0;

  // The following concern engines only.

  /// Whose FP8 it gets where train's weights are not quantised; nothing where it has none.
  virtual std::optional<Quantiser> quantiser() const { return std::nullopt; }
  /// Whether its KV cache is FP8, with scales that refits bring.
  virtual bool has_cache_scales() const { return false; }
  /// What its attention makes of a layer's loaded scales at the end of every refit.
  virtual model::CacheScales finalise(const model::CacheScales& loaded) const { return loaded; }

 protected:
  explicit SideSpec(const SideRow& row) : row_(row) {}
  SideSpec(const SideSpec&) = default;
  SideSpec& operator=(const SideSpec&) = delete;

 private:
  const SideRow& row_;
};

using Side = Cloned<SideSpec>;

/// The row of that name, or nullptr.
const SideRow* find_row(std::span<const SideRow* const> rows, std::string_view name);

/// The layout of one side.
std::unique_ptr<Layout> make_side(const SideSpec& spec, const model::Model& model);
/// The layout of a group of sides, whose ranks follow each other. Today the group is one side: others are refused where
/// cases are read.
std::unique_ptr<Layout> make_side(std::span<const Side> group, const model::Model& model);

/// The TP sizes with which `violations(model, options)` finds nothing, all else as it is.
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
