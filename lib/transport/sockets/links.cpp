#include <algorithm>

#include "transport/host_links.hpp"
#include "transport/shared_memory.hpp"
#include "transport/sockets/mesh.hpp"

namespace refit::transport {
namespace {

class SocketLinks final : public HostLinks {
 public:
  SocketLinks(const SocketMesh& mesh, Control& world, const plan::Rates& rates, Progress& progress)
      : HostLinks(world, progress), mesh_(mesh), rates_(rates) {}

  std::unique_ptr<Communicator> communicator(Purpose /*purpose*/, const std::vector<int>& members,
                                             std::int64_t lanes) override {
    const Waiting waiting(&progress_);
    const std::int64_t number = mesh_.state()->take_number();
    if (!std::ranges::binary_search(members, world_.rank())) return nullptr;
    return make_socket_communicator(mesh_, members, number, static_cast<int>(lanes));
  }

  std::unique_ptr<PeerMemory> peer_memory(std::int64_t bytes) override {
    const Waiting waiting(&progress_);
    return make_shared_peer_memory(world_, bytes);
  }

  bool probes_messages() const override { return false; }
  ProbedRates probe(const Probed& /*probed*/, double /*seconds*/) override { return {}; }
  plan::Rates rates(const ProbedRates& /*probed*/, const Places& /*places*/) const override { return rates_; }
  bool rates_change() const override { return false; }

 private:
  const SocketMesh& mesh_;
  plan::Rates rates_;
};

}  // namespace

std::unique_ptr<Links> make_socket_links(const SocketMesh& mesh, Control& world, const plan::Rates& rates,
                                         Progress& progress) {
  return std::make_unique<SocketLinks>(mesh, world, rates, progress);
}

}  // namespace refit::transport
