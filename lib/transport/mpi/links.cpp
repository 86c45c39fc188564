#include <algorithm>

#include "kernels/kernels.hpp"
#include "transport/host_links.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/places.hpp"

namespace refit::transport {
namespace {

/// Links by MPI and main memory.
class MpiLinks final : public HostLinks {
 public:
  using HostLinks::HostLinks;

  std::unique_ptr<Communicator> communicator(Purpose /*purpose*/, const std::vector<int>& members,
                                             std::int64_t lanes) override {
    const Waiting waiting(&progress_);
    const int tag = next_tag_++;
    if (hosts_.empty()) hosts_ = places_of(world_).hosts;
    if (!std::ranges::binary_search(members, world_.rank())) return nullptr;
    return make_mpi_communicator(members, tag, static_cast<int>(lanes), &world_, kOperationBytes, hosts_);
  }

  std::unique_ptr<PeerMemory> peer_memory(std::int64_t bytes) override {
    const Waiting waiting(&progress_);
    return make_mpi_peer_memory(bytes, &world_);
  }

  bool probes_messages() const override { return true; }

  ProbedRates probe(const Probed& probed, double seconds) override {
    return measure_rates(probed.space, world_, *probed.communicator, static_cast<int>(probed.lanes), probed.places,
                         probed.run, seconds);
  }

  plan::Rates rates(const ProbedRates& probed, const Places& /*places*/) const override { return host_rates(probed); }
  bool rates_change() const override { return true; }

 private:
  int next_tag_ = 0;        ///< the same on all ranks
  std::vector<int> hosts_;  ///< by rank; found with the first communicator
};

}  // namespace

std::unique_ptr<Links> make_links(Control& world, double timeout_seconds, Progress& progress) {
  if (kernels::Runtime::has_device()) return make_device_links(world, timeout_seconds, progress);
  return std::make_unique<MpiLinks>(world, progress);
}

}  // namespace refit::transport
