#pragma once
// The proof that a session's refits arrived, by the true layouts, whatever layouts planner and executors were given.

#include <memory>
#include <optional>

#include "session/session.hpp"
#include "verify/verifier.hpp"

namespace refit::session {

/// Every function is collective over the world.
class Prover {
 public:
  /// Prepares the verifier. `truth`: the session's true exchange; `mine`: this rank's memory, as the session has it.
  /// `seed`, `constants`, `tuning`: the verifier's. Keeps references to session, truth, mine and their referents.
  Prover(const kernels::ExecutionSpace& space, transport::Control& world, const Session& session, const Exchange& truth,
         const OwnMemory& mine, std::uint64_t seed, std::vector<verify::Constant> constants,
         const verify::Tuning& tuning);

  /// Proves the weights that the last refit brought, staged or not: verify::Verifier::verify.
  verify::StepResult prove(std::int64_t refit, const verify::Named& named = {});
  /// Returns the verifier, for its other questions.
  verify::Verifier& verifier() { return verifier_; }

 private:
  const Session& session_;
  const OwnMemory& mine_;
  verify::Verifier verifier_;
};

}  // namespace refit::session
