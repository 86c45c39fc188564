#include "session/prover.hpp"

namespace refit::session {
namespace {

std::optional<verify::Originals> originals(const transport::Control& world, const Exchange& truth,
                                           const OwnMemory& mine) {
  if (!truth.quantised) return std::nullopt;
  if (world.rank() >= truth.source_ranks()) return verify::Originals{&truth.quantised->train, {}};
  return verify::Originals{&truth.quantised->train,
                           {Group::train, Rank{world.rank()}, &mine.layout, mine.storages.storages()}};
}

}  // namespace

Prover::Prover(const kernels::ExecutionSpace& space, transport::Control& world, const Session& session,
               const Exchange& truth, const OwnMemory& mine, std::uint64_t seed,
               std::vector<verify::Constant> constants, const verify::Tuning& tuning)
    : is_source_(world.rank() < truth.source_ranks()),
      session_(session),
      verifier_(truth.model, truth.paths.source, truth.paths.destination, session.sent_view(), world, space, seed,
                std::move(constants), originals(world, truth, mine), tuning) {}

verify::StepResult Prover::prove(std::int64_t refit, const verify::Named& named) {
  if (!session_.quantises_as_it_sends()) return verifier_.verify(refit, named);
  // The contents that gen should have are in no memory of the refit: they are made here, for as long as they are
  // needed.
  const std::unique_ptr<SentWeights> expected = session_.make_expected();
  if (is_source_) verifier_.move(expected->memory().storages());
  return verifier_.verify(refit, named);
}

}  // namespace refit::session
