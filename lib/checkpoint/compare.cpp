#include <fmt/format.h>

#include <cstring>

#include "checkpoint/contents.hpp"
#include "checkpoint/rank_files.hpp"
#include "checkpoint/tensor_stream.hpp"
#include "core/console.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

/// Returns e.g. "4,096".
std::string grouped(std::int64_t count) {
  std::string text = std::to_string(count);
  for (std::ptrdiff_t i = std::ssize(text) - 3; i > 0; i -= 3) text.insert(static_cast<std::size_t>(i), 1, ',');
  return text;
}

/// Counts the elements of two streams that differ in any bit.
class ElementCount {
 public:
  explicit ElementCount(std::size_t element_bytes) : size_(element_bytes) {}

  void add(std::span<const std::byte> a, std::span<const std::byte> b) {
    if (std::memcmp(a.data(), b.data(), a.size()) != 0) {
      for (std::size_t i = 0; i < a.size(); i += size_) {
        if (std::memcmp(a.data() + i, b.data() + i, size_) == 0) continue;
        if (count++ == 0) first = seen_ + static_cast<std::int64_t>(i / size_);
      }
    }
    seen_ += static_cast<std::int64_t>(a.size() / size_);
  }

  std::int64_t count = 0;
  std::int64_t first = -1;

 private:
  std::size_t size_;
  std::int64_t seen_ = 0;
};

/// Describes the difference between two tensors of one name; empty if there is none.
std::string difference(const Entry& a, const Entry& b, TensorStream& stream_a, TensorStream& stream_b) {
  if (a.info.shape != b.info.shape) {
    return fmt::format("shape {} against {}", to_string(a.info.shape), to_string(b.info.shape));
  }
  if (a.info.dtype != b.info.dtype) return fmt::format("dtype {} against {}", name(a.info.dtype), name(b.info.dtype));
  stream_a.start(a);
  stream_b.start(b);
  ElementCount elements(static_cast<std::size_t>(byte_size(a.info.dtype)));
  while (true) {
    const auto bytes_a = stream_a.next();
    const auto bytes_b = stream_b.next();
    if (bytes_a.empty()) break;
    elements.add(bytes_a, bytes_b);
  }
  if (elements.count == 0) return "";
  return fmt::format("{} of {} elements differ, first at {}", grouped(elements.count), grouped(product(a.info.shape)),
                     to_string(unravel(elements.first, a.info.shape)));
}

class Comparison {
 public:
  /// Compares two opened checkpoints; `prefix` goes before each name.
  void add(const Checkpoint& a, const Checkpoint& b, const std::string& prefix) {
    TensorStream stream_a(a);
    TensorStream stream_b(b);
    std::int64_t all = 0;
    for (const Entry& entry : a.entries) all += entry.bytes();
    Meter meter("comparing" + (prefix.empty() ? "" : " " + prefix.substr(0, prefix.find(':'))), all);
    for (const Entry& entry : a.entries) {
      const Entry* other = b.find(entry.info.name);
      note(prefix + entry.info.name, other == nullptr ? "only in A" : difference(entry, *other, stream_a, stream_b));
      meter.add(entry.bytes());
    }
    for (const Entry& entry : b.entries) {
      if (a.find(entry.info.name) == nullptr) note(prefix + entry.info.name, "only in B");
    }
    tensors += std::ssize(a.entries);
  }

  void note(const std::string& name, const std::string& problem) {
    if (!problem.empty()) differences.push_back({name, problem});
  }

  std::vector<TensorDifference> differences;
  std::int64_t tensors = 0;
};

using RankFiles = std::map<RankName, std::string>;

void compare_dumps(const RankFiles& a, const RankFiles& b, Comparison& comparison) {
  if (a.size() != b.size()) comparison.note("ranks", fmt::format("{} in A, {} in B", a.size(), b.size()));
  RankFiles all = a;
  all.insert(b.begin(), b.end());
  for (const auto& [name, path] : all) {
    const std::string chunk = name.chunk > 0 ? fmt::format(" chunk {}", name.chunk) : "";
    const std::string label = fmt::format("{} rank {}{}", name.side, name.rank, chunk);
    if (!a.contains(name) || !b.contains(name)) {
      comparison.note(label, fmt::format("only in {} ({})", a.contains(name) ? "A" : "B", path));
    } else {
      comparison.add(open(a.at(name)), open(b.at(name)), label + ": ");
    }
  }
}

}  // namespace

std::vector<TensorDifference> compare(const std::string& a, const std::string& b, std::int64_t* tensors_compared) {
  const auto dump_a = rank_files(a);
  const auto dump_b = rank_files(b);
  if (dump_a.empty() != dump_b.empty()) {
    fail_usage("{} holds rank dumps (train-rank-*, gen-rank-*) and {} does not; compare two of one kind",
               dump_a.empty() ? b : a, dump_a.empty() ? a : b);
  }
  Comparison comparison;
  if (dump_a.empty()) {
    const Checkpoint checkpoint_a = open(a);
    comparison.add(checkpoint_a, open(b), "");
  } else {
    compare_dumps(dump_a, dump_b, comparison);
  }
  if (tensors_compared != nullptr) *tensors_compared = comparison.tensors;
  return std::move(comparison.differences);
}

}  // namespace refit::checkpoint
