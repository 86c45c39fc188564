#include "engine/notes.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

namespace refit::engine {
namespace {

using verify::NotFinite;
using verify::Overflow;

constexpr std::size_t kNamed = 5;  ///< tensors, of a side

const model::Tensor& tensor_of(const Setup& setup, std::int32_t index) { return setup.model[index]; }

std::string elements(std::int64_t count) { return fmt::format("{} element{}", count, count == 1 ? "" : "s"); }

/// A sentence for each of the first tensors, and one for all others, which `rest` makes of "3 elements of 2 more
/// tensors".
template <typename Found, typename Sentence, typename Rest>
std::vector<std::string> sentences(const std::vector<Found>& found, const Sentence& sentence, const Rest& rest) {
  std::vector<std::string> notes;
  std::int64_t others = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i < kNamed) notes.push_back(sentence(found[i]));
    if (i >= kNamed) others += found[i].elements;
  }
  if (found.size() > kNamed) {
    notes.push_back(rest(fmt::format("{} of {} more tensors", elements(others), found.size() - kNamed)));
  }
  return notes;
}

std::string not_finite_text(const std::string& what) { return "NaN or Inf in " + what; }

/// "3 elements of NAME became infinite as F16"
std::string overflow_text(const Setup& setup, const Overflow& overflow, DType dtype) {
  return fmt::format("{} of {} became infinite as {}", elements(overflow.elements),
                     tensor_of(setup, overflow.tensor).name, name(dtype));
}

/// Returns the place of a tensor's first overflow: "[0, 9]".
std::string first_text(const Setup& setup, const Overflow& overflow) {
  const Extents index = unravel(overflow.first_index, tensor_of(setup, overflow.tensor).file_shape());
  return fmt::format("[{}]", fmt::join(index.begin(), index.end(), ", "));
}

/// Returns the dtype as which a tensor is loaded: train's, or gen's where train has none of it.
DType loaded_as(const Setup& setup, const model::Tensor& tensor) {
  const auto format = setup.train->format(tensor) ? setup.train->format(tensor) : setup.gen->format(tensor);
  return format->dtype;
}

}  // namespace

std::vector<std::string> rounding_notes(const Setup& setup, transport::Control& world,
                                        const std::vector<std::int32_t>& rounded) {
  if (!setup.checkpoint && !setup.adapter_checkpoint) return {};
  std::vector<std::int64_t> ranks(setup.model.tensors.size(), 0);
  for (const std::int32_t tensor : rounded) ranks[static_cast<std::size_t>(tensor)] = 1;
  world.reduce_sum(ranks, 0);
  if (world.rank() != 0) return {};
  std::map<std::pair<DType, DType>, std::vector<std::int32_t>> tensors;  // by dtype of the file and in memory
  for (std::size_t t = 0; t < ranks.size(); ++t) {
    if (ranks[t] == 0) continue;
    const model::Tensor& tensor = setup.model.tensors[t];
    tensors[{setup.checkpoint_of(tensor)->find(tensor.name)->info.dtype, loaded_as(setup, tensor)}].push_back(
        tensor.index);
  }
  std::vector<std::string> notes;
  for (const auto& [dtypes, list] : tensors) {
    notes.push_back(fmt::format("{} tensor{} of dtype {} {} rounded to {} while loading, first {}", list.size(),
                                list.size() == 1 ? "" : "s", name(dtypes.first), list.size() == 1 ? "was" : "were",
                                name(dtypes.second), tensor_of(setup, list.front()).name));
  }
  return notes;
}

std::vector<std::string> overflow_notes(const Setup& setup, const std::vector<Overflow>& loaded) {
  const auto sentence = [&](const Overflow& one) {
    const model::Tensor& tensor = tensor_of(setup, one.tensor);
    const bool is_decoded = tensor.kept == model::Kept::dequantised;
    return fmt::format(
        "{} while loading from {}, the first at {}", overflow_text(setup, one, loaded_as(setup, tensor)),
        is_decoded ? "quantised values" : name(setup.checkpoint_of(tensor)->find(tensor.name)->info.dtype),
        first_text(setup, one));
  };
  return sentences(loaded, sentence, [](const std::string& rest) { return rest + " became infinite while loading"; });
}

std::string overflow_text(const Setup& setup, const Overflow& overflow) {
  return fmt::format("{}, the first at {}",
                     overflow_text(setup, overflow, setup.gen->format(tensor_of(setup, overflow.tensor))->dtype),
                     first_text(setup, overflow));
}

std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<NotFinite>& found) {
  const auto sentence = [&](const NotFinite& one) {
    return not_finite_text(fmt::format("{} of {}", elements(one.elements), tensor_of(setup, one.tensor).name));
  };
  return sentences(found, sentence, not_finite_text);
}

std::vector<std::string> not_finite_notes(const Setup& setup, const std::vector<NotFinite>& train,
                                          const std::vector<NotFinite>& gen, const std::vector<Overflow>& overflows) {
  const auto count_in = [](const auto& list, const NotFinite& one) {
    const auto same = std::find_if(list.begin(), list.end(), [&](const auto& t) { return t.tensor == one.tensor; });
    return same == list.end() ? std::int64_t{0} : same->elements;
  };
  std::vector<NotFinite> others;
  std::copy_if(gen.begin(), gen.end(), std::back_inserter(others),
               [&](const NotFinite& one) { return one.elements != count_in(train, one) + count_in(overflows, one); });
  const auto sentence = [&](const NotFinite& one) {
    const model::Tensor& tensor = tensor_of(setup, one.tensor);
    return not_finite_text(fmt::format("{} of {} on gen, as {}, and in {} on train", elements(one.elements),
                                       tensor.name, name(setup.gen->format(tensor)->dtype),
                                       elements(count_in(train, one))));
  };
  return sentences(others, sentence, not_finite_text);
}

}  // namespace refit::engine
