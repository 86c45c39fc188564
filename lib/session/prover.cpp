#include "session/prover.hpp"

namespace refit::session {
namespace {

std::optional<verify::Originals> originals(const transport::Control& world, const Exchange& truth,
                                           const OwnMemory& mine) {
  if (!truth.quantised) return std::nullopt;
  verify::Originals result{&truth.quantised->train, {}};
  if (mine.source)
    result.mine = {Group::train, *truth.world().own(world.rank()).source, &mine.source->layout,
                   mine.source->storages.storages()};
  return result;
}

}  // namespace

Prover::Prover(const kernels::ExecutionSpace& space, transport::Control& world, const Session& session,
               const Exchange& truth, const OwnMemory& mine, std::uint64_t seed,
               std::vector<verify::Constant> constants, const verify::Tuning& tuning)
    : session_(session),
      mine_(mine),
      verifier_(truth.model, truth.paths.source, truth.paths.destination, session.views(), world, space, seed,
                std::move(constants), originals(world, truth, mine), tuning) {}

/// The weights that the last refit brought, wherever they are.
verify::StepResult Prover::prove(std::int64_t refit, const verify::Named& named) {
  if (mine_.second) {
    const SideMemory& brought = session_.brought() == 0 ? *mine_.destination : *mine_.second;
    verifier_.move(Group::gen, brought.storages.storages());
  }
  if (!session_.quantises_as_it_sends()) {
    session_.quantise_again();
    return verifier_.verify(refit, named);
  }
  // The contents that gen should have are in no memory of the refit: they are made here, for as long as they are
  // needed.
  const std::unique_ptr<SentWeights> expected = session_.make_expected();
  if (!expected->memory().storages().empty()) verifier_.move(Group::train, expected->memory().storages());
  return verifier_.verify(refit, named);
}

}  // namespace refit::session
