#pragma once
// What all links of main memory have in common.

#include "transport/host_memory.hpp"
#include "transport/links.hpp"

namespace refit::transport {

class HostLinks : public Links {
 public:
  HostLinks(Control& world, Progress& progress) : world_(world), progress_(progress) {}

  std::string prepare() override { return {}; }
  std::unique_ptr<Arena> memory(std::int64_t bytes) override { return make_host_arena(bytes); }
  void require_room(int host, std::int64_t bytes, const std::string& advice) override {
    require_memory(world_, host, bytes, advice);
  }
  bool maps_always() const override { return false; }

 protected:
  Control& world_;
  Progress& progress_;
};

}  // namespace refit::transport
