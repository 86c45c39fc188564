#pragma once
// Connections by which rank 0's supervisor learns of ranks on other hosts. One process of each host keeps a TCP
// connection to it, reports the state of its host's ranks twice a second, and hears that rank 0 lives and what has
// become of the job. Only the supervisors' threads use a connection once it is there; it does not delay the data.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/behind.hpp"
#include "engine/failure.hpp"

namespace refit::engine {

/// The last message of a host.
struct News {
  std::int64_t at = 0;  ///< now_ns here
  std::vector<Sight> sights;
  std::optional<Failure> failure;  ///< that the host's ranks have on their board
};

/// The answer of rank 0.
struct Answer {
  std::int64_t at = 0;  ///< now_ns here; 0 = nothing yet
  Verdict verdict = Verdict::none;
  int code = 0;
  Sight root;  ///< rank 0 itself
};

/// Rank 0's end. Talks only to peers that know its token.
class Listener {
 public:
  Listener();
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  /// Returns the listener's address as text: port, token and this host's addresses; empty where it cannot be reached.
  std::string address() const;
  /// Receives the messages that have arrived and answers with the verdict, its code and rank 0's place; does not wait.
  void serve(Verdict verdict, int code, const Sight& root);
  /// Returns the last messages by host; a host that has sent none is missing.
  const std::map<std::string, News>& news() const { return news_; }

 private:
  struct Peer {
    int socket;
    std::string received;
  };
  bool take(Peer& peer, const Answer& answer);

  int socket_ = -1;
  int port_ = 0;
  std::uint64_t token_ = 0;
  std::vector<Peer> peers_;
  std::map<std::string, News> news_;
};

/// The end of a host without rank 0.
class Teller {
 public:
  explicit Teller(const std::string& address);
  ~Teller();
  Teller(const Teller&) = delete;
  Teller& operator=(const Teller&) = delete;

  /// Connects where that has not been done yet, and sends. Takes a second at most. `host`: its name, followed by '#'
  /// and a number where it has several boards.
  void tell(const std::string& host, const News& news);
  /// Receives from rank 0, and returns its last answer.
  const Answer& hear();
  /// Returns the last answer.
  const Answer& last() const { return answer_; }
  /// Returns whether there was a connection, which has ended.
  bool is_lost() const { return answer_.at != 0 && socket_ < 0; }

 private:
  void connect();
  void drop();

  int port_ = 0;
  std::uint64_t token_ = 0;
  std::vector<std::string> addresses_;
  std::size_t next_ = 0;  ///< of addresses_
  int socket_ = -1;
  std::string received_;
  Answer answer_;
};

}  // namespace refit::engine
