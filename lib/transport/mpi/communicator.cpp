#include <algorithm>
#include <exception>

#include "transport/mpi/error.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/mpi/world.hpp"

namespace refit::transport {
namespace {

class MpiRequest final : public Request {
 public:
  explicit MpiRequest(std::int64_t capacity) {
    pending_.reserve(static_cast<std::size_t>(capacity));
    statuses_.reserve(static_cast<std::size_t>(capacity));
  }

  bool test() override {
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

 private:
  std::vector<MPI_Request> pending_;
  std::vector<MPI_Status> statuses_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm owned, int lanes, std::int64_t operation_bytes)
      : comm_(owned), lanes_(lanes), operation_bytes_(operation_bytes) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(comm_, &rank_));
    check_mpi(MPI_Comm_size(comm_, &size_));
  }
  /// Freeing is collective: while an exception unwinds, the others may never come, and the handle goes with the
  /// process.
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
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

  void broadcast(std::byte* data, std::int64_t bytes, int root, Request& request) override {
    auto& pending = static_cast<MpiRequest&>(request).pending();
    for (std::int64_t done = 0; done < bytes; done += operation_bytes_) {
      MPI_Request& handle = pending.emplace_back(MPI_REQUEST_NULL);
      check_mpi(MPI_Ibcast(data + done, static_cast<int>(std::min(operation_bytes_, bytes - done)), MPI_BYTE, root,
                           comm_, &handle));
    }
  }

 private:
  MPI_Comm comm_;
  int lanes_;
  std::int64_t operation_bytes_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const std::vector<int>& members, int tag, int lanes,
                                                    const Control* world, std::int64_t operation_bytes) {
  const MPI_Comm all = communicator_of(world);
  MPI_Group ranks = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(all, &ranks));
  check_mpi(MPI_Group_incl(ranks, static_cast<int>(members.size()), members.data(), &group));
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_create_group(all, group, tag, &comm));
  check_mpi(MPI_Group_free(&group));
  check_mpi(MPI_Group_free(&ranks));
  return std::make_unique<MpiCommunicator>(comm, lanes, operation_bytes);
}

}  // namespace refit::transport
