#include <algorithm>
#include <set>

#include "transport/executor.hpp"

namespace refit::transport {

std::vector<int> members_of_stage(const plan::Layout& source, const WorldMap& map, std::int32_t stage) {
  const std::int32_t of_stage = source.ranks() / source.stages();
  std::set<int> members;
  for (std::int32_t r = stage * of_stage; r < (stage + 1) * of_stage; ++r) members.insert(r);
  for (std::int32_t r = 0; r < map.destination; ++r) members.insert(map.world_rank(Side::destination, Rank{r}));
  return {members.begin(), members.end()};
}

Routes::Routes(const plan::Layout& source, std::vector<Communicator*> communicators, const WorldMap& map)
    : source_(&source), communicators_(std::move(communicators)), map_(map) {
  REFIT_ASSERT(communicators_.size() == 1 || communicators_.size() == static_cast<std::size_t>(source.stages()));
  for (std::int32_t stage = 0; !has_one() && stage < source.stages(); ++stage)
    members_.push_back(members_of_stage(source, map, stage));
}

Communicator* Routes::find(std::int32_t stage) const {
  return has_one() ? communicators_.front() : communicators_[static_cast<std::size_t>(stage)];
}

Communicator& Routes::communicator(std::int32_t stage) const {
  Communicator* found = find(stage);
  REFIT_ASSERT(found != nullptr);
  return *found;
}

int Routes::peer(std::int32_t stage, int world_rank) const {
  if (has_one()) return world_rank;
  const std::vector<int>& members = members_[static_cast<std::size_t>(stage)];
  return static_cast<int>(std::ranges::lower_bound(members, world_rank) - members.begin());
}

}  // namespace refit::transport
