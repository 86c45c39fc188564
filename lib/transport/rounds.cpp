#include "transport/rounds.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "core/box.hpp"

namespace refit::transport {
namespace {

/// The parts that a tensor lies in: as many slices of equal rows of its longest dimension, the first of them in part
/// `first`.
struct Slices {
  std::int64_t first = 0;
  std::int64_t count = 1;
  int dimension = 0;
  std::int64_t rows = 1;

  std::int64_t begin(std::int64_t slice) const { return slice * rows / count; }
};

std::map<std::int32_t, Slices> slices_of(const std::vector<model::Tensor>& tensors, const Tuning& tuning) {
  std::int64_t total = 0;
  for (const model::Tensor& tensor : tensors) total += tensor.bytes();
  const std::int64_t parts = tuning.handed_on.parts(tensors);
  std::map<std::int32_t, Slices> result;
  std::int64_t before = 0;
  const auto part_of = [&](std::int64_t byte) {
    return std::min(parts - 1, byte * parts / std::max<std::int64_t>(1, total));
  };
  for (const model::Tensor& tensor : tensors) {
    Slices& slices = result[tensor.index];
    for (int d = 0; d < tensor.shape.size(); ++d) {
      if (tensor.shape[d] <= slices.rows) continue;
      slices.dimension = d;
      slices.rows = tensor.shape[d];
    }
    slices.first = part_of(before);
    before += tensor.bytes();
    slices.count = std::min(slices.rows, part_of(std::max<std::int64_t>(0, before - 1)) - slices.first + 1);
  }
  return result;
}

class Rounds final : public Executor {
 public:
  explicit Rounds(std::vector<std::unique_ptr<Executor>> rounds) : rounds_(std::move(rounds)) {}

  void execute() override {
    for (const auto& round : rounds_) round->execute();
  }
  void connect() override {
    for (const auto& round : rounds_) round->connect();
  }
  MemoryList staging() const override { return rounds_.empty() ? MemoryList{} : rounds_.front()->staging(); }
  Schedule schedule() const override {
    Schedule schedule;
    for (const auto& round : rounds_) schedule = schedule + round->schedule();
    return schedule;
  }

 private:
  std::vector<std::unique_ptr<Executor>> rounds_;
};

}  // namespace

std::vector<std::pair<std::int64_t, plan::Copy>> in_rounds(const std::vector<model::Tensor>& tensors,
                                                           const std::vector<plan::Copy>& copies,
                                                           const Tuning& tuning) {
  const std::map<std::int32_t, Slices> slices = slices_of(tensors, tuning);
  std::vector<std::pair<std::int64_t, plan::Copy>> result;
  for (const plan::Copy& copy : copies) {
    const Slices& of = slices.at(copy.tensor);
    for (std::int64_t slice = 0; slice < of.count; ++slice) {
      Box box = copy.box;
      if (of.count > 1) {
        Extents& lower = box.lower;
        const int d = of.dimension;
        const std::int64_t begin = std::max(lower[d], of.begin(slice));
        const std::int64_t end = std::min(lower[d] + box.extent[d], of.begin(slice + 1));
        if (begin >= end) continue;
        lower[d] = begin;
        box.extent[d] = end - begin;
      }
      result.emplace_back(of.first + slice + copy.hops, part_of(copy, box));
    }
  }
  std::ranges::stable_sort(result, {}, &std::pair<std::int64_t, plan::Copy>::first);
  return result;
}

std::unique_ptr<Executor> make_rounds(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const std::vector<plan::Copy>& copies,
                                      const Tuning& tuning, Progress& progress, const Forward& forward) {
  std::vector<std::vector<plan::Copy>> by_round;
  std::int64_t last = -1;
  for (auto& [round, copy] : in_rounds(tensors, copies, tuning)) {
    if (round != last) by_round.emplace_back();
    last = round;
    by_round.back().push_back(std::move(copy));
  }
  std::int64_t largest = 0;
  for (const auto& of : by_round) largest = std::max(largest, ring_bytes(routes, me, of, tuning));
  const auto ring = std::make_shared<Ring>(largest);
  std::vector<std::unique_ptr<Executor>> rounds;
  for (const auto& of : by_round) rounds.push_back(make_p2p(space, routes, me, of, tuning, ring, progress, forward));
  return std::make_unique<Rounds>(std::move(rounds));
}

}  // namespace refit::transport
