#pragma once
// A queue of a device's copy engines beside the stream of an execution space. engine_queue_cuda.cpp or
// engine_queue_host.cpp implements it; streams are a cudaStream_t, or null on hosts.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/engine_copies.hpp"

namespace refit::kernels {

/// Contiguous copies, as the driver takes them.
struct EngineBatch {
  std::vector<const void*> sources;
  std::vector<void*> destinations;
  std::vector<std::size_t> sizes;
};

class EngineQueue {
 public:
  /// Errors (runtime), of all functions: CUDA's own.
  EngineQueue();
  ~EngineQueue();
  EngineQueue(const EngineQueue&) = delete;
  EngineQueue& operator=(const EngineQueue&) = delete;

  static bool is_available();
  /// Returns the begin of the allocation in which an address lies, or a constant where that does not matter.
  static const void* allocation_of(const std::byte* address);
  /// Makes what is enqueued here next wait for what is on `stream`.
  void wait_for(void* stream);
  void copy(const EngineBatch& batch);
  void copy(const EngineCopy& planes);
  /// Makes what is enqueued on `stream` next wait for what is here.
  void join(void* stream);
  /// Returns the queue's own stream.
  void* stream() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace refit::kernels
