#include "transport/links.hpp"

#include <algorithm>

#include "transport/cuda.hpp"
#include "transport/nccl.hpp"

namespace refit::transport {
namespace {

/// Links by NCCL and the memory of devices.
class DeviceLinks final : public Links {
 public:
  DeviceLinks(Control& world, double timeout_seconds, Progress& progress, DeviceMapping mapping)
      : world_(world), timeout_seconds_(timeout_seconds), progress_(progress), mapping_(mapping) {}

  std::string prepare() override { return prepare_nccl(world_); }

  std::unique_ptr<Communicator> communicator(Purpose /*purpose*/, const std::vector<int>& members,
                                             std::int64_t lanes) override {
    const Waiting waiting(&progress_);
    const bool member = std::ranges::binary_search(members, world_.rank());
    const std::unique_ptr<Control> control = world_.split(member ? 0 : -1);
    if (!member) return nullptr;
    return make_nccl_communicator(*control, static_cast<int>(lanes), timeout_seconds_);
  }

  std::unique_ptr<PeerMemory> peer_memory(std::int64_t bytes) override {
    const Waiting waiting(&progress_);
    if (mapping_ == DeviceMapping::best && windows_ == nullptr) windows_ = make_nccl_windows(timeout_seconds_);
    return make_cuda_peer_memory(world_, bytes, windows_);
  }

  std::unique_ptr<Arena> memory(std::int64_t bytes) override { return std::make_unique<DeviceArena>(bytes); }
  void require_room(int /*host*/, std::int64_t /*bytes*/, const std::string& /*advice*/) override {}
  bool maps_always() const override { return true; }
  bool probes_messages() const override { return false; }

  ProbedRates probe(const Probed& probed, double seconds) override {
    return measure_device_rates(probed.space, world_, probed.peers, probed.communicator, static_cast<int>(probed.lanes),
                                probed.places, probed.map, probed.least_arena_bytes, seconds);
  }

  plan::Rates rates(const ProbedRates& probed, const Places& places) const override {
    return device_rates(probed, places.ranks_per_device());
  }
  bool rates_change() const override { return false; }

 private:
  Control& world_;
  double timeout_seconds_;
  Progress& progress_;
  DeviceMapping mapping_;
  std::shared_ptr<NcclWindows> windows_;  ///< nullptr: not asked for, or not yet
};

}  // namespace

std::unique_ptr<Links> make_device_links(Control& world, double timeout_seconds, Progress& progress,
                                         DeviceMapping mapping) {
  return std::make_unique<DeviceLinks>(world, timeout_seconds, progress, mapping);
}

}  // namespace refit::transport
