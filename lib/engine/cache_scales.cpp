#include "engine/cache_scales.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "transport/bytes.hpp"

namespace refit::engine {
namespace {

using model::Role;
using model::Tensor;

constexpr float kNeverLoaded = model::CacheScales().k;
constexpr std::size_t kPerLayer = 3;  ///< q, k, v: the order of Role

/// Returns the number of one of a layer's scales, counted over all layers.
std::size_t slot(std::size_t layer, Role role) {
  return layer * kPerLayer + static_cast<std::size_t>(role) - static_cast<std::size_t>(Role::q_scale);
}

/// Returns the tensors of all scales by their slots; nullptr where the model has none. Layers without attention do not
/// count.
std::vector<const Tensor*> tensors_by_slot(const model::Model& model) {
  std::map<std::int32_t, std::vector<const Tensor*>> layers;
  for (const Tensor& tensor : model.tensors) {
    if (facts_of(tensor.role).is_cache_scale) layers[tensor.layer].push_back(&tensor);
  }
  std::vector<const Tensor*> result(layers.size() * kPerLayer, nullptr);
  std::size_t number = 0;
  for (const auto& [layer, tensors] : layers) {
    for (const Tensor* tensor : tensors) result[slot(number, tensor->role)] = tensor;
    ++number;
  }
  return result;
}

float as(float value, DType dtype) {
  const std::uint32_t bits = kernels::convert_bits(std::bit_cast<std::uint32_t>(value), DType::f32, dtype);
  return std::bit_cast<float>(kernels::convert_bits(bits, dtype, DType::f32));
}

/// Returns the buffers that the engine makes of scales, by slot.
std::vector<float> finalised(const layout::SideSpec& engine, std::vector<float> scales) {
  for (std::size_t i = 0; i < scales.size(); i += kPerLayer) {
    const model::CacheScales used = engine.finalise({scales[i], scales[i + 1], scales[i + 2]});
    scales[i] = used.q;
    scales[i + 1] = used.k;
    scales[i + 2] = used.v;
  }
  return scales;
}

/// A buffer that differs from the expected one.
struct WrongBuffer {
  std::int32_t slot;
  std::uint32_t found;
  std::uint32_t expected;
};

}  // namespace

/// Returns the buffers' names: a buffer is called like its layer's parameter, with an underscore.
std::vector<std::string> cache_buffers(const Setup& setup) {
  if (!setup.c.engine().has_cache_scales()) return {};
  const std::vector<const Tensor*> tensors = tensors_by_slot(setup.model);
  std::vector<std::string> names(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i] == nullptr) continue;
    std::vector<layout::Piece> pieces;
    setup.gen->pieces(*tensors[i], Rank{0}, pieces);
    const std::string parameter = setup.gen->storage(pieces.at(0).place.storage, Rank{0}).name;
    const std::string attention = parameter.substr(0, parameter.rfind('.') + 1);
    const std::size_t layer = i / kPerLayer;
    for (const Role role : {Role::q_scale, Role::k_scale, Role::v_scale}) {
      names[slot(layer, role)] = fmt::format("{}_{}", attention, model::name(role));
    }
  }
  return names;
}

CacheScales::CacheScales(const kernels::ExecutionSpace& space, const Setup& setup, const layout::LocalLayout& layout,
                         const transport::LocalMemory& memory)
    : space_(space), setup_(setup) {
  const std::vector<const Tensor*> tensors = tensors_by_slot(setup.model);
  const std::vector<float> never_loaded(tensors.size(), kNeverLoaded);
  loaded_ = kernels::SharedBuffer(std::as_bytes(std::span(never_loaded)));
  std::vector<kernels::Tile> tiles;
  for (const layout::LocalPiece& piece : layout.pieces) {
    const auto found = std::find(tensors.begin(), tensors.end(), &setup.model[piece.tensor]);
    if (found == tensors.end()) continue;
    const DType dtype = piece.piece.format.dtype;
    kernels::Tile tile{memory.address(piece.piece.place, dtype), nullptr, {1}, {1}, {1}, dtype, DType::f32};
    tile.destination = loaded_.data() + (found - tensors.begin()) * static_cast<std::ptrdiff_t>(sizeof(float));
    tiles.push_back(tile);
  }
  copies_ = kernels::CopyTable(space, tiles);
  used_.assign(tensors.size(), std::numeric_limits<float>::quiet_NaN());
}

std::vector<float> CacheScales::load() const {
  copies_.run(space_);
  space_.fence();
  std::vector<float> result(used_.size());
  std::memcpy(result.data(), loaded_.data(), loaded_.span().size());
  return result;
}

std::vector<float> CacheScales::load_as_gen() const {
  const std::vector<const Tensor*> tensors = tensors_by_slot(setup_.model);
  std::vector<float> scales = load();
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (tensors[i] != nullptr) scales[i] = as(scales[i], setup_.gen->format(*tensors[i])->dtype);
  }
  return scales;
}

void CacheScales::finalise(bool as_never_loaded) {
  used_ = finalised(setup_.c.engine(), as_never_loaded ? std::vector<float>(used_.size(), kNeverLoaded) : load());
}

std::vector<checkpoint::DumpTensor> CacheScales::buffers() const {
  const std::vector<std::string> names = cache_buffers(setup_);
  std::vector<checkpoint::DumpTensor> result;
  for (std::size_t i = 0; i < names.size(); ++i) {
    result.push_back({{names[i], {}, DType::f32}, reinterpret_cast<const std::byte*>(&used_[i])});
  }
  return result;
}

std::string CacheScales::describe() const {
  const std::vector<const Tensor*> tensors = tensors_by_slot(setup_.model);
  const std::vector<float> values = load();
  const std::vector<float> stored = load_as_gen();
  std::size_t worst = 0;
  double largest = -1;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i] == nullptr) continue;
    if (!model::is_legal_cache_scale(values[i])) {
      fail_usage("{}: {} is {}; scales of the KV cache are positive numbers that bfloat16 can hold", setup_.source(),
                 tensors[i]->name, values[i]);
    }
    const double loss = std::abs(static_cast<double>(stored[i]) - values[i]) / values[i];
    if (loss <= largest) continue;
    largest = loss;
    worst = i;
  }
  const auto count = tensors.size() - static_cast<std::size_t>(std::count(tensors.begin(), tensors.end(), nullptr));
  return fmt::format("KV cache: {} scales of {} layers; as {} they change by {:.3f} % at most: {} from {} to {}", count,
                     used_.size() / kPerLayer, name(setup_.gen->format(*tensors[worst])->dtype), 100 * largest,
                     tensors[worst]->name, values[worst], stored[worst]);
}

void CacheScales::verify(const CacheScales* mine, const Setup& setup, transport::Control& world,
                         verify::StepResult& result) {
  transport::Control::Bytes bytes;
  if (world.rank() == 0) {
    for (const float scale : mine->load_as_gen()) transport::append(bytes, scale);
  }
  const auto expected = finalised(setup.c.engine(), transport::read_all<float>(world.broadcast(std::move(bytes), 0)));

  const std::int32_t train_ranks = setup.train->ranks();
  transport::Control::Bytes wrong;
  for (std::size_t i = 0; i < expected.size() && world.rank() >= train_ranks; ++i) {
    const auto found = std::bit_cast<std::uint32_t>(mine->used_[i]);
    const auto right = std::bit_cast<std::uint32_t>(expected[i]);
    if (found != right) transport::append(wrong, WrongBuffer{static_cast<std::int32_t>(i), found, right});
  }
  const auto all = world.gather_all(wrong);

  const std::vector<std::string> names = cache_buffers(setup);
  std::set<std::int32_t> wrong_slots;
  std::vector<std::set<std::int32_t>> wrong_of_engine(result.engines.size());
  for (std::int32_t rank = train_ranks; rank < world.size(); ++rank) {
    const Rank gen_rank{rank - train_ranks};
    const auto engine = static_cast<std::size_t>(setup.gen->engine(gen_rank));
    result.engines[engine].elements += std::ssize(expected);
    for (const auto& buffer : transport::read_all<WrongBuffer>(all[static_cast<std::size_t>(rank)])) {
      result.wrong.push_back(
          {names[static_cast<std::size_t>(buffer.slot)], gen_rank, 1, 0, buffer.found, buffer.expected});
      wrong_slots.insert(buffer.slot);
      wrong_of_engine[engine].insert(buffer.slot);
      ++result.elements_wrong;
      ++result.engines[engine].elements_wrong;
    }
  }
  result.tensors_wrong += std::ssize(wrong_slots);
  for (std::size_t e = 0; e < result.engines.size(); ++e)
    result.engines[e].tensors_wrong += std::ssize(wrong_of_engine[e]);
  result.elements += std::ssize(expected) * setup.gen->ranks();
}

}  // namespace refit::engine
