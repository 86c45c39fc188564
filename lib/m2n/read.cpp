#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "m2n/m2n.hpp"
#include "model/json_file.hpp"

namespace refit::m2n {
namespace {

using Json = nlohmann::json;
using model::quotable;

constexpr std::int64_t kMaxFileBytes = std::int64_t{64} << 20;
constexpr std::int64_t kMaxRanks = 65536;
constexpr std::int64_t kMaxLayers = 10000;
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 31;
constexpr std::int64_t kMaxElements = std::int64_t{1} << 48;
constexpr std::size_t kProblemsShown = 10;

/// Problems of a file; check() throws them all.
class Problems {
 public:
  explicit Problems(const std::string& path) : path_(path) {}
  void add(const std::string& what) { texts_.push_back(what); }
  void check() const {
    if (texts_.empty()) return;
    const std::vector<std::string> shown(
        texts_.begin(), texts_.begin() + static_cast<std::ptrdiff_t>(std::min(texts_.size(), kProblemsShown)));
    fail_usage(
        "{}: {}{}", path_, fmt::join(shown, "; "),
        texts_.size() > kProblemsShown ? fmt::format("; and {} more problems", texts_.size() - kProblemsShown) : "");
  }

 private:
  const std::string& path_;
  std::vector<std::string> texts_;
};

std::optional<std::int64_t> whole_number(const Json& value, std::int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(max)) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  return number < 1 || number > max ? std::nullopt : std::optional(number);
}

/// Returns a size of a side; 1 where it is absent and not `required`.
std::int64_t size_of(const Json& side, const char* name, const char* key, bool required, Problems& problems) {
  const auto found = side.find(key);
  if (found == side.end()) {
    if (required) problems.add(fmt::format("{}.{} is missing", name, key));
    return 1;
  }
  const auto number = whole_number(*found, kMaxRanks);
  if (!number) problems.add(fmt::format("{}.{} must be a whole number from 1 to {}", name, key, kMaxRanks));
  return number.value_or(1);
}

Mesh read_mesh(const Json& root, const char* name, bool folds_experts, Problems& problems) {
  const auto side = root.find(name);
  if (side == root.end() || !side->is_object()) {
    problems.add(fmt::format("{} is missing: an object with num_gpus, tp_size, ...", name));
    return {};
  }
  const auto size = [&](const char* key) { return size_of(*side, name, key, false, problems); };
  Mesh mesh{size_of(*side, name, "num_gpus", true, problems),
            size("tp_size"),
            size("cp_size"),
            size("ep_size"),
            size("dp_size"),
            size("pp_size"),
            folds_experts};
  if (folds_experts) {
    if (mesh.ranks % mesh.pp != 0 || mesh.stage_ranks() % (mesh.tp * mesh.cp) != 0 || mesh.stage_ranks() % mesh.ep != 0)
      problems.add(
          fmt::format("{}: num_gpus {} is no multiple of pp_size x tp_size x cp_size, or a stage none of "
                      "ep_size",
                      name, mesh.ranks));
    return mesh;
  }
  std::int64_t ranks = 1;
  for (const std::int64_t size_of_axis : {mesh.tp, mesh.cp, mesh.ep, mesh.dp, mesh.pp})
    ranks = std::min(ranks * size_of_axis, kMaxRanks + 1);  // larger numbers are too large as well
  if (ranks != mesh.ranks)
    problems.add(
        fmt::format("{}: num_gpus {} is not tp_size x cp_size x ep_size x dp_size x pp_size", name, mesh.ranks));
  return mesh;
}

std::optional<std::int64_t> number_at(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool digits = error == std::errc{} && end != text.data() && text.front() != '-';
  return digits ? std::optional(number) : std::nullopt;
}

/// Returns the number behind "layers."; -1 where there is none.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kLayers = "layers.";
  for (std::size_t at = name.find(kLayers); at != std::string_view::npos; at = name.find(kLayers, at + 1)) {
    if (const auto layer = number_at(name.substr(at + kLayers.size()))) return *layer;
  }
  return -1;
}

/// Returns "a.experts.weight" for "a.experts.7.weight"; the name itself where it is no expert's.
std::string group_of(const std::string& name) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t at = name.rfind(kExperts);
  if (at == std::string::npos) return name;
  const std::size_t first = at + kExperts.size();
  const std::size_t end = name.find_first_not_of("0123456789", first);
  if (end == first || end == std::string::npos || name[end] != '.') return name;
  return name.substr(0, first) + name.substr(end + 1);
}

bool is_supported(DType dtype) { return is_castable(dtype) || dtype == DType::f8_e4m3 || dtype == DType::u8; }

struct Listed {
  Shape shape;
  DType dtype = DType::bf16;
  std::int64_t members = 0;  ///< experts; 0 = no group
};

std::optional<Shape> read_shape(const Json& tensor) {
  const auto found = tensor.find("shape");
  if (found == tensor.end() || !found->is_array()) return std::nullopt;
  if (found->empty() || found->size() >= static_cast<std::size_t>(kWalkedDimensions)) return std::nullopt;
  Shape shape;
  for (const Json& value : *found) {
    const auto extent = whole_number(value, kMaxExtent);
    if (!extent) return std::nullopt;
    shape.push_back(*extent);
    if (product(shape) > kMaxElements) return std::nullopt;
  }
  return shape;
}

/// Reads one entry of a model file; returns nothing after a problem.
std::optional<Listed> read_tensor(const std::string& name, const Json& tensor, Problems& problems) {
  const std::string shown = quotable(name);
  if (!tensor.is_object()) {
    problems.add(fmt::format("{} is not an object with shape and dtype", shown));
    return std::nullopt;
  }
  const std::optional<Shape> shape = read_shape(tensor);
  if (!shape) problems.add(fmt::format("{}: shape must be a list of 1 to 3 whole numbers above 0", shown));
  const auto given = tensor.find("dtype");
  const std::string word = given == tensor.end() ? "BF16" : given->is_string() ? given->get<std::string>() : "";
  const std::optional<DType> dtype = parse_dtype(word);
  const bool known = dtype && is_supported(*dtype);
  if (!known)
    problems.add(fmt::format("{}: dtype {} is none of F32, F16, BF16, F8_E4M3 and U8", shown, quotable(word)));
  if (!shape || !known) return std::nullopt;
  return Listed{*shape, *dtype};
}

}  // namespace

System read_system(const std::string& path) {
  const Json root = model::read_json(path, "system file of NCCL M2N", kMaxFileBytes);
  Problems problems(path);
  if (!root.is_object()) fail_usage("{}: is not a JSON object with train and generation", path);
  const System system{read_mesh(root, "train", true, problems), read_mesh(root, "generation", false, problems)};
  problems.check();
  return system;
}

model::Model read_model(const std::string& path, std::int64_t layers) {
  const Json root = model::read_json(path, "model file of NCCL M2N", kMaxFileBytes);
  if (!root.is_object()) fail_usage("{}: is not a JSON object of tensors", path);
  Problems problems(path);
  std::map<std::string, Listed> tensors;
  for (const auto& [name, value] : root.items()) {
    const std::int64_t layer = layer_of(name);
    if (layers > 0 && layer >= layers) continue;
    if (layer >= kMaxLayers) problems.add(fmt::format("{}: more than {} layers", quotable(name), kMaxLayers));
    const std::optional<Listed> read = read_tensor(name, value, problems);
    if (!read) continue;
    const std::string group = group_of(name);
    const auto [at, is_new] = tensors.emplace(group, *read);
    const Listed& first = at->second;
    if (!is_new && (first.members == 0 || first.shape != read->shape || first.dtype != read->dtype))
      problems.add(fmt::format("{} differs from the other experts of its layer", quotable(name)));
    if (group != name) ++at->second.members;
  }
  if (tensors.empty()) problems.add("lists no tensors");
  problems.check();
  model::Model model;
  model.config.family = "m2n";
  for (const auto& [name, listed] : tensors) {
    model::Tensor tensor;
    tensor.index = static_cast<std::int32_t>(model.tensors.size());
    tensor.name = name;
    if (listed.members > 0) tensor.shape.push_back(listed.members);
    for (const std::int64_t extent : listed.shape) tensor.shape.push_back(extent);
    tensor.dtype = listed.dtype;
    tensor.role = model::Role::listed;
    tensor.layer = static_cast<std::int32_t>(layer_of(name));
    model.config.layers = std::max<std::int64_t>(model.config.layers, tensor.layer + 1);
    model.tensors.push_back(std::move(tensor));
  }
  return model;
}

}  // namespace refit::m2n
