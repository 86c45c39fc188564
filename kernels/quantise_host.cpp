#include <algorithm>
#include <iterator>
#include <numeric>

#include "kernels/flags_host.hpp"
#include "kernels/launch.hpp"
#include "kernels/quantise_items.hpp"
#include "kernels/quantise_rows.hpp"

namespace refit::kernels {

namespace {

/// Work on one item by one host thread.
template <typename From>
class HostBlocks {
 public:
  explicit HostBlocks(const QuantiseItem& item) : item_(item), shift_(block_shift(item.quantiser)) {}

  void run() const {
    if (is_mx(item_.quantiser) && item_.kind == QuantiseKind::rows) return run_rows();
    for (std::int64_t i = 0; i < blocks_of(item_.rows, shift_.rows); ++i) {
      for (std::int64_t j = 0; j < blocks_of(item_.columns, shift_.columns); ++j) {
        const BlockOfItem block(item_, shift_, i, j);
        if (item_.destination == nullptr) {
          raise_on_host(block.maximum, largest(block.item_rows, block.item_columns));
        } else {
          std::uint32_t amax = block.is_in_source ? largest(block.rows, block.columns) : *block.maximum;
          if (block.is_ragged) amax = std::max(amax, padding_of<From>(item_));
          const BlockScale scale = block_scale(item_.quantiser, std::bit_cast<float>(amax), From::kType);
          quantise(block, has_numbers(amax, scale), scale.factor, block.item_columns.end < item_.columns.end);
          store_scales(item_, block, scale.stored, 0, 1);
        }
      }
    }
  }

 private:
  static constexpr std::int64_t kSize = sizeof(typename From::Bits);

  void run_rows() const {
    for (std::int64_t r = 0; r < item_.rows.size(); ++r) {
      const std::int64_t row = item_.rows.begin + r;
      std::byte* scales = item_.scales == nullptr ? nullptr : item_.scales + r * item_.scale_stride[0];
      quantise_mx(From{}, item_.quantiser, item_.value(row, item_.columns.begin, kSize),
                  item_.columns.size() >> shift_.columns, item_.byte(row, item_.columns.begin), scales,
                  item_.scale_stride[1]);
    }
  }

  float value(std::int64_t row, std::int64_t column) const {
    const auto bits = load<typename From::Bits>(item_.value(row, column, kSize), 0);
    return std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(bits)));
  }

  ValueRows rows_of(const Interval& rows, const Interval& columns) const {
    return {item_.value(rows.begin, columns.begin, kSize), item_.source_stride[0], rows.size(), columns.size()};
  }

  std::uint32_t largest(const Interval& rows, const Interval& columns) const {
    if (item_.source_stride[1] == 1) return largest_magnitude(From{}, rows_of(rows, columns));
    std::uint32_t result = 0;
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      for (std::int64_t c = columns.begin; c < columns.end; ++c) result = std::max(result, magnitude_bits(value(r, c)));
    }
    return result;
  }

  void quantise(const BlockOfItem& block, bool numbers, float factor, bool next) const {
    const Interval& rows = block.item_rows;
    const Interval& columns = block.item_columns;
    if (numbers && item_.source_stride[1] == 1 && item_.destination_stride[1] == 1) {
      return quantise_rows(From{}, rows_of(rows, columns), factor, item_.byte(rows.begin, columns.begin),
                           item_.destination_stride[0], next);
    }
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      for (std::int64_t c = columns.begin; c < columns.end; ++c) {
        store(item_.byte(r, c), 0, quantise_value(item_.quantiser, value(r, c), factor));
      }
    }
  }

  QuantiseItem item_;  // own copy: a store through std::byte may change what a reference refers to
  BlockShift shift_;
};

struct HostQuantise {
  CopyRun run;
  void operator()(std::int64_t index) const {
    const QuantiseItem& item = run.quantised[index];
    await_flag(item, run.epoch);
    with_types(item.from, item.from, [&item](auto from, auto) { HostBlocks<decltype(from)>(item).run(); });
    raise_flag(item, run);
  }
};

}  // namespace

void run_quantised(const ExecutionSpace& space, const CopyRun& run, const std::int64_t (&counts)[kQuantiseKinds]) {
  static const std::string label = "refit::quantise";
  for_each_item(space, label, std::accumulate(std::begin(counts), std::end(counts), std::int64_t{0}),
                HostQuantise{run});
}

}  // namespace refit::kernels
