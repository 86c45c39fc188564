#pragma once
// Transports in which bytes come too late: the outcome of a race between a transfer and the copies around it in which
// the copies always win. The late bytes go where nobody reads; the earlier bytes stay in their place.

#include <map>
#include <set>

#include "kernels/memory.hpp"
#include "transport/communicator.hpp"

namespace refit::inject {

/// Memory beside a message's own, one piece for each address that messages come to.
class Aside {
 public:
  /// Returns memory for the `bytes` that belong to `data`; it stays valid until more are asked for the same address.
  std::byte* of(std::byte* data, std::int64_t bytes);

 private:
  std::map<std::byte*, kernels::DeviceBuffer> memory_;
};

/// Groups whose receives come late, unless they go straight into `weights`.
class LateReceives final : public transport::Communicator {
 public:
  LateReceives(std::unique_ptr<transport::Communicator> truth, std::span<const std::byte> weights)
      : truth_(std::move(truth)), weights_(weights) {}

  int rank() const override { return truth_->rank(); }
  int size() const override { return truth_->size(); }
  std::unique_ptr<transport::Request> make_request(std::int64_t capacity) override {
    return truth_->make_request(capacity);
  }
  void post(std::span<const transport::Message> group, int lane, transport::Request& request) override;
  void broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) override {
    truth_->broadcast(data, bytes, root, request);
  }
  bool register_memory(const transport::MemoryList& memory) override { return truth_->register_memory(memory); }

 private:
  std::unique_ptr<transport::Communicator> truth_;
  std::span<const std::byte> weights_;
  std::set<std::byte*> cleared_;
  Aside aside_;
};

/// On ranks that are not their root, the last `late` of every `period` broadcasts come late.
class LateBroadcasts final : public transport::Communicator {
 public:
  LateBroadcasts(std::unique_ptr<transport::Communicator> truth, std::int64_t period, std::int64_t late)
      : truth_(std::move(truth)), period_(period), late_(late) {}

  int rank() const override { return truth_->rank(); }
  int size() const override { return truth_->size(); }
  std::unique_ptr<transport::Request> make_request(std::int64_t capacity) override {
    return truth_->make_request(capacity);
  }
  void post(std::span<const transport::Message> group, int lane, transport::Request& request) override {
    truth_->post(group, lane, request);
  }
  void broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) override;
  bool register_memory(const transport::MemoryList& memory) override { return truth_->register_memory(memory); }

 private:
  std::unique_ptr<transport::Communicator> truth_;
  std::int64_t period_, late_;
  std::int64_t started_ = 0;
  Aside aside_;
};

/// Peer memory of a rank that can map only its own.
class UnmappedMemory final : public transport::PeerMemory {
 public:
  UnmappedMemory(std::unique_ptr<transport::PeerMemory> truth, int rank) : truth_(std::move(truth)), rank_(rank) {}
  std::byte* local() const override { return truth_->local(); }
  std::byte* map(int rank) const override { return rank == rank_ ? truth_->map(rank) : nullptr; }
  std::int64_t offset(const std::byte* mine) const override { return truth_->offset(mine); }
  std::byte* at(int rank, std::int64_t offset) const override { return truth_->at(rank, offset); }
  void fence() override { truth_->fence(); }

 private:
  std::unique_ptr<transport::PeerMemory> truth_;
  int rank_;
};

}  // namespace refit::inject
