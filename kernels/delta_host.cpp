#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/delta_items.hpp"
#include "kernels/delta_rows.hpp"
#include "kernels/launch.hpp"

namespace refit::kernels {

namespace {

/// Neighbouring elements, in their order: where they lie, or gathered.
template <typename Bits>
class Stretch {
 public:
  /// Returns elements first .. first + count - 1 of one end of an item.
  const std::byte* of(const std::byte* data, const std::int64_t (&stride)[4], const DeltaItem& item,
                      std::uint32_t first, std::int64_t count) {
    constexpr std::int64_t kSize = sizeof(Bits);
    const std::uint32_t column = first % item.extent[3];
    if (stride[3] == 1 && column + count <= item.extent[3]) return data + item.place(stride, first) * kSize;
    for (std::int64_t done = 0; done < count;) {
      const auto element = static_cast<std::uint32_t>(first + done);
      const std::int64_t rest = std::min<std::int64_t>(count - done, item.extent[3] - element % item.extent[3]);
      const std::byte* row = data + item.place(stride, element) * kSize;
      for (std::int64_t i = 0; i < rest; ++i) gathered_[done + i] = load<Bits>(row, i * stride[3]);
      done += rest;
    }
    return reinterpret_cast<const std::byte*>(gathered_);
  }

 private:
  alignas(64) Bits gathered_[kDeltaStretch];
};

std::uint64_t* words_of(const DeltaItem& item) { return reinterpret_cast<std::uint64_t*>(item.bits); }

/// Calls action(bit) for the set bits of words, ascending.
template <typename Action>
void for_each_bit(const std::uint64_t* words, std::int64_t count, const Action& action) {
  for (std::int64_t w = 0; w < count; ++w) {
    for (std::uint64_t left = words[w]; left != 0; left &= left - 1) action(64 * w + std::countr_zero(left));
  }
}

struct HostCount {
  const DeltaItem* items;
  std::uint32_t* counts;

  void operator()(std::int64_t index) const {
    const DeltaItem item = items[index];
    with_plain(item.from, [&](auto plain) { counts[index] = count<typename decltype(plain)::Bits>(item); });
  }

  template <typename Bits>
  static std::uint32_t count(const DeltaItem& item) {
    Stretch<Bits> source, kept;
    std::int64_t changed = 0;
    for (std::int64_t first = 0; first < item.elements; first += kDeltaStretch) {
      const std::int64_t length = std::min<std::int64_t>(kDeltaStretch, item.elements - first);
      const auto begin = static_cast<std::uint32_t>(first);
      const std::byte* now = source.of(item.data, item.stride, item, begin, length);
      const std::byte* before = kept.of(item.kept, item.kept_stride, item, begin, length);
      changed += changed_bits(now, before, length, sizeof(Bits), words_of(item) + first / 64);
    }
    return static_cast<std::uint32_t>(changed);
  }
};

struct HostEncode {
  const DeltaItem* items;
  const DeltaJob* jobs;

  void operator()(std::int64_t index) const {
    const DeltaJob job = jobs[index];
    const DeltaItem item = items[job.block];
    with_plain(item.from, [&](auto plain) { encode<typename decltype(plain)::Bits>(item, job); });
  }

  template <typename Bits>
  static void encode(const DeltaItem& item, const DeltaJob& job) {
    constexpr std::int64_t kSize = sizeof(Bits);
    std::byte* values = job.wire + delta_values_begin(job.form, item.elements, job.changed);
    if (job.form == DeltaForm::dense) {
      Stretch<Bits> source;
      for (std::int64_t first = 0; first < item.elements; first += kDeltaStretch) {
        const std::int64_t count = std::min<std::int64_t>(kDeltaStretch, item.elements - first);
        const std::byte* now = source.of(item.data, item.stride, item, static_cast<std::uint32_t>(first), count);
        std::memcpy(values + first * kSize, now, static_cast<std::size_t>(count * kSize));
      }
      return;
    }
    if (job.form == DeltaForm::bitmap) std::memcpy(job.wire, item.bits, static_cast<std::size_t>(bits_bytes(item)));
    std::int64_t done = 0;
    for_each_bit(words_of(item), bits_bytes(item) / 8, [&](std::int64_t element) {
      if (job.form == DeltaForm::index) store(job.wire, done, static_cast<std::uint16_t>(element));
      store(values, done++, load<Bits>(item.data, item.at(static_cast<std::uint32_t>(element))));
    });
  }
};

struct HostDecode {
  const DeltaItem* items;
  const DeltaJob* jobs;

  void operator()(std::int64_t index) const {
    const DeltaJob job = jobs[index];
    const DeltaItem item = items[job.block];
    with_conversion(item, [&](auto from, auto to, const auto& convert) {
      using From = typename decltype(from)::Bits;
      using To = typename decltype(to)::Bits;
      const std::byte* values = job.wire + delta_values_begin(job.form, item.elements, job.changed);
      const auto put = [&](std::int64_t element, std::int64_t value) {
        store<To>(item.data, item.at(static_cast<std::uint32_t>(element)), convert(load<From>(values, value)));
      };
      if (job.form == DeltaForm::index) {
        for (std::int64_t i = 0; i < job.changed; ++i) put(load<std::uint16_t>(job.wire, i), i);
      } else if (job.form == DeltaForm::bitmap) {
        std::int64_t done = 0;
        for (std::int64_t w = 0; 64 * w < item.elements; ++w) {
          const auto word = load<std::uint64_t>(job.wire, w);
          for_each_bit(&word, 1, [&](std::int64_t bit) { put(64 * w + bit, done++); });
        }
      } else {
        put_all<From, To>(item, values, convert);
      }
    });
  }

  template <typename From, typename To, typename Convert>
  static void put_all(const DeltaItem& item, const std::byte* values, const Convert& convert) {
    for (std::int64_t first = 0; first < item.elements; first += item.extent[3]) {
      std::byte* row = item.data + item.at(static_cast<std::uint32_t>(first)) * static_cast<std::int64_t>(sizeof(To));
      for (std::int64_t i = 0; i < item.extent[3]; ++i)
        store<To>(row, i * item.stride[3], convert(load<From>(values, first + i)));
    }
  }
};

struct HostKeep {
  const DeltaItem* items;
  const std::uint32_t* counts;

  void operator()(std::int64_t index) const {
    if (counts != nullptr && counts[index] == 0) return;
    const DeltaItem item = items[index];
    with_plain(item.from, [&](auto plain) {
      using Bits = typename decltype(plain)::Bits;
      constexpr std::int64_t kSize = sizeof(Bits);
      if (counts != nullptr && keeps_single(item, counts[index])) {
        for_each_bit(words_of(item), bits_bytes(item) / 8, [&](std::int64_t bit) {
          const auto element = static_cast<std::uint32_t>(bit);
          store(item.kept, item.kept_at(element), load<Bits>(item.data, item.at(element)));
        });
        return;
      }
      for (std::int64_t first = 0; first < item.elements; first += item.extent[3]) {
        const auto element = static_cast<std::uint32_t>(first);
        const std::byte* source = item.data + item.at(element) * kSize;
        std::byte* kept = item.kept + item.kept_at(element) * kSize;
        if (item.stride[3] == 1 && item.kept_stride[3] == 1) {
          std::memcpy(kept, source, item.extent[3] * sizeof(Bits));
          continue;
        }
        for (std::int64_t i = 0; i < item.extent[3]; ++i)
          store(kept, i * item.kept_stride[3], load<Bits>(source, i * item.stride[3]));
      }
    });
  }
};

}  // namespace

void run_delta_count(const ExecutionSpace& space, const DeltaItem* items, std::int64_t count, std::uint32_t* counts) {
  static const std::string label = "refit::delta_count";
  for_each_item(space, label, count, HostCount{items, counts});
}

void run_delta_encode(const ExecutionSpace& space, const DeltaItem* items, std::span<const DeltaJob> jobs) {
  static const std::string label = "refit::delta_encode";
  for_each_item(space, label, std::ssize(jobs), HostEncode{items, jobs.data()});
}

void run_delta_decode(const ExecutionSpace& space, const DeltaItem* items, std::span<const DeltaJob> jobs) {
  static const std::string label = "refit::delta_decode";
  for_each_item(space, label, std::ssize(jobs), HostDecode{items, jobs.data()});
}

void run_delta_keep(const ExecutionSpace& space, const DeltaItem* items, std::int64_t count,
                    const std::uint32_t* counts) {
  static const std::string label = "refit::delta_keep";
  for_each_item(space, label, count, HostKeep{items, counts});
}

}  // namespace refit::kernels
