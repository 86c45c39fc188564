#pragma once
// How rank 0's supervisor learns of ranks on other hosts: one process of each host keeps a TCP connection to it, says
// twice a second where its host's ranks are, and hears that rank 0 lives and what has become of the job. Only the
// supervisors' threads use it once it is there; nothing of it is in the way of the data.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/behind.hpp"
#include "engine/failure.hpp"

namespace refit::engine {

/// What a host has said last.
struct News {
  std::int64_t at = 0;  ///< now_ns here
  std::vector<Sight> sights;
  std::optional<Failure> failure;  ///< that the host's ranks have on their board
};

/// What rank 0 answers.
struct Answer {
  std::int64_t at = 0;  ///< now_ns here; 0 = nothing yet
  Verdict verdict = Verdict::none;
  int code = 0;
};

/// Rank 0's end. Talks only to those who know its token.
class Listener {
 public:
  Listener();
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  /// Where it can be reached: port, token and this host's addresses as text; empty where it cannot.
  std::string address() const;
  /// Takes what has come and answers; does not wait.
  void serve(Verdict verdict, int code);
  /// By host; one that has not spoken is not here.
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

  /// Connects where that has not been done yet, and sends. Takes a second at most. `host`: its name; with something
  /// behind a '#' where it has several boards.
  void tell(const std::string& host, const News& news);
  /// What has come from rank 0.
  const Answer& hear();
  /// The last that has come.
  const Answer& last() const { return answer_; }

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
