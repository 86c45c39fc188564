#include "kernels/stream.hpp"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace refit::kernels {

namespace {

void plain_copy(std::byte* destination, const std::byte* source, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(destination, source, static_cast<std::size_t>(bytes));
}

}  // namespace

#if defined(__SSE2__)

namespace {

constexpr std::int64_t kLine = kStreamedLine;
constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kPages = 4;
constexpr std::int64_t kAhead = 4 * kLine;

void prefetch(const std::byte* line) { _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0); }

void stream_line(std::byte* destination, const std::byte* source) {
  const auto* from = reinterpret_cast<const __m128i*>(source);
  auto* to = reinterpret_cast<__m128i*>(destination);
  const __m128i first = _mm_loadu_si128(from);
  const __m128i second = _mm_loadu_si128(from + 1);
  const __m128i third = _mm_loadu_si128(from + 2);
  const __m128i fourth = _mm_loadu_si128(from + 3);
  _mm_stream_si128(to, first);
  _mm_stream_si128(to + 1, second);
  _mm_stream_si128(to + 2, third);
  _mm_stream_si128(to + 3, fourth);
}

/// Copies pages side by side, as several open DRAM pages.
void stream_in_pages(std::byte* destination, const std::byte* source, std::int64_t bytes, std::int64_t ahead) {
  const bool is_short = bytes < kPages * kPage;
  for (std::int64_t line = 0; ahead != 0 && is_short && line < bytes; line += kLine) prefetch(source + line + ahead);
  std::int64_t done = 0;
  for (; done + kPages * kPage <= bytes; done += kPages * kPage) {
    for (std::int64_t line = done; line < done + kPage; line += kLine) {
      for (std::int64_t page = 0; page < kPages; ++page) prefetch(source + line + page * kPage + kAhead);
      for (std::int64_t page = 0; page < kPages; ++page) {
        stream_line(destination + line + page * kPage, source + line + page * kPage);
      }
    }
  }
  for (; done < bytes; done += kLine) stream_line(destination + done, source + done);
}

/// Copies line after line, each in one store.
__attribute__((target("avx512f"))) void stream_in_order(std::byte* destination, const std::byte* source,
                                                        std::int64_t bytes, std::int64_t ahead) {
  for (std::int64_t done = 0; done < bytes; done += kLine) {
    if (ahead != 0) prefetch(source + done + ahead);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + done), _mm512_loadu_si512(source + done));
  }
}

/// Copies `bytes`, a multiple of kLine, to a multiple of kLine.
using StreamLines = void (*)(std::byte* destination, const std::byte* source, std::int64_t bytes, std::int64_t ahead);

/// Returns what is faster on this processor. An EPYC of family 26 stores 23.7 GB/s in order and 16.3 in pages; a Xeon,
/// in pages, 1.5 times what memcpy does.
StreamLines stream_lines() {
  __builtin_cpu_init();
  return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f") ? stream_in_order : stream_in_pages;
}

}  // namespace

void stream_copy(std::byte* destination, const std::byte* source, std::int64_t bytes, std::int64_t ahead) {
  static const StreamLines stream = stream_lines();
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(destination) % kLine);
  const std::int64_t head = std::min((kLine - address) % kLine, bytes);
  const std::int64_t lines = (bytes - head) / kLine * kLine;
  plain_copy(destination, source, head);
  stream(destination + head, source + head, lines, ahead);
  plain_copy(destination + head + lines, source + head + lines, bytes - head - lines);
}

void stream_fence() { _mm_sfence(); }

#else

void stream_copy(std::byte* destination, const std::byte* source, std::int64_t bytes, std::int64_t) {
  plain_copy(destination, source, bytes);
}

void stream_fence() {}

#endif

}  // namespace refit::kernels
