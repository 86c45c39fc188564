#include <chrono>
#include <vector>

#include "kernels/marks.hpp"

namespace refit::kernels {

struct Marks::State {
  std::vector<std::int64_t> instants;
};

Marks::Marks() : state_(std::make_unique<State>()) {}
Marks::~Marks() = default;

void Marks::start(const ExecutionSpace& /*space*/) { state_->instants.clear(); }

int Marks::after(const ExecutionSpace& space) { return record(queue_of(space)); }
int Marks::after(const EngineTable& engines) { return record(engines.queue()); }

int Marks::record(void* /*queue*/) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  state_->instants.push_back(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  return static_cast<int>(state_->instants.size()) - 1;
}

std::int64_t Marks::ns(int mark) const { return state_->instants.at(static_cast<std::size_t>(mark)); }

}  // namespace refit::kernels
