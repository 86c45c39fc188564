// The supervisor without MPI: threads as ranks on one board, and boards of several processes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "engine/supervisor.hpp"
#include "support/thread_control.hpp"

namespace refit::engine {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kLong = 30s;  // guards against a hang

/// Threads as ranks, each with its supervisor.
class Crew {
 public:
  explicit Crew(int ranks) : board(ranks), reports_(static_cast<std::size_t>(ranks)) {
    for (int rank = 0; rank < ranks; ++rank) hire(rank);
  }

  void hire(int rank) {
    const auto report = [this, rank](const Failure& failure) {
      failure_ = failure;
      reports_[static_cast<std::size_t>(rank)] += 1;
      return 3;
    };
    members.push_back(std::make_unique<Supervisor>(
        board, rank, rank, Supervisor::How{report, [this](int code) { code_ = code; }, false, 0.01}));
  }

  int reports() const {
    int all = 0;
    for (const auto& one : reports_) all += one;
    return all;
  }
  int reports_of(int rank) const { return reports_[static_cast<std::size_t>(rank)]; }
  int code() const { return code_; }

  /// The failure that was reported.
  Failure wait() {
    const auto begin = std::chrono::steady_clock::now();
    while (code_ < 0 && std::chrono::steady_clock::now() - begin < kLong) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(code_, 3);
    return code_ < 0 ? Failure() : failure_;
  }

  Board board;

 private:
  std::vector<std::atomic<int>> reports_;
  std::atomic<int> code_ = -1;
  Failure failure_;

 public:
  std::vector<std::unique_ptr<Supervisor>> members;  // go first: their threads use the rest
};

TEST(Supervisor, OneVerdictOfManyClaims) {
  for (int round = 0; round < 20; ++round) {
    Crew crew(4);
    std::atomic<int> won = 0;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 4; ++rank) {
      threads.emplace_back([&, rank] {
        const std::string message = "rank " + std::to_string(rank) + " failed";
        if (crew.members[static_cast<std::size_t>(rank)]->claim(
                {Ending::error, ErrorKind::data, rank, "bulk", message, 0}))
          ++won;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(won, 1);
    const Failure failure = crew.wait();
    EXPECT_EQ(failure.message, "rank " + std::to_string(failure.rank) + " failed");
    EXPECT_EQ(failure.kind, ErrorKind::data);
    EXPECT_EQ(failure.phase, "bulk");
    EXPECT_EQ(crew.reports(), 1);
    EXPECT_EQ(crew.reports_of(0), 1) << "rank 0 has the results";
  }
}

TEST(Supervisor, NamesTheRankThatDoesNotWait) {
  Crew crew(4);
  for (int rank = 0; rank < 4; ++rank) {
    auto& progress = crew.members[static_cast<std::size_t>(rank)]->progress();
    progress.begin("bulk", 0);
    progress.peer = 1;
    progress.set_waiting(rank != 2);
  }
  crew.members[0]->name_tensors([](std::int32_t index) { return "tensor" + std::to_string(index); });
  crew.members[2]->progress().tensor = 7;
  crew.members[0]->progress().begin("bulk", 0.3);
  crew.members[0]->progress().set_waiting(true);
  const Failure failure = crew.wait();
  EXPECT_EQ(failure.ending, Ending::timeout);
  EXPECT_EQ(failure.rank, 2);
  EXPECT_EQ(failure.phase, "bulk");
  EXPECT_THAT(failure.message, HasSubstr("no end after 0.3 s: rank 2 (host "));
  EXPECT_THAT(failure.message, HasSubstr(", pid " + std::to_string(getpid()) + ") is in phase bulk, tensor tensor7"));
  EXPECT_EQ(crew.reports(), 1);
}

TEST(Supervisor, NamesTheRankThatHasEnteredFewerCollectives) {
  Crew crew(3);
  for (int rank = 0; rank < 3; ++rank) {
    auto& progress = crew.members[static_cast<std::size_t>(rank)]->progress();
    progress.begin(rank == 1 ? "plan" : "verify", 0);
    if (rank != 1) progress.enter_collective();
    progress.set_waiting(true);
  }
  crew.members[0]->progress().begin("verify", 0.2);
  crew.members[0]->progress().set_waiting(true);
  const Failure failure = crew.wait();
  EXPECT_EQ(failure.rank, 1);
  EXPECT_EQ(failure.phase, "plan");
}

TEST(Supervisor, CalledOffOnceTheJobHasConcluded) {
  Crew crew(2);
  crew.members[1]->progress().begin("bulk", 0.2);
  crew.members[0]->conclude();
  crew.members[0]->progress().begin_unprofiled("report", 60);
  std::this_thread::sleep_for(500ms);
  EXPECT_EQ(crew.reports(), 0);
  EXPECT_EQ(crew.code(), -1);
  EXPECT_FALSE(crew.members[1]->claim({Ending::error, ErrorKind::data, 1, "bulk", "late", 0}));
}

TEST(Supervisor, ResultsThatAreNotWrittenEndTheJob) {
  Crew crew(1);
  crew.members[0]->conclude();
  crew.members[0]->progress().begin_unprofiled("report", 0.1);
  const Failure failure = crew.wait();
  EXPECT_EQ(failure.ending, Ending::timeout);
  EXPECT_EQ(failure.rank, 0);
  EXPECT_EQ(failure.phase, "report");
  EXPECT_EQ(crew.reports(), 1);  // of a result that says so
}

TEST(Supervisor, WhatIsWrittenIsToldOrOverruled) {
  Crew told(1);
  told.members[0]->conclude();
  told.members[0]->progress().begin_unprofiled("report", 60);
  told.members[0]->written();
  EXPECT_EQ(told.reports(), 0);
  EXPECT_EQ(told.board.verdict(), Verdict::written);

  Crew untold(1);  // nobody takes the summary
  untold.members[0]->conclude();
  untold.members[0]->progress().begin_unprofiled("report", 0.1);
  untold.members[0]->written();
  EXPECT_EQ(untold.wait().ending, Ending::timeout);
  EXPECT_EQ(untold.reports(), 1);
}

TEST(Supervisor, NoLimitNoVerdict) {
  Crew crew(2);
  crew.members[0]->progress().begin("bulk", 0.05);
  crew.members[0]->progress().begin("verify", 0);  // the old limit is off
  crew.members[1]->progress().begin("verify", 0);
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(crew.reports(), 0);
}

TEST(Supervisor, TimeBeginsAnewWhileLoadingMoves) {
  Crew crew(2);
  crew.members[1]->progress().begin("load", 2, true);  // done, waits
  crew.members[1]->progress().set_waiting(true);
  crew.members[0]->progress().begin("load", 2, true);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(150ms);
    crew.members[0]->progress().moved(std::int64_t{i} << 30);
  }
  EXPECT_EQ(crew.reports(), 0);
  const Failure failure = crew.wait();
  EXPECT_EQ(failure.rank, 0);
  EXPECT_THAT(failure.message, HasSubstr("phase load, 19.00 GiB done"));
}

TEST(Supervisor, RankWhoseSupervisorIsSilentIsNamedAndReplaced) {
  Crew crew(3);
  // Rank 0 does not run: its slot stays as it was some time ago.
  crew.members.erase(crew.members.begin());
  crew.board.slot(0).life = Life::alive;
  crew.board.slot(0).beat = transport::now_ns() - 5'000'000'000;
  for (auto& member : crew.members) {
    member->progress().begin("barrier", 0.1);
    member->progress().set_waiting(true);
  }
  const Failure failure = crew.wait();
  EXPECT_EQ(failure.rank, 0);
  EXPECT_THAT(failure.message, HasSubstr("rank 0 (host "));
  EXPECT_THAT(failure.message, HasSubstr("has given no sign of life since"));
  EXPECT_EQ(crew.reports_of(1), 1);
  EXPECT_EQ(crew.reports(), 1);
}

TEST(Supervisor, WaitsForAllToEnd) {
  Crew crew(2);
  std::atomic<bool> over = false;
  std::thread root([&] {
    crew.members[0]->await_others();
    over = true;
  });
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(over);
  crew.members[1]->ended();
  root.join();
}

TEST(Channel, TellsRankZeroAndHearsOfTheVerdict) {
  Listener listener;
  const std::string address = listener.address();
  ASSERT_NE(address, "");
  Teller teller(address);
  std::string wrong = address;
  const std::size_t digit = wrong.find(' ') + 1;
  wrong[digit] = wrong[digit] == '1' ? '2' : '1';
  Teller stranger(wrong);
  Sight one;
  one.rank = 5;
  one.pid = 4711;
  one.phase = "load";
  one.item = std::int64_t{7} << 40;
  one.waiting = true;
  Sight root;
  root.rank = 0;
  root.host = "node0";
  root.phase = "bulk";
  const News news{0, {one, one}, Failure{Ending::timeout, ErrorKind::data, 5, "load", "late", 2.5}};
  const auto begin = std::chrono::steady_clock::now();
  while (teller.hear().at == 0 && std::chrono::steady_clock::now() - begin < kLong) {
    teller.tell("node1#4", news);
    stranger.tell("node2", news);
    listener.serve(Verdict::reported, 3, root);
    std::this_thread::sleep_for(1ms);
  }
  ASSERT_EQ(listener.news().size(), 1U) << "who does not know the token is not heard";
  const News& heard = listener.news().at("node1#4");
  ASSERT_EQ(heard.sights.size(), 2U);
  EXPECT_EQ(heard.sights[1].rank, 5);
  EXPECT_EQ(heard.sights[1].pid, 4711);
  EXPECT_EQ(heard.sights[1].host, "node1");
  EXPECT_EQ(heard.sights[1].phase, "load");
  EXPECT_EQ(heard.sights[1].item, std::int64_t{7} << 40);
  EXPECT_TRUE(heard.sights[1].waiting);
  ASSERT_TRUE(heard.failure);
  EXPECT_EQ(heard.failure->message, "late");
  EXPECT_EQ(heard.failure->seconds, 2.5);
  EXPECT_EQ(heard.failure->kind, ErrorKind::data);
  EXPECT_EQ(teller.last().verdict, Verdict::reported);
  EXPECT_EQ(teller.last().code, 3);
  EXPECT_EQ(teller.last().root.rank, 0);
  EXPECT_EQ(teller.last().root.host, "node0");
  EXPECT_EQ(teller.last().root.phase, "bulk");
}

/// Two hosts: each crew has a board, and ranks are counted over both.
TEST(Supervisor, SeesOtherHosts) {
  Board boards[2] = {Board(2), Board(2)};
  std::atomic<int> reports[4] = {};
  std::atomic<int> codes[4] = {};
  Failure found;
  const auto hub = std::make_shared<test_support::ThreadHub>(4);
  std::vector<std::unique_ptr<Supervisor>> members;
  for (int rank = 0; rank < 4; ++rank) {
    const auto report = [&, rank](const Failure& failure) {
      found = failure;
      ++reports[rank];
      return 3;
    };
    members.push_back(std::make_unique<Supervisor>(
        boards[rank / 2], rank % 2, rank,
        Supervisor::How{report, [&, rank](int code) { codes[rank] = code; }, false, 0.01}));
  }
  test_support::run_ranks(4, [&](int rank) {
    test_support::ThreadControl world(hub, rank);
    Supervisor& mine = *members[static_cast<std::size_t>(rank)];
    mine.connect(world);
    std::this_thread::sleep_for(1s);  // until it has been told
    world.barrier();
    mine.progress().begin("misc", 3);
    mine.progress().set_waiting(rank != 3);
  });
  const auto begin = std::chrono::steady_clock::now();
  while (codes[0] == 0 && std::chrono::steady_clock::now() - begin < kLong) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(codes[0], 3);
  EXPECT_EQ(found.rank, 3);
  EXPECT_THAT(found.message, HasSubstr("no end after 3 s: rank 3 (host "));
  EXPECT_EQ(reports[0], 1);
  EXPECT_EQ(reports[1] + reports[2] + reports[3], 0) << "the other host leaves it to rank 0";
  while (codes[2] == 0 && std::chrono::steady_clock::now() - begin < kLong) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(codes[2], 3) << "and hears what has become of the job";
}

/// A process that takes a slot of this board and dies there.
TEST(Board, ProcessThatDiedIsNamed) {
  Launch launch;
  launch.local_size = launch.size = 2;
  launch.job = "test-died-" + std::to_string(getpid());
  const auto board = Board::join(launch);
  ASSERT_EQ(board->slots(), 2);
  const pid_t child = fork();
  if (child == 0) {
    const auto same = Board::join(launch);
    same->attach(1, 1);
    transport::Progress(&same->slot(1).where).begin("load", 60);
    _exit(5);
  }
  std::atomic<int> code = -1;
  Failure found;
  Supervisor supervisor(*board, 0, 0,
                        {[&](const Failure& failure) {
                           found = failure;
                           return 3;
                         },
                         [&](int end) { code = end; }, false, 0.01});
  const auto begin = std::chrono::steady_clock::now();
  while (code < 0 && std::chrono::steady_clock::now() - begin < kLong) std::this_thread::sleep_for(1ms);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(code, 3);
  EXPECT_EQ(found.rank, 1);
  EXPECT_EQ(found.phase, "load");
  EXPECT_THAT(found.message, HasSubstr("pid " + std::to_string(child) + ") has died in phase load"));
}

std::vector<std::string> names_in_shared_memory(const std::string& part) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    if (entry.path().string().find(part) != std::string::npos) found.push_back(entry.path().string());
  return found;
}

TEST(Board, LeavesNothingBehind) {
  Launch launch;
  launch.local_size = launch.size = 2;
  launch.job = "test-left-" + std::to_string(getpid());
  const std::string stale = "/dev/shm/refit-" + std::to_string(getuid()) + "-stale-" + std::to_string(getpid());
  std::ofstream(stale) << "of a job that was killed";
  {
    const auto first = Board::join(launch);
    EXPECT_FALSE(std::filesystem::exists(stale));
    first->attach(0, 0);
    EXPECT_EQ(names_in_shared_memory(launch.job).size(), 1U) << "the others are still to find it";
    const auto second = Board::join(launch);
    second->attach(1, 1);
    EXPECT_EQ(names_in_shared_memory(launch.job).size(), 0U);
    EXPECT_EQ(first->slot(1).rank, 1);
  }
  {
    const auto alone = Board::join(launch);  // the other never comes
    alone->attach(0, 0);
  }
  EXPECT_EQ(names_in_shared_memory(launch.job).size(), 0U);
}

Sight sight(int rank, Sight::State state, std::int64_t collectives, bool waiting, char thread = '\0') {
  Sight one;
  one.rank = rank;
  one.state = state;
  one.collectives = collectives;
  one.waiting = waiting;
  one.thread = thread;
  return one;
}

std::vector<int> ranks_behind(const std::vector<Sight>& all) {
  std::vector<int> ranks;
  for (const Sight& one : behind(all)) ranks.push_back(one.rank);
  return ranks;
}

TEST(Behind, InOrderOfReasons) {
  using State = Sight::State;
  const Sight fit = sight(0, State::running, 5, true, 'R');
  const Sight works = sight(1, State::running, 5, false, 'R');
  EXPECT_THAT(ranks_behind({fit, works, sight(2, State::dead, 9, true)}), ElementsAre(2));
  EXPECT_THAT(ranks_behind({fit, sight(2, State::stopped, 9, true), sight(3, State::silent, 9, true)}),
              ElementsAre(2, 3));
  EXPECT_THAT(ranks_behind({fit, works, sight(2, State::absent, 0, false)}), ElementsAre(2));
  EXPECT_THAT(ranks_behind({fit, works, sight(2, State::ended, 0, false)}), ElementsAre(1));
  EXPECT_THAT(ranks_behind({fit, works, sight(2, State::running, 4, true)}), ElementsAre(2));
  EXPECT_THAT(ranks_behind({fit, sight(1, State::running, 5, true)}), ElementsAre(0, 1));
  EXPECT_THAT(ranks_behind({works, sight(2, State::running, 5, false, 'D')}), ElementsAre(2));
  EXPECT_THAT(ranks_behind({works, sight(2, State::running, 5, false, 'S')}), ElementsAre(2));
  EXPECT_TRUE(ranks_behind({sight(0, State::ended, 5, false)}).empty());
}

}  // namespace
}  // namespace refit::engine
