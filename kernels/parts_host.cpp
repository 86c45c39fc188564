#include "kernels/launch.hpp"
#include "kernels/part_items.hpp"
#include "kernels/part_rows.hpp"

namespace refit::kernels {

namespace {

/// Calls action(values, first column, columns) for stretches of a row, whose values are gathered where they have gaps.
template <typename From, typename Action>
void for_each_stretch(const PartItem& item, std::int64_t row, const Action& action) {
  using Bits = typename From::Bits;
  constexpr std::int64_t kSize = sizeof(Bits);
  const std::byte* values = item.source + row * item.source_stride[0] * kSize;
  alignas(64) std::byte gathered[std::size_t{kStretch} * sizeof(Bits)];
  for (std::int64_t column = 0; column < item.columns; column += kStretch) {
    const std::int64_t count = std::min(kStretch, item.columns - column);
    const std::byte* first = values + column * item.source_stride[1] * kSize;
    if (item.source_stride[1] != 1) {
      for (std::int64_t i = 0; i < count; ++i) store(gathered, i, load<Bits>(first, i * item.source_stride[1]));
      first = gathered;
    }
    action(first, column, count);
  }
}

struct HostAmax {
  const PartItem* items;
  void operator()(std::int64_t index) const {
    const PartItem item = items[index];
    with_types(item.from, item.from, [&item](auto from, auto) { raise(from, item); });
  }

  template <typename From>
  static void raise(From from, const PartItem& item) {
    std::uint32_t largest = 0;
    for (std::int64_t row = 0; row < item.rows; ++row) {
      if (item.source_stride[1] == 1) {
        const auto size = static_cast<std::int64_t>(sizeof(typename From::Bits));
        const std::byte* values = item.source + row * item.source_stride[0] * size;
        largest = std::max(largest, largest_magnitude(from, values, item.columns));
      } else {
        for_each_stretch<From>(item, row, [&](const std::byte* values, std::int64_t, std::int64_t count) {
          largest = std::max(largest, largest_magnitude(from, values, count));
        });
      }
      if (item.amax_stride == 0 && row + 1 < item.rows) continue;
      raise_on_host(item.amax + row * item.amax_stride, largest);
      largest = 0;
    }
  }
};

template <StoredFormat format, Library library>
struct HostParts {
  const PartItem* items;
  void operator()(std::int64_t index) const {
    const PartItem item = items[index];
    with_types(item.from, item.from,
               [&item](auto from, auto) { quantise<PartSteps<format, library, decltype(from)>>(item); });
  }

  template <typename Steps>
  static void quantise(const PartItem& item) {
    Stretch stretch{};
    stretch.block = item.block;
    stretch.scale_dtype = item.scale_dtype;
    const float amax = item.amax == nullptr ? 0.0F : std::bit_cast<float>(*item.amax);
    stretch.tensor = Steps::tensor_scale(amax);
    if (item.tensor_scale != nullptr)
      store_number(item.tensor_scale, 0, DType::f32, Steps::stored_tensor_scale(stretch.tensor));
    for (std::int64_t row = 0; row < item.rows; ++row) {
      if constexpr (!Steps::kHasBlocks) scale_row<Steps>(item, row, stretch);
      for_each_stretch<typename Steps::Type>(
          item, row, [&](const std::byte* values, std::int64_t column, std::int64_t count) {
            stretch.values = values;
            stretch.count = count;
            stretch.bytes = item.values + row * item.value_stride + (Steps::kIsPacked ? column / 2 : column);
            if constexpr (Steps::kHasBlocks) {
              const std::int64_t size = is_int4(format) ? byte_size(item.scale_dtype) : 1;
              const std::int64_t first = row * item.scale_stride + column / item.block;
              stretch.scales = item.scales == nullptr ? nullptr : item.scales + first * size;
            }
            quantise_stretch(Steps{}, stretch);
          });
    }
  }

  /// Makes the scale of a row, or of all rows.
  template <typename Steps>
  static void scale_row(const PartItem& item, std::int64_t row, Stretch& stretch) {
    if (row > 0 && item.amax_stride == 0) return;
    const std::uint32_t amax = item.amax[row * item.amax_stride];
    stretch.by = Steps::scaling(std::bit_cast<float>(amax), 0.0F);
    stretch.has_numbers = Steps::has_numbers(amax, stretch.by);
    if (item.scales != nullptr) {
      store_number(item.scales, row * item.scale_stride, item.scale_dtype, stretch.by.stored);
    }
  }
};

}  // namespace

void run_amax(const ExecutionSpace& space, const PartItem* items, std::int64_t count) {
  static const std::string label = "refit::amax";
  for_each_item(space, label, count, HostAmax{items});
}

void run_parts(const ExecutionSpace& space, const PartItem* items, std::int64_t count, int kind) {
  static const std::string label = "refit::quantise_parts";
  int index = 0;
#define REFIT_LAUNCH(format, library) \
  if (index++ == kind) for_each_item(space, label, count, HostParts<StoredFormat::format, Library::library>{items});
  REFIT_PART_QUANTISERS(REFIT_LAUNCH)
#undef REFIT_LAUNCH
}

}  // namespace refit::kernels
