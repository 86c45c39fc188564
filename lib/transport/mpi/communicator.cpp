#include <algorithm>
#include <exception>
#include <iterator>
#include <list>
#include <utility>

#include "core/box.hpp"
#include "transport/host_chain.hpp"
#include "transport/mpi/error.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/mpi/world.hpp"

namespace refit::transport {
namespace {

/// Parts of a broadcast between hosts: large enough for a link, small enough that hosts work at the same time.
constexpr std::int64_t kPartBytes = 1 << 20;
/// Most parts of a broadcast, and most broadcasts under way: their tags differ, since those of different roots overtake
/// each other. Together below the 32,767 tags that every MPI has.
constexpr std::int64_t kMostParts = 256;
constexpr int kMostBroadcasts = 120;

/// A rank's part in a broadcast from host to host: it sends each part on once it is there.
class Relay {
 public:
  Relay(MPI_Comm comm, std::byte* data, std::int64_t bytes, const HostChain::Place& place, int tag)
      : comm_(comm), data_(data), bytes_(bytes), children_(place.children), tag_(tag) {
    part_bytes_ = std::max(kPartBytes, ceil_div(bytes, kMostParts));
    if (place.parent < 0) return;
    for (std::int64_t part = 0; part < parts(); ++part) {
      check_mpi(MPI_Irecv(data_ + part * part_bytes_, size(part), MPI_BYTE, place.parent, tag_ + static_cast<int>(part),
                          comm_, &receives_.emplace_back(MPI_REQUEST_NULL)));
    }
  }

  /// Sends on what is there; returns whether this rank has done its part.
  bool advance() {
    for (; next_ < parts(); ++next_) {
      if (!receives_.empty()) {
        int done = 0;
        check_mpi(MPI_Test(&receives_[static_cast<std::size_t>(next_)], &done, MPI_STATUS_IGNORE));
        if (done == 0) return false;
      }
      for (const int child : children_) {
        check_mpi(MPI_Isend(data_ + next_ * part_bytes_, size(next_), MPI_BYTE, child, tag_ + static_cast<int>(next_),
                            comm_, &sends_.emplace_back(MPI_REQUEST_NULL)));
      }
    }
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(sends_.size()), sends_.data(), &done, MPI_STATUSES_IGNORE));
    return done != 0;
  }

 private:
  std::int64_t parts() const { return ceil_div(bytes_, part_bytes_); }
  int size(std::int64_t part) const { return static_cast<int>(std::min(part_bytes_, bytes_ - part * part_bytes_)); }

  MPI_Comm comm_;
  std::byte* data_;
  std::int64_t bytes_;
  std::int64_t part_bytes_ = 1;
  std::vector<int> children_;
  int tag_;
  std::vector<MPI_Request> receives_;  ///< by part; the root has none
  std::vector<MPI_Request> sends_;
  std::int64_t next_ = 0;  ///< part to send on
};

/// The broadcasts between hosts of a communicator that are under way. Whoever waits for one of them sends on the parts
/// of all: other ranks may wait for another one.
using Relays = std::list<Relay>;

class MpiRequest final : public Request {
 public:
  explicit MpiRequest(std::int64_t capacity) {
    pending_.reserve(static_cast<std::size_t>(capacity));
    statuses_.reserve(static_cast<std::size_t>(capacity));
  }

  bool test() override {
    for (std::size_t i = relays_.size(); i-- > 0;) {
      const auto [all, mine] = relays_[i];
      for (auto relay = all->begin(); relay != all->end(); ++relay) {
        if (!relay->advance() || relay != mine) continue;
        all->erase(mine);
        relays_.erase(relays_.begin() + static_cast<std::ptrdiff_t>(i));
        break;
      }
    }
    if (!relays_.empty()) return false;
    int done = 0;
    statuses_.resize(pending_.size());
    const int code = MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &done, statuses_.data());
    if (code == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& status : statuses_) {
        if (status.MPI_ERROR != MPI_ERR_PENDING) check_mpi(status.MPI_ERROR);
      }
    }
    check_mpi(code);
    if (done != 0) pending_.clear();
    return done != 0;
  }

  std::vector<MPI_Request>& pending() { return pending_; }
  void wait_for(Relays& all) { relays_.emplace_back(&all, std::prev(all.end())); }

 private:
  std::vector<std::pair<Relays*, Relays::iterator>> relays_;
  std::vector<MPI_Request> pending_;
  std::vector<MPI_Status> statuses_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm owned, HostChain chain, int lanes, std::int64_t operation_bytes)
      : comm_(owned), chain_(std::move(chain)), lanes_(lanes), operation_bytes_(operation_bytes) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(comm_, &rank_));
    check_mpi(MPI_Comm_size(comm_, &size_));
    if (chain_.has_several_hosts()) check_mpi(MPI_Comm_dup(comm_, &relayed_));
  }
  /// Freeing is collective: while an exception unwinds, the others may never come, and the handle goes with the
  /// process.
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() != 0) return;
    MPI_Comm_free(&comm_);
    if (relayed_ != MPI_COMM_NULL) MPI_Comm_free(&relayed_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::unique_ptr<Request> make_request(std::int64_t capacity) override {
    return std::make_unique<MpiRequest>(capacity);
  }

  void post(std::span<const Message> group, int lane, Request& request) override {
    REFIT_ASSERT(lane >= 0 && lane < lanes_);
    auto& pending = static_cast<MpiRequest&>(request).pending();
    for (const Message& message : group) {
      REFIT_ASSERT(message.bytes <= operation_bytes_);
      const int count = static_cast<int>(message.bytes);
      MPI_Request& handle = pending.emplace_back(MPI_REQUEST_NULL);
      check_mpi(message.kind == Message::Kind::send
                    ? MPI_Isend(message.data, count, MPI_BYTE, message.peer, lane, comm_, &handle)
                    : MPI_Irecv(message.data, count, MPI_BYTE, message.peer, lane, comm_, &handle));
    }
  }

  /// Between hosts along a chain: MPI's own trees go by ranks, and would bring a byte to a host several times.
  void broadcast(std::byte* data, std::int64_t bytes, int root, Request& any) override {
    auto& request = static_cast<MpiRequest&>(any);
    for (std::int64_t done = 0; done < bytes; done += operation_bytes_) {
      const std::int64_t part = std::min(operation_bytes_, bytes - done);
      if (relayed_ != MPI_COMM_NULL) {
        const int tag = number_++ % kMostBroadcasts * static_cast<int>(kMostParts);
        relays_.emplace_back(relayed_, data + done, part, chain_.place(rank_, root), tag);
        request.wait_for(relays_);
        continue;
      }
      MPI_Request& handle = request.pending().emplace_back(MPI_REQUEST_NULL);
      check_mpi(MPI_Ibcast(data + done, static_cast<int>(part), MPI_BYTE, root, comm_, &handle));
    }
    request.test();
  }

 private:
  MPI_Comm comm_;
  MPI_Comm relayed_ = MPI_COMM_NULL;  ///< of broadcasts between hosts; none: there is one host
  HostChain chain_;
  int lanes_;
  std::int64_t operation_bytes_;
  int rank_ = 0;
  int size_ = 1;
  int number_ = 0;  ///< of the next broadcast; the same on all ranks
  Relays relays_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const std::vector<int>& members, int tag, int lanes,
                                                    const Control* world, std::int64_t operation_bytes,
                                                    const std::vector<int>& hosts) {
  const MPI_Comm all = communicator_of(world);
  MPI_Group ranks = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(all, &ranks));
  check_mpi(MPI_Group_incl(ranks, static_cast<int>(members.size()), members.data(), &group));
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_create_group(all, group, tag, &comm));
  check_mpi(MPI_Group_free(&group));
  check_mpi(MPI_Group_free(&ranks));
  std::vector<int> of_members(members.size(), 0);
  for (std::size_t i = 0; i < members.size() && !hosts.empty(); ++i)
    of_members[i] = hosts[static_cast<std::size_t>(members[i])];
  return std::make_unique<MpiCommunicator>(comm, HostChain(of_members), lanes, operation_bytes);
}

}  // namespace refit::transport
