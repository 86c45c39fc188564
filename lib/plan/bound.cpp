// The lower bound: see cost.hpp. Every term holds for any senders and receivers.

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "plan/cost.hpp"

namespace refit::plan {
namespace {

using Site = Placement::Site;
using Sites = std::vector<Site>;
using Number = Placement::Number;             ///< of a device, or of a domain
using Numbers = std::vector<std::int64_t>;    ///< each once, ascending
using HeldBytes = std::map<Numbers, double>;  ///< by the set of holders
using Sums = std::vector<double>;             ///< by number

std::int64_t number_of(Rank rank, const Sites& sites, Number number) {
  return sites[static_cast<std::size_t>(to_int(rank))].*number;
}

Numbers numbers_of(const std::vector<Rank>& ranks, const Sites& sites, Number number) {
  Numbers numbers;
  for (Rank rank : ranks) numbers.push_back(number_of(rank, sites, number));
  std::ranges::sort(numbers);
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

/// Returns the numbers of both sides.
Numbers numbers_of(const Placement& placement, Number number) {
  std::set<std::int64_t> numbers;
  for (const Sites* sites : {&placement.source, &placement.destination}) {
    for (const Site& site : *sites) numbers.insert(site.*number);
  }
  return {numbers.begin(), numbers.end()};
}

/// Returns the numbers that are not in `others`.
Numbers without(const Numbers& numbers, const Numbers& others) {
  Numbers rest;
  std::ranges::set_difference(numbers, others, std::back_inserter(rest));
  return rest;
}

/// Returns the holder sets, and the unions of those that are connected through common members.
std::set<Numbers> candidates(const HeldBytes& held) {
  std::map<std::int64_t, std::int64_t> parent;
  const auto root = [&](std::int64_t member) {
    while (parent[member] != member) member = parent[member] = parent[parent[member]];
    return member;
  };
  std::set<Numbers> result;
  for (const auto& [holders, bytes] : held) {
    result.insert(holders);
    for (std::int64_t member : holders) parent.try_emplace(member, member);
    for (std::int64_t member : holders) parent[root(member)] = root(holders.front());
  }
  std::map<std::int64_t, Numbers> unions;
  for (const auto& [member, above] : std::map(parent)) unions[root(member)].push_back(member);
  for (const auto& [member, all] : unions) result.insert(all);
  return result;
}

/// Returns the least load of the busiest member if each holder set shares its bytes as well as it can, beside `own`. Of
/// the bytes that only the members of a set can carry, one of them carries at least the bytes over the set's size.
/// `share_of`: a member's part in that size.
template <typename ShareOf>
double best_split(const HeldBytes& held, const Sums& own, const ShareOf& share_of) {
  std::map<std::int64_t, std::vector<std::pair<const Numbers*, double>>> by_first;
  for (const auto& [holders, bytes] : held) by_first[holders.front()].emplace_back(&holders, bytes);
  double busiest = own.empty() ? 0 : *std::ranges::max_element(own);
  for (const Numbers& set : candidates(held)) {
    double bytes = 0, size = 0;
    for (std::int64_t member : set) {
      size += share_of(member);
      if (!own.empty()) bytes += own[static_cast<std::size_t>(member)];
      const auto begin = by_first.find(member);
      if (begin == by_first.end()) continue;
      for (const auto& [holders, amount] : begin->second) {
        if (std::ranges::includes(set, *holders)) bytes += amount;
      }
    }
    busiest = std::max(busiest, bytes / size);
  }
  return busiest;
}
double best_split(const HeldBytes& held, const Sums& own = {}) {
  return best_split(held, own, [](std::int64_t /*member*/) { return 1.0; });
}

/// A box of the grid that the cuts of all engines make, and the boxes of different engines that contain it.
struct Cell {
  Box box;
  std::vector<const Holding*> wanted;
};

/// `engines`: each engine's boxes, which are all of the tensor, or none.
std::vector<Cell> cells_of(const std::vector<std::vector<Holding>>& engines) {
  std::vector<Cell> cells;
  for (const std::vector<Holding>& boxes : engines) {
    if (boxes.empty()) continue;
    std::vector<Cell> finer;
    for (const Holding& holding : boxes) {
      if (cells.empty()) finer.push_back({holding.box, {&holding}});
      for (const Cell& cell : cells) {
        const auto box = intersect(cell.box, holding.box);
        if (!box) continue;
        finer.push_back({*box, cell.wanted});
        finer.back().wanted.push_back(&holding);
      }
    }
    cells = std::move(finer);
  }
  return cells;
}

/// A box of the grid that both sides' cuts make.
struct Crossing {
  std::int64_t values;  ///< those that an engine stores several times once
  std::int64_t volume;  ///< elements that a taker stores
  const Holding* held;
  const std::vector<const Holding*>* wanted;

  /// Returns the bytes of the narrowest form that crosses a link to a taker.
  std::int64_t wire(const Holding& taker) const {
    return values * std::min(byte_size(held->format.dtype), byte_size(taker.format.dtype));
  }
};

/// Returns the values of a box.
std::int64_t values_of(const Tensor& tensor, const Box& box) {
  return box.volume() / (tensor.repeats * tensor.repeats);
}

/// The loads of the ports of devices, or of domains.
class Ports {
 public:
  Ports(const Placement& placement, Number number)
      : placement_(placement), number_(number), all_(numbers_of(placement, number)) {
    entering_.assign(all_.empty() ? 0 : static_cast<std::size_t>(all_.back()) + 1, 0);
  }

  void add(const Crossing& box, double times) {
    const Numbers holders = numbers_of(box.held->ranks, placement_.source, number_);
    std::vector<std::pair<std::int64_t, double>> enters;  // number, and the widest form that one of its takers needs
    for (const Holding* taker : *box.wanted) {
      const double bytes = static_cast<double>(box.wire(*taker)) * times;
      for (std::int64_t number : without(numbers_of(taker->ranks, placement_.destination, number_), holders))
        enters.emplace_back(number, bytes);
    }
    if (enters.empty()) return;
    std::ranges::sort(enters, std::greater());
    const auto [repeated, end] = std::ranges::unique(enters, {}, &std::pair<std::int64_t, double>::first);
    enters.erase(repeated, end);
    double widest = 0;
    for (const auto& [number, bytes] : enters) {
      entering_[static_cast<std::size_t>(number)] += bytes;
      received_ += bytes;
      widest = std::max(widest, bytes);
    }
    leaving_[holders] += widest;
  }

  Bound::Links links() const {
    const double ingress = entering_.empty() ? 0 : *std::ranges::max_element(entering_);
    const double fanout = received_ / static_cast<double>(std::max<std::size_t>(1, all_.size()));
    return {static_cast<std::int64_t>(ingress), static_cast<std::int64_t>(best_split(leaving_)),
            static_cast<std::int64_t>(fanout)};
  }
  Bound::Domains loads() const { return {all_, entering_, leaving_, received_}; }

 private:
  const Placement& placement_;
  Number number_;
  Numbers all_;
  Sums entering_;
  HeldBytes leaving_;
  double received_ = 0;
};

/// The loads of memories: bytes read and stored.
class Memories {
 public:
  Memories(const Placement& placement, Number number) : placement_(placement), number_(number) {
    const Numbers all = numbers_of(placement, number);
    stored_.assign(all.empty() ? 0 : static_cast<std::size_t>(all.back()) + 1, 0);
  }

  void add(const Crossing& box, double times) {
    const std::int64_t read = box.values * byte_size(box.held->format.dtype);
    read_[numbers_of(box.held->ranks, placement_.source, number_)] += static_cast<double>(read) * times;
    for (const Holding* holding : *box.wanted) {
      const double written = static_cast<double>(box.volume * byte_size(holding->format.dtype)) * times;
      for (const auto* takers : {&holding->ranks, &holding->repeats})
        for (Rank taker : *takers)
          stored_[static_cast<std::size_t>(number_of(taker, placement_.destination, number_))] += written;
    }
  }

  std::int64_t busiest() const { return static_cast<std::int64_t>(best_split(read_, stored_)); }

 private:
  const Placement& placement_;
  Number number_;
  HeldBytes read_;
  Sums stored_;
};

double over(std::int64_t bytes, double rate) { return rate > 0 ? static_cast<double>(bytes) / rate : 0; }

/// Returns the terms of domains whose links differ.
Bound::Terms seconds_of(const Bound::Domains& domains, const Rates& rates) {
  Bound::Terms terms;
  double all_out = 0;
  for (const std::int64_t number : domains.numbers) {
    const auto at = static_cast<std::size_t>(number);
    terms.ingress = std::max(terms.ingress, domains.entering[at] / rates.into_domain(at));
    all_out += rates.out_of_domain(at);
  }
  terms.egress = best_split(domains.leaving, {},
                            [&](std::int64_t member) { return rates.out_of_domain(static_cast<std::size_t>(member)); });
  terms.fanout = domains.received / all_out;
  return terms;
}

}  // namespace

double Bound::total() const { return std::max({seconds.ingress, seconds.egress, seconds.fanout, seconds.memory}); }

std::string Bound::term() const {
  const double largest = total();
  if (largest == seconds.ingress) return "ingress";
  if (largest == seconds.egress) return "egress";
  return largest == seconds.fanout ? "fanout" : "memory";
}

void Bound::time(const Rates& rates) {
  Terms of_domains{over(domain.ingress, rates.domain_in), over(domain.egress, rates.domain_out),
                   over(domain.fanout, rates.domain_out), 0};
  if (!rates.each_domain_out.empty()) of_domains = seconds_of(domains, rates);
  seconds.ingress = std::max(over(device.ingress, rates.device_in), of_domains.ingress);
  seconds.egress = std::max(over(device.egress, rates.device_out), of_domains.egress);
  seconds.fanout = std::max(over(device.fanout, rates.device_out), of_domains.fanout);
  seconds.memory = over(memory, rates.memory);
}

Bound lower_bound(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                  const Rates& rates, const Placement& placement) {
  using Key = std::tuple<Shape, DType, std::int64_t, std::uint64_t, std::uint64_t>;
  std::map<Key, std::pair<const Tensor*, std::int64_t>> classes;  // the first of each, and how many
  for (const Tensor& tensor : tensors) {
    const Key key{tensor.shape, tensor.dtype, tensor.repeats, source.placement_class(tensor),
                  destination.placement_class(tensor)};
    ++classes.try_emplace(key, &tensor, 0).first->second.second;
  }
  Ports devices(placement, &Site::device), domains(placement, &Site::domain);
  Memories memories(placement, rates.memory_is_shared ? &Site::domain : &Site::device);
  for (const auto& [key, tensors_of_class] : classes) {
    const auto& [tensor, count] = tensors_of_class;
    const std::vector<std::vector<Holding>> engines = holdings_by_engine(destination, *tensor);
    const std::vector<Holding> holders = holdings(source, *tensor);
    for (const Cell& cell : cells_of(engines)) {
      for (const Holding& held : holders) {
        const auto box = intersect(held.box, cell.box);
        if (!box) continue;
        const Crossing crossing{values_of(*tensor, *box), box->volume(), &held, &cell.wanted};
        devices.add(crossing, static_cast<double>(count));
        domains.add(crossing, static_cast<double>(count));
        memories.add(crossing, static_cast<double>(count));
      }
    }
  }
  Bound bound;
  bound.device = devices.links();
  bound.domain = domains.links();
  bound.domains = domains.loads();
  bound.memory = memories.busiest();
  bound.time(rates);
  return bound;
}

}  // namespace refit::plan
