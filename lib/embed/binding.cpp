#include "embed/binding.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "core/error.hpp"
#include "core/nearest.hpp"

namespace refit::embed {
namespace {

constexpr std::size_t kShown = 10;

/// What is wrong with tensors, one sentence each, the tensor first.
class Wrong {
 public:
  void add(const std::string& tensor, const std::string& what) {
    if (all_++ == 0) first_ = tensor;
    if (texts_.size() < kShown) texts_.push_back(fmt::format("{}: {}", tensor, what));
  }
  void raise(const std::string& owner) const {
    if (all_ == 0) return;
    std::string text = fmt::format("{}: {}", owner, fmt::join(texts_, "; "));
    if (all_ > texts_.size()) text += fmt::format("; and {} more tensors", all_ - texts_.size());
    throw Error(ErrorKind::usage, text, {first_});
  }

 private:
  std::size_t all_ = 0;
  std::string first_;
  std::vector<std::string> texts_;
};

/// Returns what is wrong with a tensor's dtype; "" where it is the storage's, or bytes that somebody keeps as U8.
std::string wrong_dtype(const layout::Storage& storage, const refit_tensor& tensor) {
  const std::optional<DType> dtype = tensor.dtype == nullptr ? std::nullopt : parse_dtype(tensor.dtype);
  if (!dtype)
    return fmt::format("has the unknown dtype {}; dtypes are named as in safetensors files, e.g. BF16",
                       tensor.dtype == nullptr ? "NULL" : tensor.dtype);
  if (*dtype == storage.dtype) return "";
  if (byte_size(storage.dtype) == 1 && (*dtype == DType::u8 || *dtype == DType::i8)) return "";
  return fmt::format("is {} and has to be {}; give the side another precision, or the tensor another dtype",
                     name(*dtype), name(storage.dtype));
}

/// Returns what is wrong with a tensor's shape and strides. Its memory has to be dense and row-major with the storage's
/// shape; a view of that with its dimensions in another order is one, too.
std::string wrong_shape(const layout::Storage& storage, const refit_tensor& tensor) {
  if (tensor.dimensions < 0 || tensor.dimensions > kMaxDimensions || (tensor.dimensions > 0 && tensor.shape == nullptr))
    return fmt::format("has {} dimensions", tensor.dimensions);
  Shape shape;
  for (int d = 0; d < tensor.dimensions; ++d) shape.push_back(tensor.shape[d]);
  // Dimensions in the order of their strides; those of one element may have any stride and stay where they are.
  std::vector<int> order, long_ones;
  for (int d = 0; d < shape.size(); ++d) {
    order.push_back(d);
    if (shape[d] != 1) long_ones.push_back(d);
  }
  const bool has_strides = tensor.strides != nullptr;
  if (has_strides) {
    std::vector<int> sorted = long_ones;
    std::ranges::stable_sort(sorted, std::ranges::greater(), [&](int d) { return tensor.strides[d]; });
    for (std::size_t i = 0; i < sorted.size(); ++i) order[static_cast<std::size_t>(long_ones[i])] = sorted[i];
  }
  Shape in_memory;
  for (const int d : order) in_memory.push_back(shape[d]);
  if (in_memory != storage.shape)
    return fmt::format(
        "has shape {} and has to have {}{}", to_string(shape), to_string(storage.shape),
        in_memory == shape ? "" : fmt::format(" (in the order of its strides it has {})", to_string(in_memory)));
  std::int64_t dense = 1;
  for (auto d = order.rbegin(); has_strides && d != order.rend(); ++d) {
    if (shape[*d] != 1 && tensor.strides[*d] != dense)
      return fmt::format(
          "is not dense: dimension {} of {} has stride {} and not {}; it is used where it lies, so it "
          "has to be contiguous",
          *d, to_string(shape), tensor.strides[*d], dense);
    dense *= shape[*d];
  }
  if (in_memory == shape && !std::ranges::is_sorted(order))
    return fmt::format(
        "has its dimensions in another order than its memory, and both have shape {}: give the tensor as "
        "it lies in memory (transposed)",
        to_string(shape));
  return "";
}

/// Complains about storages that share memory.
void check_apart(const layout::LocalLayout& layout, const Binding& binding, Wrong& wrong) {
  std::vector<std::size_t> order(layout.storages.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return binding.addresses[i]; });
  for (std::size_t k = 1; k < order.size(); ++k) {
    const layout::Storage& before = layout.storages[order[k - 1]];
    const layout::Storage& after = layout.storages[order[k]];
    if (binding.addresses[order[k - 1]] + before.bytes() <= binding.addresses[order[k]] || after.bytes() == 0) continue;
    wrong.add(after.title(),
              fmt::format("shares memory with {}, and a refit stores other weights in each", before.title()));
  }
}

}  // namespace

Binding bind_tensors(const layout::LocalLayout& layout, std::span<const refit_tensor> tensors, const std::string& owner,
                     bool is_written) {
  Wrong wrong;
  std::unordered_map<std::string, const refit_tensor*> by_name;
  std::vector<std::string> names;
  for (const refit_tensor& tensor : tensors) {
    if (tensor.name == nullptr) throw Error(ErrorKind::usage, fmt::format("{}: a tensor has no name", owner));
    if (!by_name.emplace(tensor.name, &tensor).second) wrong.add(tensor.name, "is there twice");
    names.emplace_back(tensor.name);
  }
  Binding binding;
  for (const layout::Storage& storage : layout.storages) {
    const std::string title = storage.title();
    const auto found = by_name.find(title);
    binding.addresses.push_back(nullptr);
    if (found == by_name.end()) {
      wrong.add(title, fmt::format("is missing: {} {}{}", name(storage.dtype), to_string(storage.shape),
                                   suggestion(title, names)));
      continue;
    }
    const refit_tensor& tensor = *found->second;
    binding.addresses.back() = static_cast<std::byte*>(tensor.address);
    for (const std::string& what : {wrong_dtype(storage, tensor), wrong_shape(storage, tensor)})
      if (!what.empty()) wrong.add(title, what);
    if (tensor.address == nullptr && storage.bytes() > 0) wrong.add(title, "has no memory: its address is NULL");
    const auto beyond =
        reinterpret_cast<std::uintptr_t>(tensor.address) % static_cast<std::uintptr_t>(byte_size(storage.dtype));
    if (beyond != 0) wrong.add(title, fmt::format("lies {} bytes beyond a multiple of its elements' size", beyond));
    by_name.erase(found);
  }
  wrong.raise(owner);
  if (is_written) check_apart(layout, binding, wrong);
  wrong.raise(owner);
  for (const refit_tensor& tensor : tensors)
    if (by_name.contains(tensor.name)) binding.ignored.emplace_back(tensor.name);
  return binding;
}

std::vector<transport::OwnedBlock> blocks_of(const layout::LocalLayout& layout, const Binding& binding,
                                             bool is_written) {
  std::vector<transport::OwnedBlock> blocks;
  for (std::size_t i = 0; i < layout.storages.size(); ++i)
    blocks.push_back({layout.storages[i].title(), binding.addresses[i], layout.storages[i].bytes(), is_written});
  return blocks;
}

}  // namespace refit::embed
