#include "engine/processing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "engine/derived.hpp"
#include "kernels/processed.hpp"
#include "transport/bytes.hpp"

namespace refit::engine {
namespace {

using layout::Processed;

constexpr std::int64_t kAlignment = 256;

std::int64_t elements_of(const Processed& storage) { return product(storage.shape); }
std::int64_t bytes_of(const Processed& storage) { return elements_of(storage) * byte_size(storage.dtype); }
std::int64_t room_of(const Processed& storage) { return round_up(bytes_of(storage), kAlignment); }

std::int64_t room_of(const std::vector<Processed>& storages) {
  std::int64_t bytes = 0;
  for (const Processed& storage : storages) bytes += room_of(storage);
  return bytes;
}

/// What a gen rank says of one of its storages; the first one of all of them is about their number.
struct Found {
  std::int64_t storage;
  std::int64_t elements_wrong;
  std::int64_t first;
  std::uint32_t found;
  std::uint32_t expected;
};

/// Returns the bits of an element that may be on a device.
std::uint32_t bits_at(const std::byte* data, std::int64_t element, DType dtype) {
  std::uint32_t bits = 0;
  const kernels::SharedBuffer one(byte_size(dtype));
  kernels::transfer(data + element * byte_size(dtype), one.data(), byte_size(dtype));
  std::memcpy(&bits, one.data(), one.span().size());
  return bits;
}

}  // namespace

bool processes(const Setup& setup) {
  return std::ranges::any_of(setup.c.gen, [](const layout::Side& engine) { return engine->processes(); });
}

std::vector<Processed> processed_on(const Setup& setup, Rank rank) {
  const auto engine = static_cast<std::size_t>(setup.gen->engine(rank));
  return setup.c.gen[engine]->processed(setup.model, layout::materialise(*setup.gen, setup.model.tensors, rank));
}

Processing::Processing(const kernels::ExecutionSpace& space, const Setup& setup, transport::Links& links,
                       const OwnRanks& own, const session::OwnMemory& mine)
    : space_(space), setup_(setup), mine_(mine) {
  if (!own.destination) return;
  processed_ = processed_on(setup, *own.destination);
  if (processed_.empty()) return;
  arena_ = links.memory(room_of(processed_));
  kernels::poison(space, arena_->span().data(), std::ssize(arena_->span()));
  std::byte* at = arena_->span().data();
  std::int64_t largest = 0;
  for (const Processed& storage : processed_) {
    storages_.push_back(at);
    at += room_of(storage);
    largest = std::max(largest, room_of(storage));
  }
  expected_ = kernels::DeviceBuffer(largest);
}

std::int64_t Processing::bytes(const Setup& setup, Rank rank) { return room_of(processed_on(setup, rank)); }

std::byte* Processing::source(std::int32_t storage) const {
  return storage < 0 ? nullptr : mine_.destination->storages.storages()[static_cast<std::size_t>(storage)];
}

void Processing::make(const Processed& storage, std::byte* destination) const {
  const std::byte* from = source(storage.source);
  const std::byte* other = source(storage.other);
  if (const auto* numbers = std::get_if<NumberRule>(&storage.rule)) {
    kernels::process(space_, *numbers, from, other, destination, elements_of(storage), storage.repeats);
  } else {
    kernels::process(space_, std::get<ByteRule>(storage.rule), from, other, destination);
  }
}

void Processing::finalise() const {
  for (std::size_t i = 0; i < processed_.size(); ++i) make(processed_[i], storages_[i]);
  space_.fence();
}

std::vector<checkpoint::DumpTensor> Processing::dumped() const {
  std::vector<checkpoint::DumpTensor> result;
  for (std::size_t i = 0; i < processed_.size(); ++i)
    result.push_back({{processed_[i].name, processed_[i].shape, processed_[i].dtype}, storages_[i]});
  return result;
}

std::string Processing::describe() const {
  const std::vector<Processed> first = processed_on(setup_, Rank{0});
  return fmt::format("gen makes {} storages of its loaded ones at the end of every refit ({} bytes on gen rank 0: {})",
                     first.size(), room_of(first), first.empty() ? "none" : first.front().name + ", ...");
}

void Processing::verify(transport::Control& world, verify::StepResult& result) const {
  transport::Control::Bytes mine;
  std::int64_t elements = 0;
  for (const Processed& storage : processed_) elements += elements_of(storage);
  transport::append(mine, Found{-1, elements, -1, 0, 0});
  for (std::size_t i = 0; i < processed_.size(); ++i) {
    const Processed& storage = processed_[i];
    const std::int64_t count = elements_of(storage);
    make(storage, expected_.data());
    const kernels::Region region{storages_[i], storage.dtype, Box::whole({count}), {count}, {1}};
    const kernels::Difference found = kernels::count_differences(space_, region, expected_.data());
    if (found.count == 0) continue;
    transport::append(mine, Found{static_cast<std::int64_t>(i), found.count, found.first,
                                  bits_at(storages_[i], found.first, storage.dtype),
                                  bits_at(expected_.data(), found.first, storage.dtype)});
  }
  const auto all = world.gather_all(mine);

  std::set<std::string> names;
  std::vector<std::set<std::string>> names_of_engine(result.engines.size());
  const WorldMap map = setup_.c.world();
  for (std::int32_t r = 0; r < map.destination; ++r) {
    const Rank rank{r};
    const auto engine = static_cast<std::size_t>(setup_.gen->engine(rank));
    const auto found =
        transport::read_all<Found>(all[static_cast<std::size_t>(map.world_rank(Side::destination, rank))]);
    result.elements += found.front().elements_wrong;
    result.engines[engine].elements += found.front().elements_wrong;
    if (found.size() == 1) continue;
    const std::vector<Processed> storages = processed_on(setup_, rank);
    for (auto wrong = found.begin() + 1; wrong != found.end(); ++wrong) {
      const std::string name = derived_name(storages[static_cast<std::size_t>(wrong->storage)].name);
      result.wrong.push_back({name, rank, wrong->elements_wrong, wrong->first, wrong->found, wrong->expected});
      names.insert(name);
      names_of_engine[engine].insert(name);
      result.elements_wrong += wrong->elements_wrong;
      result.engines[engine].elements_wrong += wrong->elements_wrong;
    }
  }
  result.tensors_wrong += std::ssize(names);
  for (std::size_t e = 0; e < result.engines.size(); ++e)
    result.engines[e].tensors_wrong += std::ssize(names_of_engine[e]);
}

}  // namespace refit::engine
