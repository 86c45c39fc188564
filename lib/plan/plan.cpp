#include "plan/plan.hpp"

#include <algorithm>
#include <map>

namespace refit::plan {
namespace {

std::uint64_t fold(std::uint64_t seed, const Extents& extents) {
  for (std::int64_t value : extents) seed = combine(seed, static_cast<std::uint64_t>(value));
  return seed;
}

/// The place of `part` in the piece of `tensor` on `rank` that contains it.
End make_end(const layout::Layout& layout, const Tensor& tensor, Rank rank, const Box& part,
             std::vector<Piece>& scratch) {
  scratch.clear();
  layout.pieces(tensor, rank, scratch);
  for (const Piece& piece : scratch) {
    if (intersect(piece.box, part) == part) return {rank, place_of(piece, part), piece.format};
  }
  fail_runtime("internal error: rank {} does not hold {} of {}", to_int(rank), to_string(part), tensor.name);
}

bool contains(const std::vector<Rank>& ranks, Rank rank) {
  return std::binary_search(ranks.begin(), ranks.end(), rank);
}

/// The dimension between whose rows a box is cut for `holders`: see plan.hpp.
int cut_dimension(const Extents& extent, std::int64_t takers, std::int64_t holders) {
  int longest = 0;
  for (int d = 0; d < extent.size(); ++d) {
    if (extent[d] * takers >= kMinStripeRows * holders) return d;
    if (extent[d] > extent[longest]) longest = d;
  }
  return longest;
}

}  // namespace

Sum128 hash(const Copy& copy, const std::string& tensor_name) {
  std::uint64_t seed = fold(fold(hash_name(tensor_name), copy.box.lower), copy.box.extent);
  seed = combine(seed, static_cast<std::uint64_t>(to_int(copy.source.rank)));
  seed = combine(seed, static_cast<std::uint64_t>(to_int(copy.destination.rank)));
  for (const Format& format : {copy.source.format, copy.destination.format}) {
    seed =
        combine(seed, static_cast<std::uint64_t>(format.dtype) * 256 + static_cast<std::uint64_t>(format.conversion));
  }
  return {splitmix64(seed), splitmix64(~seed)};
}

Planner::Planner(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination)
    : tensors_(tensors), source_(source), destination_(destination) {}

Planner::ClassKey Planner::key(const Tensor& tensor) const {
  return {tensor.shape, tensor.dtype, source_.placement_class(tensor), destination_.placement_class(tensor)};
}

Planner::Class Planner::make_class(const Tensor& tensor) const {
  const std::vector<Holding> from = holdings(source_, tensor);
  const std::vector<Holding> to = holdings(destination_, tensor);
  Class result;
  for (const Holding& held : from) {
    for (const Holding& wanted : to) {
      if (const auto box = intersect(held.box, wanted.box)) {
        result.overlaps.push_back({*box, held.ranks, wanted.ranks, held.format, wanted.format});
      }
    }
  }
  std::sort(result.overlaps.begin(), result.overlaps.end(),
            [](const Overlap& a, const Overlap& b) { return a.box < b.box; });
  std::int64_t number = 0;
  for (Overlap& overlap : result.overlaps) overlap.number = number++;
  return result;
}

template <typename Wanted, typename Visit>
void Planner::walk(const Wanted& wanted, const Visit& visit) const {
  std::map<ClassKey, Class> classes;
  for (const Tensor& tensor : tensors_) {
    auto [entry, is_new] = classes.try_emplace(key(tensor));
    Class& shared = entry->second;
    if (is_new) {
      shared = make_class(tensor);
      std::erase_if(shared.overlaps, [&](const Overlap& overlap) { return !wanted(overlap); });
    }
    for (const Overlap& overlap : shared.overlaps) visit(tensor, overlap, shared.seen);
    ++shared.seen;
  }
}

template <typename Visit>
void Planner::assign(const Tensor& tensor, const Overlap& overlap, std::int64_t turn, const Visit& visit) {
  const auto holders = static_cast<std::int64_t>(overlap.holders.size());
  const auto takers = static_cast<std::int64_t>(overlap.takers.size());
  const auto emit = [&](std::int64_t holder, std::int64_t taker, const Box& box) {
    Copy copy;
    copy.tensor = tensor.index;
    copy.box = box;
    copy.source = {overlap.holders[static_cast<std::size_t>((holder + turn + overlap.number) % holders)],
                   {},
                   overlap.source_format};
    copy.destination = {overlap.takers[static_cast<std::size_t>(taker)], {}, overlap.destination_format};
    visit(copy);
  };

  const std::int64_t bytes = overlap.box.volume() * byte_size(overlap.source_format.dtype);
  const bool whole =
      takers % holders == 0 || overlap.box.extent.size() == 0 || bytes * takers < holders * kMinStripeBytes;
  if (whole) {
    for (std::int64_t taker = 0; taker < takers; ++taker) emit(taker * holders / takers, taker, overlap.box);
    return;
  }
  // The takers' boxes end to end have takers x rows rows; holder h sends those from h/holders to (h+1)/holders of them.
  const int cut = cut_dimension(overlap.box.extent, takers, holders);
  const std::int64_t rows = overlap.box.extent[cut];
  const auto boundary = [&](std::int64_t holder) { return holder * takers * rows / holders; };
  for (std::int64_t taker = 0; taker < takers; ++taker) {
    std::int64_t begin = taker * rows;
    for (std::int64_t holder = taker * holders / takers; begin < (taker + 1) * rows; ++holder) {
      const std::int64_t end = std::min(boundary(holder + 1), (taker + 1) * rows);
      if (end <= begin) continue;
      Box part = overlap.box;
      part.lower[cut] += begin - taker * rows;
      part.extent[cut] = end - begin;
      emit(holder, taker, part);
      begin = end;
    }
  }
}

RankPlan Planner::rank_plan(Side side, Rank rank) const {
  RankPlan result;
  std::vector<Piece> scratch;
  walk([&](const Overlap& overlap) { return contains(side == Side::source ? overlap.holders : overlap.takers, rank); },
       [&](const Tensor& tensor, const Overlap& overlap, std::int64_t turn) {
         assign(tensor, overlap, turn, [&](Copy& copy) {
           if ((side == Side::source ? copy.source.rank : copy.destination.rank) != rank) return;
           copy.source = make_end(source_, tensor, copy.source.rank, copy.box, scratch);
           copy.destination = make_end(destination_, tensor, copy.destination.rank, copy.box, scratch);
           result.copies.push_back(copy);
         });
       });
  return result;
}

void Planner::for_each_copy(const std::function<void(const Copy&)>& visit) const {
  walk([](const Overlap&) { return true; },
       [&](const Tensor& tensor, const Overlap& overlap, std::int64_t turn) { assign(tensor, overlap, turn, visit); });
}

}  // namespace refit::plan
