#include "transport/trace.hpp"

namespace refit::transport {

Trace::Trace(std::int64_t most) : most_(static_cast<std::size_t>(most)) { steps_.reserve(most_); }

void Trace::finish() {
  if (!on_) return;
  set_waiting(false);
  for (const Enqueued& work : enqueued_)
    add({.begin_ns = marks_.ns(work.begin), .end_ns = marks_.ns(work.end), .bytes = work.bytes, .step = work.step});
  enqueued_.clear();
  on_ = false;
}

void Trace::add(const TracedStep& step) {
  if (!on_) return;
  if (steps_.size() < most_)
    steps_.push_back(step);
  else
    ++left_out_;
}

void Trace::add_phase(const char* name, double begin, double end) {
  const auto ns = [](double seconds) { return static_cast<std::int64_t>(seconds * 1e9); };
  if (on_ && end > begin) phases_.push_back({name, ns(begin), ns(end)});
}

void Trace::set_waiting(bool waiting) {
  if (!on_ || waiting == (waits_since_ != 0)) return;
  const std::int64_t now = now_ns();
  if (!waiting) add({.begin_ns = waits_since_, .end_ns = now, .step = Step::wait});
  waits_since_ = waiting ? now : 0;
}

void Trace::add(Step step, int begin, int end, std::int64_t bytes) {
  if (on_ && bytes > 0) enqueued_.push_back({step, begin, end, bytes});
}

}  // namespace refit::transport
