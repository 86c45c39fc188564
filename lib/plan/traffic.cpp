#include "plan/traffic.hpp"

#include <algorithm>
#include <numeric>

namespace refit::plan {
namespace {

std::size_t index_of(Rank rank) { return static_cast<std::size_t>(to_int(rank)); }

/// Returns both ends' part of one copy: {sent, received}.
std::pair<PortLoad, PortLoad> load_of(const Copy& copy, std::int64_t times, const Planner::Lie& lie,
                                      const Placement& placement, Form form) {
  const bool forwarded = copy.is_from_taker();
  const Placement::Site& from = (forwarded ? placement.destination : placement.source)[index_of(copy.source.rank)];
  const Placement::Site& to = placement.destination[index_of(copy.destination.rank)];
  const std::int64_t bytes = bytes_of(copy, form) * times;
  const bool crosses = from.device != to.device;
  const bool far = crosses && from.domain != to.domain;
  PortLoad sent;
  sent.memory = bytes_of(copy, Form::sent) * times;
  if (copy.to_self) {
    sent.self_bytes = bytes;
    sent.self_copies = times;
    PortLoad received = sent;
    sent.self_memory = sent.memory;
    received.self_memory = received.memory = bytes_of(copy, Form::stored) * times;
    return {sent, received};
  }
  sent.bytes = bytes;
  sent.copies = times;
  sent.hops = copy.hops;
  if (crosses) sent.device = bytes;
  if (far) {
    sent.domain = bytes;
    sent.copies_far = times;
  }
  PortLoad received = sent;
  received.memory = bytes_of(copy, Form::stored) * times;
  const auto stage = [&](PortLoad& load) {
    load.staged = load.device;
    load.staged_far = load.domain;
  };
  if (!lie.source_contiguous) stage(sent);
  // A cast is made on the way out of the receiver's ring.
  if (!lie.destination_contiguous || copy.source.format != copy.destination.format) stage(received);
  return {sent, received};
}

/// Returns whether the list of tensors is the same as at the last call. A list of another class may be where an earlier
/// one was.
class SameList {
 public:
  bool operator()(std::span<const Tensor* const> tensors) {
    const bool same = tensors.data() == data_ && tensors.size() == size_ && tensors.front() == first_;
    data_ = tensors.data();
    size_ = tensors.size();
    first_ = tensors.front();
    return same;
  }

 private:
  const Tensor* const* data_ = nullptr;
  std::size_t size_ = 0;
  const Tensor* first_ = nullptr;
};

}  // namespace

std::int64_t bytes_of(const Copy& copy, Form form) {
  return copy.elements() * byte_size((form == Form::sent ? copy.source : copy.destination).format.dtype);
}

PortLoad& PortLoad::operator+=(const PortLoad& other) {
  bytes += other.bytes;
  memory += other.memory;
  device += other.device;
  domain += other.domain;
  staged += other.staged;
  staged_far += other.staged_far;
  copies += other.copies;
  copies_far += other.copies_far;
  self_bytes += other.self_bytes;
  self_memory += other.self_memory;
  self_copies += other.self_copies;
  hops = std::max(hops, other.hops);
  return *this;
}

Loads::Loads(const Layout& source, std::int32_t destination_ranks)
    : sent(static_cast<std::size_t>(source.ranks())),
      received(static_cast<std::size_t>(source.stages()),
               std::vector<PortLoad>(static_cast<std::size_t>(destination_ranks))),
      forwarded_out(static_cast<std::size_t>(destination_ranks)),
      forwarded_in(static_cast<std::size_t>(destination_ranks)) {
  for (std::int32_t rank = 0; rank < source.ranks(); ++rank) stage.push_back(source.stage(Rank{rank}));
}

void Loads::add(const Copy& copy, std::int64_t times, const Planner::Lie& lie, const Placement& placement, Form form) {
  const auto [out, in] = load_of(copy, times, lie, placement, form);
  const std::size_t from = index_of(copy.source.rank);
  const std::size_t to = index_of(copy.destination.rank);
  if (copy.is_from_taker()) {
    forwarded_out[from] += out;
    forwarded_in[to] += in;
  } else {
    sent[from] += out;
    received[static_cast<std::size_t>(stage[from])][to] += in;
  }
}

PortLoad Loads::received_by(std::size_t rank) const {
  PortLoad sum;
  for (const auto& of_stage : received) sum += of_stage[rank];
  return sum;
}

Loads& Loads::operator+=(const Loads& other) {
  const auto add = [](std::vector<PortLoad>& sums, const std::vector<PortLoad>& loads) {
    for (std::size_t rank = 0; rank < sums.size(); ++rank) sums[rank] += loads[rank];
  };
  add(sent, other.sent);
  add(forwarded_out, other.forwarded_out);
  add(forwarded_in, other.forwarded_in);
  for (std::size_t of_stage = 0; of_stage < received.size(); ++of_stage)
    add(received[of_stage], other.received[of_stage]);
  return *this;
}

void Loads::put(const OwnRanks& own, const std::vector<PortLoad>& loads) {
  auto next = loads.begin();
  if (own.source) sent[index_of(*own.source)] = *next++;
  if (!own.destination) return;
  const std::size_t at = index_of(*own.destination);
  forwarded_out[at] = *next++;
  forwarded_in[at] = *next++;
  for (auto& of_stage : received) of_stage[at] = *next++;
}

std::vector<PortLoad> loads_of(const std::vector<Copy>& copies, const OwnRanks& own, const Layout& source,
                               const Placement& placement, Form form) {
  const std::size_t forwards = own.source ? 1 : 0;  // where the destination rank's loads begin
  std::vector<PortLoad> loads(forwards + (own.destination ? 2 + static_cast<std::size_t>(source.stages()) : 0));
  for (const Copy& copy : copies) {
    const auto contiguous = [&](const End& end) { return is_contiguous(copy.box.extent, end.place.strides); };
    const auto [out, in] = load_of(copy, 1, {contiguous(copy.source), contiguous(copy.destination)}, placement, form);
    const bool forwarded = copy.is_from_taker();
    if (sends(own, copy)) loads[forwarded ? forwards : 0] += out;
    if (!receives(own, copy)) continue;
    const auto stage = static_cast<std::size_t>(forwarded ? 0 : source.stage(copy.source.rank));
    loads[forwards + (forwarded ? 1 : 2 + stage)] += in;
  }
  return loads;
}

std::vector<std::int64_t> Traffic::sent() const {
  std::vector<std::int64_t> result;
  for (const PortLoad& load : loads.sent) result.push_back(load.bytes);
  return result;
}

std::vector<std::int64_t> Traffic::received() const {
  std::vector<std::int64_t> result;
  for (std::size_t rank = 0; rank < loads.forwarded_in.size(); ++rank)
    result.push_back(loads.received_by(rank).bytes + loads.forwarded_in[rank].bytes);
  return result;
}

std::int64_t Traffic::forwarded() const {
  return std::accumulate(loads.forwarded_out.begin(), loads.forwarded_out.end(), std::int64_t{0},
                         [](std::int64_t sum, const PortLoad& load) { return sum + load.bytes; });
}

std::int64_t Traffic::local() const {
  std::int64_t result = 0;
  for (const auto* side : {&loads.sent, &loads.forwarded_out})
    for (const PortLoad& load : *side) result += load.bytes - load.device;
  return result;
}

std::int64_t Traffic::egress_max() const {
  std::int64_t result = 0;
  for (const auto* side : {&loads.sent, &loads.forwarded_out})
    for (const PortLoad& load : *side) result = std::max(result, load.bytes);
  return result;
}

std::int64_t Traffic::ingress_max() const {
  const std::vector<std::int64_t> all = received();
  return all.empty() ? 0 : *std::max_element(all.begin(), all.end());
}

Traffic traffic(const Planner& planner, const Placement& placement, const TrafficOptions& options) {
  const std::int32_t destinations = planner.destination().ranks();
  Traffic result;
  result.loads = Loads(planner.source(), destinations);
  if (options.matrix) {
    result.matrix.assign(static_cast<std::size_t>(planner.source().ranks()),
                         std::vector<std::int64_t>(static_cast<std::size_t>(destinations), 0));
  }
  SameList same;
  Sum128 factors;  // of the list
  const auto add_hashes = [&](const Copy& copy, std::span<const Tensor* const> tensors) {
    if (!same(tensors)) {
      factors = {};
      for (const Tensor* tensor : tensors) factors += hash_factor(tensor->name);
    }
    result.hash += hash(copy, factors);
  };
  planner.for_each_shared_copy([&](const Copy& copy, std::span<const Tensor* const> tensors, const Planner::Lie& lie) {
    const std::int64_t times = std::ssize(tensors);
    const std::int64_t bytes = bytes_of(copy, options.form) * times;
    result.loads.add(copy, times, lie, placement, options.form);
    if (options.hash) add_hashes(copy, tensors);
    if (copy.to_self) return;
    result.bytes += bytes;
    result.copies += times;
    if (options.matrix && !copy.is_from_taker())
      result.matrix[index_of(copy.source.rank)][index_of(copy.destination.rank)] += bytes;
  });
  return result;
}

Traffic traffic(const Planner& planner, const TrafficOptions& options) {
  return traffic(planner, apart(planner.source().ranks(), planner.destination().ranks()), options);
}

std::vector<Loads> loads_by_group(const Planner& planner, const Placement& placement, Form form, std::size_t groups,
                                  const std::function<std::size_t(const Tensor&)>& group_of) {
  std::vector<Loads> result(groups, Loads(planner.source(), planner.destination().ranks()));
  std::vector<std::int64_t> members(groups, 0);  // of the list
  SameList same;
  planner.for_each_shared_copy([&](const Copy& copy, std::span<const Tensor* const> tensors, const Planner::Lie& lie) {
    if (!same(tensors)) {
      std::fill(members.begin(), members.end(), 0);
      for (const Tensor* tensor : tensors) ++members[group_of(*tensor)];
    }
    for (std::size_t group = 0; group < groups; ++group)
      if (members[group] > 0) result[group].add(copy, members[group], lie, placement, form);
  });
  return result;
}

}  // namespace refit::plan
