#include "embed/world.hpp"

#include <atomic>

#include "core/error.hpp"

namespace refit::embed {
namespace {

std::atomic<int (*)(void)> asked_for_interruption{nullptr};

bool is_interrupted() {
  const auto ask = asked_for_interruption.load();
  return ask != nullptr && ask() != 0;
}

}  // namespace

void set_interrupted(int (*interrupted)(void)) { asked_for_interruption = interrupted; }

World::World(const refit_control& control, const WorldOptions& options) : options_(options) {
  if (control.size < 1 || control.rank < 0 || control.rank >= control.size)
    fail_usage("a world of {} ranks has no rank {}", control.size, control.rank);
  if (control.all_gather == nullptr) fail_usage("refit_control.all_gather is NULL");
  const auto all_gather = [&control](const void* mine, void* all, std::size_t bytes) {
    const int status = control.all_gather(control.user, mine, all, bytes);
    if (status != 0) fail_runtime("the caller's all_gather failed with {}", status);
  };
  mesh_ = std::make_unique<transport::SocketMesh>(
      control.rank, control.size, all_gather,
      transport::SocketOptions{options.timeout_seconds, options.interface, nullptr, is_interrupted});
  control_ = transport::make_socket_control(*mesh_);
}

}  // namespace refit::embed
