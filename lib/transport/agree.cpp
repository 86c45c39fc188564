#include <algorithm>
#include <utility>

#include "transport/bytes.hpp"
#include "transport/executor.hpp"

namespace refit::transport {
namespace {

/// The hash of the copies of one tensor that a pair of ranks shares.
struct TensorHash {
  std::int32_t tensor;
  Sum128 hash;
  friend bool operator==(const TensorHash&, const TensorHash&) = default;
};

std::uint64_t fold(std::uint64_t seed, const plan::Place& place) {
  seed = combine(seed, static_cast<std::uint64_t>(place.storage.parameter));
  seed = combine(seed, static_cast<std::uint64_t>(place.storage.layer));
  seed = combine(seed, static_cast<std::uint64_t>(place.storage.expert));
  seed = combine(seed, static_cast<std::uint64_t>(place.offset));
  for (std::int64_t stride : place.strides) seed = combine(seed, static_cast<std::uint64_t>(stride));
  return seed;
}

/// Returns the plan's hash of a copy together with its places: p2p cuts and merges messages by the places of both ends,
/// so both must know the same ones.
Sum128 hash_with_places(const plan::Copy& copy, const Sum128& tensor_factor) {
  const Sum128 sum = plan::hash(copy, tensor_factor);
  return {fold(fold(sum.low, copy.source.place), copy.destination.place),
          fold(fold(sum.high, copy.source.place), copy.destination.place)};
}

/// Returns, per peer, the hashes of the shared copies by tensor.
std::vector<std::vector<TensorHash>> hashes_by_peer(int peers, const auto& peer_of,
                                                    const std::vector<plan::Copy>& copies,
                                                    const std::vector<model::Tensor>& tensors) {
  std::vector<std::vector<TensorHash>> result(static_cast<std::size_t>(peers));
  std::int32_t last = -1;
  Sum128 factor;  // of the last tensor
  for (const plan::Copy& copy : copies) {
    if (copy.tensor != std::exchange(last, copy.tensor))
      factor = plan::hash_factor(tensors[static_cast<std::size_t>(copy.tensor)].name);
    auto& list = result[static_cast<std::size_t>(peer_of(copy))];
    if (list.empty() || list.back().tensor != copy.tensor) list.push_back({copy.tensor, {}});
    list.back().hash += hash_with_places(copy, factor);
  }
  return result;
}

Sum128 total(const std::vector<TensorHash>& list) {
  Sum128 sum;
  for (const TensorHash& entry : list) sum += entry.hash;
  return sum;
}

/// Returns the first tensor in which two lists differ.
std::int32_t first_difference(const std::vector<TensorHash>& a, const std::vector<TensorHash>& b) {
  for (std::size_t i = 0;; ++i) {
    if (i < a.size() && i < b.size() && a[i] == b[i]) continue;
    if (i >= a.size()) return i < b.size() ? b[i].tensor : -1;
    return i < b.size() ? std::min(a[i].tensor, b[i].tensor) : a[i].tensor;
  }
}

std::vector<Control::Bytes> to_bytes(const std::vector<std::vector<TensorHash>>& lists) {
  std::vector<Control::Bytes> out(lists.size());
  for (std::size_t i = 0; i < lists.size(); ++i) {
    for (const TensorHash& entry : lists[i]) append(out[i], entry);
  }
  return out;
}

/// Throws the finding of the first rank that has one, on all ranks alike. Collective over `world`.
void throw_first(Control& world, const std::string& finding) {
  Control::Bytes mine;
  for (char c : finding) append(mine, c);
  for (const Control::Bytes& bytes : world.gather_all(mine)) {
    if (bytes.empty()) continue;
    const std::vector<char> text = read_all<char>(bytes);
    throw Error(ErrorKind::runtime, std::string(text.begin(), text.end()));
  }
}

}  // namespace

void agree(Control& world, Side side, Rank rank, std::int32_t source_ranks, const std::vector<plan::Copy>& copies,
           const std::vector<model::Tensor>& tensors) {
  const int self = side == Side::source ? to_int(rank) : source_ranks + to_int(rank);
  const auto peer_of = [&](const plan::Copy& copy) {
    const WorldRanks ends = world_ranks(copy, source_ranks);
    return ends.source == self ? ends.destination : ends.source;
  };
  const auto mine = hashes_by_peer(world.size(), peer_of, copies, tensors);
  std::vector<Control::Bytes> sums(mine.size());
  for (std::size_t i = 0; i < mine.size(); ++i) append(sums[i], total(mine[i]));
  const std::vector<Control::Bytes> theirs = world.exchange(sums);
  bool same = true;
  for (std::size_t i = 0; i < mine.size(); ++i) same &= theirs[i] == sums[i];
  if (world.max(static_cast<std::int64_t>(same ? 0 : 1)) == 0) return;

  const std::vector<Control::Bytes> lists = world.exchange(to_bytes(mine));
  std::string finding;
  for (std::size_t i = 0; i < mine.size() && finding.empty(); ++i) {
    if (theirs[i] == sums[i]) continue;
    const std::int32_t tensor = first_difference(mine[i], read_all<TensorHash>(lists[i]));
    finding = fmt::format(
        "ranks {} and {} disagree on the plan, first in tensor {}: their layouts or inputs differ; nothing was sent",
        self, i, tensor < 0 ? "(none)" : tensors[static_cast<std::size_t>(tensor)].name);
  }
  throw_first(world, finding);
}

void agree_on_stream(Control& world, const std::vector<model::Tensor>& stream,
                     const std::vector<model::Tensor>& tensors) {
  std::vector<std::int32_t> mine;
  Control::Bytes bytes;
  for (const model::Tensor& tensor : stream) append(bytes, mine.emplace_back(tensor.index));
  const auto first = read_all<std::int32_t>(world.broadcast(std::move(bytes), 0));
  std::string finding;
  if (first != mine) {
    const auto [theirs, here] = std::mismatch(first.begin(), first.end(), mine.begin(), mine.end());
    const std::int32_t tensor = theirs != first.end() ? *theirs : *here;
    finding = fmt::format(
        "ranks 0 and {} disagree on the misc stream, of {} and {} tensors, first in tensor {}: their layouts or inputs "
        "differ; nothing was sent",
        world.rank(), first.size(), mine.size(), tensors[static_cast<std::size_t>(tensor)].name);
  }
  throw_first(world, finding);
}

}  // namespace refit::transport
