#include "diagnose/replay_schedules.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <map>

#include "diagnose/elements.hpp"
#include "plan/stream.hpp"
#include "transport/segment.hpp"

namespace refit::diagnose {
namespace {

using layout::Piece;
using layout::StorageKey;
using model::Tensor;

/// A tensor on a gen rank.
using Part = std::pair<Rank, std::int32_t>;

const Tensor& tensor_of(const Evidence& evidence, std::int32_t index) { return evidence.setup.model[index]; }

/// Returns whether the dump's elements of a part are as predicted: predict(storage, offset in it, index, right bits).
template <typename Predict>
bool fits(const Evidence& evidence, const Part& part, const Predict& predict) {
  const auto whole = evidence.sources.front()->get(part.second);
  if (!whole) return false;
  std::vector<Piece> pieces;
  evidence.setup.gen->pieces(*whole->tensor, part.first, pieces);
  return std::all_of(pieces.begin(), pieces.end(), [&](const Piece& piece) {
    const layout::Storage storage = evidence.setup.gen->storage(piece.place.storage, part.first);
    if (evidence.gen.problem(part.first, storage)) return false;
    const std::int64_t count = span_of(piece.box.extent, piece.place.strides);
    const kernels::SharedBuffer dumped = evidence.gen.read(part.first, storage, piece.place.offset, count);
    const Matrix found{dumped.data(), byte_size(storage.dtype), 1, count, 0, 1};
    bool all = true;
    for_each_element(piece, [&](std::int64_t offset, const Extents& index) {
      if (all) all = found(0, offset - piece.place.offset) == predict(storage.key, offset, index, *whole);
    });
    return all;
  });
}

/// Returns whether the bug spoils something of every wrong part.
bool covers(const Evidence& evidence, const std::set<Part>& spoiled) {
  return std::all_of(evidence.regions.begin(), evidence.regions.end(), [&](const Region& region) {
    return spoiled.contains({region.rank, region.tensor});
  });
}

/// Copies that p2p stages on gen ranks, unpacked from memory that still holds zeros.
class CopyRace {
 public:
  explicit CopyRace(const Evidence& evidence) : evidence_(evidence) {}

  bool fits() {
    const auto is_zero = [](const Region& region) { return region.found == 0; };
    if (!may_be_p2p() || !std::all_of(evidence_.regions.begin(), evidence_.regions.end(), is_zero)) return false;
    const std::int64_t given = evidence_.setup.c.refit.small_bytes;
    if (given >= 0) return fits(given);
    // Dumps do not say either whether they are of a host or of a device.
    return fits(transport::kSmallOnHosts) || fits(transport::kSmallOnDevices);
  }

 private:
  /// `small_bytes`: as transport::Tuning has it.
  bool fits(std::int64_t small_bytes) {
    zeros_.clear();
    spoiled_.clear();
    for (std::int32_t r = 0; r < evidence_.setup.gen->ranks(); ++r) add_staged(Rank{r}, small_bytes);
    if (!covers(evidence_, spoiled_)) return false;
    return std::all_of(spoiled_.begin(), spoiled_.end(), [&](const Part& part) {
      const auto predict = [&](const StorageKey& key, std::int64_t offset, const Extents& index, const Whole& right) {
        const auto zeros = zeros_.find({part.first, key});
        const bool is_late = zeros != zeros_.end() && zeros->second[static_cast<std::size_t>(offset)];
        return is_late ? Bits{0} : element(right, index);
      };
      return diagnose::fits(evidence_, part, predict);
    });
  }

  /// Returns whether the executor may have been p2p, which dumps do not say. The staged copies depend on train's
  /// layout.
  bool may_be_p2p() const {
    const cases::Case& c = evidence_.setup.c;
    if (!evidence_.knows_train) return false;
    return c.refit.executor == cases::ExecutorKind::p2p || !c.given.contains("refit.executor");
  }

  void add_staged(Rank rank, std::int64_t small_bytes) {
    const cases::Setup& setup = evidence_.setup;
    const plan::Planner planner(setup.split.bulk, setup.sent(), *setup.gen, {.colocated = setup.c.run.colocated});
    const std::vector<plan::Copy> copies = planner.rank_plan(Side::destination, rank).copies;
    transport::Tuning tuning;
    tuning.chunk_bytes = setup.c.refit.chunk_bytes;
    tuning.small_bytes = small_bytes;
    for (const transport::Parcel& parcel : transport::pack(transport::make_segments(copies, tuning), tuning)) {
      if (parcel.is_zero_copy_destination() || parcel.first().to_self) continue;
      for (const transport::Segment& segment : parcel.segments) {
        add_late(segment.whole(), rank);
        for (const std::int32_t tensor : segment.merged) spoiled_.insert({rank, tensor});
      }
    }
  }

  void add_late(const plan::Copy& copy, Rank rank) {
    const StorageKey key = copy.destination.place.storage;
    std::vector<bool>& zeros = zeros_[{rank, key}];
    zeros.resize(static_cast<std::size_t>(evidence_.setup.gen->storage(key, rank).elements()));
    const Piece late{copy.box, copy.destination.place, copy.destination.format};
    for_each_element(late,
                     [&](std::int64_t offset, const Extents&) { zeros[static_cast<std::size_t>(offset)] = true; });
    spoiled_.insert({rank, copy.tensor});
  }

  const Evidence& evidence_;
  std::map<std::pair<Rank, StorageKey>, std::vector<bool>> zeros_;
  std::set<Part> spoiled_;
};

/// The misc stream's last buffers, placed while their memory still holds earlier ones.
class UndrainedStream {
 public:
  UndrainedStream(const Evidence& evidence, const std::vector<Tensor>& misc, std::int64_t buffer_bytes)
      : evidence_(evidence), misc_(misc), layout_(misc, evidence.setup.sent(), buffer_bytes) {}

  bool fits() {
    // With fewer buffers, some late ones follow no earlier buffer, or late ones of an earlier refit.
    if (layout_.buffers() < 2 * kRotating) return false;
    for (const Tensor& tensor : misc_) sort(tensor);
    std::set<Part> spoiled;
    for (const auto& [tensor, pieces] : late_) {
      for (std::int32_t r = 0; r < evidence_.setup.gen->ranks(); ++r) spoiled.insert({Rank{r}, tensor});
    }
    if (!covers(evidence_, spoiled) || !read_images()) return false;
    std::map<std::int32_t, std::vector<Bits>> predicted;
    for (const auto& [tensor, pieces] : late_) {
      if (!predict(tensor, pieces, predicted[tensor])) return false;
    }
    return std::all_of(spoiled.begin(), spoiled.end(), [&](const Part& part) {
      const std::vector<Bits>& bits = predicted.at(part.second);
      const Extents strides = row_major_strides(tensor_of(evidence_, part.second).shape);
      return diagnose::fits(evidence_, part, [&](const StorageKey&, std::int64_t, const Extents& index, const Whole&) {
        return bits[static_cast<std::size_t>(offset_of(index, strides))];
      });
    });
  }

 private:
  using Pieces = std::map<std::int32_t, std::vector<Piece>>;  ///< by tensor

  /// Buffers that take turns; as many are late.
  static constexpr std::int32_t kRotating = 2;

  /// Sorts a tensor's pieces into late ones, and earlier ones in the memory of late ones.
  void sort(const Tensor& tensor) {
    std::vector<Piece> pieces;
    layout_.pieces(tensor, Rank{0}, pieces);
    for (const Piece& piece : pieces) {
      const std::int32_t from_end = layout_.buffers() - piece.place.storage.parameter;
      if (from_end <= kRotating) {
        late_[tensor.index].push_back(piece);
      } else if (from_end <= 2 * kRotating) {
        before_[tensor.index].push_back(piece);
      }
    }
  }

  /// Returns the truth about a tensor whose bits travel as gen stores them; else nullptr.
  std::shared_ptr<const Whole> unchanged(std::int32_t index) const {
    const auto stored = evidence_.setup.gen->format(tensor_of(evidence_, index));
    if (stored != layout_.format(tensor_of(evidence_, index))) return nullptr;
    return evidence_.sources.front()->get(index);
  }

  bool read_images() {
    for (const auto& [tensor, pieces] : before_) {
      const auto whole = unchanged(tensor);
      if (!whole) return false;
      const auto size = static_cast<std::size_t>(byte_size(whole->dtype));
      for (const Piece& piece : pieces) {
        std::vector<std::byte>& image = images_[piece.place.storage.parameter];
        image.resize(static_cast<std::size_t>(layout_.bytes(piece.place.storage.parameter)));
        for_each_element(piece, [&](std::int64_t offset, const Extents& index) {
          const Bits bits = element(*whole, index);
          std::memcpy(&image[static_cast<std::size_t>(offset) * size], &bits, size);
        });
      }
    }
    return true;
  }

  /// Predicts all bits of a tensor, row-major.
  bool predict(std::int32_t tensor, const std::vector<Piece>& late, std::vector<Bits>& bits) {
    const auto whole = unchanged(tensor);
    if (!whole) return false;
    const std::int64_t size = byte_size(whole->dtype);
    const Extents strides = row_major_strides(whole->tensor->shape);
    bits.resize(static_cast<std::size_t>(whole->tensor->elements()));
    const Matrix flat{whole->data.data(), size, 1, whole->tensor->elements(), 0, 1};
    for (std::int64_t i = 0; i < flat.columns; ++i) bits[static_cast<std::size_t>(i)] = flat(0, i);
    for (const Piece& piece : late) {
      const std::vector<std::byte>& image = images_[piece.place.storage.parameter - kRotating];
      const Matrix before{image.data(), size, 1, std::ssize(image) / size, 0, 1};
      bool inside = true;
      for_each_element(piece, [&](std::int64_t offset, const Extents& index) {
        inside = inside && offset < before.columns;
        if (inside) bits[static_cast<std::size_t>(offset_of(index, strides))] = before(0, offset);
      });
      if (!inside) return false;
    }
    return true;
  }

  const Evidence& evidence_;
  const std::vector<Tensor>& misc_;
  plan::StreamLayout layout_;
  Pieces late_, before_;
  std::map<std::int32_t, std::vector<std::byte>> images_;  ///< by buffer
};

/// Returns the lengths of buffers with which the first wrong byte of the stream begins its last buffer but one.
std::vector<std::int64_t> likely_buffer_bytes(const Evidence& evidence, const std::vector<Tensor>& misc) {
  const plan::StreamLayout uncut(misc, evidence.setup.sent(), std::numeric_limits<std::int64_t>::max());
  std::set<std::int32_t> carried;
  for (const Tensor& tensor : misc) carried.insert(tensor.index);
  std::int64_t first = uncut.buffers() == 0 ? 0 : uncut.bytes(0);
  const std::int64_t total = first;
  for (const Region& region : evidence.regions) {
    if (!carried.contains(region.tensor)) return {};
    const Tensor& tensor = tensor_of(evidence, region.tensor);
    std::vector<Piece> pieces;
    uncut.pieces(tensor, Rank{0}, pieces);
    const std::int64_t columns = matrix_of(nullptr, 1, tensor.shape).columns;
    const std::int64_t element = pieces.at(0).place.offset + region.first_row * columns + region.first_column;
    first = std::min(first, element * byte_size(pieces.at(0).format.dtype));
  }
  std::vector<std::int64_t> likely;
  for (std::int64_t before = 2; first < total && before <= 2 * first / (total - first); ++before) {
    const std::int64_t bytes = first / before;
    if (first % before == 0 && first + bytes < total && first + 2 * bytes >= total) likely.push_back(bytes);
  }
  return likely;
}

/// Returns whether an undrained stream fits. Its tensors and the length of its buffers are those of the run where they
/// are given; else all that fit are tried.
bool leaves_undrained(const Evidence& evidence) {
  const cases::Setup& setup = evidence.setup;
  const auto fits_misc = [&](const std::vector<Tensor>& misc) {
    const auto fits = [&](std::int64_t bytes) { return UndrainedStream(evidence, misc, bytes).fits(); };
    if (setup.c.given.contains("refit.misc_buffer_bytes")) return fits(setup.c.refit.misc_buffer_bytes);
    const std::vector<std::int64_t> likely = likely_buffer_bytes(evidence, misc);
    return std::any_of(likely.begin(), likely.end(), fits);
  };
  if (fits_misc(setup.split.misc)) return true;
  if (setup.c.given.contains("refit.bulk") || setup.quantised) return false;
  using plan::Policy;
  constexpr std::array kPolicies{Policy::all, Policy::whitelist, Policy::blacklist, Policy::ffn};
  return std::any_of(kPolicies.begin(), kPolicies.end(), [&](Policy policy) {
    return fits_misc(
        plan::split(setup.model, policy, *setup.train, *setup.gen, setup.c.train->sizes().tp, setup.c.gen_tp()).misc);
  });
}

}  // namespace

bool leaves_late_bytes(const Evidence& evidence, const std::string& bug) {
  if (bug == "B15-copy-race") return CopyRace(evidence).fits();
  return bug == "B17-undrained-stream" && leaves_undrained(evidence);
}

}  // namespace refit::diagnose
