#include "kernels/column_sums.hpp"

#include "kernels/kernels.hpp"

#if defined(__SSE2__) && !defined(__CUDACC__)
#define REFIT_X86 1
#include <immintrin.h>
#endif

namespace refit::kernels {

namespace {

using Sums = std::int64_t[2][kDigits];

/// Cuts `bits` low bits off `rest` as a signed number.
std::int16_t next_digit(std::uint64_t& rest, int bits) {
  const std::uint64_t low = rest & ((1ULL << bits) - 1);
  const bool negative = (low >> (bits - 1)) != 0;
  rest = (rest >> bits) + (negative ? 1 : 0);
  return static_cast<std::int16_t>(static_cast<std::int64_t>(low) - (negative ? std::int64_t{1} << bits : 0));
}

void add_plain(const std::uint16_t* x, std::int64_t begin, std::int64_t end, const ColumnKeys& keys, Sums& sums) {
  for (std::int64_t c = begin; c < end; ++c) {
    const std::int64_t value = static_cast<std::int64_t>(x[c]) - 32768;
    for (int k = 0; k < 2; ++k) {
      for (std::size_t d = 0; d < kDigits; ++d) sums[k][d] += value * keys.digits[k][d][c];
    }
  }
}

#if defined(REFIT_X86)

/// Vectors whose pairs of products a 32-bit lane can hold: 30 x 2 x 2^25 < 2^31.
constexpr std::int64_t kVectors = 30;

template <typename Word, std::size_t lanes>
std::int64_t total_of(const Word (&values)[lanes]) {
  std::int64_t total = 0;
  for (Word value : values) total += value;
  return total;
}

/// Columns begin .. end - 1, whole vectors, at most kVectors of them.
void add_sse2(const std::uint16_t* x, std::int64_t begin, std::int64_t end, const ColumnKeys& keys, Sums& sums) {
  const __m128i offset = _mm_set1_epi16(INT16_MIN);
  __m128i products[2][kDigits] = {};
  for (std::int64_t c = begin; c < end; c += 8) {
    const __m128i value = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + c)), offset);
#pragma GCC unroll 2
    for (std::size_t k = 0; k < 2; ++k) {
#pragma GCC unroll 5
      for (std::size_t d = 0; d < kDigits; ++d) {
        const __m128i digits = _mm_load_si128(reinterpret_cast<const __m128i*>(keys.digits[k][d] + c));
        products[k][d] = _mm_add_epi32(products[k][d], _mm_madd_epi16(value, digits));
      }
    }
  }
  for (std::size_t k = 0; k < 2; ++k) {
    for (std::size_t d = 0; d < kDigits; ++d) {
      alignas(16) std::int32_t lanes[4];
      _mm_store_si128(reinterpret_cast<__m128i*>(lanes), products[k][d]);
      sums[k][d] += total_of(lanes);
    }
  }
}

__attribute__((target("avx2"))) void add_avx2(const std::uint16_t* x, std::int64_t end, const ColumnKeys& keys,
                                              Sums& sums) {
  const __m256i offset = _mm256_set1_epi16(INT16_MIN);
  __m256i wide[2][kNarrowDigits] = {};  // four 64-bit lanes each
  __m256i products[2][kDigits] = {};
  for (std::int64_t begin = 0; begin < end; begin += 16 * kVectors) {
    const std::int64_t stop = begin + 16 * kVectors < end ? begin + 16 * kVectors : end;
    for (std::int64_t c = begin; c < stop; c += 16) {
      const __m256i value = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + c)), offset);
#pragma GCC unroll 2
      for (std::size_t k = 0; k < 2; ++k) {
#pragma GCC unroll 5
        for (std::size_t d = 0; d < kDigits; ++d) {
          const __m256i digits = _mm256_load_si256(reinterpret_cast<const __m256i*>(keys.digits[k][d] + c));
          products[k][d] = _mm256_add_epi32(products[k][d], _mm256_madd_epi16(value, digits));
        }
      }
    }
#pragma GCC unroll 2
    for (std::size_t k = 0; k < 2; ++k) {
#pragma GCC unroll 3
      for (std::size_t d = 0; d < kNarrowDigits; ++d) {
        wide[k][d] = _mm256_add_epi64(wide[k][d], _mm256_cvtepi32_epi64(_mm256_castsi256_si128(products[k][d])));
        wide[k][d] = _mm256_add_epi64(wide[k][d], _mm256_cvtepi32_epi64(_mm256_extracti128_si256(products[k][d], 1)));
        products[k][d] = _mm256_setzero_si256();
      }
    }
  }
  for (std::size_t k = 0; k < 2; ++k) {
    for (std::size_t d = 0; d < kNarrowDigits; ++d) {
      alignas(32) std::int64_t lanes[4];
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), wide[k][d]);
      sums[k][d] += total_of(lanes);
    }
    for (std::size_t d = kNarrowDigits; d < kDigits; ++d) {
      alignas(32) std::int32_t lanes[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), products[k][d]);
      sums[k][d] += total_of(lanes);
    }
  }
}

/// Adds whole vectors of columns; returns the number of these columns.
std::int64_t add_vectors(const std::uint16_t* x, std::int64_t count, const ColumnKeys& keys, Sums& sums) {
  static const bool avx2 = __builtin_cpu_supports("avx2") != 0;
  const std::int64_t end = count & ~std::int64_t{avx2 ? 15 : 7};
  if (avx2) {
    if (end > 0) add_avx2(x, end, keys, sums);
    return end;
  }
  for (std::int64_t begin = 0; begin < end; begin += 8 * kVectors) {
    add_sse2(x, begin, begin + 8 * kVectors < end ? begin + 8 * kVectors : end, keys, sums);
  }
  return end;
}

#else

std::int64_t add_vectors(const std::uint16_t*, std::int64_t, const ColumnKeys&, Sums&) { return 0; }

#endif

}  // namespace

ColumnKeys::ColumnKeys(std::uint64_t name_hash, std::int64_t first, std::int64_t count) : total{0, 0} {
  for (int k = 0; k < 2; ++k) {
    for (std::int64_t c = 0; c < count; ++c) {
      std::uint64_t rest = column_key(name_hash, k, first + c);
      total[k] += rest;
      for (std::size_t d = 0; d < kDigits; ++d) digits[k][d][c] = next_digit(rest, d < kNarrowDigits ? 11 : 16);
    }
  }
}

void add_column_sums(const std::uint16_t* x, std::int64_t count, const ColumnKeys& keys, int shift,
                     std::uint64_t* sums) {
  Sums products = {};
  const std::int64_t done = add_vectors(x, count, keys, products);
  add_plain(x, done, count, keys, products);
  for (int k = 0; k < 2; ++k) {
    std::uint64_t sum = keys.total[k] << 15;  // x = x' + 2^15
    for (std::size_t d = 0; d < kDigits; ++d) sum += static_cast<std::uint64_t>(products[k][d]) << kDigitShift[d];
    sums[k] += sum << shift;
  }
}

}  // namespace refit::kernels
