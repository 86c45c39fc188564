#include "nccl_m2n.h"

#include <nccl_device/core.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <exception>
#include <map>
#include <utility>

#include "core/error.hpp"
#include "transport/location.hpp"
#include "transport/m2n/m2n.hpp"
#include "transport/nccl_lane.hpp"
#include "transport/nccl_rules.hpp"

namespace refit::transport {
namespace {

/// Tests of a request's event between two looks at the communicator's health.
constexpr std::uint32_t kPollsPerCheck = 64;

void check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess) return;
  const char* detail = ncclM2nGetLastError();
  fail_runtime("NCCL M2N: {}: {} ({})", what, ncclGetErrorString(result), detail == nullptr ? "" : detail);
}

std::int64_t free_bytes() {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "the device's memory");
  return static_cast<std::int64_t>(free);
}

/// A communicator and the stream of the work that is started on it.
class M2nLane {
 public:
  explicit M2nLane(NcclLane& parent) : comm_(parent.split()) {}
  ~M2nLane() { std::uncaught_exceptions() == 0 ? ncclCommDestroy(comm_) : ncclCommAbort(comm_); }
  M2nLane(const M2nLane&) = delete;
  M2nLane& operator=(const M2nLane&) = delete;

  ncclComm_t comm() const { return comm_; }
  /// Returns true once: the library takes its staging for a communicator at the first use.
  bool is_new() { return std::exchange(is_new_, false); }
  const Stream& stream() const { return stream_; }
  void check_health() const {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), "the state of a communicator");
    check(state, "a communicator");
  }

  /// Returns whether the library can fuse a group: its kernels for that drive a network card (GIN), also inside one
  /// host. Without one, single operations go through copies that the host starts.
  bool can_fuse() const {
    ncclCommProperties properties = NCCL_COMM_PROPERTIES_INITIALIZER;
    check(ncclCommQueryProperties(comm_, &properties), "a communicator's properties");
    return properties.ginType != NCCL_GIN_TYPE_NONE;
  }

 private:
  ncclComm_t comm_;
  Stream stream_;
  bool is_new_ = true;
};

class M2nRequest final : public Request {
 public:
  bool test() override {
    if (lane_ == nullptr) return true;
    if (!event_.done()) {
      if (++polls_ % kPollsPerCheck == 0) lane_->check_health();
      return false;
    }
    lane_ = nullptr;
    return true;
  }

  void start(const M2nLane& lane) {
    event_.record(lane.stream());
    lane_ = &lane;
    polls_ = 0;
  }

 private:
  Event event_;
  const M2nLane* lane_ = nullptr;  // unless idle
  std::uint32_t polls_ = 0;
};

ncclDataType_t dtype_of(int element_bytes) {
  if (element_bytes == 1) return ncclUint8;
  if (element_bytes == 2) return ncclBfloat16;
  return element_bytes == 4 ? ncclUint32 : ncclUint64;
}

/// Bytes are moved as they are, so that only the size of the elements counts.
void reshard(ReshardCall call, ncclM2nHandle_t handle, const M2nLane& lane) {
  ncclMesh_t meshes[] = {NCCL_M2N_MESH_INITIALIZER, NCCL_M2N_MESH_INITIALIZER};
  ncclDistTensor_t tensors[] = {NCCL_M2N_DIST_TENSOR_INITIALIZER, NCCL_M2N_DIST_TENSOR_INITIALIZER};
  ReshardCall::End* ends[] = {&call.source, &call.destination};
  for (int i = 0; i < 2; ++i) {
    meshes[i].ndims = ends[i]->axes;
    meshes[i].dims = ends[i]->ranks.data();
    meshes[i].startRank = ends[i]->first;
    tensors[i].dataPtr = ends[i]->data;
    tensors[i].localShape = ends[i]->shard.data();
    tensors[i].ndims = call.dimensions;
    tensors[i].dtype = dtype_of(call.element_bytes);
    tensors[i].mesh = &meshes[i];
    tensors[i].placements = ends[i]->placements.data();
  }
  check(ncclReshard(handle, lane.comm(), &tensors[0], &tensors[1], lane.stream().get()), "ncclReshard");
}

class NcclResharder final : public Resharder {
 public:
  NcclResharder(const Routes& routes, std::int64_t streams) {
    std::map<std::pair<Communicator*, std::int64_t>, M2nLane*> lanes;
    for (std::int32_t stage = 0; stage < routes.stages(); ++stage) {
      Communicator* communicator = routes.find(stage);
      lanes_of_stage_.push_back(nullptr);
      if (communicator == nullptr) continue;
      M2nLane*& lane = lanes[{communicator, stage % streams}];
      if (lane == nullptr) lane = &lanes_.emplace_back(nccl_lane(*communicator, static_cast<int>(stage % streams)));
      lanes_of_stage_.back() = lane;
    }
    check(ncclM2nInit(&handle_, nullptr), "ncclM2nInit");
  }
  /// Frees nothing while an error ends the job: the library frees memory here that unfinished work of other ranks may
  /// still need.
  ~NcclResharder() override {
    if (std::uncaught_exceptions() == 0) ncclM2nFinalize(handle_);
  }
  NcclResharder(const NcclResharder&) = delete;
  NcclResharder& operator=(const NcclResharder&) = delete;

  std::unique_ptr<Request> make_request() override { return std::make_unique<M2nRequest>(); }

  void post(std::span<const ReshardCall> group, std::int32_t stage, Request& request) override {
    M2nLane& lane = *lanes_of_stage_[static_cast<std::size_t>(stage)];
    const bool is_new = lane.is_new();
    const std::int64_t before = is_new ? free_bytes() : 0;
    const bool fuses = lane.can_fuse();
    if (fuses) check(ncclM2nGroupStart(), "ncclM2nGroupStart");
    for (const ReshardCall& call : group) reshard(call, handle_, lane);
    if (fuses) check(ncclM2nGroupEnd(), "ncclM2nGroupEnd");
    static_cast<M2nRequest&>(request).start(lane);
    if (is_new) own_bytes_ += std::max<std::int64_t>(0, before - free_bytes());
  }

  std::int64_t own_bytes() const override { return own_bytes_; }

 private:
  std::deque<M2nLane> lanes_;
  std::vector<M2nLane*> lanes_of_stage_;
  ncclM2nHandle_t handle_ = nullptr;
  std::int64_t own_bytes_ = 0;
};

}  // namespace

bool has_nccl_m2n() { return true; }

void prepare_nccl_m2n(Control& members) {
  int version = 0;
  check(ncclGetVersion(&version), "NCCL's version");
  check_m2n_versions(NCCL_M2N_MIN_NCCL_VERSION_CODE, gather_all(members, version));
  setenv("NCCL_CUMEM_ENABLE", "1", 0);
  setenv("NCCL_NVLS_ENABLE", "0", 0);
}

std::unique_ptr<Resharder> make_nccl_resharder(const Routes& routes, std::int64_t streams) {
  return std::make_unique<NcclResharder>(routes, streams);
}

}  // namespace refit::transport
