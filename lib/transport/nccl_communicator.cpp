#include <cstdlib>
#include <deque>
#include <string_view>
#include <thread>

#include "transport/cuda.hpp"
#include "transport/location.hpp"
#include "transport/nccl.hpp"
#include "transport/nccl_lane.hpp"
#include "transport/nccl_rules.hpp"

namespace refit::transport {
namespace {

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Control& members, int lanes, double timeout_seconds, bool registers)
      : rank_(members.rank()), size_(members.size()), registers_(registers) {
    REFIT_ASSERT(lanes >= 1);
    for (const ncclUniqueId& id : nccl_unique_ids(members, lanes))
      lanes_.emplace_back(rank_, size_, id, timeout_seconds);
    warm_up(timeout_seconds);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  NcclLane& lane(int number) {
    REFIT_ASSERT(number >= 0 && number < static_cast<int>(lanes_.size()));
    return lanes_[static_cast<std::size_t>(number)];
  }

  std::unique_ptr<Request> make_request(std::int64_t capacity) override {
    return std::make_unique<NcclRequest>(capacity);
  }

  void post(std::span<const Message> group, int lane, Request& request) override {
    this->lane(lane).post(group, static_cast<NcclRequest&>(request));
  }

  void broadcast(std::byte* data, std::int64_t bytes, int root, Request& request) override {
    const auto kind = rank_ == root ? Message::Kind::send : Message::Kind::receive;
    lanes_.front().broadcast({kind, root, data, bytes}, static_cast<NcclRequest&>(request));
  }

  bool register_memory(const MemoryList& memory) override {
    bool all = true;
    for (NcclLane& lane : lanes_) all &= !registers_ || lane.register_memory(memory);
    return all;
  }

 private:
  /// Sends one byte from rank 0 to all: links that cannot work at all are noticed here.
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
  bool registers_;
  std::deque<NcclLane> lanes_;
};

/// Gathers all members, and checks them.
std::vector<NcclMember> gather_members(Control& members) {
  std::vector<NcclMember> all = gather_all(members, nccl_member());
  check_nccl_members(NCCL_VERSION_CODE, all);
  if (share_a_device(all)) setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
  return all;
}

}  // namespace

std::string prepare_nccl(Control& members) {
  if (!share_a_device(gather_members(members))) return {};
  return "several ranks share a GPU: NCCL goes through host memory; for correctness only";
}

std::unique_ptr<Communicator> make_nccl_communicator(Control& members, int lanes, double timeout_seconds) {
  const bool registers = uses_registration(gather_members(members));
  return std::make_unique<NcclCommunicator>(members, lanes, timeout_seconds, registers);
}

NcclLane& nccl_lane(Communicator& communicator, int lane) {
  auto* nccl = dynamic_cast<NcclCommunicator*>(&communicator);
  if (nccl == nullptr)
    fail_usage("executor m2n: this bug spoils messages of p2p, and m2n has none; inject it into p2p");
  return nccl->lane(lane);
}

int nccl_library_version() {
  int version = 0;
  const ncclResult_t result = ncclGetVersion(&version);
  if (result != ncclSuccess) fail_runtime("NCCL: the library's version: {}", ncclGetErrorString(result));
  return version;
}

NcclMember nccl_member() {
  const Location here = location();
  const char* legacy = std::getenv("NCCL_LEGACY_CUDA_REGISTER");
  const bool registers_legacy = legacy != nullptr && std::string_view(legacy) == "1";
  return {nccl_library_version(), here.device, here.host, registers_legacy};
}

std::vector<ncclUniqueId> nccl_unique_ids(Control& members, int count) {
  Control::Bytes bytes;
  std::string error;
  for (int i = 0; members.rank() == 0 && i < count && error.empty(); ++i) {
    ncclUniqueId id;
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) error = ncclGetErrorString(result);
    append(bytes, id);
  }
  bytes = members.broadcast(error.empty() ? bytes : Control::Bytes(), 0);
  if (bytes.empty()) fail_runtime("NCCL: a unique id cannot be made{}{}", error.empty() ? "" : ": ", error);
  return read_all<ncclUniqueId>(bytes);
}

std::string nccl_version() { return nccl_version_text(nccl_library_version()); }

}  // namespace refit::transport
