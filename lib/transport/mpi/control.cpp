#include <chrono>
#include <exception>
#include <limits>
#include <numeric>
#include <thread>

#include "transport/mpi/error.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/mpi/world.hpp"

namespace refit::transport {
namespace {

constexpr int kExchange = 1;  ///< the tag of its messages

int to_count(std::size_t bytes) {
  if (bytes > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    fail_runtime("a control message of {} bytes is too long for MPI", bytes);
  return static_cast<int>(bytes);
}

/// Persistent requests.
class MpiExchange final : public Exchange {
 public:
  MpiExchange(MPI_Comm comm, std::span<const Message> messages) {
    requests_.reserve(messages.size());
    for (const Message& message : messages) {
      const int count = to_count(static_cast<std::size_t>(message.bytes));
      MPI_Request& request = requests_.emplace_back(MPI_REQUEST_NULL);
      check_mpi(message.kind == Message::Kind::send
                    ? MPI_Send_init(message.data, count, MPI_BYTE, message.peer, 0, comm, &request)
                    : MPI_Recv_init(message.data, count, MPI_BYTE, message.peer, 0, comm, &request));
    }
  }
  /// Local; a request that an error has left active is freed once it is complete.
  ~MpiExchange() override {
    for (MPI_Request& request : requests_) MPI_Request_free(&request);
  }
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;

  void run() override {
    if (requests_.empty()) return;  // MPI_Startall refuses a list without storage
    const int count = static_cast<int>(requests_.size());
    check_mpi(MPI_Startall(count, requests_.data()));
    check_mpi(MPI_Waitall(count, requests_.data(), MPI_STATUSES_IGNORE));
  }

 private:
  std::vector<MPI_Request> requests_;
};

class MpiControl final : public Control {
 public:
  /// `counts`: its collectives are those of the whole job.
  MpiControl(MPI_Comm owned, Progress* progress, bool counts)
      : comm_(owned), progress_(progress), counts_(counts && progress != nullptr) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(comm_, &rank_));
    check_mpi(MPI_Comm_size(comm_, &size_));
  }
  /// Freeing is collective: while an exception unwinds, the others may never come, and the handle goes with the
  /// process.
  ~MpiControl() override {
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }
  MpiControl(const MpiControl&) = delete;
  MpiControl& operator=(const MpiControl&) = delete;

  MPI_Comm communicator() const { return comm_; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override {
    const Waiting waiting = enter();
    check_mpi(MPI_Barrier(comm_));
  }

  /// Exchanges straight from and into the messages, between ranks that have any for each other.
  std::vector<Bytes> exchange(const std::vector<Bytes>& to) override {
    REFIT_ASSERT(to.size() == static_cast<std::size_t>(size_));
    std::vector<int> send_counts;
    for (const Bytes& bytes : to) send_counts.push_back(to_count(bytes.size()));
    std::vector<int> receive_counts(to.size());
    const Waiting waiting = enter();
    check_mpi(MPI_Alltoall(send_counts.data(), 1, MPI_INT, receive_counts.data(), 1, MPI_INT, comm_));
    std::vector<Bytes> from(to.size());
    std::vector<MPI_Request> requests;
    for (int rank = 0; rank < size_; ++rank) {
      const auto at = static_cast<std::size_t>(rank);
      from[at].resize(static_cast<std::size_t>(receive_counts[at]));
      if (receive_counts[at] == 0) continue;
      check_mpi(
          MPI_Irecv(from[at].data(), receive_counts[at], MPI_BYTE, rank, kExchange, comm_, &requests.emplace_back()));
    }
    for (int rank = 0; rank < size_; ++rank) {
      const auto at = static_cast<std::size_t>(rank);
      if (send_counts[at] == 0) continue;
      check_mpi(MPI_Isend(to[at].data(), send_counts[at], MPI_BYTE, rank, kExchange, comm_, &requests.emplace_back()));
    }
    check_mpi(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE));
    return from;
  }

  std::vector<Bytes> gather(const Bytes& mine, int root) override {
    const int count = to_count(mine.size());
    std::vector<int> counts(static_cast<std::size_t>(size_));
    const Waiting waiting = enter();
    check_mpi(MPI_Gather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, root, comm_));
    std::vector<int> starts(counts.size());
    Bytes all;
    if (rank_ == root) {
      starts = offsets(counts);
      all.resize(static_cast<std::size_t>(starts.back() + counts.back()));
    }
    check_mpi(
        MPI_Gatherv(mine.data(), count, MPI_BYTE, all.data(), counts.data(), starts.data(), MPI_BYTE, root, comm_));
    return rank_ == root ? cut(all, counts) : std::vector<Bytes>{};
  }

  Bytes broadcast(Bytes bytes, int root) override {
    std::int64_t size = static_cast<std::int64_t>(bytes.size());
    const Waiting waiting = enter();
    check_mpi(MPI_Bcast(&size, 1, MPI_INT64_T, root, comm_));
    bytes.resize(static_cast<std::size_t>(size));
    check_mpi(MPI_Bcast(bytes.data(), to_count(bytes.size()), MPI_BYTE, root, comm_));
    return bytes;
  }

  void reduce_sum(std::span<std::int64_t> values, int root) override {
    const void* send = rank_ == root ? MPI_IN_PLACE : static_cast<const void*>(values.data());
    const Waiting waiting = enter();
    check_mpi(MPI_Reduce(send, values.data(), to_count(values.size()), MPI_INT64_T, MPI_SUM, root, comm_));
  }

  void max(std::span<std::uint32_t> values) override {
    const Waiting waiting = enter();
    // MPICH 4.0 compares unsigned values as signed ones: the order of these is the same once the top bit is turned.
    constexpr std::uint32_t kTop = 1U << 31;
    for (std::uint32_t& value : values) value ^= kTop;
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, values.data(), to_count(values.size()), MPI_INT32_T, MPI_MAX, comm_));
    for (std::uint32_t& value : values) value ^= kTop;
  }
  double max(double value) override {
    const Waiting waiting = enter();
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, comm_));
    return value;
  }
  std::int64_t sum(std::int64_t value) override {
    const Waiting waiting = enter();
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_SUM, comm_));
    return value;
  }
  std::int64_t max(std::int64_t value) override {
    const Waiting waiting = enter();
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_MAX, comm_));
    return value;
  }

  std::unique_ptr<Exchange> make_exchange(std::span<const Message> messages) override {
    return std::make_unique<MpiExchange>(comm_, messages);
  }

  void sleep_until_all_come() {
    const Waiting waiting = enter();
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibarrier(comm_, &request));
    for (int done = 0;;) {
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
      if (done != 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  std::unique_ptr<Control> split(int color) override { return split(color, false); }
  std::unique_ptr<Control> split(int color, bool counts) {
    MPI_Comm part = MPI_COMM_NULL;
    const Waiting waiting = enter();
    check_mpi(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, rank_, &part));
    return part == MPI_COMM_NULL ? nullptr : std::make_unique<MpiControl>(part, progress_, counts);
  }

 private:
  Waiting enter() {
    if (counts_) progress_->enter_collective();
    return Waiting(progress_);
  }

  static std::vector<int> offsets(const std::vector<int>& counts) {
    const std::int64_t total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    to_count(static_cast<std::size_t>(total));
    std::vector<int> result(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), result.begin(), 0);
    return result;
  }
  static std::vector<Bytes> cut(const Bytes& all, const std::vector<int>& counts) {
    std::vector<Bytes> parts;
    auto begin = all.begin();
    for (int count : counts) {
      parts.emplace_back(begin, begin + count);
      begin += count;
    }
    return parts;
  }

  MPI_Comm comm_;
  Progress* progress_;
  bool counts_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

MPI_Comm communicator_of(const Control* world) {
  return world == nullptr ? MPI_COMM_WORLD : dynamic_cast<const MpiControl&>(*world).communicator();
}

std::unique_ptr<Control> make_part(Control& world, std::int64_t ranks) {
  return dynamic_cast<MpiControl&>(world).split(world.rank() < ranks ? 0 : -1, true);
}

void sleep_until_all_come(Control& world) { dynamic_cast<MpiControl&>(world).sleep_until_all_come(); }

std::unique_ptr<Control> make_mpi_control(Progress* progress) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy));
  return std::make_unique<MpiControl>(copy, progress, true);
}

}  // namespace refit::transport
