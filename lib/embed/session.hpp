#pragma once
// A session as the C interface has it: memory that the caller owns and may move, the executor that fits it, and the
// proof.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "embed/binding.hpp"
#include "embed/plan.hpp"
#include "embed/world.hpp"
#include "session/prover.hpp"

namespace refit::embed {

/// Every function is collective over the world, except where it says otherwise. After an error of kind runtime the
/// session is broken: later calls throw it again.
class Session {
 public:
  /// Arguments as refit_session_create has them; what `options` throws, all ranks throw. Keeps references to plan and
  /// world.
  Session(const Plan& plan, World& world, std::span<const refit_tensor> train, std::span<const refit_tensor> gen,
          const std::function<SessionOptions()>& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Tells where this rank's tensors lie from now on. Not collective. Where they are refused, so is every verb after
  /// it, on all ranks, until others are told of.
  void move(Side side, std::span<const refit_tensor> tensors);
  /// Says that the caller was refused another place: every verb fails with that error until `move` succeeds. Not
  /// collective.
  void refuse(Side side, const Error& error);
  /// Moves all weights, as version `number` (nothing: one more than the last one); `size` of the result is not set.
  refit_seconds refit(std::optional<std::int64_t> number = {});
  /// Compares all weights.
  const verify::StepResult& prove();

  /// Returns the version that this process has: an engine holds it, a trainer sent it last. Not collective.
  session::Version version() const;
  /// Says what this process's gen memory holds, where no refit has brought it; kNone: nothing known. Not collective.
  void set_version(std::int64_t number);
  /// Requires that all gen ranks hold version `number`. Errors (data): those that do not.
  void require_version(std::int64_t number);

  const std::vector<std::string>& notes() const { return notes_; }
  /// Returns which world ranks the ranks of both sides are.
  WorldMap world() const { return plan_.world(); }
  /// Returns the last proof, if there is one.
  const std::optional<verify::StepResult>& proof() const { return proof_; }

 private:
  /// This process as a rank of one side.
  struct Own {
    Own(const Plan& plan, Side of, Rank number);
    std::vector<transport::OwnedBlock> blocks() const { return blocks_of(local, binding, side == Side::destination); }
    session::SideMemory memory() const { return {local, {local, binding.addresses}, {}}; }

    Side side;
    Rank rank;
    std::string name;  ///< "gen rank 1"
    layout::LocalLayout local;
    Binding binding;                        ///< memory that is in use
    std::optional<Binding> asked;           ///< where the caller has told of another place since
    std::optional<Error> refused;           ///< what was wrong with the place that the caller has told of last
    std::vector<std::uint64_t> identities;  ///< of the memory that is in use
  };

  std::vector<Own*> sides();
  std::optional<Own>& own(Side side) { return side == Side::source ? train_ : gen_; }
  void require_common_plan() const;
  void require_apart() const;
  void bind_all(std::span<const refit_tensor> train, std::span<const refit_tensor> gen);
  /// Maps the memory as it lies now, and makes executor and notes.
  void attach();
  /// Returns whether any of this rank's gen memory has moved: it may hold anything.
  bool gen_has_moved();
  void detach();
  void map_memory();
  /// Returns what has moved on this rank since `attach`, as a sentence; empty: nothing.
  std::string moved();
  /// Attaches anew where memory of any rank has moved; returns the seconds of that.
  double follow();
  /// Writes the constant parts of this rank's gen storages.
  void fill_constants() const;
  /// Calls a verb, and keeps what breaks the session.
  template <typename Verb>
  void guarded(const Verb& verb);

  const Plan& plan_;
  World& world_;
  SessionOptions options_;
  const session::Exchange exchange_;
  transport::Progress progress_;
  std::unique_ptr<kernels::ExecutionSpace> space_;
  transport::Places places_;
  std::unique_ptr<transport::Links> links_;
  std::optional<Own> train_, gen_;
  session::How how_;
  std::unique_ptr<transport::PeerMemory> peers_;
  std::unique_ptr<session::OwnMemory> mine_;
  std::unique_ptr<session::Session> session_;
  std::unique_ptr<session::Prover> prover_;
  std::vector<std::string> notes_;
  std::optional<verify::StepResult> proof_;
  std::optional<Error> broken_;
  session::Session::Versions versions_;  ///< of sessions over memory that has moved since
  std::int64_t refits_ = 0;
  bool is_filled_ = false;
};

}  // namespace refit::embed
