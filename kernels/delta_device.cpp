// Deltas by teams of device lanes, a team for a block. A lane has 32 neighbouring elements at a time, a word of the
// bitmap; the places of their values follow from a scan over the team.

#include "kernels/delta_items.hpp"
#include "kernels/launch.hpp"

namespace refit::kernels {

namespace {

constexpr std::uint32_t kWord = 32;  ///< elements

/// Returns the words of an item's bits: an even number, since a bitmap's have 64 bits.
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t words_of(const DeltaItem& item) {
  return static_cast<std::uint32_t>(bits_bytes(item) / 4);
}

KOKKOS_FORCEINLINE_FUNCTION std::uint32_t bits_of(std::uint32_t word) {
#if defined(__CUDA_ARCH__)
  return static_cast<std::uint32_t>(__popc(word));
#else
  return static_cast<std::uint32_t>(std::popcount(word));
#endif
}

KOKKOS_FORCEINLINE_FUNCTION std::uint32_t lowest_of(std::uint32_t word) {
#if defined(__CUDA_ARCH__)
  return static_cast<std::uint32_t>(__ffs(static_cast<int>(word)) - 1);
#else
  return static_cast<std::uint32_t>(std::countr_zero(word));
#endif
}

/// Returns which elements of 8 bytes differ.
template <typename Bits>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t differing(std::uint64_t a, std::uint64_t b) {
  constexpr int kBits = 8 * sizeof(Bits);
  const std::uint64_t differ = a ^ b;
  std::uint32_t result = 0;
  REFIT_UNROLL
  for (int i = 0; i < 64 / kBits; ++i) {
    if (static_cast<Bits>(differ >> (kBits * i % 64)) != 0) result |= 1U << i;
  }
  return result;
}

/// Returns which of the 32 elements of a word differ from what is kept of them.
template <typename Bits>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t changed_word(const DeltaItem& item, std::uint32_t word) {
  constexpr std::uint32_t kSize = sizeof(Bits);
  constexpr std::uint32_t kVector = 16 / kSize;  // elements
  constexpr std::uint32_t kVectors = kWord / kVector;
  const std::uint32_t first = word * kWord;
  std::uint32_t changed = 0;
  if (first >= item.elements) return changed;
  if (item.has_vectors && first + kWord <= item.elements) {
    Unit16 now[kVectors];
    Unit16 before[kVectors];
    REFIT_UNROLL
    for (std::uint32_t v = 0; v < kVectors; ++v) {
      const std::uint32_t element = first + v * kVector;
      now[v] = load<Unit16>(item.data + item.at(element) * kSize, 0);
      before[v] = load<Unit16>(item.kept + item.kept_at(element) * kSize, 0);
    }
    REFIT_UNROLL
    for (std::uint32_t v = 0; v < kVectors; ++v) {
      changed |= differing<Bits>(now[v].low, before[v].low) << (v * kVector);
      changed |= differing<Bits>(now[v].high, before[v].high) << (v * kVector + kVector / 2);
    }
    return changed;
  }
  const std::uint32_t count = item.elements - first < kWord ? item.elements - first : kWord;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Bits now = load<Bits>(item.data, item.at(first + i));
    if (now != load<Bits>(item.kept, item.kept_at(first + i))) changed |= 1U << i;
  }
  return changed;
}

/// Calls action(element) for the set bits of a word.
template <typename Action>
KOKKOS_FORCEINLINE_FUNCTION void for_each_bit(std::uint32_t word, std::uint32_t index, const Action& action) {
  for (; word != 0; word &= word - 1) action(index * kWord + lowest_of(word));
}

struct DeviceCount {
  const DeltaItem* items;
  std::uint32_t* counts;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    if (items == nullptr) return;
    const DeltaItem item = items[member.league_rank()];
    std::uint32_t changed = 0;
    with_plain(item.from, [&](auto plain) {
      using Bits = typename decltype(plain)::Bits;
      Kokkos::parallel_reduce(
          Kokkos::TeamThreadRange(member, words_of(item)),
          [&](const std::uint32_t word, std::uint32_t& sum) {
            const std::uint32_t bits = changed_word<Bits>(item, word);
            store<std::uint32_t>(item.bits, word, bits);
            sum += bits_of(bits);
          },
          changed);
    });
    if (member.team_rank() == 0) counts[member.league_rank()] = changed;
  }
};

struct DeviceEncode {
  const DeltaItem* items;
  const DeltaJob* jobs;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    if (items == nullptr) return;
    const DeltaJob job = jobs[member.league_rank()];
    const DeltaItem item = items[job.block];
    with_plain(item.from, [&](auto plain) { encode<typename decltype(plain)::Bits>(member, item, job); });
  }

  template <typename Bits, typename Member>
  KOKKOS_INLINE_FUNCTION static void encode(const Member& member, const DeltaItem& item, const DeltaJob& job) {
    std::byte* values = job.wire + delta_values_begin(job.form, item.elements, job.changed);
    if (job.form == DeltaForm::dense) {
      Kokkos::parallel_for(Kokkos::TeamThreadRange(member, item.elements), [&](const std::uint32_t element) {
        store<Bits>(values, element, load<Bits>(item.data, item.at(element)));
      });
      return;
    }
    const bool is_bitmap = job.form == DeltaForm::bitmap;
    Kokkos::parallel_scan(Kokkos::TeamThreadRange(member, words_of(item)),
                          [&](const std::uint32_t word, std::uint32_t& sum, const bool is_final) {
                            const auto changed = load<std::uint32_t>(item.bits, word);
                            if (is_final) {
                              if (is_bitmap) store<std::uint32_t>(job.wire, word, changed);
                              std::uint32_t place = sum;
                              for_each_bit(changed, word, [&](std::uint32_t element) {
                                if (!is_bitmap)
                                  store<std::uint16_t>(job.wire, place, static_cast<std::uint16_t>(element));
                                store<Bits>(values, place++, load<Bits>(item.data, item.at(element)));
                              });
                            }
                            sum += bits_of(changed);
                          });
  }
};

struct DeviceDecode {
  const DeltaItem* items;
  const DeltaJob* jobs;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    if (items == nullptr) return;
    const DeltaJob job = jobs[member.league_rank()];
    const DeltaItem item = items[job.block];
    with_conversion(item, [&](auto from, auto to, const auto& convert) {
      decode<typename decltype(from)::Bits, typename decltype(to)::Bits>(member, item, job, convert);
    });
  }

  template <typename From, typename To, typename Member, typename Convert>
  KOKKOS_INLINE_FUNCTION static void decode(const Member& member, const DeltaItem& item, const DeltaJob& job,
                                            const Convert& convert) {
    const std::byte* values = job.wire + delta_values_begin(job.form, item.elements, job.changed);
    const auto put = [&](std::uint32_t element, std::uint32_t value) {
      store<To>(item.data, item.at(element), convert(load<From>(values, value)));
    };
    if (job.form == DeltaForm::dense) {
      Kokkos::parallel_for(Kokkos::TeamThreadRange(member, item.elements),
                           [&](const std::uint32_t element) { put(element, element); });
    } else if (job.form == DeltaForm::index) {
      Kokkos::parallel_for(Kokkos::TeamThreadRange(member, job.changed),
                           [&](const std::uint32_t i) { put(load<std::uint16_t>(job.wire, i), i); });
    } else {
      Kokkos::parallel_scan(Kokkos::TeamThreadRange(member, words_of(item)),
                            [&](const std::uint32_t index, std::uint32_t& sum, const bool is_final) {
                              const auto word = load<std::uint32_t>(job.wire, index);
                              if (is_final) {
                                std::uint32_t place = sum;
                                for_each_bit(word, index, [&](std::uint32_t element) { put(element, place++); });
                              }
                              sum += bits_of(word);
                            });
    }
  }
};

struct DeviceKeep {
  const DeltaItem* items;
  const std::uint32_t* counts;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    if (items == nullptr || (counts != nullptr && counts[member.league_rank()] == 0)) return;
    const DeltaItem item = items[member.league_rank()];
    with_plain(item.from, [&](auto plain) {
      using Bits = typename decltype(plain)::Bits;
      constexpr std::uint32_t kVector = 16 / sizeof(Bits);
      if (counts != nullptr && keeps_single(item, counts[member.league_rank()])) {
        Kokkos::parallel_for(Kokkos::TeamThreadRange(member, words_of(item)), [&](const std::uint32_t word) {
          for_each_bit(load<std::uint32_t>(item.bits, word), word, [&](std::uint32_t element) {
            store<Bits>(item.kept, item.kept_at(element), load<Bits>(item.data, item.at(element)));
          });
        });
      } else if (item.has_vectors) {
        Kokkos::parallel_for(Kokkos::TeamThreadRange(member, item.elements / kVector), [&](const std::uint32_t v) {
          const std::uint32_t element = v * kVector;
          store<Unit16>(item.kept + item.kept_at(element) * static_cast<std::int64_t>(sizeof(Bits)), 0,
                        load<Unit16>(item.data + item.at(element) * static_cast<std::int64_t>(sizeof(Bits)), 0));
        });
      } else {
        Kokkos::parallel_for(Kokkos::TeamThreadRange(member, item.elements), [&](const std::uint32_t element) {
          store<Bits>(item.kept, item.kept_at(element), load<Bits>(item.data, item.at(element)));
        });
      }
    });
  }
};

/// A launch of one team that does nothing loads the kernel.
std::int64_t teams_of(const void* items, std::int64_t count) { return items == nullptr ? 1 : count; }

}  // namespace

void run_delta_count(const ExecutionSpace& space, const DeltaItem* items, std::int64_t count, std::uint32_t* counts) {
  static const std::string label = "refit::delta_count";
  for_each_team(space, label, teams_of(items, count), DeviceCount{items, counts});
}

void run_delta_encode(const ExecutionSpace& space, const DeltaItem* items, std::span<const DeltaJob> jobs) {
  static const std::string label = "refit::delta_encode";
  for_each_team(space, label, teams_of(items, std::ssize(jobs)), DeviceEncode{items, jobs.data()});
}

void run_delta_decode(const ExecutionSpace& space, const DeltaItem* items, std::span<const DeltaJob> jobs) {
  static const std::string label = "refit::delta_decode";
  for_each_team(space, label, teams_of(items, std::ssize(jobs)), DeviceDecode{items, jobs.data()});
}

void run_delta_keep(const ExecutionSpace& space, const DeltaItem* items, std::int64_t count,
                    const std::uint32_t* counts) {
  static const std::string label = "refit::delta_keep";
  for_each_team(space, label, teams_of(items, count), DeviceKeep{items, counts});
}

}  // namespace refit::kernels
