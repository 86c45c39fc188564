#include <cstdlib>
#include <deque>
#include <thread>

#include "transport/cuda.hpp"
#include "transport/cuda_device.hpp"
#include "transport/nccl.hpp"
#include "transport/nccl_lane.hpp"
#include "transport/nccl_rules.hpp"

namespace refit::transport {
namespace {

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Control& members, int lanes, double timeout_seconds) : rank_(members.rank()), size_(members.size()) {
    REFIT_ASSERT(lanes >= 1);
    for (const ncclUniqueId& id : unique_ids(members, lanes)) lanes_.emplace_back(rank_, size_, id, timeout_seconds);
    warm_up(timeout_seconds);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::unique_ptr<Request> make_request(std::int64_t capacity) override {
    return std::make_unique<NcclRequest>(capacity);
  }

  void post(std::span<const Message> group, int lane, Request& request) override {
    lanes_[static_cast<std::size_t>(lane)].post(group, static_cast<NcclRequest&>(request));
  }

  void broadcast(std::byte* data, std::int64_t bytes, int root, Request& request) override {
    const auto kind = rank_ == root ? Message::Kind::send : Message::Kind::receive;
    lanes_.front().broadcast({kind, root, data, bytes}, static_cast<NcclRequest&>(request));
  }

 private:
  /// Made by member 0, one for each lane. Collective over `members`.
  static std::vector<ncclUniqueId> unique_ids(Control& members, int lanes) {
    Control::Bytes bytes;
    for (int lane = 0; members.rank() == 0 && lane < lanes; ++lane) {
      ncclUniqueId id;
      const ncclResult_t result = ncclGetUniqueId(&id);
      if (result != ncclSuccess) fail_runtime("NCCL: a unique id: {}", ncclGetErrorString(result));
      append(bytes, id);
    }
    return read_all<ncclUniqueId>(members.broadcast(bytes, 0));
  }

  /// One byte from rank 0 to all: what cannot work at all is noticed here.
  void warm_up(double timeout_seconds) {
    DeviceArena byte(1);
    unsigned char value = rank_ == 0 ? 1 : 0;
    check_cuda(cudaMemcpy(byte.data(), &value, 1, cudaMemcpyHostToDevice), "the warm-up");
    check_cuda(cudaDeviceSynchronize(), "the warm-up");  // a pageable copy may return before it has arrived
    NcclRequest request(1);
    broadcast(byte.data(), 1, 0, request);
    const Deadline deadline(timeout_seconds);
    while (!request.test()) {
      if (deadline.passed()) fail_runtime("NCCL: the warm-up broadcast has not arrived after {} s", timeout_seconds);
      std::this_thread::yield();
    }
    check_cuda(cudaMemcpy(&value, byte.data(), 1, cudaMemcpyDeviceToHost), "the warm-up");
    if (value != 1) fail_runtime("NCCL: rank {} received {} in the warm-up broadcast of 1", rank_, value);
  }

  int rank_;
  int size_;
  std::deque<NcclLane> lanes_;
};

int library_version() {
  int version = 0;
  const ncclResult_t result = ncclGetVersion(&version);
  if (result != ncclSuccess) fail_runtime("NCCL: the library's version: {}", ncclGetErrorString(result));
  return version;
}

}  // namespace

std::string prepare_nccl(Control& members) {
  const std::vector<NcclMember> all = gather_all(members, NcclMember{library_version(), device_identity().device});
  check_nccl_members(NCCL_VERSION_CODE, all);
  if (!share_a_device(all)) return {};
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
  return "several ranks share a GPU: NCCL goes through host memory; for correctness only";
}

std::unique_ptr<Communicator> make_nccl_communicator(Control& members, int lanes, double timeout_seconds) {
  prepare_nccl(members);
  return std::make_unique<NcclCommunicator>(members, lanes, timeout_seconds);
}

std::string nccl_version() { return nccl_version_text(library_version()); }

}  // namespace refit::transport
