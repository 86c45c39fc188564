#include "kernels/stream.hpp"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace refit::kernels {

namespace {

void plain_copy(std::byte* destination, const std::byte* source, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(destination, source, static_cast<std::size_t>(bytes));
}

}  // namespace

#if defined(__SSE2__)

namespace {

constexpr std::int64_t kLine = 64;
constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kPages = 4;  ///< copied side by side: several open DRAM pages are faster than one
constexpr std::int64_t kAhead = 4 * kLine;

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

}  // namespace

void stream_copy(std::byte* destination, const std::byte* source, std::int64_t bytes) {
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(destination) % kLine);
  std::int64_t done = std::min((kLine - address) % kLine, bytes);
  plain_copy(destination, source, done);
  for (; done + kPages * kPage <= bytes; done += kPages * kPage) {
    for (std::int64_t line = done; line < done + kPage; line += kLine) {
      for (std::int64_t page = 0; page < kPages; ++page) {
        _mm_prefetch(reinterpret_cast<const char*>(source + line + page * kPage + kAhead), _MM_HINT_T0);
      }
      for (std::int64_t page = 0; page < kPages; ++page) {
        stream_line(destination + line + page * kPage, source + line + page * kPage);
      }
    }
  }
  for (; done + kLine <= bytes; done += kLine) stream_line(destination + done, source + done);
  plain_copy(destination + done, source + done, bytes - done);
}

void stream_fence() { _mm_sfence(); }

#else

void stream_copy(std::byte* destination, const std::byte* source, std::int64_t bytes) {
  plain_copy(destination, source, bytes);
}

void stream_fence() {}

#endif

}  // namespace refit::kernels
