#pragma once
// The links of ranks that are threads of one process.

#include <map>
#include <memory>
#include <mutex>

#include "support/thread_communicator.hpp"
#include "support/thread_control.hpp"
#include "transport/links.hpp"

namespace refit::test_support {

/// State that the links of all ranks share.
class ThreadMachine {
 public:
  explicit ThreadMachine(int ranks) : ranks_(ranks) {}

  /// Returns the `number`-th communicator of a job, of so many ranks.
  std::shared_ptr<ThreadSwitch> communicator(int number, int size);
  /// Returns the `number`-th arenas, with one of `bytes` on this rank.
  std::shared_ptr<ThreadArenas> arenas(int number, int rank, std::int64_t bytes);

  std::set<std::pair<int, int>> unmapped;  ///< (smaller, larger) world ranks that cannot map each other
  plan::Rates rates{
      .device_in = 10e9, .device_out = 10e9, .memory = 20e9, .launch_seconds = 1e-6, .memory_is_shared = true};
  bool has_rates_that_change = false;

 private:
  struct Shared {
    std::shared_ptr<ThreadArenas> arenas = std::make_shared<ThreadArenas>();
    std::vector<std::vector<std::byte>> memory;
  };
  int ranks_;
  std::mutex mutex_;
  std::map<int, std::shared_ptr<ThreadSwitch>> switches_;
  std::map<int, Shared> shared_;
};

/// One rank's links.
class ThreadLinks final : public transport::Links {
 public:
  ThreadLinks(std::shared_ptr<ThreadMachine> machine, transport::Control& world)
      : machine_(std::move(machine)), world_(world) {}

  std::string prepare() override {
    ++prepared;
    return "a note";
  }
  std::unique_ptr<transport::Communicator> communicator(transport::Purpose purpose, const std::vector<int>& members,
                                                        std::int64_t lanes) override;
  std::unique_ptr<transport::PeerMemory> peer_memory(std::int64_t bytes) override;
  std::unique_ptr<transport::Arena> memory(std::int64_t bytes) override { return transport::make_host_arena(bytes); }
  void require_room(int /*host*/, std::int64_t /*bytes*/, const std::string& /*advice*/) override {}
  bool maps_always() const override { return false; }
  bool probes_messages() const override { return false; }
  transport::ProbedRates probe(const transport::Probed& /*probed*/, double /*seconds*/) override {
    return {.pair = 10e9 + probes++};
  }
  plan::Rates rates(const transport::ProbedRates& /*probed*/, const transport::Places& /*places*/) const override {
    return machine_->rates;
  }
  bool rates_change() const override { return machine_->has_rates_that_change; }

  int prepared = 0, probes = 0;
  std::map<transport::Purpose, int> made;  ///< communicators that were asked for

 private:
  std::shared_ptr<ThreadMachine> machine_;
  transport::Control& world_;
  int communicators_ = 0, arenas_ = 0;
};

}  // namespace refit::test_support
