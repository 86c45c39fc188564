#include "gen/vllm/processed.hpp"

#include <algorithm>
#include <map>

#include "core/error.hpp"

namespace refit::gen::vllm {
namespace {

using layout::Processed;
using layout::Storage;
using Choice = NumberRule::Choice;
using Order = ByteRule::Order;
using Requantise = ByteRule::Requantise;

constexpr std::int64_t kSwizzledRows = 128;
constexpr std::int64_t kCutlassMultiple = 32;  ///< to which CUTLASS pads a matrix's rows and columns

/// The storages of one rank while those made of them are listed. Parts of a module have its prefix:
/// "model.layers.0.self_attn.qkv_proj.", or "...routed_experts.w13_".
class Processing {
 public:
  Processing(const model::Model& model, const Options& options, const layout::LocalLayout& loaded)
      : how_(model.quantisation), options_(options), loaded_(loaded) {
    for (std::size_t i = 0; i < loaded.storages.size(); ++i)
      by_name_.emplace(loaded.storages[i].name, static_cast<std::int32_t>(i));
  }

  std::vector<Processed> all() {
    constexpr std::string_view kScale = "weight_scale";  // every format that is processed has it
    for (const Storage& storage : loaded_.storages) {
      if (!storage.name.ends_with(kScale)) continue;
      prefix_ = storage.name.substr(0, storage.name.size() - kScale.size());
      is_expert_ = prefix_.ends_with("w13_") || prefix_.ends_with("w2_");
      switch (how_.format) {
        case StoredFormat::nvfp4: is_expert_ ? nvfp4_experts() : nvfp4_linear(); break;
        case StoredFormat::fp8_tensor: is_expert_ ? fp8_experts() : fp8_linear(); break;
        case StoredFormat::fp8_channel:
          if (!is_expert_) bytes("weight", matrix("weight", Order::transposed), "weight");
          break;
        case StoredFormat::mxfp4:
          if (is_expert_)
            fail_usage("gen.derived: what vLLM makes of experts in mxfp4 ({}weight) has no rule here", prefix_);
          bytes("weight", matrix("weight_packed"), "weight_packed");
          break;
        default: break;
      }
    }
    return std::move(out_);
  }

 private:
  bool divides() const { return how_.naming == model::Naming::compressed_tensors; }

  std::int32_t find(const char* part) const {
    const auto found = by_name_.find(prefix_ + part);
    return found == by_name_.end() ? -1 : found->second;
  }
  const Storage& get(const char* part) const {
    const std::int32_t index = find(part);
    if (index < 0) fail_usage("gen.derived: vLLM has no {}{} of {} weights", prefix_, part, described(how_));
    return loaded_.storages[static_cast<std::size_t>(index)];
  }
  std::int64_t experts() const { return is_expert_ ? get("weight_scale").shape[0] : 1; }

  /// Returns the first row of each tensor in the first matrix.
  std::vector<std::int64_t> begins(const char* values) const {
    const std::int32_t index = find(values);
    const Shape& shape = get(values).shape;
    const std::int64_t rows = shape[shape.size() - 2];
    std::map<std::int32_t, std::int64_t> first;
    for (const layout::LocalPiece& piece : loaded_.pieces) {
      const std::int64_t row = piece.piece.place.offset / shape[shape.size() - 1];
      if (piece.storage != index || row >= rows) continue;
      std::int64_t& begin = first.try_emplace(piece.tensor, row).first->second;
      begin = std::min(begin, row);
    }
    std::vector<std::int64_t> result;
    for (const auto& [tensor, row] : first) result.push_back(row);
    std::ranges::sort(result);
    return result;
  }

  ByteRule matrix(const char* part, Order order = Order::kept) const {
    const Shape& shape = get(part).shape;
    const int last = shape.size() - 1;
    return {.matrices = last == 2 ? shape[0] : 1, .rows = shape[last - 1], .columns = shape[last], .order = order};
  }

  void bytes(const char* name, const ByteRule& rule, const char* source, const char* scales = nullptr) {
    const Storage& from = get(source);
    Shape shape = from.shape;
    shape[shape.size() - 2] = rule.padded_rows();
    shape[shape.size() - 1] = rule.padded_columns();
    out_.push_back({prefix_ + name, shape, from.dtype, rule, find(source), scales == nullptr ? -1 : find(scales)});
  }

  void number(const char* name, const NumberRule& rule, const char* source, const char* factors = nullptr) {
    const Shape shape = rule.groups == 1 ? Shape{} : Shape{rule.groups};
    get(source);
    out_.push_back({prefix_ + name, shape, DType::f32, rule, find(source), factors == nullptr ? -1 : find(factors)});
  }

  NumberRule largest(const char* source, bool inverts_after = false) const {
    return {.scales = get(source).elements(), .inverts_after = inverts_after};
  }

  /// One number for the components of a matrix: of divisors 1 / the largest, of multipliers the largest. Block scales
  /// are not made anew: a component with another scale decodes wrong.
  void nvfp4_linear() {
    const bool divides = this->divides();
    const char* global = divides ? "weight_global_scale" : "weight_scale_2";
    const char* input = divides ? "input_global_scale" : "input_scale";
    const char* values = divides ? "weight_packed" : "weight";
    if (divides) bytes("weight", matrix(values), values);
    number("weight_global_scale", largest(global, divides), global);
    if (find(input) >= 0) {
      number("input_global_scale", largest(input, divides), input);
      number("input_global_scale_inv", largest(input, !divides), input);
      number("alpha", largest(global, divides), global, input);
    }
    if (options_.linear_backend != LinearBackend::cutlass) return;
    const ByteRule of_values = matrix(values);
    if (of_values.rows % kCutlassMultiple != 0 || 2 * of_values.columns % kCutlassMultiple != 0)
      fail_usage(
          "gen.derived: {}weight of {} rows and {} columns would be padded, which has no rule here; set "
          "gen.linear_backend = \"emulation\"",
          prefix_, of_values.rows, 2 * of_values.columns);
    bytes("weight_scale", matrix("weight_scale", Order::swizzled), "weight_scale");
  }

  /// Of gate's and up's scales gate's counts. Input scales are those of all experts that the rank knows.
  void nvfp4_experts() {
    const bool divides = this->divides();
    const bool is_flashinfer = options_.moe_backend == MoeBackend::flashinfer_cutlass;
    const char* values = divides ? "weight_packed" : "weight";
    const char* global = divides ? "weight_global_scale" : "weight_scale_2";
    const char* input = divides ? "input_global_scale" : "input_scale";
    const bool is_first = prefix_.ends_with("w13_");
    const bool has_two = get(global).shape.size() == 2 && get(global).shape[1] == 2;
    ByteRule order = matrix(values);
    order.swaps_halves = is_flashinfer && is_first && has_two;
    if (divides || order.swaps_halves) bytes("weight", order, values);
    if (divides || get(global).shape.size() == 2) {
      number("weight_scale_2",
             {.scales = get(global).elements(), .groups = experts(), .choice = Choice::first, .inverts_after = divides},
             global);
    }
    if (find(input) >= 0) {
      number("input_scale",
             {.scales = get(input).elements(), .inverts_before = divides, .inverts_after = !is_flashinfer}, input);
      if (is_flashinfer) {
        out_.back().shape = {experts()};
        out_.back().repeats = true;
      }
    }
    if (!is_flashinfer) return;
    if (is_first && order.rows % kSwizzledRows != 0)
      fail_usage("gen.derived: vLLM does not pad {}weight of {} rows to {} for FlashInfer's CUTLASS; use another TP",
                 prefix_, order.rows, kSwizzledRows);
    ByteRule scales = matrix("weight_scale", Order::swizzled);
    scales.swaps_halves = order.swaps_halves;
    bytes("weight_scale", scales, "weight_scale");
  }

  ByteRule requantised(Order order, Requantise when) const {
    ByteRule rule = matrix("weight", order);
    const std::vector<std::int64_t> begin = begins("weight");
    const std::int64_t scales = get("weight_scale").elements();
    if (begin.size() > rule.begin.size() || std::ssize(begin) * rule.matrices != scales)
      fail_usage("gen.derived: {}weight has {} tensors and {} scales, which has no rule here", prefix_, begin.size(),
                 scales);
    rule.requantise = when;
    rule.components = static_cast<int>(begin.size());
    std::ranges::copy(begin, rule.begin.begin());
    return rule;
  }

  void fp8_linear() {
    const Requantise when = divides() ? Requantise::always : Requantise::where_unequal;
    bytes("weight", requantised(Order::transposed, when), "weight", "weight_scale");
    number("weight_scale", largest("weight_scale"), "weight_scale");
    if (find("input_scale") >= 0) number("input_scale", largest("input_scale"), "input_scale");
  }

  void fp8_experts() {
    if (get("weight_scale").shape.size() == 2) {
      bytes("weight", requantised(Order::kept, Requantise::where_unequal), "weight", "weight_scale");
      number("weight_scale", {.scales = get("weight_scale").elements(), .groups = experts()}, "weight_scale");
    }
    if (find("input_scale") >= 0) number("input_scale", largest("input_scale"), "input_scale");
  }

  const model::Quantisation& how_;
  const Options& options_;
  const layout::LocalLayout& loaded_;
  std::map<std::string, std::int32_t> by_name_;
  std::string prefix_;
  bool is_expert_ = false;
  std::vector<Processed> out_;
};

}  // namespace

std::string unknown_processing(StoredFormat format) {
  switch (format) {
    case StoredFormat::nvfp4:
    case StoredFormat::fp8_tensor:
    case StoredFormat::fp8_channel:
    case StoredFormat::mxfp4: return "";
    case StoredFormat::unquantised: return "";
    case StoredFormat::fp8_block:
    case StoredFormat::mxfp8:
      return fmt::format("W_UK_T and W_UV of weights in {} have", format == StoredFormat::mxfp8 ? "mxfp8" : "fp8");
    default: return fmt::format("what a GPU's kernel makes of weights in {} has", name(format));
  }
}

std::vector<Processed> process(const model::Model& model, const Options& options, const layout::LocalLayout& loaded) {
  return Processing(model, options, loaded).all();
}

}  // namespace refit::gen::vllm
