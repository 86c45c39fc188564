// Sessions over memory that the test owns, on ranks that are threads.

#include "session/session.hpp"

#include <gmock/gmock.h>

#include <atomic>

#include "plan/traffic.hpp"
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

/// A rank's storages on one side.
struct Storages {
  layout::LocalLayout local;
  std::vector<std::byte> own = {};  ///< where they do not lie in memory that others map
  std::span<std::byte> arena = {};

  std::int64_t bytes() const { return transport::ArenaMap(local).bytes; }
  /// `second`: bytes behind the storages.
  void attach(std::byte* mapped, std::int64_t second = 0) {
    const auto size = static_cast<std::size_t>(bytes() + second);
    if (mapped == nullptr) own.resize(size);
    arena = {mapped == nullptr ? own.data() : mapped, size};
  }
  SideMemory memory() const { return {local, {local, arena.data()}, arena}; }
};

/// State of one rank of a job while its session lives.
struct World {
  const TransportCase& job;
  const Exchange exchange{*job.model, {job.bulk, job.misc, *job.source, *job.destination, job.colocated}};
  transport::Control& control;
  ThreadLinks links;
  const OwnRanks own = exchange.world().own(control.rank());
  const bool sends = own.source.has_value();
  std::optional<Storages> train = storages(*job.source, own.source), gen = storages(*job.destination, own.destination);
  const kernels::ExecutionSpace space{};
  transport::Progress progress{};
  std::optional<Staged> staged{};
  const transport::Places places = {std::vector<int>(static_cast<std::size_t>(control.size()), 0), [this] {
                                      std::vector<int> devices;
                                      for (int r = 0; r < control.size(); ++r) devices.push_back(r);
                                      return devices;
                                    }()};
  std::unique_ptr<transport::PeerMemory> peers{};

  std::optional<Storages> storages(const layout::Layout& side, const std::optional<Rank>& rank) const {
    if (!rank) return std::nullopt;
    return Storages{layout::materialise(side, job.model->tensors, *rank)};
  }

  /// Train's weights are a function of tensor and element, so that replicas agree; `step` changes all of them.
  void write(std::uint8_t step) {
    for (const layout::LocalPiece& piece : train->local.pieces) {
      const model::Tensor& tensor = (*job.model)[piece.tensor];
      const transport::LocalMemory memory(train->local, train->arena.data());
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
                   const Decorators& decorators = {}, std::optional<std::int64_t> staged_bytes = {}) {
  const int ranks = job.world().size();
  const auto hub = std::make_shared<ThreadHub>(ranks);
  test_support::run_ranks(ranks, [&](int rank) {
    ThreadControl control(hub, rank);
    World world{.job = job, .control = control, .links = ThreadLinks(machine, control)};
    if (how.commit == Commit::stage)
      world.staged.emplace(control, *job.model, world.gen ? &world.gen->local : nullptr, staged_bytes);
    const std::int64_t second = world.staged && world.gen ? world.staged->bytes() : 0;
    if (how.row().stores) world.peers = world.links.peer_memory(world.gen ? world.gen->bytes() + second : 0);
    OwnMemory mine;
    if (world.train) {
      world.train->attach(nullptr);
      mine.source.emplace(world.train->memory());
    }
    if (world.gen) {
      world.gen->attach(world.peers ? world.peers->local() : nullptr, second);
      mine.destination.emplace(world.gen->memory());
      if (world.staged) {
        const std::span<std::byte> arena = world.gen->arena;
        mine.second.emplace(SideMemory{
            world.gen->local,
            world.staged->second(world.gen->local, mine.destination->storages, arena.data() + world.gen->bytes()),
            arena});
      }
    }
    if (world.staged) mine.staged = &*world.staged;
    mine.peers = world.peers.get();
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
      on_every_rank(job, {.executor = executor, .misc_buffer_bytes = 4096}, std::make_shared<ThreadMachine>(6),
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
                                              world.own, Mapped::every_rank));
                    });
    }
  }
}

/// Sides that are alike, unlike, and with more ranks on either.
TEST(Session, RefitsColocatedRanksAndProvesIt) {
  const std::pair<const char*, const char*> pairs[] = {{"TP1", "TP1"},     {"TP2", "TP2"}, {"TP2xPP2", "TP2"},
                                                       {"TP1", "TP2xDP2"}, {"EP4", "TP1"}, {"TP2xPP2", "TP2xDP3"}};
  for (const auto& [train, gen] : pairs) {
    for (const plan::Policy policy : {plan::Policy::all, plan::Policy::ffn}) {
      for (const ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct}) {
        SCOPED_TRACE(fmt::format("{} -> {} {}", train, gen, transport::row_of(executor).name));
        Job made("qwen3_moe", train, gen);
        TransportCase job = made.make(policy, executor);
        job.colocated = true;
        const FanOut fan_out =
            executor == ExecutorKind::direct && policy == plan::Policy::all ? FanOut::on : FanOut::off;
        const How how{.executor = executor,
                      .per_stage = executor != ExecutorKind::direct && policy == plan::Policy::all,
                      .fan_out = fan_out,
                      .misc_buffer_bytes = 4096,
                      .byte_matrix = true};
        on_every_rank(job, how, std::make_shared<ThreadMachine>(job.world().size()),
                      [&](World& world, Session& session, const OwnMemory& mine) {
                        if (world.sends) world.write(0);
                        Prover proof = prover(world, session, mine);
                        EXPECT_TRUE(proof.verifier().check_train_holders().empty());
                        for (std::uint8_t step = 1; step <= 3; ++step) {
                          if (world.sends) world.write(step);
                          session.refit();
                          const verify::StepResult found = proof.prove(step);
                          EXPECT_TRUE(found.ok());
                          EXPECT_EQ(found.fingerprint_train, found.fingerprint_gen);
                          EXPECT_EQ(found.kl.max, 0);
                        }
                        EXPECT_LE(session.staging_bytes(),
                                  staging_bytes(world.exchange, how, world.own, Mapped::every_rank));
                        const Estimate& estimate = session.estimate();
                        EXPECT_GE(estimate.model.total, 0.999 * estimate.bound.total());
                        EXPECT_GT(estimate.wire.self_bytes, 0);
                        if (world.control.size() == 1) {
                          EXPECT_EQ(estimate.wire.bytes, 0);
                          EXPECT_EQ(estimate.wire.copies, 0);
                        }
                        for (std::size_t r = 0; r < estimate.byte_matrix.size(); ++r) {
                          if (r < estimate.byte_matrix[r].size()) {
                            EXPECT_EQ(estimate.byte_matrix[r][r], 0);
                          }
                        }
                      });
      }
    }
  }
}

/// A wrong bit of one of a colocated rank's two sides is that side's.
TEST(Session, NamesWhatIsWrongOnColocatedRanks) {
  Job made("llama", "DP2", "TP2");
  TransportCase job = made.make(plan::Policy::all, ExecutorKind::direct);
  job.colocated = true;
  on_every_rank(job, {}, std::make_shared<ThreadMachine>(2),
                [&](World& world, Session& session, const OwnMemory& mine) {
                  world.write(0);
                  session.refit();
                  if (world.control.rank() == 1) world.gen->arena[0] ^= std::byte{1};
                  Prover proof = prover(world, session, mine);
                  const verify::StepResult found = proof.prove(1);
                  EXPECT_EQ(found.elements_wrong, 1);
                  ASSERT_EQ(found.wrong.size(), 1U);
                  EXPECT_EQ(found.wrong.front().gen_rank, Rank{1});
                  EXPECT_TRUE(found.train_disagreements.empty());
                  if (world.control.rank() == 1) world.train->arena[0] ^= std::byte{1};
                  const auto odd = proof.verifier().check_train_holders();
                  ASSERT_EQ(odd.size(), 1U);
                });
}

TEST(Session, NamesWhatIsWrong) {
  Job made("llama", "TP1", "TP2");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::p2p);
  on_every_rank(job, {.executor = ExecutorKind::p2p}, std::make_shared<ThreadMachine>(3),
                [&](World& world, Session& session, const OwnMemory& mine) {
                  if (world.sends) world.write(0);
                  session.refit();
                  if (world.control.rank() == 2) world.gen->arena[0] ^= std::byte{1};
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
                  EXPECT_EQ(estimate.fan_out.domains, plan::Domains({0, 0}));
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
  Job made("llama", "TP1", "DP2");
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
  // Gen ranks that map each other feed each other, whoever brings them the weights.
  on_every_rank(job, {.fan_out = FanOut::on}, machine, [&](World& world, Session& session, const OwnMemory& mine) {
    EXPECT_EQ(session.estimate().fan_out.domains, plan::Domains({0, 0}));
    if (world.sends) world.write(0);
    session.refit();
    EXPECT_EQ(prover(world, session, mine).prove(1).elements_wrong, 0);
  });
  machine->unmapped = {{1, 2}};
  const auto refused = [&] { on_every_rank(job, {.fan_out = FanOut::on}, machine, [](auto&, auto&, auto&) {}); };
  EXPECT_THAT(refused, ::testing::ThrowsMessage<Error>(HasSubstr("refit.fan_out: \"on\" needs gen ranks of a host")));
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

/// Returns a rank's gen storages in a place, byte by byte.
std::vector<std::byte> contents(const SideMemory& place) {
  std::vector<std::byte> bytes;
  for (std::size_t s = 0; s < place.layout.storages.size(); ++s) {
    const std::byte* storage = place.storages.storages()[s];
    bytes.insert(bytes.end(), storage, storage + place.layout.storages[s].bytes());
  }
  return bytes;
}

TEST(Session, NumbersWhatItBrings) {
  Job made("llama", "TP2", "TP1xDP2");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::direct);
  on_every_rank(job, {}, std::make_shared<ThreadMachine>(4),
                [&](World& world, Session& session, const OwnMemory& mine) {
                  const plan::Planner planner(job.bulk, *job.source, *job.destination);
                  EXPECT_EQ(session.plan_hash(), plan::traffic(planner, plan::TrafficOptions{}).hash);
                  EXPECT_FALSE(session.held().exists());
                  EXPECT_THROW(session.require_version(1), Error) << "nothing has come";
                  if (world.sends) world.write(1);
                  session.refit();
                  EXPECT_EQ(session.held().number, 1);
                  EXPECT_EQ(session.held().plan, session.plan_hash());
                  EXPECT_FALSE(session.held().weights);
                  const verify::StepResult found = prover(world, session, mine).prove(1);
                  session.set_proved(found.fingerprint_gen);
                  EXPECT_EQ(session.held().weights, found.fingerprint_train);
                  session.refit({}, 7);
                  EXPECT_TRUE(session.missed().empty());
                  EXPECT_FALSE(session.held().weights) << "another version";
                  session.require_version(7);
                  EXPECT_EQ(session.held().number, 7);
                  session.refit({}, world.control.rank() < 2 ? 5 : 99);
                  session.require_version(5);
                  session.refit();
                  session.require_version(6);
                });
}

TEST(Session, NamesWhoMissedAVersion) {
  Job made("llama", "TP1", "TP1xDP3");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::p2p);
  on_every_rank(job, {.executor = ExecutorKind::p2p}, std::make_shared<ThreadMachine>(4),
                [&](World& world, Session& session, const OwnMemory& /*mine*/) {
                  if (world.sends) world.write(1);
                  session.refit();
                  session.refit();
                  if (world.control.rank() == 2) session.set_held({});
                  if (world.control.rank() == 3) session.set_held({1, session.plan_hash()});
                  EXPECT_THAT([&] { session.require_version(2); },
                              ::testing::ThrowsMessage<Error>("gen does not hold version 2 everywhere: gen rank 1 "
                                                              "holds no version, gen rank 2 holds version 1"));
                  session.refit();
                  ASSERT_EQ(session.missed().size(), 2U);
                  EXPECT_EQ(session.missed().front().gen_rank, Rank{1});
                  EXPECT_FALSE(session.missed().front().has.exists());
                  EXPECT_EQ(session.missed().back().has.number, 1);
                  session.require_version(3);
                  session.refit();
                  EXPECT_TRUE(session.missed().empty());
                });
}

TEST(Session, RefusesTwoNumbersOfOneRefit) {
  Job made("llama", "TP2", "TP1");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::direct);
  for (const std::int64_t other : {std::int64_t{4}, std::int64_t{-2}}) {
    const auto refused = [&] {
      on_every_rank(job, {}, std::make_shared<ThreadMachine>(3), [&](World& world, Session& session, auto&) {
        session.refit({}, world.control.rank() == 1 || other < 0 ? other : 3);
      });
    };
    EXPECT_THAT(refused, ::testing::ThrowsMessage<Error>(
                             HasSubstr(other < 0 ? "cannot have version -2"
                                                 : "train rank 1 refits version 4, and train rank 0 version 3")));
  }
}

TEST(Session, MovesLayerByLayer) {
  for (const ExecutorKind executor : {ExecutorKind::p2p, ExecutorKind::direct}) {
    for (const plan::Policy policy : {plan::Policy::all, plan::Policy::ffn}) {
      Job made("qwen3_moe", "TP2xPP2", "TP2");
      const TransportCase job = made.make(policy, executor);
      on_every_rank(job, {.executor = executor, .commit = Commit::layers, .misc_buffer_bytes = 4096},
                    std::make_shared<ThreadMachine>(6), [&](World& world, Session& session, const OwnMemory& mine) {
                      if (world.sends) world.write(0);
                      Prover proof = prover(world, session, mine);
                      for (std::uint8_t step = 1; step <= 2; ++step) {
                        if (world.sends) world.write(step);
                        const RefitSeconds seconds = session.refit();
                        EXPECT_EQ(proof.prove(step).elements_wrong, 0);
                        std::vector<std::string> expected;
                        for (const model::Tensor& tensor : job.bulk)
                          expected.push_back(tensor.layer < 0 ? "no layer" : fmt::format("layer {}", tensor.layer));
                        std::ranges::sort(expected);
                        expected.erase(std::ranges::unique(expected).begin(), expected.end());
                        if (!job.misc.empty()) expected.emplace_back("misc");
                        std::vector<std::string> parts;
                        for (const auto& [part, spent] : seconds.parts) parts.push_back(part);
                        EXPECT_THAT(parts, ::testing::UnorderedElementsAreArray(expected));
                        EXPECT_EQ(parts.front() == "no layer", policy == plan::Policy::all);
                      }
                    });
    }
  }
}

/// Bytes of the second place: all, some, none. Until the flip gen's weights stay as they are, whatever the next refit
/// brings.
TEST(Session, StagesAndFlips) {
  for (const std::int64_t most : {std::int64_t{1} << 40, std::int64_t{60000}, std::int64_t{0}}) {
    for (const ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::direct}) {
      for (const plan::Policy policy : {plan::Policy::all, plan::Policy::ffn}) {
        SCOPED_TRACE(fmt::format("{} {} {}", most, transport::row_of(executor).name, static_cast<int>(policy)));
        Job made("qwen3_moe", "TP2xPP2", "TP2");
        const TransportCase job = made.make(policy, executor);
        on_every_rank(
            job, {.executor = executor, .commit = Commit::stage, .misc_buffer_bytes = 4096},
            std::make_shared<ThreadMachine>(6),
            [&](World& world, Session& session, const OwnMemory& mine) {
              if (world.sends) world.write(0);
              Prover proof = prover(world, session, mine);
              EXPECT_LE(session.staging_bytes(),
                        staging_bytes(world.exchange,
                                      {.executor = executor, .commit = Commit::stage, .misc_buffer_bytes = 4096},
                                      world.own, Mapped::every_rank));
              const auto live = [&] { return session.live() == 0 ? *mine.destination : *mine.second; };
              EXPECT_EQ(session.stages_everything(), most > 60000);
              EXPECT_THROW(session.flip(), Error) << "nothing is staged";
              std::vector<std::byte> before;
              for (std::uint8_t step = 1; step <= 5; ++step) {
                if (world.sends) world.write(step);
                if (world.gen) before = contents(live());
                int finalised = 0;
                session.refit([&] { ++finalised; });
                EXPECT_EQ(finalised, session.stages_everything() ? 1 : 0);
                if (world.gen) {
                  EXPECT_EQ(contents(live()), before) << "gen generates from what it has";
                }
                const bool was_proved_before = session.stages_everything();
                if (was_proved_before) {
                  EXPECT_EQ(proof.prove(step).elements_wrong, 0);
                }
                if (world.gen) {
                  EXPECT_EQ(session.held().number, step == 1 ? Version::kNone : step == 4 ? 2 : step - 1);
                }
                if (step == 3) continue;  // given up
                session.flip([&] { ++finalised; });
                EXPECT_EQ(finalised, 1);
                EXPECT_EQ(proof.prove(step).elements_wrong, 0);
                EXPECT_EQ(session.held().number, step);
                session.require_version(step);
                if (world.gen) {
                  EXPECT_NE(contents(live()), before);
                }
              }
            },
            {}, most);
      }
    }
  }
}

/// An engine that lost its memory lost both places: a delta must stand on neither.
TEST(Session, StagedDeltasBeginAnewWhereAnEngineLostItsWeights) {
  Job made("llama", "TP1", "TP2");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::p2p);
  How how{.executor = ExecutorKind::p2p, .commit = Commit::stage};
  how.tuning.delta = transport::Delta::automatic;
  on_every_rank(job, how, std::make_shared<ThreadMachine>(3),
                [&](World& world, Session& session, const OwnMemory& mine) {
                  if (world.sends) world.write(1);
                  Prover proof = prover(world, session, mine);
                  for (int refit = 1; refit <= 6; ++refit) {
                    if (refit == 4 && world.own.destination == Rank{1}) {
                      std::ranges::fill(world.gen->arena, std::byte{0xFF});
                      session.set_held({});
                    }
                    session.refit();
                    // One place, then the other.
                    EXPECT_EQ(session.missed().size(), refit == 4 || refit == 5 ? 1U : 0U) << refit;
                    EXPECT_EQ(proof.prove(refit).elements_wrong, 0) << refit;
                    session.flip();
                  }
                });
}

TEST(Session, RefusesTrainRanksThatHaveSentDifferentVersions) {
  Job made("llama", "TP2", "TP1");
  const TransportCase job = made.make(plan::Policy::all, ExecutorKind::direct);
  const auto refused = [&] {
    on_every_rank(job, {}, std::make_shared<ThreadMachine>(3), [&](World& world, Session& session, auto&) {
      if (world.control.rank() == 1) session.set_versions({{4, session.plan_hash()}, {}});
      session.refit({}, 5);
    });
  };
  EXPECT_THAT(refused, ::testing::ThrowsMessage<Error>(
                           HasSubstr("train rank 1 sent version 4 last, and train rank 0 no version")));
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
