#include "plan/plan.hpp"

#include <algorithm>
#include <map>
#include <numeric>

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

/// Where each domain's ranks begin among ascending `ranks`, and their number; every rank is one for domains of none.
std::vector<std::int32_t> domains_of(const std::vector<Rank>& ranks, std::int64_t domain_ranks) {
  std::vector<std::int32_t> begins;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const bool same =
        i > 0 && domain_ranks > 0 && to_int(ranks[i]) / domain_ranks == to_int(ranks[i - 1]) / domain_ranks;
    if (!same) begins.push_back(static_cast<std::int32_t>(i));
  }
  begins.push_back(static_cast<std::int32_t>(ranks.size()));
  return begins;
}

/// The dimension between whose rows a box is cut for `holders`: see plan.hpp.
int cut_dimension(const Extents& extent, std::int64_t takers, std::int64_t holders, const Striping& striping) {
  int longest = 0;
  for (int d = 0; d < extent.size(); ++d) {
    if (extent[d] * takers >= striping.min_rows * holders) return d;
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
  if (copy.fan_out != FanOut::none) seed = combine(seed, static_cast<std::uint64_t>(copy.fan_out));
  return {splitmix64(seed), splitmix64(~seed)};
}

Planner::Planner(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                 std::int64_t domain_ranks, const Striping& striping)
    : tensors_(tensors), source_(source), destination_(destination), domain_ranks_(domain_ranks), striping_(striping) {}

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
        result.overlaps.push_back(
            {*box, held.ranks, wanted.ranks, domains_of(wanted.ranks, domain_ranks_), held.format, wanted.format});
      }
    }
  }
  std::sort(result.overlaps.begin(), result.overlaps.end(),
            [](const Overlap& a, const Overlap& b) { return a.box < b.box; });
  std::int64_t number = 0;
  for (Overlap& overlap : result.overlaps) {
    overlap.number = number++;
    // Holders take turns, and with fan-out the takers of a domain.
    overlap.period = std::ssize(overlap.holders);
    for (std::size_t d = 1; d < overlap.domains.size(); ++d)
      overlap.period = std::lcm(overlap.period, std::int64_t{overlap.domains[d] - overlap.domains[d - 1]});
  }
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
    for (const Overlap& overlap : shared.overlaps) visit(tensor, overlap, shared.seen % overlap.period);
    ++shared.seen;
  }
}

template <typename Visit>
void Planner::assign(const Tensor& tensor, const Overlap& overlap, std::int64_t turn, const Visit& visit) const {
  const auto holders = static_cast<std::int64_t>(overlap.holders.size());
  const auto domains = static_cast<std::int64_t>(overlap.domains.size()) - 1;
  const auto bytes_of = [&](const Box& box) { return box.volume() * byte_size(overlap.source_format.dtype); };
  const auto taker_end = [&](std::int64_t taker) {
    return End{overlap.takers[static_cast<std::size_t>(taker)], {}, overlap.destination_format};
  };
  const auto part_of = [](const Box& box, int cut, std::int64_t begin, std::int64_t end) {
    Box part = box;
    part.lower[cut] += begin;
    part.extent[cut] = end - begin;
    return part;
  };
  const auto send = [&](std::int64_t holder, std::int64_t taker, const Box& box, FanOut fan_out) {
    const Rank from = overlap.holders[static_cast<std::size_t>((holder + turn + overlap.number) % holders)];
    Copy copy{tensor.index, box, {from, {}, overlap.source_format}, taker_end(taker), fan_out};
    visit(copy);
  };
  /// Brings rows `begin` to `end` of the box to all takers of a domain, into which each comes once: the box has a
  /// stripe for each of them, or, where stripes would be small, fewer, whose takers take turns.
  const auto feed = [&](std::int64_t holder, std::int64_t domain, int cut, std::int64_t begin, std::int64_t end) {
    const std::int64_t first = overlap.domains[static_cast<std::size_t>(domain)];
    const std::int64_t takers = overlap.domains[static_cast<std::size_t>(domain) + 1] - first;
    if (takers == 1) return send(holder, first, part_of(overlap.box, cut, begin, end), FanOut::none);
    const std::int64_t stripes = std::clamp<std::int64_t>(bytes_of(overlap.box) / striping_.min_bytes, 1, takers);
    const std::int64_t shift = stripes == takers ? 0 : turn + overlap.number;
    const std::int64_t rows = overlap.box.extent[cut];
    for (std::int64_t i = 0; i < stripes; ++i) {
      const std::int64_t from = std::max(begin, i * rows / stripes), to = std::min(end, (i + 1) * rows / stripes);
      if (from >= to) continue;
      const Box stripe = part_of(overlap.box, cut, from, to);
      const std::int64_t taker = (i + shift) % takers;
      send(holder, first + taker, stripe, FanOut::relayed);
      for (std::int64_t other = 0; other < takers; ++other) {
        if (other == taker) continue;
        Copy copy{tensor.index, stripe, taker_end(first + taker), taker_end(first + other), FanOut::forwarded};
        visit(copy);
      }
    }
  };

  if (overlap.box.extent.size() == 0) {
    for (std::int64_t taker = 0; taker < std::ssize(overlap.takers); ++taker)
      send(taker * holders / std::ssize(overlap.takers), taker, overlap.box, FanOut::none);
    return;
  }
  const bool whole = domains % holders == 0 || bytes_of(overlap.box) * domains < holders * striping_.min_bytes;
  if (whole) {
    for (std::int64_t domain = 0; domain < domains; ++domain) {
      const std::int64_t takers =
          overlap.domains[static_cast<std::size_t>(domain) + 1] - overlap.domains[static_cast<std::size_t>(domain)];
      const int cut = cut_dimension(overlap.box.extent, 1, takers, striping_);
      feed(domain * holders / domains, domain, cut, 0, overlap.box.extent[cut]);
    }
    return;
  }
  // The domains' boxes end to end have domains x rows rows; holder h sends those from h/holders to (h+1)/holders.
  const int cut = cut_dimension(overlap.box.extent, domains, holders, striping_);
  const std::int64_t rows = overlap.box.extent[cut];
  const auto boundary = [&](std::int64_t holder) { return holder * domains * rows / holders; };
  for (std::int64_t domain = 0; domain < domains; ++domain) {
    std::int64_t begin = domain * rows;
    for (std::int64_t holder = domain * holders / domains; begin < (domain + 1) * rows; ++holder) {
      const std::int64_t end = std::min(boundary(holder + 1), (domain + 1) * rows);
      if (end <= begin) continue;
      feed(holder, domain, cut, begin - domain * rows, end - domain * rows);
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
           const bool forwarded = copy.fan_out == FanOut::forwarded;
           const bool sends = copy.source.rank == rank && forwarded == (side == Side::destination);
           const bool receives = copy.destination.rank == rank && side == Side::destination;
           if (!sends && !receives) return;
           copy.source = make_end(forwarded ? destination_ : source_, tensor, copy.source.rank, copy.box, scratch);
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
