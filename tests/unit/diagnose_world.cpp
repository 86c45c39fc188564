#include "unit/diagnose_world.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "app/case_reader.hpp"
#include "checkpoint/rank_files.hpp"
#include "engine/weights.hpp"

namespace refit::diagnose {

cases::Case case_of(const std::string& model, const std::vector<std::string>& settings) {
  std::map<std::string, std::string> values = {
      {"model.config", fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, model)},
      {"train.layout", "TP1"},
      {"gen.layout", "TP1"}};
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    values[setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  std::vector<app::Option> options;
  for (const auto& [key, value] : values) options.push_back({key, value, "--set " + key});
  return app::read_case("", options);
}

World::World(const cases::Case& c) : setup_(c) {
  for (std::int32_t r = 0; r < ranks(); ++r) {
    locals_.push_back(layout::materialise(*setup_.gen, setup_.model.tensors, Rank{r}));
    auto& mine = storages_.emplace_back();
    for (const layout::Storage& storage : locals_.back().storages) mine.emplace_back(storage.bytes());
  }
  bring(*setup_.gen);
}

void World::bring(const layout::Layout& layout) {
  const kernels::ExecutionSpace space;
  for (std::int32_t r = 0; r < ranks(); ++r) {
    const layout::LocalLayout& local = locals_[static_cast<std::size_t>(r)];
    auto& mine = storages_[static_cast<std::size_t>(r)];
    for (const auto& storage : mine) kernels::poison(space, storage.data(), storage.bytes());
    space.fence();
    std::vector<layout::Piece> pieces;
    for (const model::Tensor& tensor : setup_.model.tensors) {
      pieces.clear();
      layout.pieces(tensor, Rank{r}, pieces);
      const auto rule = checkpoint::synthetic_rule(setup_.model.canonical(tensor), 1);
      for (const layout::Piece& piece : pieces) {
        std::byte* data = mine[static_cast<std::size_t>(local.find(piece.place.storage))].data() +
                          piece.place.offset * byte_size(piece.format.dtype);
        kernels::synthesise(space, {data, piece.format.dtype, piece.box, tensor.shape, piece.place.strides}, rule.key,
                            rule.mean, rule.scale);
      }
    }
    for (const auto& [storage, fill] : local.fills) {
      const DType dtype = local.storages[static_cast<std::size_t>(storage)].dtype;
      kernels::fill(space, mine[static_cast<std::size_t>(storage)].data() + fill.place.offset * byte_size(dtype), dtype,
                    fill.extent, fill.place.strides, fill.value);
    }
    space.fence();
  }
}

const model::Tensor& World::tensor(const std::string& name) const {
  const model::Tensor* found = setup_.model.find(name);
  REFIT_ASSERT(found != nullptr);
  return *found;
}

const layout::Piece& World::piece(std::int32_t rank, const std::string& name) const {
  const auto& pieces = locals_[static_cast<std::size_t>(rank)].pieces;
  const std::int32_t index = tensor(name).index;
  const auto found = std::find_if(pieces.begin(), pieces.end(), [&](const auto& p) { return p.tensor == index; });
  REFIT_ASSERT(found != pieces.end());
  return found->piece;
}

std::uint16_t& World::at(std::int32_t rank, const std::string& name, std::int64_t row, std::int64_t column) {
  return at(rank, name, {{row, column}, {1, 1}});
}

std::uint16_t& World::at(std::int32_t rank, const std::string& name, std::int64_t index) {
  return at(rank, name, {{index}, {1}});
}

std::uint16_t& World::at(std::int32_t rank, const std::string& name, const Box& element) {
  const layout::Piece& mine = piece(rank, name);
  REFIT_ASSERT(intersect(mine.box, element) == element);
  const layout::Place place = layout::place_of(mine, element);
  const auto storage = static_cast<std::size_t>(locals_[static_cast<std::size_t>(rank)].find(place.storage));
  std::byte* data = storages_[static_cast<std::size_t>(rank)][storage].data();
  return reinterpret_cast<std::uint16_t*>(data)[place.offset];
}

void World::dump(const std::string& folder) const {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (std::int32_t r = 0; r < ranks(); ++r) {
    std::vector<checkpoint::DumpTensor> tensors;
    const auto& local = locals_[static_cast<std::size_t>(r)];
    for (std::size_t i = 0; i < local.storages.size(); ++i) {
      const layout::Storage& storage = local.storages[i];
      tensors.push_back(
          {{storage.name, storage.shape, storage.dtype}, storages_[static_cast<std::size_t>(r)][i].data()});
    }
    checkpoint::write_safetensors(fmt::format("{}/{}.safetensors", folder, checkpoint::stem({"gen", r})), tensors, {});
  }
}

}  // namespace refit::diagnose
