#include <cstring>

#include "kernels/engine_queue.hpp"

namespace refit::kernels {

struct EngineQueue::State {};

EngineQueue::EngineQueue() = default;
EngineQueue::~EngineQueue() = default;
bool EngineQueue::is_available() { return false; }
const void* EngineQueue::allocation_of(const std::byte* /*address*/) { return nullptr; }
void EngineQueue::wait_for(void* /*stream*/) {}
void EngineQueue::join(void* /*stream*/) {}
void* EngineQueue::stream() const { return nullptr; }

void EngineQueue::copy(const EngineBatch& batch) {
  for (std::size_t i = 0; i < batch.sizes.size(); ++i)
    std::memcpy(batch.destinations[i], batch.sources[i], batch.sizes[i]);
}

void EngineQueue::copy(const EngineCopy& planes) {
  for (std::int64_t plane = 0; plane < planes.planes; ++plane) {
    for (std::int64_t row = 0; row < planes.rows; ++row) {
      std::memcpy(planes.destination + (plane * planes.destination_rows + row) * planes.destination_pitch,
                  planes.source + (plane * planes.source_rows + row) * planes.source_pitch,
                  static_cast<std::size_t>(planes.row));
    }
  }
}

}  // namespace refit::kernels
