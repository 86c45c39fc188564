#include "plan/plan.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <utility>

namespace refit::plan {
namespace {

std::uint64_t fold(std::uint64_t seed, const Extents& extents) {
  for (std::int64_t value : extents) seed = combine(seed, static_cast<std::uint64_t>(value));
  return seed;
}

/// Places of boxes on one side. Keeps the pieces of the last tensor and rank: a rank of the misc stream has as many
/// pieces as there are buffers.
class Ends {
 public:
  explicit Ends(const layout::Layout& layout) : layout_(layout) {}

  /// Returns the place of `part` in the piece of `tensor` on `rank` that contains it; of several such pieces, in the
  /// one with this number.
  End of(const Tensor& tensor, Rank rank, const Box& part, std::int64_t number = 0) {
    if (&tensor != tensor_ || rank != rank_) {
      pieces_.clear();
      layout_.pieces(tensor, rank, pieces_);
      tensor_ = &tensor;
      rank_ = rank;
    }
    // Pieces ascend: where there are many, the right one is mostly the last that begins at the part or before it.
    constexpr std::size_t kMany = 64;
    if (pieces_.size() > kMany && number == 0) {
      const auto behind =
          std::upper_bound(pieces_.begin(), pieces_.end(), part.lower,
                           [](const Extents& lower, const Piece& each) { return lower < each.box.lower; });
      if (behind != pieces_.begin() && contains(*std::prev(behind), part)) return end_in(*std::prev(behind), part);
    }
    for (const Piece& piece : pieces_)
      if (contains(piece, part) && number-- == 0) return end_in(piece, part);
    fail_runtime("internal error: rank {} does not hold {} of {}", to_int(rank), to_string(part), tensor.name);
  }

 private:
  static bool contains(const Piece& piece, const Box& part) { return intersect(piece.box, part) == part; }
  End end_in(const Piece& piece, const Box& part) const { return {rank_, place_of(piece, part), piece.format}; }

  const layout::Layout& layout_;
  const Tensor* tensor_ = nullptr;
  Rank rank_{};
  std::vector<Piece> pieces_;
};

bool contains(std::span<const Rank> ranks, Rank rank) { return std::binary_search(ranks.begin(), ranks.end(), rank); }

const Domains kNone;

/// Returns the domain of a destination rank; without domains, every rank is its own.
std::int32_t domain_of_rank(Rank rank, const Domains& domains) {
  return domains.empty() ? to_int(rank) : domains[static_cast<std::size_t>(to_int(rank))];
}

/// Order of takers: domain by domain.
auto by_domain(const Domains& domains) {
  return [&domains](Rank rank) { return std::pair(domain_of_rank(rank, domains), rank); };
}

/// Returns the indices where each domain's ranks begin among `ranks`, which lie domain by domain, and then the number
/// of ranks.
std::vector<std::int32_t> domain_begins(const std::vector<Rank>& ranks, const Domains& domains) {
  std::vector<std::int32_t> begins;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const bool same = i > 0 && domain_of_rank(ranks[i], domains) == domain_of_rank(ranks[i - 1], domains);
    if (!same) begins.push_back(static_cast<std::int32_t>(i));
  }
  begins.push_back(static_cast<std::int32_t>(ranks.size()));
  return begins;
}

/// Returns whether some takers may have near holders, by a number of their sites, who are not all that there are.
bool has_near_ranks(Placement::Number number, const Rules& rules) {
  std::map<std::int32_t, std::vector<std::size_t>> sources;  // ranks, by number
  std::set<std::int32_t> all;
  for (std::size_t rank = 0; rank < rules.placement.source.size(); ++rank)
    sources[rules.placement.source[rank].*number].push_back(rank);
  for (const auto& [at, ranks] : sources) all.insert(at);
  bool any = false;
  for (std::size_t rank = 0; rank < rules.placement.destination.size(); ++rank) {
    const std::int32_t at = rules.placement.destination[rank].*number;
    all.insert(at);
    const auto near = sources.find(at);
    // Colocated, what is near may be the rank itself.
    if (near != sources.end()) any = any || !rules.colocated || near->second != std::vector{rank};
  }
  // Even where all ranks are on one device, its takers do not feed each other.
  return any && (all.size() > 1 || number == &Placement::Site::device);
}

/// Returns the dimension between whose rows a box is cut for `holders`: see plan.hpp.
int cut_dimension(const Extents& extent, std::int64_t takers, std::int64_t holders, const Striping& striping) {
  int longest = 0;
  for (int d = 0; d < extent.size(); ++d) {
    if (extent[d] * takers >= striping.min_rows * holders) return d;
    if (extent[d] > extent[longest]) longest = d;
  }
  return longest;
}

}  // namespace

Sum128 hash_factor(std::string_view tensor_name) {
  const std::uint64_t name = hash_name(tensor_name);
  return {splitmix64(name) | 1, splitmix64(~name) | 1};
}

Sum128 hash(const Copy& copy, const Sum128& factors) {
  std::uint64_t seed = fold(fold(0, copy.box.lower), copy.box.extent);
  seed = combine(seed, static_cast<std::uint64_t>(to_int(copy.source.rank)));
  seed = combine(seed, static_cast<std::uint64_t>(to_int(copy.destination.rank)));
  for (const Format& format : {copy.source.format, copy.destination.format}) {
    seed =
        combine(seed, static_cast<std::uint64_t>(format.dtype) * 256 + static_cast<std::uint64_t>(format.conversion));
  }
  if (copy.fan_out != FanOut::none) seed = combine(seed, static_cast<std::uint64_t>(copy.fan_out));
  return {splitmix64(seed) * factors.low, splitmix64(~seed) * factors.high};
}

bool is_on_one_device(const Copy& copy, const Placement& placement) {
  if (placement.destination.empty()) return false;
  const auto device = [](const std::vector<Placement::Site>& sites, Rank rank) {
    return sites[static_cast<std::size_t>(to_int(rank))].device;
  };
  return device(copy.is_from_taker() ? placement.destination : placement.source, copy.source.rank) ==
         device(placement.destination, copy.destination.rank);
}

Domains domains_of_neighbours(std::int64_t destination_ranks, std::int64_t neighbours) {
  Domains domains;
  for (std::int64_t rank = 0; rank < destination_ranks && neighbours > 0; ++rank)
    domains.push_back(static_cast<std::int32_t>(rank / neighbours));
  return domains;
}

Domains domains_of(const Placement& placement) {
  Domains domains;
  for (const Placement::Site& site : placement.destination) domains.push_back(site.domain);
  return domains;
}

Planner::Planner(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination, Rules rules)
    : tensors_(tensors), source_(source), destination_(destination), rules_(std::move(rules)) {
  for (const Placement::Number number : {&Placement::Site::device, &Placement::Site::domain})
    if ((number == &Placement::Site::device || rules_.near_domains) && has_near_ranks(number, rules_))
      near_.push_back(number);
}

Planner::ClassKey Planner::key(const Tensor& tensor) const {
  return {tensor.shape, tensor.dtype, source_.placement_class(tensor), destination_.placement_class(tensor)};
}

Planner::Class Planner::make_class(const Tensor& tensor, Known& known) const {
  const auto of = [&tensor](const Layout& layout, auto& sides) -> const std::vector<Holding>& {
    auto [entry, is_new] = sides.try_emplace({tensor.shape, tensor.dtype, layout.placement_class(tensor)});
    if (is_new) entry->second = holdings(layout, tensor);
    return entry->second;
  };
  const std::vector<Holding>& from = of(source_, known.source);
  const std::vector<Holding>& to = of(destination_, known.destination);
  Class result;
  for (const Holding& held : from) {
    for (const Holding& wanted : to) {
      const auto box = intersect(held.box, wanted.box);
      if (!box) continue;
      Overlap overlap{*box, held.ranks, wanted.ranks, {}, wanted.repeats, {}, false, held.format, wanted.format};
      if (rules_.colocated) {
        std::ranges::set_intersection(wanted.ranks, held.ranks, std::back_inserter(overlap.to_self));
        std::erase_if(overlap.takers, [&](Rank taker) { return contains(held.ranks, taker); });
      }
      result.overlaps.push_back(std::move(overlap));
    }
  }
  std::stable_sort(result.overlaps.begin(), result.overlaps.end(),
                   [](const Overlap& a, const Overlap& b) { return a.box < b.box; });
  if (destination_.engines() > 1) merge_equal(result.overlaps);
  for (std::size_t i = 0; i < result.overlaps.size(); ++i) result.overlaps[i].number = static_cast<std::int64_t>(i);
  for (const Placement::Number number : near_) split_by(number, result.overlaps);
  for (Overlap& overlap : result.overlaps) {
    const Domains& domains = overlap.is_on_device ? kNone : rules_.fan_out.domains;
    std::ranges::sort(overlap.takers, {}, by_domain(domains));
    overlap.domains = domain_begins(overlap.takers, domains);
    // Holders take turns, and with fan-out so do the takers of a domain.
    overlap.period = std::ssize(overlap.holders);
    for (std::size_t d = 1; d < overlap.domains.size(); ++d)
      overlap.period = std::lcm(overlap.period, std::int64_t{overlap.domains[d] - overlap.domains[d - 1]});
  }
  return result;
}

/// Makes one overlap of those that are one box in the same formats: parts of unlike boxes of several engines may be.
void Planner::merge_equal(std::vector<Overlap>& overlaps) {
  std::vector<Overlap> merged;
  for (Overlap& overlap : overlaps) {
    const auto is_same = [&](const Overlap& other) {
      return other.box == overlap.box && other.destination_format == overlap.destination_format;
    };
    const auto same = std::find_if(merged.rbegin(), merged.rend(),
                                   [&](const Overlap& other) { return other.box != overlap.box || is_same(other); });
    if (same == merged.rend() || !is_same(*same)) {
      merged.push_back(std::move(overlap));
      continue;
    }
    const auto middle = static_cast<std::ptrdiff_t>(same->takers.size());
    same->takers.insert(same->takers.end(), overlap.takers.begin(), overlap.takers.end());
    std::inplace_merge(same->takers.begin(), same->takers.begin() + middle, same->takers.end());
    same->to_self.insert(same->to_self.end(), overlap.to_self.begin(), overlap.to_self.end());
    std::ranges::sort(same->to_self);
    same->repeats.insert(same->repeats.end(), overlap.repeats.begin(), overlap.repeats.end());
    std::ranges::sort(same->repeats);
  }
  overlaps = std::move(merged);
}

void Planner::split_by(Placement::Number number, std::vector<Overlap>& overlaps) const {
  const auto number_of = [number](const std::vector<Placement::Site>& sites, Rank rank) {
    return sites[static_cast<std::size_t>(to_int(rank))].*number;
  };
  std::vector<Overlap> result;
  for (Overlap& all : overlaps) {
    if (all.is_on_device) {
      result.push_back(std::move(all));
      continue;
    }
    Overlap rest = all;
    rest.takers.clear();
    std::map<std::int32_t, Overlap> parts;  // of near holders, by number
    for (const Rank holder : all.holders) parts[number_of(rules_.placement.source, holder)].holders.push_back(holder);
    for (const Rank taker : all.takers) {
      const auto part = parts.find(number_of(rules_.placement.destination, taker));
      (part == parts.end() ? rest : part->second).takers.push_back(taker);
    }
    if (!rest.takers.empty() || !rest.to_self.empty()) result.push_back(std::move(rest));
    for (auto& [site, part] : parts) {
      if (part.takers.empty()) continue;
      part.box = all.box;
      part.repeats = all.repeats;
      part.source_format = all.source_format;
      part.destination_format = all.destination_format;
      part.number = all.number;
      part.is_on_device = number == &Placement::Site::device;
      result.push_back(std::move(part));
    }
  }
  overlaps = std::move(result);
}

std::vector<Planner::Lie> Planner::lies_of(const Tensor& tensor, const Overlap& overlap) const {
  const auto contiguous = [&](const Layout& layout, Rank rank) {
    return is_contiguous(overlap.box.extent, Ends(layout).of(tensor, rank, overlap.box).place.strides);
  };
  const bool source = contiguous(source_, overlap.holders.front());
  std::vector<Lie> lies(static_cast<std::size_t>(destination_.engines()));
  for (const auto* ranks : {&overlap.to_self, &overlap.takers}) {
    std::int32_t last = -1;  // engine
    for (const Rank taker : *ranks) {
      const std::int32_t engine = destination_.engine(taker);
      if (engine != last) lies[static_cast<std::size_t>(engine)] = {source, contiguous(destination_, taker)};
      last = engine;
    }
  }
  return lies;
}

template <typename Concerns, typename Wanted, typename Visit>
void Planner::walk(const Concerns& concerns, const Wanted& wanted, const Visit& visit) const {
  Known known;
  std::map<ClassKey, Class> classes;
  for (const Tensor& tensor : tensors_) {
    auto [entry, is_new] = classes.try_emplace(key(tensor));
    Class& shared = entry->second;
    if (is_new && concerns(tensor)) {
      shared = make_class(tensor, known);
      std::erase_if(shared.overlaps, [&](const Overlap& overlap) { return !wanted(overlap); });
    }
    for (const Overlap& overlap : shared.overlaps) visit(tensor, overlap, shared.seen % overlap.period);
    ++shared.seen;
  }
}

bool Planner::takes(const Overlap& overlap, Rank rank) const {
  const auto order = by_domain(overlap.is_on_device ? kNone : rules_.fan_out.domains);
  return std::ranges::binary_search(overlap.takers, order(rank), {}, order);
}

Planner::Range Planner::domain_of(const Overlap& overlap, Rank taker) const {
  const auto order = by_domain(overlap.is_on_device ? kNone : rules_.fan_out.domains);
  const auto at = std::ranges::lower_bound(overlap.takers, order(taker), {}, order) - overlap.takers.begin();
  const auto behind = std::ranges::upper_bound(overlap.domains, at) - overlap.domains.begin();
  return {behind - 1, behind};
}

template <typename Visit>
void Planner::assign(const Tensor& tensor, const Overlap& overlap, std::int64_t turn, const Range& wanted,
                     const Visit& visit) const {
  const auto holders = static_cast<std::int64_t>(overlap.holders.size());
  const auto domains = static_cast<std::int64_t>(overlap.domains.size()) - 1;
  const auto bytes_of = [&](const Box& box) { return box.volume() * byte_size(overlap.source_format.dtype); };
  const auto taker_rank = [&](std::int64_t taker) { return overlap.takers[static_cast<std::size_t>(taker)]; };
  const auto holder_rank = [&](std::int64_t holder) {
    return overlap.holders[static_cast<std::size_t>((holder + turn + overlap.number) % holders)];
  };
  const auto part_of = [](const Box& box, int cut, std::int64_t begin, std::int64_t end) {
    Box part = box;
    part.lower[cut] += begin;
    part.extent[cut] = end - begin;
    return part;
  };
  // One copy serves for all visits: there are many.
  Copy copy{tensor.index, {}, {Rank{}, {}, overlap.source_format}, {Rank{}, {}, overlap.destination_format}};
  const bool once = overlap.repeats.empty();
  const auto visit_places = [&] {
    if (once) return visit(std::as_const(copy), std::int64_t{0});
    const std::int64_t places = 1 + std::ssize(std::ranges::equal_range(overlap.repeats, copy.destination.rank));
    for (std::int64_t place = 0; place < places; ++place) {
      visit(std::as_const(copy), place);
      // What is forwarded comes from the relay's first place.
      if (copy.is_fed_on()) copy.fan_out = copy.is_from_taker() ? FanOut::forwarded : FanOut::none;
    }
  };
  const auto send = [&](std::int64_t holder, std::int64_t taker, const Box& box, FanOut fan_out) {
    copy.box = box;
    copy.source.rank = holder_rank(holder);
    copy.source.format = overlap.source_format;
    copy.destination.rank = taker_rank(taker);
    copy.fan_out = fan_out;
    visit_places();
  };
  const auto first_of = [&](std::int64_t domain) {
    return std::int64_t{overlap.domains[static_cast<std::size_t>(domain)]};
  };
  const auto takers_of = [&](std::int64_t domain) { return first_of(domain + 1) - first_of(domain); };
  /// Calls visit_stripe(taker, begin, end), with an index in `takers` and rows of the box, for the stripes that a
  /// domain's takers get: one each or, where stripes would be small, fewer stripes, and the takers take turns.
  const auto for_each_stripe = [&](std::int64_t domain, int cut, const auto& visit_stripe) {
    const std::int64_t takers = takers_of(domain);
    const std::int64_t stripes = std::clamp<std::int64_t>(bytes_of(overlap.box) / rules_.striping.min_bytes, 1, takers);
    const std::int64_t shift = stripes == takers ? 0 : turn + overlap.number;
    const std::int64_t rows = overlap.box.extent[cut];
    for (std::int64_t i = 0; i < stripes; ++i) {
      const std::int64_t begin = i * rows / stripes, end = (i + 1) * rows / stripes;
      if (begin < end) visit_stripe(first_of(domain) + (i + shift) % takers, begin, end);
    }
  };
  /// Brings a part of a taker's stripe from a rank to it and, from there, to the others of its domain.
  const auto bring = [&](std::int64_t domain, std::int64_t taker, const Box& part, Rank from, FanOut how) {
    copy.box = part;
    copy.source = {from, {}, how == FanOut::relayed ? overlap.source_format : overlap.destination_format};
    copy.destination.rank = taker_rank(taker);
    copy.fan_out = how;
    visit_places();
    for (std::int64_t other = first_of(domain); other < first_of(domain + 1); ++other) {
      if (other == taker) continue;
      copy.source = {taker_rank(taker), {}, overlap.destination_format};
      copy.destination.rank = taker_rank(other);
      copy.fan_out = FanOut::forwarded;
      visit_places();
    }
  };
  /// Brings rows `begin` to `end` of the box to all takers of a domain, into which each row comes once.
  const auto feed = [&](std::int64_t holder, std::int64_t domain, int cut, std::int64_t begin, std::int64_t end) {
    if (takers_of(domain) == 1)
      return send(holder, first_of(domain), part_of(overlap.box, cut, begin, end), FanOut::none);
    for_each_stripe(domain, cut, [&](std::int64_t taker, std::int64_t lower, std::int64_t upper) {
      const std::int64_t from = std::max(begin, lower), to = std::min(end, upper);
      if (from < to) bring(domain, taker, part_of(overlap.box, cut, from, to), holder_rank(holder), FanOut::relayed);
    });
  };
  /// Holders share the box for the first domain; from there on each domain hands its stripes on to the next one.
  const auto hand_on = [&] {
    std::int64_t most = holders;
    for (std::int64_t domain = 0; domain < domains; ++domain) most = std::max(most, takers_of(domain));
    const int cut = cut_dimension(overlap.box.extent, 1, most, rules_.striping);
    const std::int64_t rows = overlap.box.extent[cut];
    const std::int64_t shares =
        std::clamp<std::int64_t>(bytes_of(overlap.box) / rules_.striping.min_bytes, 1, std::min(holders, rows));
    for (std::int64_t domain = wanted.begin; domain < wanted.end; ++domain) {
      const bool is_fed_on = takers_of(domain) > 1 || domain + 1 < domains;
      const FanOut how = domain == 0 ? FanOut::relayed : is_fed_on ? FanOut::passed : FanOut::forwarded;
      copy.hops = static_cast<std::int16_t>(domain);
      for_each_stripe(domain, cut, [&](std::int64_t taker, std::int64_t lower, std::int64_t upper) {
        const auto from = [&](Rank sender, std::int64_t begin, std::int64_t end) {
          begin = std::max(begin, lower), end = std::min(end, upper);
          if (begin < end) bring(domain, taker, part_of(overlap.box, cut, begin, end), sender, how);
        };
        if (domain > 0) {
          return for_each_stripe(domain - 1, cut, [&](std::int64_t sender, std::int64_t begin, std::int64_t end) {
            from(taker_rank(sender), begin, end);
          });
        }
        for (std::int64_t share = 0; share < shares; ++share)
          from(holder_rank(share), share * rows / shares, (share + 1) * rows / shares);
      });
    }
  };

  for (const Rank rank : overlap.to_self) {
    copy.box = overlap.box;
    copy.source.rank = copy.destination.rank = rank;
    copy.to_self = true;
    visit_places();
  }
  copy.to_self = false;
  if (overlap.box.extent.size() == 0) {
    for (std::int64_t taker = first_of(wanted.begin); taker < first_of(wanted.end); ++taker)
      send(taker * holders / std::ssize(overlap.takers), taker, overlap.box, FanOut::none);
    return;
  }
  if (passes_on(overlap)) return hand_on();
  const bool whole = domains % holders == 0 || bytes_of(overlap.box) * domains < holders * rules_.striping.min_bytes;
  if (whole) {
    for (std::int64_t domain = wanted.begin; domain < wanted.end; ++domain) {
      const int cut = cut_dimension(overlap.box.extent, 1, takers_of(domain), rules_.striping);
      feed(domain * holders / domains, domain, cut, 0, overlap.box.extent[cut]);
    }
    return;
  }
  // The domains' boxes end to end have domains x rows rows; holder h sends those from h/holders to (h+1)/holders.
  const int cut = cut_dimension(overlap.box.extent, domains, holders, rules_.striping);
  const std::int64_t rows = overlap.box.extent[cut];
  const auto boundary = [&](std::int64_t holder) { return holder * domains * rows / holders; };
  for (std::int64_t domain = wanted.begin; domain < wanted.end; ++domain) {
    std::int64_t begin = domain * rows;
    for (std::int64_t holder = domain * holders / domains; begin < (domain + 1) * rows; ++holder) {
      const std::int64_t end = std::min(boundary(holder + 1), (domain + 1) * rows);
      if (end <= begin) continue;
      feed(holder, domain, cut, begin - domain * rows, end - domain * rows);
      begin = end;
    }
  }
}

RankPlan Planner::rank_plan(const OwnRanks& own) const {
  RankPlan result;
  Ends from_source(source_), from_destination(destination_), to_destination(destination_);
  std::vector<Piece> scratch;
  const auto concerns = [&](const Tensor& tensor) {
    scratch.clear();
    if (own.source) source_.pieces(tensor, *own.source, scratch);
    if (own.destination) destination_.pieces(tensor, *own.destination, scratch);
    return !scratch.empty();
  };
  walk(
      concerns,
      [&](const Overlap& overlap) {
        return (own.source && contains(overlap.holders, *own.source)) ||
               (own.destination && (takes(overlap, *own.destination) || contains(overlap.to_self, *own.destination)));
      },
      [&](const Tensor& tensor, const Overlap& overlap, std::int64_t turn) {
        const bool takes = own.destination && this->takes(overlap, *own.destination);
        const bool sends = own.source && contains(overlap.holders, *own.source);
        Range wanted = takes && !sends ? domain_of(overlap, *own.destination) : all_domains(overlap);
        if (passes_on(overlap)) wanted.end = std::min(wanted.end + 1, all_domains(overlap).end);
        assign(tensor, overlap, turn, wanted, [&](const Copy& copy, std::int64_t place) {
          const bool forwarded = copy.is_from_taker();
          const bool is_sent = copy.source.rank == (forwarded ? own.destination : own.source);
          if (!is_sent && copy.destination.rank != own.destination) return;
          Copy& mine = result.copies.emplace_back(copy);
          mine.source = (forwarded ? from_destination : from_source).of(tensor, copy.source.rank, copy.box);
          mine.destination = to_destination.of(tensor, copy.destination.rank, copy.box, place);
        });
      });
  return result;
}

void Planner::for_each_copy(const std::function<void(const Copy&)>& visit) const {
  const auto all = [](const auto&) { return true; };
  walk(all, all, [&](const Tensor& tensor, const Overlap& overlap, std::int64_t turn) {
    assign(tensor, overlap, turn, all_domains(overlap), [&](const Copy& copy, std::int64_t) { visit(copy); });
  });
}

void Planner::for_each_shared_copy(const VisitShared& visit) const {
  std::map<ClassKey, std::vector<const Tensor*>> classes;
  for (const Tensor& tensor : tensors_) classes[key(tensor)].push_back(&tensor);
  Known known;
  for (const auto& [key, tensors] : classes) {
    const Tensor& first = *tensors.front();
    std::map<std::int64_t, std::vector<std::vector<const Tensor*>>> turns;  // by period
    for (const Overlap& overlap : make_class(first, known).overlaps) {
      auto [entry, is_new] = turns.try_emplace(overlap.period);
      std::vector<std::vector<const Tensor*>>& by_turn = entry->second;
      if (is_new) {
        const auto period = static_cast<std::size_t>(overlap.period);
        by_turn.resize(std::min(period, tensors.size()));
        for (std::size_t i = 0; i < tensors.size(); ++i) by_turn[i % period].push_back(tensors[i]);
      }
      const std::vector<Lie> lies = lies_of(first, overlap);
      for (std::size_t turn = 0; turn < by_turn.size(); ++turn) {
        assign(*by_turn[turn].front(), overlap, static_cast<std::int64_t>(turn), all_domains(overlap),
               [&](const Copy& copy, std::int64_t) {
                 const std::int32_t engine = destination_.engine(copy.destination.rank);
                 visit(copy, by_turn[turn], lies[static_cast<std::size_t>(engine)]);
               });
      }
    }
  }
}

}  // namespace refit::plan
