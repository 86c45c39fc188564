#include "layout/side.hpp"

#include <algorithm>

#include "layout/joined_layout.hpp"

namespace refit::layout {
namespace {

constexpr std::string_view kPrecision[] = {"bf16",  "fp16",  "fp32", "fp8",       "mxfp8", "fp8_tensor", "fp8_channel",
                                           "nvfp4", "mxfp4", "int4", "int4_asym", "gptq",  "awq"};

}  // namespace

Choices choices(Precision) { return kPrecision; }

DType dtype_of(Precision precision) {
  switch (precision) {
    case Precision::fp32: return DType::f32;
    case Precision::fp16:
    case Precision::gptq:
    case Precision::awq: return DType::f16;  // as engines want it beside float16 scales
    default: return DType::bf16;
  }
}

StoredFormat weight_format_of(Precision precision) {
  switch (precision) {
    case Precision::bf16:
    case Precision::fp16:
    case Precision::fp32: return StoredFormat::unquantised;
    case Precision::fp8: return StoredFormat::fp8_block;
    case Precision::mxfp8: return StoredFormat::mxfp8;
    case Precision::fp8_tensor: return StoredFormat::fp8_tensor;
    case Precision::fp8_channel: return StoredFormat::fp8_channel;
    case Precision::nvfp4: return StoredFormat::nvfp4;
    case Precision::mxfp4: return StoredFormat::mxfp4;
    case Precision::int4: return StoredFormat::int4;
    case Precision::int4_asym: return StoredFormat::int4_asym;
    case Precision::gptq: return StoredFormat::gptq;
    case Precision::awq: return StoredFormat::awq;
  }
  return StoredFormat::unquantised;
}

const SideKey* SideSpec::find_key(std::string_view name) const {
  const std::vector<SideKey>& keys = row_.keys();
  const auto found = std::ranges::find(keys, name, &SideKey::name);
  return found == keys.end() ? nullptr : &*found;
}

const SideRow* find_row(std::span<const SideRow* const> rows, std::string_view name) {
  const auto found = std::ranges::find(rows, name, &SideRow::name);
  return found == rows.end() ? nullptr : *found;
}

std::unique_ptr<Layout> make_side(const SideSpec& spec, const model::Model& model) { return spec.make_layout(model); }

Engines make_engines(std::span<const Side> engines, const model::Model& model) {
  std::vector<JoinedLayout::Engine> loaded, derived;
  bool derives = false;
  for (const Side& engine : engines) {
    std::unique_ptr<Layout> layout = engine->make_layout(model);
    const std::int32_t ranks = layout->ranks();
    derived.push_back({engine->make_derived(model, *layout), ranks});
    derives = derives || derived.back().layout;
    loaded.push_back({std::move(layout), ranks});
  }
  if (engines.size() == 1) return {std::move(loaded.front().layout), std::move(derived.front().layout)};
  return {std::make_unique<JoinedLayout>(std::move(loaded)),
          derives ? std::make_unique<JoinedLayout>(std::move(derived)) : nullptr};
}

}  // namespace refit::layout
