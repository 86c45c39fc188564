#include "engine/mpi_start.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>

#include "transport/bytes.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/together.hpp"

namespace refit::engine {
namespace {

using transport::CollectiveError;
using transport::Control;

constexpr const char* kNoMatch = "launcher and MPI library do not match: ";

std::string use_the_right_one() {
  return fmt::format(
      "refit is built with {}: start it with that library's own launcher, or with srun --mpi=TYPE, of `srun "
      "--mpi=list` "
      "a TYPE that the library speaks (Open MPI: pmix; MPICH: pmi2, or pmix)",
      transport::MpiSession::version());
}

/// One process's refusal, as the others get it.
struct Heard {
  int rank;
  ErrorKind kind;
  std::string host, message, tensor;
};

Control::Bytes encode(const Error& error) {
  Control::Bytes bytes;
  transport::append(bytes, error.kind());
  for (const std::string& text : {host_name(), std::string(error.what()), error.tensor()})
    transport::append_text(bytes, text);
  return bytes;
}

Heard decode(int rank, const Control::Bytes& bytes) {
  transport::Reader in(bytes);
  Heard heard{rank, in.take<ErrorKind>(), "", "", ""};
  for (std::string* text : {&heard.host, &heard.message, &heard.tensor}) *text = in.take_text();
  return heard;
}

/// Returns e.g. "hosts h2, h3 (ranks 2, 3, 4)".
std::string who(const std::vector<Heard>& refusals) {
  static constexpr std::size_t kShown = 8;
  std::vector<std::string> hosts;
  std::vector<int> ranks;
  for (const Heard& one : refusals) {
    if (std::ranges::find(hosts, one.host) == hosts.end()) hosts.push_back(one.host);
    ranks.push_back(one.rank);
  }
  const auto list = [](const auto& all, const char* noun) {
    const auto shown = static_cast<std::ptrdiff_t>(std::min(kShown, all.size()));
    std::string text =
        fmt::format("{}{} {}", noun, all.size() == 1 ? "" : "s", fmt::join(all.begin(), all.begin() + shown, ", "));
    if (all.size() > kShown) text += fmt::format(" and {} more", all.size() - kShown);
    return text;
  };
  return fmt::format("{} ({})", list(hosts, "host"), list(ranks, "rank"));
}

int report_failure(const Failure& failure) {
  const bool own = failure.ending == Ending::error || failure.ending == Ending::interruption;
  say(fmt::format("{}{}", own ? fmt::format("rank {}: ", failure.rank) : "", failure.message));
  return static_cast<int>(failure.kind);
}

}  // namespace

MpiStart::MpiStart(Board& board, const Launch& launch) : board_(board), launch_(launch) {
  if (launch.size > 1 && lacks_interface(launch)) {
    end(ErrorKind::usage, fmt::format("{}srun has started {} tasks without an interface for MPI; start them with: {} "
                                      "(`srun --mpi=list` says what there is)",
                                      kNoMatch, launch.size, start_hint(launch, std::to_string(launch.size))));
  }
}

void MpiStart::returned(int size) const {
  if (size > 1 || launch_.size == 1) return;
  end(ErrorKind::usage, fmt::format("{}{} has started {} processes, and each of them is alone in MPI; {}", kNoMatch,
                                    launch_.launcher, launch_.size, use_the_right_one()));
}

void MpiStart::end(ErrorKind kind, const std::string& message) const {
  constexpr auto kPatience = std::chrono::seconds(1);  // with the first one, which the launcher may end after another
  const int code = static_cast<int>(kind);
  if (launch_.rank == 0) say("error: " + message);
  board_.code() = code;
  board_.verdict() = Verdict::reported;  // a signal ends this process with the code
  if (launch_.rank != 0) std::this_thread::sleep_for(kPatience);
  std::_Exit(code);
}

void require_no_refusal(Control& world, const Error* mine) {
  if (world.max(std::int64_t{mine == nullptr ? 0 : 1}) == 0) return;
  std::vector<Heard> refusals;
  const auto all = world.gather_all(mine == nullptr ? Control::Bytes{} : encode(*mine));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].empty()) refusals.push_back(decode(static_cast<int>(rank), all[rank]));
  }
  const Heard& first = refusals.front();
  const bool alike = std::ranges::all_of(refusals, [&](const Heard& one) { return one.message == first.message; });
  if (alike && refusals.size() == all.size()) throw CollectiveError(first.kind, first.message, {first.tensor});
  std::erase_if(refusals, [&](const Heard& one) { return one.message != first.message; });
  throw CollectiveError(first.kind,
                        fmt::format("{}: {}; other ranks do not say so: files that a case names, and the case itself, "
                                    "have to be the same on every host",
                                    who(refusals), first.message),
                        {first.tensor, first.rank});
}

Refused refuse_together(const Error& mine) {
  const Launch& launch = this_launch();
  if (launch.size == 1) return {mine, -1, true};
  const cases::Limits limits;
  const std::unique_ptr<Board> board = Board::join(launch);
  Supervisor supervisor(*board, static_cast<int>(launch.local_rank), static_cast<int>(launch.rank),
                        {report_failure, transport::MpiSession::abort});
  supervisor.progress().begin_unprofiled("MPI_Init", limits.phase());
  std::optional<Refused> refused;
  {
    MpiStart start(*board, launch);
    const transport::MpiSession session(&supervisor.progress());
    start.returned(session.size());
    const auto world = transport::make_mpi_control(&supervisor.progress());
    supervisor.connect(*world);
    supervisor.progress().begin_unprofiled("setup", limits.phase());
    try {
      require_no_refusal(*world, &mine);
    } catch (const CollectiveError& error) {
      refused = {error, error.rank(), session.rank() == 0};
    } catch (const Error& error) {
      supervisor.fail(error.kind(), error.what());
    }
    supervisor.progress().begin_unprofiled("finish", limits.phase());
    world->barrier();  // as the ranks do that have refused nothing
    supervisor.progress().begin_unprofiled("MPI_Finalize", limits.phase());
  }
  has_last_word(supervisor, refused->speaks, limits);
  return *refused;
}

bool has_last_word(Supervisor& supervisor, bool is_root, const cases::Limits& limits) {
  if (!is_root) {
    supervisor.ended();
    return false;
  }
  supervisor.progress().begin_unprofiled("wait for all ranks to end", limits.phase());
  supervisor.await_others();
  supervisor.progress().begin_unprofiled("report", limits.phase());
  supervisor.conclude();
  return true;
}

}  // namespace refit::engine
