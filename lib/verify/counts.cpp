#include "verify/counts.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>

#include "verify/chunks.hpp"

namespace refit::verify {
namespace {

std::uint64_t bits_at(const LocalMemory& local, const kernels::Region& region, const Extents& index) {
  kernels::Region one = region;
  const Box box{index, Extents::filled(index.size(), 1)};
  one.data += offset_of(relative(box, region.box), region.strides) * byte_size(region.dtype);
  one.box = box;
  const kernels::SharedBuffer bytes = local.copy_out(one, Transform::none, region.dtype);
  std::uint64_t bits = 0;
  std::memcpy(&bits, bytes.data(), bytes.span().size());
  return bits;
}

/// Adds the differences between `region` and `expected` (contiguous over the region's box). The reported index is that
/// of the global index by `strides`, plus `offset`.
void compare(const LocalMemory& local, const kernels::Region& region, const std::byte* expected, const Extents& strides,
             std::int64_t offset, Finding& out) {
  const kernels::Difference difference = kernels::count_differences(local.space, region, expected);
  if (difference.count == 0) return;
  out.elements += difference.count;
  const Extents index = unravel(difference.first, region.box);
  const std::int64_t global = offset + offset_of(index, strides);
  if (out.first >= 0 && out.first < global) return;
  out.first = global;
  out.found = bits_at(local, region, index);
  const std::int64_t size = byte_size(region.dtype);
  out.expected = 0;
  std::memcpy(&out.expected, expected + difference.first * size, static_cast<std::size_t>(size));
}

/// Returns the strides that make an index's place in the file; all repetitions of a block scale have the place of the
/// one scale.
Extents file_strides(const model::Tensor& tensor) {
  return tensor.repeats > 1 ? Extents{tensor.shape[2], 0, 1, 0} : row_major_strides(tensor.shape);
}

/// Cuts a box into parts whose elements are in the file's order: for repeated scales one repetition of their rows after
/// the other.
std::vector<Box> in_file_order(const model::Tensor& tensor, const Box& box) {
  return tensor.repeats > 1 ? slices(box, 1) : std::vector<Box>{box};
}

/// A part that is wrong on some ranks.
struct Transfer {
  std::int32_t tensor = 0;
  Holder source;
  Box box;
  std::vector<Holder> receivers;
};

/// Returns the transfers in order of their tensors' sizes: the smallest come first, so that as many as possible are
/// done in time.
std::vector<Transfer> transfers_of(const LocalMemory& local, const std::vector<Suspect>& suspects,
                                   const std::vector<WrongPart>& wrong) {
  std::vector<Transfer> result;
  std::vector<Part> parts;
  std::int32_t suspect_of_parts = -1;
  for (auto first = wrong.begin(); first != wrong.end();) {
    const auto last = std::find_if(first, wrong.end(), [&](const WrongPart& other) {
      return other.suspect != first->suspect || other.part != first->part;
    });
    const Suspect& suspect = suspects[static_cast<std::size_t>(first->suspect)];
    if (suspect_of_parts != first->suspect) parts = parts_of(suspect);
    suspect_of_parts = first->suspect;
    const Part& part = parts[static_cast<std::size_t>(first->part)];
    Transfer& transfer = result.emplace_back();
    transfer.tensor = suspect.tensor;
    transfer.source = suspect.sources[static_cast<std::size_t>(part.source)].holder;
    transfer.box = part.box;
    for (; first != last; ++first) transfer.receivers.push_back({first->world_rank, first->piece});
  }
  std::stable_sort(result.begin(), result.end(), [&](const Transfer& a, const Transfer& b) {
    return local.tensor(a.tensor).elements() < local.tensor(b.tensor).elements();
  });
  return result;
}

/// One chunk of a transfer.
struct Turn {
  const Transfer* transfer = nullptr;
  Box box;
};

/// The chunks of all transfers from one source, one after the other.
class Queue {
 public:
  void add(const Transfer& transfer) { transfers_.push_back(&transfer); }
  bool empty() const { return next_ == transfers_.size() && chunks_.empty(); }

  Turn take(const LocalMemory& local, std::int64_t bytes) {
    if (chunks_.empty()) start(local, bytes);
    const Turn turn{transfers_[next_ - 1], chunks_.back()};
    chunks_.pop_back();
    return turn;
  }
  /// Returns the transfers whose last chunk has not been taken.
  std::vector<const Transfer*> unfinished() const {
    const std::size_t first = chunks_.empty() ? next_ : next_ - 1;
    return {transfers_.begin() + static_cast<std::ptrdiff_t>(first), transfers_.end()};
  }

 private:
  void start(const LocalMemory& local, std::int64_t bytes) {
    const Transfer& transfer = *transfers_[next_++];
    const std::int64_t elements = std::max<std::int64_t>(1, bytes / byte_size(local.as(transfer.tensor).dtype));
    for (const Box& part : in_file_order(local.tensor(transfer.tensor), transfer.box)) {
      const std::vector<Box> some = chunks(part, elements);
      chunks_.insert(chunks_.end(), some.begin(), some.end());
    }
    std::reverse(chunks_.begin(), chunks_.end());
  }

  std::vector<const Transfer*> transfers_;
  std::size_t next_ = 0;     ///< the transfer after the one whose chunks are here
  std::vector<Box> chunks_;  ///< the next one last
};

/// One rank's part in the rounds.
class Counting {
 public:
  Counting(const LocalMemory& local, const std::vector<Suspect>& suspects, const std::vector<WrongPart>& wrong)
      : local_(local),
        transfers_(transfers_of(local, suspects, wrong)),
        to_(static_cast<std::size_t>(local.world.size())) {
    std::size_t receivers = 1;
    for (const Transfer& transfer : transfers_) {
      queues_[transfer.source.world_rank].add(transfer);
      receivers = std::max(receivers, transfer.receivers.size());
    }
    // The shares bound the bytes that a rank gets from all sources in a round, and those that it sends to all
    // receivers.
    const std::size_t shares = std::max(receivers, queues_.size());
    chunk_bytes_ = std::max<std::int64_t>(1, local.tuning.chunk_bytes / static_cast<std::int64_t>(shares));
  }

  std::vector<Finding> run() {
    const auto begin = std::chrono::steady_clock::now();
    const auto spent = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
    while (!is_done() && local_.world.max(spent()) < local_.tuning.count_seconds) round();
    for (const auto& [rank, queue] : queues_) {
      for (const Transfer* transfer : queue.unfinished()) {
        if (Finding* mine = finding(*transfer)) mine->counted = false;
      }
    }
    std::vector<Finding> result;
    for (const auto& [piece, found] : findings_) result.push_back(found);
    return result;
  }

 private:
  bool is_done() const {
    return std::all_of(queues_.begin(), queues_.end(), [](const auto& of) { return of.second.empty(); });
  }

  void round() {
    for (Bytes& bytes : to_) bytes.clear();
    std::vector<Turn> due;
    for (auto& [rank, queue] : queues_) {
      if (queue.empty()) continue;
      const Turn turn = queue.take(local_, chunk_bytes_);
      if (rank == local_.world.rank()) send(turn);
      if (finding(*turn.transfer) != nullptr) due.push_back(turn);
    }
    const std::vector<Bytes> from = local_.world.exchange(to_);
    for (const Turn& turn : due) compare_with(turn, from[static_cast<std::size_t>(turn.transfer->source.world_rank)]);
  }

  void send(const Turn& turn) {
    const Transfer& transfer = *turn.transfer;
    const DType as = local_.as(transfer.tensor).dtype;
    const std::int32_t piece = local_.piece_of(local_.owner(transfer.tensor), transfer.source.piece);
    const std::span<std::byte> truth = buffer(turn.box.volume() * byte_size(as));
    local_.copy_out(local_.region(piece, turn.box), local_.transform_of(local_.piece(piece)), as, truth.data());
    for (const Holder& receiver : transfer.receivers) {
      to_[static_cast<std::size_t>(receiver.world_rank)].assign(truth.begin(), truth.end());
    }
  }

  void compare_with(const Turn& turn, const Bytes& truth) {
    Finding& mine = *finding(*turn.transfer);
    REFIT_ASSERT(std::ssize(truth) == turn.box.volume() * byte_size(local_.as(turn.transfer->tensor).dtype));
    const std::byte* expected = truth.data();
    if (kernels::Runtime::has_device()) {
      const std::span<std::byte> visible = buffer(std::ssize(truth));
      std::copy(truth.begin(), truth.end(), visible.begin());
      expected = visible.data();
    }
    compare(local_, local_.region(mine.index, turn.box), expected, file_strides(local_.tensor(turn.transfer->tensor)),
            0, mine);
  }

  /// Returns the finding about this rank's piece of a transfer; nullptr where the rank has no wrong one there.
  Finding* finding(const Transfer& transfer) {
    const auto mine = std::find_if(transfer.receivers.begin(), transfer.receivers.end(),
                                   [&](const Holder& holder) { return holder.world_rank == local_.world.rank(); });
    if (mine == transfer.receivers.end()) return nullptr;
    const std::int32_t piece = local_.piece_of(local_.owner(transfer.tensor), mine->piece);
    return &findings_.try_emplace(piece, Finding{.index = piece}).first->second;
  }

  /// Returns memory that the host and kernels see, kept from chunk to chunk.
  std::span<std::byte> buffer(std::int64_t bytes) {
    if (buffer_.bytes() < bytes) buffer_ = kernels::SharedBuffer(bytes);
    return buffer_.span().first(static_cast<std::size_t>(bytes));
  }

  const LocalMemory& local_;
  const std::vector<Transfer> transfers_;
  std::map<std::int32_t, Queue> queues_;  ///< by source
  std::int64_t chunk_bytes_ = 0;
  std::map<std::int32_t, Finding> findings_;  ///< by piece
  kernels::SharedBuffer buffer_;
  std::vector<Bytes> to_;  ///< kept from round to round: fresh memory costs more than writing to it
};

void keep_wrong(const std::vector<Finding>& from, std::vector<Finding>& to) {
  std::copy_if(from.begin(), from.end(), std::back_inserter(to), [](const Finding& f) { return f.elements > 0; });
}

}  // namespace

std::vector<Finding> count_pieces(const LocalMemory& local, const std::vector<Suspect>& suspects,
                                  const std::vector<WrongPart>& wrong) {
  return Counting(local, suspects, wrong).run();
}

std::vector<Finding> count_fills(const LocalMemory& local) {
  std::vector<Finding> wrong;
  const auto& fills = local.view.layout().fills;
  for (std::size_t i = 0; i < fills.size(); ++i) {
    const layout::Place& place = fills[i].fill.place;
    const kernels::Region whole = region_of(local.view.layout(), local.view.storages(), fills[i]);
    Finding finding{.index = static_cast<std::int32_t>(i)};
    const std::int64_t elements = std::max<std::int64_t>(1, local.tuning.chunk_bytes / byte_size(whole.dtype));
    for (const Box& chunk : chunks(whole.box, elements)) {
      kernels::Region region = whole;
      region.box = chunk;
      region.data += offset_of(chunk.lower, whole.strides) * byte_size(whole.dtype);
      const kernels::SharedBuffer expected(chunk.volume() * byte_size(whole.dtype));
      kernels::fill(local.space, expected.data(), whole.dtype, chunk.extent, row_major_strides(chunk.extent),
                    fills[i].fill.value);
      local.space.fence();
      compare(local, region, expected.data(), place.strides, place.offset, finding);
    }
    keep_wrong({finding}, wrong);
  }
  return wrong;
}

}  // namespace refit::verify
