// Sessions over memory that the test owns, on ranks that are threads.

#include "session/session.hpp"

#include <gmock/gmock.h>

#include <atomic>

#include "session/prover.hpp"
#include "support/thread_links.hpp"
#include "transport_models.hpp"

namespace refit::session {
namespace {

using test_support::ExecutorKind;
using test_support::Job;
using test_support::ThreadControl;
using test_support::ThreadHub;
using test_support::ThreadLinks;
using test_support::ThreadMachine;
using test_support::TransportCase;
using ::testing::HasSubstr;

/// State of one rank of a job while its session lives.
struct World {
  const TransportCase& job;
  const Exchange exchange{*job.model, {job.bulk, job.misc, *job.source, *job.destination}};
  transport::Control& control;
  ThreadLinks links;
  const bool sends = control.rank() < exchange.source_ranks();
  const Rank rank{sends ? control.rank() : control.rank() - exchange.source_ranks()};
  const layout::LocalLayout local =
      layout::materialise(sends ? *job.source : *job.destination, job.model->tensors, rank);
  const kernels::ExecutionSpace space{};
  transport::Progress progress{};
  const transport::Places places = {std::vector<int>(static_cast<std::size_t>(control.size()), 0), [this] {
                                      std::vector<int> devices;
                                      for (int r = 0; r < control.size(); ++r) devices.push_back(r);
                                      return devices;
                                    }()};
  std::unique_ptr<transport::PeerMemory> peers{};
  std::vector<std::byte> own{};
  std::span<std::byte> arena{};

  /// Train's weights are a function of tensor and element, so that replicas agree; `step` changes all of them.
  void write(std::uint8_t step) {
    for (const layout::LocalPiece& piece : local.pieces) {
      const model::Tensor& tensor = (*job.model)[piece.tensor];
      const transport::LocalMemory memory(local, arena.data());
      std::byte* data = memory.address(piece.piece.place, piece.piece.format.dtype);
      if (tensor.role == model::Role::unknown) {  // whole, and no numbers
        std::fill_n(data, tensor.bytes(), std::byte{step});
        continue;
      }
      kernels::synthesise(space,
                          {data, piece.piece.format.dtype, piece.piece.box, tensor.shape, piece.piece.place.strides},
                          hash_name(job.model->canonical(tensor).name) + step, 0, 1);
    }
    space.fence();
  }
};

/// Runs `body` with a session on every rank.
void on_every_rank(const TransportCase& job, const How& how, const std::shared_ptr<ThreadMachine>& machine,
                   const std::function<void(World&, Session&, const OwnMemory&)>& body,
                   const Decorators& decorators = {}) {
  const int ranks = job.source->ranks() + job.destination->ranks();
  const auto hub = std::make_shared<ThreadHub>(ranks);
  test_support::run_ranks(ranks, [&](int rank) {
    ThreadControl control(hub, rank);
    World world{.job = job, .control = control, .links = ThreadLinks(machine, control)};
    const std::int64_t bytes = transport::ArenaMap(world.local).bytes;
    if (how.row().stores) world.peers = world.links.peer_memory(world.sends ? 0 : bytes);
    const bool mapped = how.row().stores && !world.sends;
    if (!mapped) world.own.resize(static_cast<std::size_t>(bytes));
    world.arena = {mapped ? world.peers->local() : world.own.data(), static_cast<std::size_t>(bytes)};
    const OwnMemory mine{world.local, {world.local, world.arena.data()}, world.arena, world.peers.get()};
    Session session(world.space, control, world.links, world.places, world.exchange, mine, how, world.progress,
                    decorators);
    body(world, session, mine);
    control.barrier();
  });
}

Prover prover(World& world, const Session& session, const OwnMemory& mine) {
  return {world.space, world.control, session, world.exchange, mine, 1, {}, {}};
}

TEST(Session, RefitsAgainAndAgainAndProvesIt) {
  for (const plan::Policy policy : {plan::Policy::all, plan::Policy::ffn}) {
    for (const ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct}) {
      Job made("qwen3_moe", "TP2xPP2", "TP2");
      const TransportCase job = made.make(policy, executor);
      on_every_rank(
          job, {.executor = executor, .misc_buffer_bytes = 4096}, std::make_shared<ThreadMachine>(6),
          [&](World& world, Session& session, const OwnMemory& mine) {
            if (world.sends) world.write(0);
            Prover proof = prover(world, session, mine);
            for (std::uint8_t step = 1; step <= 3; ++step) {
              if (world.sends) world.write(step);
              int finalised = 0;
              const RefitSeconds seconds = session.refit([&] { ++finalised; });
              EXPECT_EQ(finalised, 1);
              EXPECT_GE(seconds.total, seconds.bulk + seconds.misc + seconds.finalise - 1e-9);
              EXPECT_EQ(proof.prove(step).elements_wrong, 0) << transport::row_of(executor).name;
            }
            EXPECT_EQ(world.links.made[transport::Purpose::gather], job.misc.empty() ? 0 : 1);
            EXPECT_LE(session.staging_bytes(),
                      staging_bytes(world.exchange, {.executor = executor, .misc_buffer_bytes = 4096},
                                    world.sends ? Side::source : Side::destination, world.rank, Mapped::every_rank));
          });
    }
  }
}

TEST(Session, NamesWhatIsWrong) {
  Job made("llama", "TP1", "TP2");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::p2p);
  on_every_rank(job, {.executor = ExecutorKind::p2p}, std::make_shared<ThreadMachine>(3),
                [&](World& world, Session& session, const OwnMemory& mine) {
                  if (world.sends) world.write(0);
                  session.refit();
                  if (world.control.rank() == 2) world.arena[0] ^= std::byte{1};
                  const verify::StepResult found = prover(world, session, mine).prove(1);
                  EXPECT_EQ(found.elements_wrong, 1);
                  ASSERT_EQ(found.wrong.size(), 1U);
                  EXPECT_EQ(found.wrong.front().gen_rank, Rank{1});
                });
}

TEST(Session, EstimatesWithoutRefitting) {
  Job made("llama", "TP1", "DP2");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::direct);
  const auto machine = std::make_shared<ThreadMachine>(3);
  machine->has_rates_that_change = true;
  on_every_rank(job, {.fan_out = FanOut::on, .byte_matrix = true}, machine,
                [&](World& world, Session& session, const OwnMemory& /*mine*/) {
                  const Estimate& estimate = session.estimate();
                  EXPECT_EQ(estimate.fan_out_ranks, 2);
                  EXPECT_GT(estimate.bound.total(), 0);
                  EXPECT_GE(estimate.model.total, estimate.bound.total());
                  std::int64_t payload = 0;
                  for (const model::Tensor& tensor : job.bulk) payload += tensor.bytes();
                  std::int64_t misc = 0;
                  for (const model::Tensor& tensor : job.misc) misc += tensor.bytes();
                  EXPECT_EQ(estimate.wire.bytes, 2 * (payload + misc));
                  EXPECT_EQ(estimate.wire.forwarded_bytes, payload);
                  EXPECT_EQ(estimate.byte_matrix.size(), world.control.rank() == 0 ? 1U : 0U);
                  const double bound = estimate.bound.total();
                  world.control.barrier();
                  if (world.control.rank() == 0) machine->rates.memory = 40e9;
                  world.control.barrier();
                  session.measure_again();
                  EXPECT_EQ(world.links.probes, 2);
                  EXPECT_EQ(session.estimate().probed.pair, 10e9 + 1);
                  EXPECT_LT(session.estimate().bound.total(), bound);
                });
}

TEST(Session, SaysWhatTheMachineLacks) {
  Job made("llama", "TP1", "TP2");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::direct);
  const auto machine = std::make_shared<ThreadMachine>(3);
  machine->unmapped = {{0, 2}};
  on_every_rank(job, {}, machine, [&](World& world, Session& session, const OwnMemory& mine) {
    EXPECT_THAT(session.notes(),
                ::testing::ElementsAre("a note", HasSubstr("1 pairs of ranks cannot map each other's memory")));
    if (world.sends) world.write(0);
    session.refit();
    EXPECT_EQ(prover(world, session, mine).prove(1).elements_wrong, 0);
  });
  const auto refused = [&] { on_every_rank(job, {.fan_out = FanOut::on}, machine, [](auto&, auto&, auto&) {}); };
  EXPECT_THAT(refused, ::testing::ThrowsMessage<Error>(HasSubstr("refit.fan_out: \"on\" needs ranks")));
}

/// The decorators here drop all copies and swap the two paths.
TEST(Session, PassesWhatItMakesThroughDecorators) {
  Job made("llama", "TP1", "TP1");
  const TransportCase job = made.make(plan::Policy::ffn, ExecutorKind::p2p);
  std::vector<std::string> order;
  const Decorators decorators{[](const plan::Planner&, std::vector<plan::Copy>& copies) { copies.clear(); },
                              [](std::vector<Path>& paths) {
                                ASSERT_EQ(paths.size(), 2U);
                                EXPECT_STREQ(paths[0].name, "bulk");
                                EXPECT_STREQ(paths[1].name, "misc");
                                std::swap(paths[0], paths[1]);
                              }};
  on_every_rank(
      job, {.executor = ExecutorKind::p2p}, std::make_shared<ThreadMachine>(2),
      [&](World& world, Session& session, const OwnMemory& mine) {
        if (world.sends) world.write(0);
        session.refit();
        const verify::StepResult found = prover(world, session, mine).prove(1);
        EXPECT_EQ(found.tensors_wrong, std::ssize(job.bulk)) << "misc alone arrives";
      },
      decorators);
}

TEST(Session, AgreesBeforeTheFirstByte) {
  Job made("llama", "TP1", "TP1");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::p2p);
  Decorators decorators;
  std::atomic<int> calls = 0;
  decorators.copies = [&](const plan::Planner&, std::vector<plan::Copy>& copies) {
    if (calls++ == 0) copies.pop_back();
  };
  const auto refused = [&] {
    on_every_rank(
        job, {.executor = ExecutorKind::p2p}, std::make_shared<ThreadMachine>(2), [](auto&, auto&, auto&) {},
        decorators);
  };
  EXPECT_THROW(refused(), Error);
}

}  // namespace
}  // namespace refit::session
