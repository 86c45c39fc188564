#include "transport/nccl_lane.hpp"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

// Windows' addresses for peers: since 2.29.
#define REFIT_NCCL_WINDOWS (NCCL_VERSION_CODE >= NCCL_VERSION(2, 29, 0))
#if REFIT_NCCL_WINDOWS
#include <nccl_device/core.h>
#endif

namespace refit::transport {
namespace {

/// Tests of a request's event between two looks at the communicator's health.
constexpr std::uint32_t kPollsPerCheck = 64;

/// Time for which the end of a communicator waits for a later peer.
constexpr double kFinalizeSeconds = 30;

}  // namespace

NcclRequest::~NcclRequest() {
  if (state_ != State::idle) lane_->abandon();
}

bool NcclRequest::test() {
  if (state_ == State::queued) lane_->progress();
  if (state_ == State::idle) return true;
  if (state_ == State::queued) return false;
  if (!event_.done()) {
    if (++polls_ % kPollsPerCheck == 0) lane_->check_health();
    return false;
  }
  state_ = State::idle;
  --lane_->in_flight_;
  return true;
}

NcclLane::NcclLane(int rank, int size, const ncclUniqueId& id, double timeout_seconds)
    : rank_(rank), timeout_seconds_(timeout_seconds) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  try {
    check(ncclCommInitRankConfig(&comm_, size, id, rank, &config), "creating a communicator");
    const Deadline deadline(timeout_seconds);
    while (!ready()) {
      if (deadline.passed()) {
        fail_runtime(
            "NCCL: a communicator of {} ranks is not ready after {} s: is a rank gone, or the network between hosts "
            "closed? (NCCL_DEBUG=INFO tells more; --timeout)",
            size, timeout_seconds);
      }
      std::this_thread::yield();
    }
  } catch (const Error&) {
    if (comm_ != nullptr) ncclCommAbort(comm_);
    throw;
  }
}

NcclLane::~NcclLane() {
  if (idle() && std::uncaught_exceptions() == 0 && finalize()) {
    ncclCommDestroy(comm_);
  } else {
    ncclCommAbort(comm_);
  }
}

/// Registers without other ranks: NCCL maps the memory to a peer when the two first exchange a message in it.
bool NcclLane::register_memory(const MemoryList& memory) {
  // An abort takes registrations back itself; those that cannot be taken back now go with the communicator.
  for (void* registration : registrations_) {
    if (idle()) ncclCommDeregister(comm_, registration);
  }
  registrations_.clear();
  const Deadline deadline(timeout_seconds_);
  for (const std::span<std::byte> part : memory) {
    if (part.empty()) continue;
    void* registration = nullptr;
    ncclResult_t result = ncclCommRegister(comm_, part.data(), part.size(), &registration);
    while (result == ncclInProgress && ncclCommGetAsyncError(comm_, &result) == ncclSuccess) {
      if (deadline.passed()) {
        failed_ = true;  // the end is an abort
        fail_runtime("NCCL: {} bytes of memory are not registered after {} s (--timeout)", part.size(),
                     timeout_seconds_);
      }
      std::this_thread::yield();
    }
    if (result != ncclSuccess) return false;
    if (registration != nullptr) registrations_.push_back(registration);
  }
  return true;
}

/// Returns true once all ranks have finished with the communicator.
bool NcclLane::finalize() {
  const Deadline deadline(timeout_seconds_ > 0 ? std::min(timeout_seconds_, kFinalizeSeconds) : kFinalizeSeconds);
  ncclResult_t state = ncclCommFinalize(comm_);
  while (state == ncclInProgress && !deadline.passed()) {
    std::this_thread::yield();
    if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return false;
  }
  return state == ncclSuccess;
}

void NcclLane::post(std::span<const Message> group, NcclRequest& request) {
  REFIT_ASSERT(request.state_ == NcclRequest::State::idle && group.size() <= request.messages_.capacity());
  request.messages_.assign(group.begin(), group.end());
  request.broadcast_ = false;
  enqueue(request);
}

void NcclLane::broadcast(const Message& message, NcclRequest& request) {
  REFIT_ASSERT(request.state_ == NcclRequest::State::idle && request.messages_.capacity() > 0);
  request.messages_.assign(1, message);
  request.broadcast_ = true;
  enqueue(request);
}

void NcclLane::enqueue(NcclRequest& request) {
  request.state_ = NcclRequest::State::queued;
  request.lane_ = this;
  request.next_ = nullptr;
  request.polls_ = 0;
  (last_ == nullptr ? first_ : last_->next_) = &request;
  last_ = &request;
  progress();
}

void NcclLane::progress() {
  while (first_ != nullptr) {
    if (launching_ && !ready()) return;
    if (!launching_) {
      const ncclResult_t result = launch(*first_);
      check(result, first_->broadcast_ ? "a broadcast" : "sends and receives");
      launching_ = true;
      if (result == ncclInProgress) return;
    }
    launched();
  }
}

/// Notes that the first request's kernels are on the stream: its event follows them.
void NcclLane::launched() {
  NcclRequest& request = *first_;
  request.event_.record(stream_);
  request.state_ = NcclRequest::State::launched;
  ++in_flight_;
  launching_ = false;
  first_ = request.next_;
  if (first_ == nullptr) last_ = nullptr;
}

ncclResult_t NcclLane::launch(const NcclRequest& request) {
  // Empty messages have no end to meet: both ends leave them out, and NCCL needs no address for them.
  const auto empty = [](const Message& message) { return message.bytes == 0; };
  if (std::ranges::all_of(request.messages_, empty)) return ncclSuccess;
  if (request.broadcast_) {
    const Message& message = request.messages_.front();
    return ncclBroadcast(message.data, message.data, static_cast<std::size_t>(message.bytes), ncclUint8, message.peer,
                         comm_, stream_.get());
  }
  ncclResult_t result = ncclGroupStart();
  if (result != ncclSuccess) return result;
  for (const Message& message : request.messages_) {
    if (empty(message)) continue;
    const auto bytes = static_cast<std::size_t>(message.bytes);
    result = message.kind == Message::Kind::send
                 ? ncclSend(message.data, bytes, ncclUint8, message.peer, comm_, stream_.get())
                 : ncclRecv(message.data, bytes, ncclUint8, message.peer, comm_, stream_.get());
    if (result != ncclSuccess && result != ncclInProgress) break;
  }
  // A group that has failed is ended too, or an abort would become a part of it.
  const ncclResult_t ended = ncclGroupEnd();
  return result != ncclSuccess && result != ncclInProgress ? result : ended;
}

bool NcclLane::ready() {
  ncclResult_t state = ncclSuccess;
  check(ncclCommGetAsyncError(comm_, &state), "the state of a communicator");
  check(state, "a communicator");
  return state != ncclInProgress;
}

void NcclLane::check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  failed_ = true;
  const char* detail = ncclGetLastError(comm_);
  fail_runtime("NCCL: {}: {} ({})", what, ncclGetErrorString(result), detail == nullptr ? "" : detail);
}

ncclComm_t NcclLane::split() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  ncclComm_t result = nullptr;
  check(ncclCommSplit(comm_, 0, rank_, &result, &config), "splitting a communicator");
  const Deadline deadline(timeout_seconds_);
  while (!ready()) {
    if (deadline.passed())
      fail_runtime("NCCL: a communicator has not been split after {} s (--timeout)", timeout_seconds_);
    std::this_thread::yield();
  }
  return result;
}

#if REFIT_NCCL_WINDOWS

NcclTeam NcclLane::window_team() {
  ncclCommProperties_t properties{};
  properties.size = sizeof(properties);
  properties.magic = NCCL_API_MAGIC;
  properties.version = NCCL_VERSION_CODE;
  // A library that is older than the headers by a patch refuses the question.
  if (ncclCommQueryProperties(comm_, &properties) != ncclSuccess || !properties.deviceApiSupport) return {};
  const ncclTeam_t team = ncclTeamLsa(comm_);
  if (team.nRanks == 0) return {};
  return {true, rank_ - team.rank, team.nRanks};
}

std::size_t NcclLane::add_window(std::span<std::byte> memory) {
  ncclWindow_t& window = windows_.emplace_back(nullptr);
  // Not NCCL_WIN_COLL_SYMMETRIC, which promises equal offsets to collectives, and costs memory for their kernels.
  check(ncclCommWindowRegister(comm_, memory.data(), memory.size(), &window, NCCL_WIN_DEFAULT), "making a window");
  const Deadline deadline(timeout_seconds_);
  while (!ready()) {
    if (deadline.passed()) {
      failed_ = true;  // the end is an abort
      fail_runtime("NCCL: a window of {} bytes is not made after {} s (--timeout)", memory.size(), timeout_seconds_);
    }
    std::this_thread::yield();
  }
  if (window == nullptr) {
    failed_ = true;
    fail_runtime("NCCL: a window of {} bytes is refused", memory.size());
  }
  return windows_.size() - 1;
}

std::byte* NcclLane::window_address(std::size_t window, int rank) {
  void* address = nullptr;
  check(ncclGetPeerDevicePointer(windows_[window], 0, rank, &address), "the address of a window");
  return static_cast<std::byte*>(address);
}

void NcclLane::remove_window(std::size_t window) {
  // An abort removes windows itself.
  if (idle()) ncclCommWindowDeregister(comm_, std::exchange(windows_[window], nullptr));
}

#else  // window_refusal has said no before

NcclTeam NcclLane::window_team() { return {}; }
std::size_t NcclLane::add_window(std::span<std::byte> /*memory*/) {
  fail_runtime("NCCL: these headers have no windows");
}
std::byte* NcclLane::window_address(std::size_t /*window*/, int /*rank*/) { return nullptr; }
void NcclLane::remove_window(std::size_t /*window*/) {}

#endif

void NcclLane::abandon() {
  failed_ = true;
  first_ = last_ = nullptr;
  launching_ = false;
}

}  // namespace refit::transport
