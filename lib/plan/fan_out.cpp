// Whether takers of a domain should feed each other.

#include <algorithm>

#include "plan/cost.hpp"
#include "plan/traffic.hpp"

namespace refit::plan {
namespace {

using Site = Placement::Site;

/// Bytes through the ports of devices, or of domains, by number: what stays within one needs no port.
class PortBytes {
 public:
  PortBytes(const Placement& placement, std::int32_t Site::*number) : number_(number) {
    std::int32_t last = -1;
    for (const auto* sites : {&placement.source, &placement.destination}) {
      for (const Site& site : *sites) last = std::max(last, site.*number);
    }
    out_.assign(static_cast<std::size_t>(last + 1), 0);
    in_ = out_;
  }

  void add(const Site& from, const Site& to, std::int64_t bytes) {
    if (from.*number_ == to.*number_) return;
    out_[static_cast<std::size_t>(from.*number_)] += bytes;
    in_[static_cast<std::size_t>(to.*number_)] += bytes;
  }

  double seconds(double rate_out, double rate_in) const { return std::max(over(out_, rate_out), over(in_, rate_in)); }

 private:
  static double over(const std::vector<std::int64_t>& bytes, double rate) {
    return rate > 0 && !bytes.empty() ? static_cast<double>(*std::ranges::max_element(bytes)) / rate : 0;
  }

  std::int32_t Site::*number_;
  std::vector<std::int64_t> out_, in_;
};

/// Seconds of the busiest port, of a device or a domain, under a plan's copies; 0 where rates are unknown.
double busiest_port_seconds(const Planner& planner, const Rates& rates, const Placement& placement) {
  PortBytes devices(placement, &Site::device), domains(placement, &Site::domain);
  planner.for_each_shared_copy([&](const Copy& copy, std::span<const Tensor* const> tensors, const Planner::Lie&) {
    const auto& senders = copy.fan_out == FanOut::forwarded ? placement.destination : placement.source;
    const Site& from = senders[static_cast<std::size_t>(to_int(copy.source.rank))];
    const Site& to = placement.destination[static_cast<std::size_t>(to_int(copy.destination.rank))];
    const std::int64_t bytes = bytes_of(copy, Form::stored) * std::ssize(tensors);
    devices.add(from, to, bytes);
    domains.add(from, to, bytes);
  });
  return std::max(devices.seconds(rates.device_out, rates.device_in),
                  domains.seconds(rates.domain_out, rates.domain_in));
}

/// How many neighbouring ranks a domain has, of which only the last may have fewer; 0 where that is not so.
std::int64_t ranks_per_domain(const std::vector<Site>& sites) {
  std::vector<std::int64_t> runs;
  for (std::size_t rank = 0; rank < sites.size(); ++rank) {
    if (rank == 0 || sites[rank].domain != sites[rank - 1].domain) runs.push_back(0);
    ++runs.back();
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const bool last = i + 1 == runs.size();
    if (runs[i] != runs.front() && (!last || runs[i] > runs.front())) return 0;
  }
  return runs.empty() ? 0 : runs.front();
}

}  // namespace

std::int64_t choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                            const Rates& rates, const Placement& placement) {
  constexpr double kWorthwhile = 0.95;
  const std::int64_t domain_ranks = ranks_per_domain(placement.destination);
  const bool has_rates = std::max({rates.device_in, rates.device_out, rates.domain_in, rates.domain_out}) > 0;
  if (domain_ranks < 2 || rates.memory_is_shared || !has_rates) return 0;
  const double without = busiest_port_seconds(Planner(tensors, source, destination), rates, placement);
  const double with = busiest_port_seconds(Planner(tensors, source, destination, domain_ranks), rates, placement);
  return with < kWorthwhile * without ? domain_ranks : 0;
}

}  // namespace refit::plan
