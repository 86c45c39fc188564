// What ranks of a world are told when one of them dies, is late, calls something else, or was never there. Ranks are
// processes, and every one of them lives on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>

#include "core/clock.hpp"
#include "support/forked_ranks.hpp"
#include "transport/sockets.hpp"
#include "transport/sockets/address.hpp"

namespace refit::test_support {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using transport::AllGather;
using transport::complete;
using transport::Control;
using transport::Message;
using transport::PeerError;
using transport::SocketMesh;
using transport::SocketOptions;

struct World {
  World(int rank, int ranks, const AllGather& all_gather, const SocketOptions& options = {})
      : mesh(rank, ranks, all_gather, options), control(transport::make_socket_control(mesh)) {}
  std::unique_ptr<transport::Communicator> communicator() {
    std::vector<int> members(static_cast<std::size_t>(mesh.size()));
    std::iota(members.begin(), members.end(), 0);
    return make_socket_communicator(mesh, members, 0, 1);
  }
  SocketMesh mesh;
  std::unique_ptr<Control> control;
};

/// Returns "RANK: text" of the error that `body` throws, and how long it took; and makes sure that the mesh throws the
/// same again at once.
std::string failure(World& world, const std::function<void()>& body) {
  const double start = now();
  try {
    body();
  } catch (const PeerError& error) {
    const double seconds = now() - start;
    try {
      world.control->barrier();
      return "the mesh lives on";
    } catch (const Error& again) {
      if (std::string(again.what()) != error.what()) return std::string("another error: ") + again.what();
    }
    return fmt::format("{}: {} [{:.1f} s]", error.rank(), error.what(), seconds);
  }
  return "no error";
}

void pause(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

using Seconds = double;
Seconds seconds_of(const std::string& text) { return std::strtod(text.c_str() + text.rfind('[') + 1, nullptr); }

/// A body that runs where one rank is killed: in every kind of wait.
struct Waits {
  const char* name;
  std::function<void(World&)> body;
};

std::vector<Waits> all_waits() {
  const auto posted = [](World& world, Message::Kind kind, std::size_t bytes) {
    const auto communicator = world.communicator();
    std::vector<std::byte> data(bytes);
    const auto request = communicator->make_request(1);
    const Message message{kind, 1, data.data(), std::ssize(data)};
    world.control->barrier();
    communicator->post(std::span(&message, 1), 0, *request);
    complete(*request);
  };
  return {{"barrier", [](World& world) { world.control->barrier(); }},
          {"sum", [](World& world) { world.control->sum(std::int64_t{1}); }},
          {"gather", [](World& world) { world.control->gather({}, world.mesh.rank()); }},
          {"broadcast", [](World& world) { world.control->broadcast({}, 1); }},
          {"exchange",
           [](World& world) { world.control->exchange(std::vector<Control::Bytes>(4, Control::Bytes(3 << 20))); }},
          {"a receive", [&](World& world) { posted(world, Message::Kind::receive, 100); }},
          {"a send", [&](World& world) { posted(world, Message::Kind::send, 100 << 20); }}};
}

TEST(SocketFailures, ADeadRankIsNamedWhereverOthersWait) {
  for (const Waits& waits : all_waits()) {
    SCOPED_TRACE(waits.name);
    const bool messages = std::strncmp(waits.name, "a ", 2) == 0;
    const auto ended = fork_ranks(4, [&](int rank, const AllGather& all_gather) {
      World world(rank, 4, all_gather);
      if (rank == 1) {
        if (messages) {
          const auto communicator = world.communicator();
          world.control->barrier();
          pause(0.3);
          raise(SIGKILL);
        }
        pause(0.3);
        raise(SIGKILL);
      }
      return failure(world, [&] { waits.body(world); });
    });
    EXPECT_EQ(WTERMSIG(ended[1].status), SIGKILL);
    for (const int rank : {0, 2, 3}) {
      const std::string& text = ended[static_cast<std::size_t>(rank)].text;
      EXPECT_THAT(text, ContainsRegex("^1: rank 1 \\(.*, pid [0-9]+\\) is gone"));
      EXPECT_LT(seconds_of(text), 1.3);
    }
  }
}

/// Children of a dead rank, as torch's data loaders, have none of its connections.
TEST(SocketFailures, ADeadRankIsNamedWhileItsChildrenLive) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) {
    World world(rank, 2, all_gather);
    if (rank == 1) {
      const pid_t child = fork();
      if (child == 0) {
        try {
          world.control->barrier();
        } catch (const Error& error) {
          pause(std::string(error.what()).find("is a child of rank 1") == std::string::npos ? 0 : 5);
        }
        _exit(0);
      }
      pause(0.2);
      raise(SIGKILL);
    }
    return failure(world, [&] { world.control->barrier(); });
  });
  EXPECT_THAT(ended[0].text, HasSubstr("is gone"));
  EXPECT_LT(seconds_of(ended[0].text), 1.3);
}

/// A child's end is not its parent's.
TEST(SocketFailures, AChildThatEndsHarmsNobody) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) {
    auto world = std::make_unique<World>(rank, 2, all_gather);
    const pid_t child = fork();
    if (child == 0) {
      world.reset();
      _exit(0);
    }
    waitpid(child, nullptr, 0);
    return std::to_string(world->control->sum(std::int64_t{1}));
  });
  for (const Ended& one : ended) EXPECT_EQ(one.text, "2");
}

TEST(SocketFailures, ALateRankIsNamed) {
  const auto ended = fork_ranks(3, [&](int rank, const AllGather& all_gather) {
    World world(rank, 3, all_gather, {1.5, ""});
    if (rank == 2) pause(2.5);
    return failure(world, [&] { world.control->barrier(); });
  });
  for (const Ended& one : ended) {
    EXPECT_THAT(one.text,
                ContainsRegex("^2: rank 2 \\(.*, pid [0-9]+\\) keeps rank [01] waiting for 1.5 s in barrier"));
  }
}

/// Rank 0 waits for rank 1, which waits for rank 2: that one is behind.
TEST(SocketFailures, WhoeverWaitsItselfIsNotBehind) {
  const auto ended = fork_ranks(3, [&](int rank, const AllGather& all_gather) {
    World world(rank, 3, all_gather, {2.5, ""});
    const auto members = std::vector<int>{1, 2};
    std::unique_ptr<transport::Communicator> pair;
    if (rank > 0) pair = make_socket_communicator(world.mesh, members, 0, 1);
    if (rank == 2) pause(4);
    return failure(world, [&] {
      if (rank > 0) {
        std::byte data{};
        const auto request = pair->make_request(1);
        pair->broadcast(&data, 1, 1, *request);
        complete(*request);
      }
      world.control->broadcast({}, 1);
    });
  });
  for (const Ended& one : ended) EXPECT_THAT(one.text, ContainsRegex("^2: rank 2 .* keeps rank [01] waiting"));
}

TEST(SocketFailures, ALateRankKeepsOthersWaitingForMessages) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) {
    transport::Progress progress;
    progress.at("bulk");
    World world(rank, 2, all_gather, {1.5, "", &progress});
    const auto communicator = world.communicator();
    if (rank == 1) pause(2.5);
    return failure(world, [&] {
      std::byte data{};
      const auto request = communicator->make_request(1);
      const Message message{Message::Kind::receive, 1 - rank, &data, 1};
      communicator->post(std::span(&message, 1), 0, *request);
      complete(*request);
    });
  });
  // The late rank hears of it too.
  for (const Ended& one : ended) {
    EXPECT_THAT(
        one.text,
        ContainsRegex("^1: rank 1 \\(.*, pid [0-9]+\\) keeps rank 0 waiting for 1.5 s in messages, phase .bulk."));
  }
  EXPECT_GT(seconds_of(ended[0].text), 1.4);
  EXPECT_LT(seconds_of(ended[0].text), 2.3);
}

TEST(SocketFailures, RanksThatAreOutOfStepAreTold) {
  struct Case {
    std::function<void(Control&)> first, others;
    const char* text;
  };
  const std::vector<Case> cases{
      {[](Control& c) { c.barrier(); }, [](Control& c) { c.broadcast({}, 1); }, "barrier (call 1)"},
      // Rank 0, whose own broadcast waits for nobody, may be further.
      {[](Control& c) { c.broadcast({}, 0); }, [](Control& c) { c.broadcast({}, 1); }, "broadcast of root "},
      {[](Control& c) { c.sum(std::int64_t{1}); }, [](Control& c) { c.max(std::int64_t{1}); }, "sum (call 1)"},
      {[](Control& c) { c.gather({}, 0); }, [](Control& c) { c.exchange(std::vector<Control::Bytes>(3)); },
       "exchange (call 1)"},
      {[](Control& c) {
         std::vector<std::uint32_t> values(100);
         c.max(values);
       },
       [](Control& c) {
         std::vector<std::uint32_t> values(200);
         c.max(values);
       },
       " bytes in max"}};
  for (const Case& one : cases) {
    SCOPED_TRACE(one.text);
    const auto ended = fork_ranks(3, [&](int rank, const AllGather& all_gather) {
      World world(rank, 3, all_gather, {30, ""});
      return failure(world, [&] {
        (rank == 0 ? one.first : one.others)(*world.control);
        world.control->barrier();
        world.control->barrier();
      });
    });
    for (const Ended& rank : ended) {
      EXPECT_THAT(rank.text, AllOf(HasSubstr("out of step: rank "), HasSubstr(one.text)));
      EXPECT_LT(seconds_of(rank.text), 5);
    }
  }
}

TEST(SocketFailures, MessagesOfUnequalLengthAreTold) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) {
    World world(rank, 2, all_gather, {30, ""});
    const auto communicator = world.communicator();
    return failure(world, [&] {
      std::vector<std::byte> data(100);
      const auto request = communicator->make_request(1);
      const Message message{rank == 0 ? Message::Kind::send : Message::Kind::receive, 1 - rank, data.data(),
                            rank == 0 ? 10 : 100};
      communicator->post(std::span(&message, 1), 0, *request);
      complete(*request);
      world.control->barrier();
    });
  });
  for (const Ended& one : ended)
    EXPECT_THAT(one.text, HasSubstr("sends a message of 10 bytes, and rank 1 wants one of 100"));
}

TEST(SocketFailures, WhoeverHasLeftIsNamed) {
  const auto ended = fork_ranks(3, [&](int rank, const AllGather& all_gather) {
    auto world = std::make_unique<World>(rank, 3, all_gather);
    world->control->barrier();
    if (rank == 2) return std::string("left");
    pause(0.3);
    // Ranks 0 and 1 need nobody else for this: a rank that leaves breaks nothing.
    const auto part = make_socket_communicator(world->mesh, {0, 1}, 0, 1);
    if (rank == 0) pause(0.3);  // rank 1 may not have heard yet that it is connected
    return failure(*world, [&] { world->control->barrier(); });
  });
  EXPECT_EQ(ended[2].text, "left");
  for (const int rank : {0, 1})
    EXPECT_THAT(ended[static_cast<std::size_t>(rank)].text, ContainsRegex("^2: rank 2 .* has closed its world"));
}

TEST(SocketFailures, AnExceptionInTheMidstOfAnotherCallIsToldToAll) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) {
    auto world = std::make_unique<World>(rank, 2, all_gather);
    const auto communicator = world->communicator();
    if (rank == 1) {
      std::vector<std::byte> data(10);
      const auto request = communicator->make_request(1);
      const Message message{Message::Kind::receive, 0, data.data(), 10};
      communicator->post(std::span(&message, 1), 0, *request);
      return std::string("given up");
    }
    return failure(*world, [&] { world->control->barrier(); });
  });
  EXPECT_THAT(ended[0].text, ContainsRegex("^1: rank 1 .* has given up messages"));
}

TEST(SocketFailures, AnInterfaceThatIsNotThereIsToldToAll) {
  const auto ended = fork_ranks(3, [&](int rank, const AllGather& all_gather) -> std::string {
    try {
      World world(rank, 3, all_gather, {60, rank == 1 ? "nothere7" : ""});
    } catch (const PeerError& error) {
      return fmt::format("{}: {}", error.rank(), error.what());
    }
    return "no error";
  });
  for (const Ended& one : ended) {
    EXPECT_THAT(one.text, ContainsRegex("^1: rank 1 \\(.*, pid [0-9]+\\): interface nothere7: this host has none"));
    EXPECT_THAT(one.text, HasSubstr("lo"));
  }
}

TEST(SocketFailures, ARankThatDiesBeforeItHasConnectedIsNamed) {
  for (const int dies : {0, 2}) {
    const auto ended = fork_ranks(3, [&](int rank, const AllGather& all_gather) -> std::string {
      const double start = now();
      try {
        World world(rank, 3, [&](const void* mine, void* all, std::size_t bytes) {
          all_gather(mine, all, bytes);
          if (rank == dies) raise(SIGKILL);
          pause(0.3);
        });
        world.control->barrier();
      } catch (const PeerError& error) {
        return fmt::format("{}: {} [{:.1f} s]", error.rank(), error.what(), now() - start);
      }
      return "no error";
    });
    for (int rank = 0; rank < 3; ++rank) {
      if (rank == dies) continue;
      const std::string& text = ended[static_cast<std::size_t>(rank)].text;
      EXPECT_THAT(text, ContainsRegex(fmt::format("rank {} \\(.*(is gone|cannot be reached)", dies)));
      EXPECT_LT(seconds_of(text), 3);
    }
  }
}

/// Calls the first rank of some cards as somebody else, once with noise and once without a word; nobody hangs up.
void call_as_strangers(const void* cards) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = static_cast<const transport::Card*>(cards)->unix_name.data();
  name.copy(address.sun_path + 1, name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const int noisy = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const int silent = ::socket(AF_UNIX, SOCK_STREAM, 0);
  for (const int caller : {noisy, silent}) {
    if (::connect(caller, reinterpret_cast<const sockaddr*>(&address), size) != 0) raise(SIGABRT);
  }
  const std::string noise(100, 'x');
  if (::send(noisy, noise.data(), noise.size(), MSG_NOSIGNAL) < 0) raise(SIGABRT);
}

TEST(SocketFailures, StrangersAreSentAway) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) {
    World world(rank, 2, [&](const void* mine, void* all, std::size_t bytes) {
      all_gather(mine, all, bytes);
      if (rank == 1) call_as_strangers(all);
    });
    return std::to_string(world.control->sum(std::int64_t{1}));
  });
  for (const Ended& one : ended) EXPECT_EQ(one.text, "2");
}

TEST(SocketFailures, ARankThatDoesNotCallIsNamed) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) -> std::string {
    try {
      World world(rank, 2,
                  [&](const void* mine, void* all, std::size_t bytes) {
                    all_gather(mine, all, bytes);
                    if (rank == 1) call_as_strangers(all);
                    if (rank == 1) pause(2.5);
                  },
                  {1.5, ""});
    } catch (const PeerError& error) {
      return fmt::format("{}: {}", error.rank(), error.what());
    }
    return "no error";
  });
  EXPECT_THAT(ended[0].text, ContainsRegex("^1: rank 1 \\(.*, pid [0-9]+\\) at .* has not called rank 0 within 1.5 s"));
  EXPECT_THAT(ended[0].text, HasSubstr("; 1 connections of strangers were refused"));
  EXPECT_THAT(ended[1].text, ContainsRegex("^0: rank 0 .* cannot be reached from rank 1: Connection refused"));
}

TEST(SocketFailures, AnotherWorldsProcessIsFoundOut) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) -> std::string {
    try {
      World world(rank, 2,
                  [&](const void* mine, void* all, std::size_t bytes) {
                    all_gather(mine, all, bytes);
                    // Rank 1 believes in another token, as if rank 0's address belonged to another world.
                    if (rank == 1) static_cast<transport::Card*>(all)->token.fill(std::byte{9});
                  },
                  {2, ""});
    } catch (const PeerError& error) {
      return fmt::format("{}: {}", error.rank(), error.what());
    }
    return "no error";
  });
  EXPECT_THAT(ended[0].text, ContainsRegex("^1: rank 1 .* (is gone|has not called)"));
  EXPECT_THAT(ended[1].text, ContainsRegex("^0: rank 0 .* is gone, or refuses rank 1"));
}

TEST(SocketFailures, GatheredCardsMustMakeSense) {
  const auto ended = fork_ranks(2, [&](int rank, const AllGather& all_gather) -> std::string {
    try {
      World world(rank, 2, [&](const void* mine, void* all, std::size_t bytes) {
        all_gather(mine, all, bytes);
        auto* cards = static_cast<std::byte*>(all);
        if (rank == 0) std::swap_ranges(cards, cards + bytes, cards + bytes);
        if (rank == 1) std::fill(cards, cards + bytes, std::byte{0});
      });
    } catch (const PeerError& error) {
      return error.what();
    }
    return "no error";
  });
  EXPECT_THAT(ended[0].text, HasSubstr("stands where rank 0 of 2 belongs in the all-gather"));
  EXPECT_THAT(ended[1].text, HasSubstr("rank 0 answers in another way"));
}

}  // namespace
}  // namespace refit::test_support
