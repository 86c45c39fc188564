#include <cuda.h>
#include <cuda_runtime.h>

#include "core/error.hpp"
#include "kernels/backend.hpp"
#include "kernels/engine_queue.hpp"

namespace refit::kernels {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next check of a launch would find it
  fail_runtime("CUDA: copy engines: {}: {}", what, cudaGetErrorString(status));
}

using GetAttribute = CUresult(CUDAAPI*)(void*, CUpointer_attribute, CUdeviceptr);

/// Returns the driver's cuPointerGetAttribute, through the runtime: nothing here is linked to the driver.
GetAttribute find_get_attribute() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult state{};
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion("cuPointerGetAttribute", &found, 12000, cudaEnableDefault, &state),
        "cuPointerGetAttribute");
#else
  check(cudaGetDriverEntryPoint("cuPointerGetAttribute", &found, cudaEnableDefault, &state), "cuPointerGetAttribute");
#endif
  return reinterpret_cast<GetAttribute>(found);
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

/// Enqueues copies that the driver may carry out in any order, without a wait between them.
[[maybe_unused]] cudaError_t copy_batch(const EngineBatch& batch, cudaStream_t stream) {
#if CUDART_VERSION >= 12080
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first = 0;
  const std::size_t count = batch.sizes.size();
#if CUDART_VERSION >= 13000
  return cudaMemcpyBatchAsync(batch.destinations.data(), batch.sources.data(), batch.sizes.data(), count, &attributes,
                              &first, 1, stream);
#else
  std::size_t failed = 0;
  return cudaMemcpyBatchAsync(const_cast<void**>(batch.destinations.data()), const_cast<void**>(batch.sources.data()),
                              const_cast<std::size_t*>(batch.sizes.data()), count, &attributes, &first, 1, &failed,
                              stream);
#endif
#else
  return cudaErrorNotSupported;
#endif
}

cudaError_t copy_each(const EngineBatch& batch, cudaStream_t stream) {
  for (std::size_t i = 0; i < batch.sizes.size(); ++i) {
    const cudaError_t status =
        cudaMemcpyAsync(batch.destinations[i], batch.sources[i], batch.sizes[i], cudaMemcpyDefault, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace

struct EngineQueue::State {
  cudaStream_t stream = nullptr;
  cudaEvent_t before = nullptr, after = nullptr;
  bool batches = false;  ///< the driver knows batches: CUDA 12.8 and later

  ~State() {
    if (after != nullptr) cudaEventDestroy(after);
    if (before != nullptr) cudaEventDestroy(before);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

EngineQueue::EngineQueue() : state_(std::make_unique<State>()) {
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "a stream");
  check(cudaEventCreateWithFlags(&state_->before, cudaEventDisableTiming), "an event");
  check(cudaEventCreateWithFlags(&state_->after, cudaEventDisableTiming), "an event");
  // A batch of one copy onto itself's neighbour tells whether the driver is as new as the runtime.
  std::byte* bytes = backend::allocate_device(2);
  if (bytes == nullptr) fail_runtime("device memory: 2 bytes cannot be allocated");
  state_->batches = copy_batch({{bytes}, {bytes + 1}, {1}}, state_->stream) == cudaSuccess;
  cudaGetLastError();
  const cudaError_t status = cudaStreamSynchronize(state_->stream);
  backend::release_device(bytes);
  check(status, "the first copy");
}

EngineQueue::~EngineQueue() = default;

bool EngineQueue::is_available() { return true; }

/// An address that the driver does not know is its own allocation.
const void* EngineQueue::allocation_of(const std::byte* address) {
  static const GetAttribute get_attribute = find_get_attribute();
  CUdeviceptr begin = 0;
  const CUresult status =
      get_attribute(&begin, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, reinterpret_cast<CUdeviceptr>(address));
  if (status != CUDA_SUCCESS) return address;
  return reinterpret_cast<const void*>(begin);  // NOLINT(performance-no-int-to-ptr)
}

void EngineQueue::wait_for(void* stream) {
  check(cudaEventRecord(state_->before, stream_of(stream)), "an event");
  check(cudaStreamWaitEvent(state_->stream, state_->before, 0), "a wait");
}

void EngineQueue::copy(const EngineBatch& batch) {
  check(state_->batches ? copy_batch(batch, state_->stream) : copy_each(batch, state_->stream), "a batch of copies");
}

void EngineQueue::copy(const EngineCopy& planes) {
  const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
  const auto end = [&](const std::byte* data, std::int64_t pitch, std::int64_t rows) {
    return make_cudaPitchedPtr(const_cast<std::byte*>(data), size(pitch), size(planes.row), size(rows));
  };
  cudaMemcpy3DParms copy{};
  copy.srcPtr = end(planes.source, planes.source_pitch, planes.source_rows);
  copy.dstPtr = end(planes.destination, planes.destination_pitch, planes.destination_rows);
  copy.extent = make_cudaExtent(size(planes.row), size(planes.rows), size(planes.planes));
  copy.kind = cudaMemcpyDefault;
  check(cudaMemcpy3DAsync(&copy, state_->stream), "a copy of rows");
}

void EngineQueue::join(void* stream) {
  check(cudaEventRecord(state_->after, state_->stream), "an event");
  check(cudaStreamWaitEvent(stream_of(stream), state_->after, 0), "a wait");
}

void* EngineQueue::stream() const { return state_->stream; }

}  // namespace refit::kernels
