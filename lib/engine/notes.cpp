#include "engine/notes.hpp"

#include <algorithm>
#include <map>

namespace refit::engine {
namespace {

using verify::NotFinite;

constexpr std::size_t kNamed = 5;  ///< tensors, of a side

const model::Tensor& tensor_of(const Setup& setup, std::int32_t index) { return setup.model[index]; }

std::string elements(std::int64_t count) { return fmt::format("{} element{}", count, count == 1 ? "" : "s"); }

/// A sentence for each of the first tensors, and one for all others.
template <typename Sentence>
std::vector<std::string> sentences(const std::vector<NotFinite>& found, const Sentence& sentence) {
  std::vector<std::string> notes;
  std::int64_t others = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i < kNamed) notes.push_back(sentence(found[i]));
    if (i >= kNamed) others += found[i].elements;
  }
  if (found.size() > kNamed) {
    notes.push_back(fmt::format("NaN or Inf in {} of {} more tensors", elements(others), found.size() - kNamed));
  }
  return notes;
}

}  // namespace

std::vector<std::string> rounding_notes(const Setup& setup, transport::Control& world,
                                        const std::vector<std::int32_t>& rounded) {
  if (!setup.checkpoint) return {};
  std::vector<std::int64_t> ranks(setup.model.tensors.size(), 0);
  for (const std::int32_t tensor : rounded) ranks[static_cast<std::size_t>(tensor)] = 1;
  world.reduce_sum(ranks, 0);
  if (world.rank() != 0) return {};
  std::map<std::pair<DType, DType>, std::vector<std::int32_t>> tensors;  // by dtype of the file and in memory
  for (std::size_t t = 0; t < ranks.size(); ++t) {
    if (ranks[t] == 0) continue;
    const model::Tensor& tensor = setup.model.tensors[t];
    const auto format = setup.train->format(tensor) ? setup.train->format(tensor) : setup.gen->format(tensor);
    tensors[{setup.checkpoint->find(tensor.name)->info.dtype, format->dtype}].push_back(tensor.index);
  }
  std::vector<std::string> notes;
  for (const auto& [dtypes, list] : tensors) {
    notes.push_back(fmt::format("{} tensor{} of dtype {} {} rounded to {} while loading, first {}", list.size(),
                                list.size() == 1 ? "" : "s", name(dtypes.first), list.size() == 1 ? "was" : "were",
                                name(dtypes.second), tensor_of(setup, list.front()).name));
  }
  return notes;
}

std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<NotFinite>& found) {
  return sentences(found, [&](const NotFinite& one) {
    return fmt::format("NaN or Inf in {} of {}", elements(one.elements), tensor_of(setup, one.tensor).name);
  });
}

std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<NotFinite>& train,
                                          const std::vector<NotFinite>& gen) {
  const auto on_train = [&](const NotFinite& one) {
    const auto same = std::find_if(train.begin(), train.end(), [&](const auto& t) { return t.tensor == one.tensor; });
    return same == train.end() ? std::int64_t{0} : same->elements;
  };
  std::vector<NotFinite> others;
  std::copy_if(gen.begin(), gen.end(), std::back_inserter(others),
               [&](const NotFinite& one) { return one.elements != on_train(one); });
  return sentences(others, [&](const NotFinite& one) {
    const model::Tensor& tensor = tensor_of(setup, one.tensor);
    return fmt::format("NaN or Inf in {} of {} on gen, as {}, and in {} on train", elements(one.elements), tensor.name,
                       name(setup.gen->format(tensor)->dtype), elements(on_train(one)));
  });
}

}  // namespace refit::engine
