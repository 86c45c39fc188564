#include "transport/executor.hpp"

namespace refit::transport {

Routes::Routes(const plan::Layout& source, std::vector<Communicator*> communicators, std::int32_t destination_base)
    : source_(&source),
      communicators_(std::move(communicators)),
      destination_base_(destination_base),
      ranks_per_stage_(source.ranks() / source.stages()) {
  REFIT_ASSERT(communicators_.size() == 1 || communicators_.size() == static_cast<std::size_t>(source.stages()));
}

Communicator* Routes::find(std::int32_t stage) const {
  return communicators_.size() == 1 ? communicators_.front() : communicators_[static_cast<std::size_t>(stage)];
}

Communicator& Routes::communicator(std::int32_t stage) const {
  Communicator* found = find(stage);
  REFIT_ASSERT(found != nullptr);
  return *found;
}

int Routes::source_peer(Rank rank) const {
  return communicators_.size() == 1 ? to_int(rank) : to_int(rank) % ranks_per_stage_;
}

int Routes::destination_peer(Rank rank) const {
  return (communicators_.size() == 1 ? destination_base_ : ranks_per_stage_) + to_int(rank);
}

}  // namespace refit::transport
