#include <cuda_runtime_api.h>

#include <chrono>
#include <limits>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "kernels/marks.hpp"

namespace refit::kernels {
namespace {

constexpr std::size_t kEvents = 64;  ///< made at once: a refit of more makes them as it goes
constexpr int kTries = 8;            ///< at the host's time of an event: the shortest one counts

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next check of a launch would find it
  fail_runtime("CUDA: times of the device: {}: {}", what, cudaGetErrorString(status));
}

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "an event");
  return event;
}

std::int64_t host_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

struct Marks::State {
  cudaEvent_t first = nullptr, tried = nullptr;
  std::int64_t first_ns = 0;
  std::vector<cudaEvent_t> events;
  std::size_t used = 0;

  ~State() {
    for (cudaEvent_t event : events) cudaEventDestroy(event);
    if (tried != nullptr) cudaEventDestroy(tried);
    if (first != nullptr) cudaEventDestroy(first);
  }
};

Marks::Marks() : state_(std::make_unique<State>()) {
  state_->first = make_event();
  state_->tried = make_event();
  for (std::size_t i = 0; i < kEvents; ++i) state_->events.push_back(make_event());
}
Marks::~Marks() = default;

void Marks::start(const ExecutionSpace& space) {
  state_->used = 0;
  space.fence();
  auto* stream = static_cast<cudaStream_t>(queue_of(space));
  std::int64_t shortest = std::numeric_limits<std::int64_t>::max();
  for (int i = 0; i < kTries; ++i) {
    const std::int64_t before = host_ns();
    check(cudaEventRecord(state_->tried, stream), "an event");
    check(cudaEventSynchronize(state_->tried), "an event");
    const std::int64_t after = host_ns();
    if (after - before >= shortest) continue;
    shortest = after - before;
    state_->first_ns = before + shortest / 2;
    std::swap(state_->first, state_->tried);
  }
}

int Marks::after(const ExecutionSpace& space) { return record(queue_of(space)); }
int Marks::after(const EngineTable& engines) { return record(engines.queue()); }

int Marks::record(void* queue) {
  if (state_->used == state_->events.size()) state_->events.push_back(make_event());
  check(cudaEventRecord(state_->events[state_->used], static_cast<cudaStream_t>(queue)), "an event");
  return static_cast<int>(state_->used++);
}

std::int64_t Marks::ns(int mark) const {
  const cudaEvent_t event = state_->events.at(static_cast<std::size_t>(mark));
  float milliseconds = 0;
  check(cudaEventSynchronize(event), "an event");  // an engine's lies behind what the space's fence waits for
  check(cudaEventElapsedTime(&milliseconds, state_->first, event), "between two events");
  return state_->first_ns + static_cast<std::int64_t>(static_cast<double>(milliseconds) * 1e6);
}

}  // namespace refit::kernels
