#pragma once
// Links that measure nothing: a probe would store into memory that an engine may be using.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/links.hpp"

namespace refit::embed {

class UnprobedLinks final : public transport::Links {
 public:
  explicit UnprobedLinks(std::unique_ptr<transport::Links> links) : links_(std::move(links)) {}

  std::string prepare() override { return links_->prepare(); }
  std::unique_ptr<transport::Communicator> communicator(transport::Purpose purpose, const std::vector<int>& members,
                                                        std::int64_t lanes) override {
    return links_->communicator(purpose, members, lanes);
  }
  std::unique_ptr<transport::PeerMemory> peer_memory(std::int64_t bytes) override { return links_->peer_memory(bytes); }
  std::unique_ptr<transport::Arena> memory(std::int64_t bytes) override { return links_->memory(bytes); }
  void require_room(int host, std::int64_t bytes, const std::string& advice) override {
    links_->require_room(host, bytes, advice);
  }
  bool maps_always() const override { return false; }
  bool probes_messages() const override { return false; }
  transport::ProbedRates probe(const transport::Probed& /*probed*/, double /*seconds*/) override { return {}; }
  plan::Rates rates(const transport::ProbedRates& /*probed*/, const transport::Places& /*places*/) const override {
    return {};
  }
  bool rates_change() const override { return false; }

 private:
  std::unique_ptr<transport::Links> links_;
};

}  // namespace refit::embed
