#include <limits>
#include <numeric>

#include "transport/mpi.hpp"
#include "transport/mpi_error.hpp"

namespace refit::transport {
namespace {

int to_count(std::size_t bytes) {
  if (bytes > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    fail_runtime("a control message of {} bytes is too long for MPI", bytes);
  return static_cast<int>(bytes);
}

class MpiControl final : public Control {
 public:
  /// `counts`: its collectives are those of the whole job.
  MpiControl(MPI_Comm owned, Progress* progress, bool counts)
      : comm_(owned), progress_(progress), counts_(counts && progress != nullptr) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(comm_, &rank_));
    check_mpi(MPI_Comm_size(comm_, &size_));
  }
  ~MpiControl() override { MPI_Comm_free(&comm_); }
  MpiControl(const MpiControl&) = delete;
  MpiControl& operator=(const MpiControl&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override {
    const Waiting waiting = enter();
    check_mpi(MPI_Barrier(comm_));
  }

  std::vector<Bytes> exchange(const std::vector<Bytes>& to) override {
    REFIT_ASSERT(to.size() == static_cast<std::size_t>(size_));
    std::vector<int> send_counts;
    Bytes sent;
    for (const Bytes& bytes : to) {
      send_counts.push_back(to_count(bytes.size()));
      sent.insert(sent.end(), bytes.begin(), bytes.end());
    }
    std::vector<int> receive_counts(to.size());
    const Waiting waiting = enter();
    check_mpi(MPI_Alltoall(send_counts.data(), 1, MPI_INT, receive_counts.data(), 1, MPI_INT, comm_));
    const std::vector<int> send_offsets = offsets(send_counts);
    const std::vector<int> receive_offsets = offsets(receive_counts);
    Bytes received(static_cast<std::size_t>(receive_offsets.back() + receive_counts.back()));
    check_mpi(MPI_Alltoallv(sent.data(), send_counts.data(), send_offsets.data(), MPI_BYTE, received.data(),
                            receive_counts.data(), receive_offsets.data(), MPI_BYTE, comm_));
    return cut(received, receive_counts);
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

  std::unique_ptr<Control> split(int color) override {
    MPI_Comm part = MPI_COMM_NULL;
    const Waiting waiting = enter();
    check_mpi(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, rank_, &part));
    return part == MPI_COMM_NULL ? nullptr : std::make_unique<MpiControl>(part, progress_, false);
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

std::unique_ptr<Control> make_mpi_control(Progress* progress) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy));
  return std::make_unique<MpiControl>(copy, progress, true);
}

}  // namespace refit::transport
