#pragma once
// Instants of work that is only enqueued when the host goes on, on the clock of the host. marks_cuda.cpp or
// marks_host.cpp implements them, whichever fits the Kokkos that refit is built with.

#include <cstdint>
#include <memory>

#include "kernels/engine_copies.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

/// Instants of an execution space's queue and of copy engines' queues. On a device they are its events, whose distance
/// from a first one is added to the host's time of that one; on hosts, where work is done when its call returns, they
/// are the host's time.
class Marks {
 public:
  /// Errors (runtime), of all functions: CUDA's own.
  Marks();
  ~Marks();
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;

  /// Forgets all instants, and takes the host's time of the device's clock: to some microseconds, in as many.
  void start(const ExecutionSpace& space);
  /// Note the instant at which everything that is enqueued so far is complete: on the space, or by the engines. Return
  /// its number.
  int after(const ExecutionSpace& space);
  int after(const EngineTable& engines);
  /// Returns the nanoseconds of the machine's monotonic clock, once the instant is past.
  std::int64_t ns(int mark) const;

 private:
  int record(void* queue);

  struct State;
  std::unique_ptr<State> state_;
};

/// Returns the queue of an execution space, a cudaStream_t; null on hosts.
void* queue_of(const ExecutionSpace& space);

}  // namespace refit::kernels
