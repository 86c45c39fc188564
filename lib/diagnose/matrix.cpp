#include "diagnose/matrix.hpp"

#include <algorithm>
#include <array>

namespace refit::diagnose {
namespace {

constexpr std::uint64_t kBase = 0x9E3779B97F4A7C15ULL;

/// Spreads the bits of an element, cheaply.
std::uint64_t mixed(Bits bits) {
  const std::uint64_t spread = (bits + 1) * 0xBF58476D1CE4E5B9ULL;
  return spread ^ (spread >> 29);
}

/// Returns the row-major numbers of the indices of dimensions first .. last - 1 that a box has.
std::vector<std::int64_t> numbers(const Shape& shape, const Box& box, int first, int last) {
  std::vector<std::int64_t> result{0};
  for (int d = first; d < last; ++d) {
    std::vector<std::int64_t> next;
    next.reserve(result.size() * static_cast<std::size_t>(box.extent[d]));
    for (const std::int64_t number : result) {
      for (std::int64_t i = 0; i < box.extent[d]; ++i) next.push_back(number * shape[d] + box.lower[d] + i);
    }
    result = std::move(next);
  }
  return result;
}

}  // namespace

int row_dimensions(const Shape& shape) {
  int dimensions = shape.size();
  for (std::int64_t columns = 1; dimensions > 0 && columns < kRun;) columns *= shape[--dimensions];
  return dimensions;
}

std::vector<std::int64_t> rows_of(const Shape& shape, const Box& box) {
  return numbers(shape, box, 0, row_dimensions(shape));
}

std::vector<std::int64_t> columns_of(const Shape& shape, const Box& box) {
  return numbers(shape, box, row_dimensions(shape), shape.size());
}

Matrix matrix_of(const std::byte* data, std::int64_t element_bytes, const Shape& shape) {
  std::int64_t columns = 1;
  for (int d = row_dimensions(shape); d < shape.size(); ++d) columns *= shape[d];
  return {data, element_bytes, columns == 0 ? 0 : product(shape) / columns, columns, columns, 1};
}

std::uint64_t hash_run(std::span<const Bits> run) {
  std::uint64_t hash = 0;
  for (const Bits bits : run) hash = hash * kBase + mixed(bits);
  return hash;
}

std::vector<std::uint64_t> run_hashes(std::span<const Bits> row, std::int64_t length) {
  std::vector<std::uint64_t> hashes;
  const auto size = static_cast<std::size_t>(length);
  if (row.size() < size) return hashes;
  hashes.reserve(row.size() - size + 1);
  std::uint64_t power = 1;
  for (std::size_t i = 0; i < size; ++i) power *= kBase;
  hashes.push_back(hash_run(row.first(size)));
  for (std::size_t i = size; i < row.size(); ++i)
    hashes.push_back(hashes.back() * kBase + mixed(row[i]) - mixed(row[i - size]) * power);
  return hashes;
}

bool is_telling(std::span<const Bits> run) {
  constexpr std::size_t kEnough = 4;
  std::array<Bits, kEnough> seen{};
  std::size_t count = 0;
  for (const Bits bits : run) {
    if (std::find(seen.begin(), seen.begin() + static_cast<std::ptrdiff_t>(count), bits) !=
        seen.begin() + static_cast<std::ptrdiff_t>(count))
      continue;
    seen[count++] = bits;
    if (count == kEnough) return true;
  }
  return false;
}

}  // namespace refit::diagnose
