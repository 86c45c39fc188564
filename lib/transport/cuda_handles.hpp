#pragma once
// CUDA return codes as errors, and owners of CUDA's handles; private to the CUDA and NCCL implementations.

#include <cuda_runtime_api.h>

#include <utility>

#include "core/error.hpp"

namespace refit::transport {

/// Throws a runtime Error with CUDA's own text unless `error` is cudaSuccess. `what` names the attempt, e.g. "an
/// event".
void check_cuda(cudaError_t error, const char* what, SourceLocation where = SourceLocation::current());

/// A stream that does not wait for the default stream.
class Stream {
 public:
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// An event without a time.
class Event {
 public:
  Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event"); }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  void record(const Stream& stream) { check_cuda(cudaEventRecord(event_, stream.get()), "recording an event"); }
  /// Returns true once everything before `record` is complete.
  bool done() const {
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) {
      cudaGetLastError();  // or the next check of a kernel's launch would find it
      return false;
    }
    check_cuda(state, "waiting for an event");
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace refit::transport
