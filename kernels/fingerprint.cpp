#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "kernels/elementwise.hpp"
#include "kernels/fingerprint_device.hpp"
#include "kernels/fingerprint_host.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kFingerprintElements = 512 * kKeyBlock;
constexpr std::size_t kMostJobs = 4096;  ///< jobs launched before the host waits: about a MiB of memory

bool is_plain(const Fingerprint& of) { return of.region.dtype == of.as && of.transform == Transform::none; }

/// Jobs of equal kind are done by one kernel.
auto kind(const Fingerprint& of) {
  return is_plain(of) ? std::tuple(byte_size(of.as), DType::u8, DType::u8, false)
                      : std::tuple(std::int64_t{0}, of.region.dtype, of.as, of.transform != Transform::none);
}

/// Calls action(From{}, To{}, std::bool_constant<whether values are transformed>{}) with the types of a kind.
template <typename Action>
void with_kind(const Fingerprint& of, const Action& action) {
  if (is_plain(of)) {
    return with_bits_of(of.as, [&](auto zero) {
      using Bits = Plain<decltype(zero)>;
      action(Bits{}, Bits{}, std::false_type{});
    });
  }
  with_types(of.region.dtype, of.as, [&](auto from, auto to) {
    if (of.transform != Transform::none) {
      action(from, to, std::true_type{});
    } else if constexpr (!std::is_same_v<decltype(from), decltype(to)>) {
      action(from, to, std::false_type{});
    }
  });
}

FingerprintJob job_of(const Fingerprint& of, std::int64_t elements) {
  const std::int64_t size = byte_size(of.region.dtype);
  FingerprintJob job{rows_of(of.region), {}, of.transform, false, of.name_hash, 0, 0};
  if constexpr (kOnHost) {
    job.pieces = cut(job.rows, kKeyBlock, kFingerprintElements);
  } else {
    const std::int64_t block = kLanes * columns_of_lane(size);
    const std::int64_t columns = std::clamp<std::int64_t>(job.rows.columns, 1, block);
    job.pieces = cut(job.rows, block, std::min(elements, columns * kFingerprintRows));
    job.vectors = has_vector_rows(job.rows, size);
  }
  return job;
}

/// Jobs of one kind, by their place in a batch.
struct Launch {
  std::size_t first;
  std::size_t count;
  std::int64_t items;
};

/// The regions that are worked on between two waits.
class Batch {
 public:
  explicit Batch(std::span<const Fingerprint> of) : of_(of), order_(of.size()) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [of](std::size_t a, std::size_t b) { return kind(of[a]) < kind(of[b]); });
    std::int64_t elements = 0;
    for (const Fingerprint& one : of) elements += one.region.box.volume();
    // An item's rows and columns need keys before its elements can be summed: items of twice the usual size.
    for (const std::size_t index : order_) add(of[index], 2 * device_item_elements(elements));
  }

  /// Adds the fingerprint of of[i] to sums[i].
  void run(const ExecutionSpace& space, std::span<Sum128> sums) const {
    static const std::string label = "refit::fingerprint";
    const Results results(space, 2 * std::ssize(jobs_), std::as_bytes(std::span(jobs_)));
    const auto* jobs = reinterpret_cast<const FingerprintJob*>(results.table());
    for (const Launch& launch : launches_) {
      const FingerprintJobs of{jobs + launch.first, static_cast<std::int64_t>(launch.count), results.data()};
      with_kind(of_[order_[launch.first]], [&](auto from, auto to, auto transforms) {
        using From = decltype(from);
        using To = decltype(to);
        if constexpr (kOnHost) {
          for_each_item(space, label, launch.items, HostFingerprint<From, To>{of});
        } else {
          using Functor = DeviceFingerprint<From, To, decltype(transforms)::value>;
          for_each_team<Functor::kTeams>(space, label, launch.items, Functor{of}, Functor::kScratch);
        }
      });
    }
    const Counter* found = results.wait();
    for (std::size_t i = 0; i < order_.size(); ++i) sums[order_[i]] += Sum128{found[2 * i], found[2 * i + 1]};
  }

 private:
  void add(const Fingerprint& of, std::int64_t elements) {
    if (jobs_.empty() || kind(of) != kind(of_[order_[launches_.back().first]]))
      launches_.push_back({jobs_.size(), 0, 0});
    Launch& launch = launches_.back();
    FingerprintJob job = job_of(of, elements);
    job.first_item = launch.items;
    job.slot = std::ssize(jobs_);
    launch.items += job.pieces.items;
    ++launch.count;
    jobs_.push_back(job);
  }

  std::span<const Fingerprint> of_;
  std::vector<std::size_t> order_;  ///< by kind
  std::vector<FingerprintJob> jobs_;
  std::vector<Launch> launches_;
};

}  // namespace

void fingerprints(const ExecutionSpace& space, std::span<const Fingerprint> of, std::span<Sum128> sums) {
  REFIT_ASSERT(of.size() == sums.size());
  for (const Fingerprint& one : of) {
    REFIT_ASSERT(is_plain(one) || (is_castable(one.region.dtype) && is_castable(one.as)));
  }
  for (std::size_t first = 0; first < of.size(); first += kMostJobs) {
    const std::size_t count = std::min(kMostJobs, of.size() - first);
    Batch(of.subspan(first, count)).run(space, sums.subspan(first, count));
  }
}

void fingerprint(const ExecutionSpace& space, const Region& region, DType as, Transform transform,
                 std::uint64_t name_hash, Sum128* result) {
  const Fingerprint of{region, as, transform, name_hash};
  fingerprints(space, {&of, 1}, {result, 1});
}

}  // namespace refit::kernels
