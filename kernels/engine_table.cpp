#include "kernels/engine_queue.hpp"
#include "kernels/launch.hpp"
#include "kernels/marks.hpp"

namespace refit::kernels {
namespace {

/// Contiguous copies of the first batch, so that kernels that run beside them need not wait for a long one.
constexpr std::size_t kFirstBatch = 32;

}  // namespace

void* queue_of([[maybe_unused]] const ExecutionSpace& space) {
#if defined(KOKKOS_ENABLE_CUDA)
  return space.implementation().device.cuda_stream();
#else
  return nullptr;
#endif
}

struct EngineTable::Work {
  std::vector<EngineCopy> strided;
  std::vector<EngineBatch> batches;
  mutable EngineQueue queue;

  std::size_t count() const { return strided.size() + batches.size(); }
  void enqueue(std::size_t index) const {
    if (index < strided.size()) {
      queue.copy(strided[index]);
    } else {
      queue.copy(batches[index - strided.size()]);
    }
  }
};

EngineTable::EngineTable(const std::vector<EngineCopy>& copies, const EngineSizes& sizes) {
  if (copies.empty()) return;
  auto work = std::make_shared<Work>();
  std::size_t room = 0;
  for (const EngineCopy& copy : copies) {
    bytes_ += copy.bytes();
    if (!copy.is_contiguous()) {
      work->strided.push_back(copy);
      continue;
    }
    if (room == 0) {
      const auto most = static_cast<std::size_t>(sizes.batch);
      room = work->batches.empty() ? std::min(kFirstBatch, most) : most;
      work->batches.emplace_back();
    }
    EngineBatch& batch = work->batches.back();
    batch.sources.push_back(copy.source);
    batch.destinations.push_back(copy.destination);
    batch.sizes.push_back(static_cast<std::size_t>(copy.row));
    --room;
  }
  work_ = std::move(work);
}

bool EngineTable::is_available() { return EngineQueue::is_available(); }

void EngineTable::begin(const ExecutionSpace& space) const {
  if (work_ == nullptr) return;
  work_->queue.wait_for(queue_of(space));
  work_->enqueue(0);
}

void EngineTable::finish(const ExecutionSpace& space) const {
  if (work_ == nullptr) return;
  for (std::size_t i = 1; i < work_->count(); ++i) work_->enqueue(i);
  work_->queue.join(queue_of(space));
}

void* EngineTable::queue() const { return work_ == nullptr ? nullptr : work_->queue.stream(); }

const void* allocation_of(const std::byte* address) { return EngineQueue::allocation_of(address); }

}  // namespace refit::kernels
