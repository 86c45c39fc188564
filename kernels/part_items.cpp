#include "kernels/part_items.hpp"

#include <algorithm>
#include <utility>

#include "kernels/part_steps.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kItemElements = 64 * 1024;
constexpr std::int64_t kLargestGroup = 512;

using Quantiser = std::pair<StoredFormat, Library>;
#define REFIT_QUANTISER(format, library) Quantiser{StoredFormat::format, Library::library},
constexpr Quantiser kQuantisers[] = {REFIT_PART_QUANTISERS(REFIT_QUANTISER)};
#undef REFIT_QUANTISER

bool has_blocks(StoredFormat format) { return element_bits(format) == 4; }

void check(const Part& part) {
  REFIT_ASSERT(is_castable(part.from) && is_castable(part.scale_dtype));
  REFIT_ASSERT(part_kind(part.format, part.library) >= 0);
  REFIT_ASSERT(part.rows >= 0 && part.columns >= 0);
  const std::int64_t block = block_columns(part.format, part.group);
  REFIT_ASSERT(part.columns % block == 0);
  if (is_int4(part.format)) REFIT_ASSERT(block >= 16 && block <= kLargestGroup && (block & (block - 1)) == 0);
}

bool is_multiple(const void* address, std::int64_t size) {
  return reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(size) == 0;
}

/// Makes the item of some rows and columns.
PartItem make_item(const Part& part, const Interval& rows, const Interval& columns) {
  const std::int64_t size = byte_size(part.from);
  const std::int64_t block = block_columns(part.format, part.group);
  const int bits = element_bits(part.format);
  const bool by_row = part.format == StoredFormat::fp8_channel;
  const bool packed = has_blocks(part.format);
  const bool of_bytes = packed && !is_int4(part.format);
  PartItem item{};
  item.source = part.source + size * (rows.begin * part.source_strides[0] + columns.begin * part.source_strides[1]);
  std::copy_n(part.source_strides, 2, item.source_stride);
  item.rows = rows.size();
  item.columns = columns.size();
  item.amax_stride = by_row ? 1 : 0;
  item.amax = part.amax == nullptr ? nullptr : part.amax + rows.begin * item.amax_stride;
  item.value_stride = part.columns * bits / 8;
  item.values =
      part.values == nullptr ? nullptr : part.values + rows.begin * item.value_stride + columns.begin * bits / 8;
  item.scale_stride = packed ? part.columns / block : by_row ? 1 : 0;
  const bool is_first_column = columns.begin == 0;
  const bool is_first = is_first_column && rows.begin == 0;
  if (part.scales != nullptr && (packed || (by_row ? is_first_column : is_first))) {
    const std::int64_t first = rows.begin * item.scale_stride + (packed ? columns.begin / block : 0);
    item.scales = part.scales + first * (of_bytes ? 1 : byte_size(part.scale_dtype));
  }
  item.tensor_scale = is_first ? part.tensor_scale : nullptr;
  item.block = static_cast<std::int32_t>(block);
  item.kind = part_kind(part.format, part.library);
  item.from = part.from;
  item.scale_dtype = part.scale_dtype;
  item.reads_vectors = item.source_stride[1] == 1 && is_multiple(item.source, 16) &&
                       (item.rows == 1 || item.source_stride[0] * size % 16 == 0);
  item.writes_vectors = is_multiple(item.values, 2 * bits) && (item.rows == 1 || item.value_stride % (2 * bits) == 0);
  return item;
}

/// Appends the items of a part of at most kItemElements.
void append(const Part& part, std::vector<PartItem>& items) {
  if (part.rows == 0 || part.columns == 0) return;
  const std::int64_t wide = std::min(part.columns, kItemElements);
  const std::int64_t high = std::max<std::int64_t>(1, kItemElements / wide);
  for (std::int64_t row = 0; row < part.rows; row += high) {
    for (std::int64_t column = 0; column < part.columns; column += wide) {
      items.push_back(
          make_item(part, {row, std::min(row + high, part.rows)}, {column, std::min(column + wide, part.columns)}));
    }
  }
}

/// Returns the part with rows that follow each other without gaps as one row.
Part joined(Part part) {
  if (part.format == StoredFormat::fp8_channel || part.source_strides[1] != 1) return part;
  if (part.source_strides[0] != part.columns) return part;
  part.columns *= part.rows;
  part.rows = 1;
  return part;
}

}  // namespace

bool has_part_kernels(StoredFormat format, Library library) { return part_kind(format, library) >= 0; }

std::int64_t amax_words(StoredFormat format, std::int64_t rows) {
  switch (format) {
    case StoredFormat::nvfp4:
    case StoredFormat::fp8_tensor: return 1;
    case StoredFormat::fp8_channel: return rows;
    default: return 0;
  }
}

std::int64_t block_columns(StoredFormat format, std::int64_t group) {
  return has_blocks(format) ? block_size(format, Library::compressed_tensors, group).columns : 1;
}

int part_kind(StoredFormat format, Library library) {
  const auto found = std::find(std::begin(kQuantisers), std::end(kQuantisers), Quantiser{format, library});
  return found == std::end(kQuantisers) ? -1 : static_cast<int>(found - std::begin(kQuantisers));
}

int part_kinds() { return static_cast<int>(std::size(kQuantisers)); }

std::vector<PartItem> amax_items(std::span<const Part> parts) {
  std::vector<PartItem> items;
  for (const Part& part : parts) {
    check(part);
    if (amax_words(part.format, 1) == 0) continue;
    REFIT_ASSERT(part.amax != nullptr);
    append(joined(part), items);
  }
  return items;
}

std::vector<PartItem> part_items(std::span<const Part> parts) {
  std::vector<PartItem> items;
  for (const Part& part : parts) {
    check(part);
    if (part.values != nullptr) append(part, items);
  }
  std::stable_sort(items.begin(), items.end(), [](const PartItem& a, const PartItem& b) { return a.kind < b.kind; });
  return items;
}

}  // namespace refit::kernels
