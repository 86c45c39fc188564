#include "support/executor_harness.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <numeric>

#include "core/box.hpp"
#include "core/hash.hpp"
#include "kernels/quantise_reference.hpp"
#include "layout/quantised_layout.hpp"
#include "support/message_resharder.hpp"
#include "support/number_oracle.hpp"
#include "support/thread_links.hpp"
#include "transport/delta.hpp"
#include "transport/foreign_memory.hpp"
#include "transport/shared_memory.hpp"

namespace refit::test_support {
namespace {

using layout::LocalLayout;
using layout::Piece;
using transport::Communicator;
using transport::Endpoint;

constexpr unsigned char kJunk = 0x5A;  // source bytes outside of every piece

/// Returns finite bits of a castable type (exponents near 1), any bits of the others.
std::uint64_t element_bits(DType dtype, std::uint64_t random) {
  switch (dtype) {
    case DType::f32: return (random & 0x807FFFFFU) | (120 + (random >> 40) % 15) << 23;
    case DType::bf16: return (random & 0x807FU) | (120 + (random >> 40) % 15) << 7;
    case DType::f16: return (random & 0x83FFU) | (10 + (random >> 40) % 10) << 10;
    default: return random;
  }
}

/// Returns the step that gave an element the value that it has at `step`.
std::int64_t last_change(Changes changes, std::uint64_t key, std::int64_t element, std::int64_t elements,
                         std::int64_t step) {
  for (; changes == Changes::sparse && step > 0; --step) {
    const std::uint64_t random = splitmix64(key + static_cast<std::uint64_t>(step) * 1'000'003) ^
                                 splitmix64(static_cast<std::uint64_t>(element));
    const bool changed[] = {true,         splitmix64(random) % 40 == 0, false,
                            element == 0, element == elements - 1,      splitmix64(random) % 3 == 0};
    if (changed[step % 6]) break;
  }
  return step;
}

/// Returns zeros of both signs, and NaN of several payloads where no end converts them, among an element's bits.
std::uint64_t special_bits(DType dtype, bool converts, std::uint64_t random, std::uint64_t bits) {
  if (!is_castable(dtype) || random % 8 != 0) return bits;
  const std::uint64_t sign = std::uint64_t{1} << (8 * byte_size(dtype) - 1);
  if (converts || random % 16 == 0) return bits & sign;
  return bits | (dtype == DType::f32 ? 0x7F800000U : dtype == DType::bf16 ? 0x7F80U : 0x7C00U);
}

/// `converts`: an end has another form than `from`.
std::vector<std::byte> make_values(std::int64_t elements, const std::string& name, Format from, Format to,
                                   std::int64_t step, Changes changes, bool converts) {
  const std::uint64_t of_tensor = hash_name(name);
  const auto size = static_cast<std::size_t>(byte_size(to.dtype));
  const Transform how = transform(from.conversion, to.conversion);
  std::vector<std::byte> values(static_cast<std::size_t>(elements) * size);
  for (std::size_t i = 0; i < static_cast<std::size_t>(elements); ++i) {
    const std::int64_t since = last_change(changes, of_tensor, static_cast<std::int64_t>(i), elements, step);
    const std::uint64_t random = splitmix64(combine(of_tensor, static_cast<std::uint64_t>(since)) + i);
    std::uint64_t bits = element_bits(from.dtype, random);
    if (changes == Changes::sparse) bits = special_bits(from.dtype, converts, splitmix64(random), bits);
    if (from != to) bits = converted(bits, from.dtype, to.dtype, how);
    std::memcpy(values.data() + i * size, &bits, size);
  }
  return values;
}

/// Calls visit(byte in the storage, element of the tensor) for every element of a piece.
template <typename Visit>
void for_each_element(const Piece& piece, const Shape& shape, const Visit& visit) {
  const Extents strides = row_major_strides(shape);
  const std::int64_t volume = piece.box.volume();
  for (std::int64_t i = 0; i < volume; ++i) {
    Extents index = piece.box.extent;
    std::int64_t rest = i;
    for (int d = index.size() - 1; d >= 0; --d) {
      index[d] = rest % piece.box.extent[d];
      rest /= piece.box.extent[d];
    }
    const std::int64_t local = piece.place.offset + offset_of(index, piece.place.strides);
    visit(local * byte_size(piece.format.dtype), offset_of(piece.box.lower, strides) + offset_of(index, strides));
  }
}

/// One rank's storages in one arena, with the functions that write the truth into it.
class Memory {
 public:
  Memory(const TransportCase& job, const layout::Layout& layout, Rank rank)
      : job_(job),
        local_(materialise(layout, job.model->tensors, rank)),
        map_(local_),
        is_moved_(job.model->tensors.size(), false) {
    for (const auto* path : {&job.bulk, &job.misc}) {
      for (const model::Tensor& tensor : *path) is_moved_[static_cast<std::size_t>(tensor.index)] = true;
    }
  }

  const LocalLayout& local() const { return local_; }
  const transport::ArenaMap& map() const { return map_; }
  std::int64_t bytes() const { return map_.bytes; }
  std::byte* storage(std::byte* arena, const layout::StorageKey& key) const {
    return arena + map_.offsets[static_cast<std::size_t>(local_.find(key))];
  }

  void write(std::byte* arena, std::int64_t step) const {
    for (const layout::LocalPiece& entry : local_.pieces) {
      if (!is_moved_[static_cast<std::size_t>(entry.tensor)]) continue;
      const model::Tensor& tensor = (*job_.model)[entry.tensor];
      const Format made_in = job_.truth->made_in(*job_.source, tensor).value();
      const std::vector<std::byte>& values = job_.truth->values(tensor, made_in, entry.piece.format, step);
      const auto size = static_cast<std::size_t>(byte_size(entry.piece.format.dtype));
      std::byte* storage = arena + map_.offsets[static_cast<std::size_t>(entry.storage)];
      for_each_element(entry.piece, tensor.shape, [&](std::int64_t at, std::int64_t element) {
        std::memcpy(storage + at, values.data() + static_cast<std::size_t>(element) * size, size);
      });
    }
  }

  /// Returns the first place where `arena` differs from the truth on poison; empty where there is none.
  std::string compare(const std::byte* arena, std::int64_t step) const {
    std::vector<std::byte> expected(static_cast<std::size_t>(bytes()), std::byte{kernels::kPoison});
    write(expected.data(), step);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (arena[i] == expected[i]) continue;
      std::size_t s = 0;
      while (s + 1 < map_.offsets.size() && map_.offsets[s + 1] <= static_cast<std::int64_t>(i)) ++s;
      return fmt::format("{} byte {}: {:02x}, expected {:02x} in refit {}", local_.storages[s].name,
                         static_cast<std::int64_t>(i) - map_.offsets[s], static_cast<unsigned>(arena[i]),
                         static_cast<unsigned>(expected[i]), step);
    }
    return "";
  }

 private:
  const TransportCase& job_;
  LocalLayout local_;
  transport::ArenaMap map_;
  std::vector<bool> is_moved_;  // by tensor
};

/// A rank's storages in blocks as an engine may have allocated them: several in each, behind each other at odd places,
/// with poison between them.
class ForeignBlocks {
 public:
  /// `is_private`: in memory that no other process can map.
  ForeignBlocks(const LocalLayout& local, bool is_private) {
    for (std::size_t first = 0; first < local.storages.size(); first += kPerBlock) {
      std::vector<std::int64_t> places;
      std::int64_t bytes = 0;
      const std::size_t end = std::min(first + kPerBlock, local.storages.size());
      for (std::size_t s = first; s < end; ++s) {
        const std::int64_t element = byte_size(local.storages[s].dtype);
        places.push_back(round_up(bytes, 2 * element) + element);  // aligned to an element, and to no more
        bytes = places.back() + local.storages[s].bytes();
      }
      add_block(bytes + 1, is_private);
      for (std::size_t s = first; s < end; ++s) {
        storages_.push_back(
            {local.storages[s].name, blocks_.back().data() + places[s - first], local.storages[s].bytes()});
      }
    }
  }

  const std::vector<transport::OwnedBlock>& storages() const { return storages_; }
  std::vector<std::byte*> addresses() const {
    std::vector<std::byte*> result;
    for (const transport::OwnedBlock& storage : storages_) result.push_back(storage.address);
    return result;
  }

  /// Copies the storages to their offsets in an arena; returns what has been stored beside them, empty for nothing.
  std::string copy_to(std::byte* arena, const transport::ArenaMap& map) const {
    for (std::size_t s = 0; s < storages_.size(); ++s)
      std::copy_n(storages_[s].address, storages_[s].bytes, arena + map.offsets[s]);
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      std::vector<std::byte> expected(blocks_[b].size(), std::byte{kernels::kPoison});
      for (std::size_t s = b * kPerBlock; s < std::min((b + 1) * kPerBlock, storages_.size()); ++s)
        std::copy_n(storages_[s].address, storages_[s].bytes,
                    expected.data() + (storages_[s].address - blocks_[b].data()));
      if (!std::ranges::equal(expected, blocks_[b]))
        return fmt::format("block {}: bytes beside its storages have changed", b);
    }
    return "";
  }

 private:
  static constexpr std::size_t kPerBlock = 3;

  void add_block(std::int64_t bytes, bool is_private) {
    if (is_private) {
      blocks_.emplace_back(private_.emplace_back(static_cast<std::size_t>(bytes)));
    } else {
      blocks_.push_back(shared_.emplace_back(bytes).span());
    }
    std::ranges::fill(blocks_.back(), std::byte{kernels::kPoison});
  }

  std::deque<transport::SharedMemory> shared_;
  std::deque<std::vector<std::byte>> private_;
  std::vector<std::span<std::byte>> blocks_;
  std::vector<transport::OwnedBlock> storages_;
};

std::vector<int> range(int begin, int end) {
  std::vector<int> result(static_cast<std::size_t>(end - begin));
  std::iota(result.begin(), result.end(), begin);
  return result;
}

/// The communicators of one rank.
struct Network {
  std::vector<std::unique_ptr<Communicator>> bulk;
  std::unique_ptr<Communicator> gather;
  std::unique_ptr<Communicator> stream;

  std::vector<Communicator*> pointers() const {
    std::vector<Communicator*> result;
    for (const auto& communicator : bulk) result.push_back(communicator.get());
    return result;
  }
};

Network connect(const TransportCase& job, const RankServices& services) {
  const WorldMap world = job.world();
  Network network;
  const int stages = job.per_stage ? job.source->stages() : 1;
  for (int stage = 0; stage < stages; ++stage)
    network.bulk.push_back(services.communicator(
        transport::Purpose::bulk,
        job.per_stage ? transport::members_of_stage(*job.source, world, stage) : range(0, world.size())));
  std::vector<int> stream = range(world.first_destination(), world.first_destination() + world.destination);
  if (!world.colocated) stream.insert(stream.begin(), 0);
  network.gather = services.communicator(transport::Purpose::gather, range(0, world.source));
  network.stream = services.communicator(transport::Purpose::stream, stream);
  return network;
}

std::vector<plan::Copy> copies_of(const TransportCase& job, const layout::Layout& sent, const OwnRanks& own) {
  const plan::Planner planner(job.bulk, sent, *job.destination, job.rules());
  return planner.rank_plan(own).copies;
}

/// The weights that are sent in a case that quantises; on source ranks with their memory and the Quantise that fills
/// it. Weights that direct's tiles make have no memory.
class Sent {
 public:
  Sent(const TransportCase& job, const RankServices& services, const kernels::ExecutionSpace& space,
       std::optional<Rank> rank, const Memory* source, std::byte* arena)
      : layout_(*job.model, *job.source) {
    transport::QuantisedPieces pieces;
    if (source != nullptr) {
      local_ = materialise(layout_, job.model->tensors, *rank);
      std::vector<std::byte*> storages;
      for (const layout::Storage& storage : local_.storages) {
        if (layout::QuantisedLayout::is_added(storage.key)) {
          const bool made = job.executor != ExecutorKind::direct;
          made_.emplace_back(made ? static_cast<std::size_t>(storage.bytes()) : 0);
          storages.push_back(made ? made_.back().data() : nullptr);
        } else {
          storages.push_back(source->storage(arena, storage.key));
        }
      }
      memory_ = transport::LocalMemory(local_, std::move(storages));
      pieces = {job.source, &source->local(), transport::LocalMemory(source->local(), arena), memory_};
    }
    quantise_ = std::make_unique<transport::Quantise>(space, *services.world, *job.model, *job.quantiser, pieces,
                                                      job.tuning.table);
  }

  const layout::Layout& layout() const { return layout_; }
  const transport::LocalMemory& memory() const { return memory_; }
  transport::Quantise& quantise() { return *quantise_; }

 private:
  layout::QuantisedLayout layout_;
  LocalLayout local_;
  std::deque<std::vector<std::byte>> made_;
  transport::LocalMemory memory_;
  std::unique_ptr<transport::Quantise> quantise_;
};

std::unique_ptr<transport::Executor> make_bulk(const TransportCase& job, const RankServices& services,
                                               const kernels::ExecutionSpace& space, const transport::Routes& routes,
                                               const Endpoint& me, transport::PeerMemory* peers, Sent* quantised,
                                               transport::Progress& progress) {
  const layout::Layout& source = quantised != nullptr ? quantised->layout() : *job.source;
  const std::vector<plan::Copy> copies = copies_of(job, source, me.self);
  transport::agree(*services.world, job.world(), copies, job.model->tensors);
  switch (job.executor) {
    case ExecutorKind::golden:
      return make_golden(space, routes, me, job.bulk, source, *job.destination, job.tuning, progress);
    case ExecutorKind::p2p:
      if (job.tuning.delta != transport::Delta::off)
        return make_delta(space, *services.world, routes, me, copies, job.tuning, nullptr, progress);
      return make_p2p(space, routes, me, copies, job.tuning, progress);
    case ExecutorKind::m2n:
      return make_m2n(space, routes, me, job.bulk, plan::make_reshards(job.bulk, source, *job.destination), source,
                      *job.destination, copies, make_message_resharder(routes), job.tuning, progress);
    case ExecutorKind::direct: break;
  }
  const std::int64_t flag_bytes = transport::fan_out_flag_bytes(copies, me.self, job.tuning);
  std::unique_ptr<transport::PeerMemory> flags;
  if (services.world->max(flag_bytes) > 0) {
    flags = job.foreign ? transport::make_shared_peer_memory(*services.world, flag_bytes)
                        : services.peer_memory(flag_bytes);
  }
  return make_direct(space, routes, me, job.bulk, copies, *peers, std::move(flags), *services.world, job.world(),
                     job.tuning, progress,
                     quantised != nullptr ? transport::QuantisedSends{&quantised->quantise(), job.destination}
                                          : transport::QuantisedSends());
}

std::int64_t statistic_of(const transport::Executor& executor, std::string_view name) {
  for (const transport::Statistic& statistic : executor.statistics()) {
    if (statistic.name == name) return static_cast<std::int64_t>(statistic.value);
  }
  return 0;
}

}  // namespace

std::string to_string(ExecutorKind kind) { return std::string(transport::row_of(kind).name); }

const std::vector<std::byte>& Truth::values(const model::Tensor& tensor, Format made_in, Format as,
                                            std::int64_t step) const {
  return values_.at({tensor.index, made_in, as, step});
}

std::optional<Format> Truth::made_in(const layout::Layout& source, const model::Tensor& tensor) const {
  const auto format = source.format(tensor);
  if (format || tensor.scale_of < 0) return format;
  return source.format(model_[tensor.scale_of]);
}

void Truth::quantise(const model::Tensor& weight, Format made_in, Format as, std::int64_t step, Quantiser quantiser) {
  const model::Tensor& scales = model_[weight.scales];
  const std::vector<std::byte>& plain = values(weight, made_in, made_in, step);
  const std::int64_t rows = weight.shape[weight.shape.size() - 2];
  const std::int64_t columns = weight.shape[weight.shape.size() - 1];
  const std::int64_t matrices = weight.elements() / (rows * columns);
  const std::int64_t scale_bytes = scales.elements() / matrices * byte_size(scale_dtype(quantiser));
  std::vector<std::byte>& bytes = values_[{weight.index, made_in, as, step}];
  std::vector<std::byte>& of_scales = values_[{scales.index, made_in, Format{scale_dtype(quantiser)}, step}];
  bytes.resize(static_cast<std::size_t>(weight.elements()));
  of_scales.resize(static_cast<std::size_t>(matrices * scale_bytes));
  for (std::int64_t m = 0; m < matrices; ++m) {
    kernels::quantise_reference(
        quantiser, plain.data() + m * rows * columns * byte_size(made_in.dtype), made_in.dtype, rows, columns, columns,
        reinterpret_cast<std::uint8_t*>(bytes.data() + m * rows * columns), of_scales.data() + m * scale_bytes);
  }
}

void Truth::prepare(const layout::Layout& source, const layout::Layout& destination, std::int64_t steps,
                    std::optional<Quantiser> quantiser) {
  for (const model::Tensor& tensor : model_.tensors) {
    const auto made_in = source.format(tensor);
    if (!made_in) continue;
    for (const Format to : {*made_in, destination.format(tensor).value_or(*made_in)}) {
      for (std::int64_t step = 0; step < steps; ++step) {
        if (quantiser && to != *made_in && to.conversion == Conversion::block_scaled) {
          quantise(tensor, *made_in, to, step, *quantiser);
          continue;
        }
        std::vector<std::byte>& values = values_[{tensor.index, *made_in, to, step}];
        const bool converts = quantiser || *made_in != destination.format(tensor).value_or(*made_in);
        if (values.empty()) {
          values =
              make_values(tensor.elements(), model_.canonical(tensor).name, *made_in, to, step, changes_, converts);
        }
      }
    }
  }
}

RankOutcome run_rank(const TransportCase& job, const RankServices& services) {
  transport::Control& world = *services.world;
  Endpoint me;
  me.self = job.world().own(world.rank());
  const bool sends = me.self.source.has_value(), receives = me.self.destination.has_value();
  const std::optional<Memory> from =
      sends ? std::optional<Memory>(std::in_place, job, *job.source, *me.self.source) : std::nullopt;
  const std::optional<Memory> to =
      receives ? std::optional<Memory>(std::in_place, job, *job.destination, *me.self.destination) : std::nullopt;

  // Others write to destinations only, so only their arenas are shared.
  std::unique_ptr<transport::PeerMemory> peers;
  std::optional<ForeignBlocks> blocks;
  if (job.foreign) {
    if (receives) blocks.emplace(to->local(), job.private_ranks.contains(world.rank()));
    peers = make_foreign_host_memory(world, blocks ? blocks->storages() : std::vector<transport::OwnedBlock>());
  } else if (job.executor == ExecutorKind::direct) {
    peers = services.peer_memory(receives ? to->bytes() : 0);
  }
  std::vector<std::byte> source(static_cast<std::size_t>(sends ? from->bytes() : 0), std::byte{kJunk});
  const bool in_arena = peers && !job.foreign;
  std::vector<std::byte> own(static_cast<std::size_t>(receives && !in_arena ? to->bytes() : 0));
  std::byte* destination = in_arena ? peers->local() : own.data();
  if (sends) {
    me.source = transport::LocalMemory(from->local(), source.data());
    from->write(source.data(), 0);
  }
  if (receives) {
    std::memset(destination, kernels::kPoison, static_cast<std::size_t>(to->bytes()));
    me.destination = blocks ? transport::LocalMemory(to->local(), blocks->addresses())
                            : transport::LocalMemory(to->local(), destination);
  }

  const kernels::ExecutionSpace space;
  transport::Progress progress;
  const Network network = connect(job, services);
  const transport::Routes routes(*job.source, network.pointers(), job.world());
  std::unique_ptr<Sent> sent;
  if (job.quantiser) {
    sent = std::make_unique<Sent>(job, services, space, me.self.source, sends ? &*from : nullptr, source.data());
    if (sends) me.source = sent->memory();
  }
  const auto bulk = make_bulk(job, services, space, routes, me, peers.get(), sent.get(), progress);
  std::unique_ptr<transport::Executor> misc;
  if (!job.misc.empty()) {
    misc =
        make_misc(space, network.gather.get(), network.stream.get(), me, job.misc, sent ? sent->layout() : *job.source,
                  *job.destination, {}, job.misc_buffer_bytes, job.tuning, progress);
  }

  RankOutcome outcome{"",
                      bulk->staging_bytes(),
                      misc ? misc->staging_bytes() : 0,
                      statistic_of(*bulk, "unmapped_peers"),
                      statistic_of(*bulk, "engine_bytes"),
                      bulk->schedule()};
  bulk->connect();
  if (misc) misc->connect();
  const std::vector<std::byte> untouched(static_cast<std::size_t>(receives ? to->bytes() : 0),
                                         std::byte{kernels::kPoison});
  if (receives && !std::equal(untouched.begin(), untouched.end(), destination))
    outcome.mismatch = "connect stored bytes";
  for (std::int64_t step = 0; step < job.refits; ++step) {
    world.barrier();  // destinations have checked the previous refit
    // Forwarding ranks are then awake before the copies that they forward come.
    if (sends && !job.rules().fan_out.domains.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (step == job.restart) {
      if (receives) std::memset(destination, kernels::kPoison, static_cast<std::size_t>(to->bytes()));
      bulk->restart();
    }
    const std::int64_t before = services.allocations ? services.allocations() : 0;
    if (sent && sent->quantise().is_needed()) sent->quantise().run();
    bulk->execute();
    if (misc) misc->execute();
    if (services.allocations) outcome.allocations += services.allocations() - before;
    if (job.tuning.delta != transport::Delta::off) {
      outcome.delta_bytes.push_back(statistic_of(*bulk, "delta_bytes"));
      outcome.dense_bytes = statistic_of(*bulk, "delta_dense_bytes");
    }
    if (sends) from->write(source.data(), step + 1);
    if (blocks && outcome.mismatch.empty()) outcome.mismatch = blocks->copy_to(destination, to->map());
    if (receives && outcome.mismatch.empty()) outcome.mismatch = to->compare(destination, step);
  }
  world.barrier();
  return outcome;
}

std::vector<RankOutcome> run_threads(const TransportCase& job) {
  const int ranks = job.world().size();
  const auto hub = std::make_shared<ThreadHub>(ranks);
  const auto machine = std::make_shared<ThreadMachine>(ranks);
  machine->unmapped = job.unmapped;
  std::vector<RankOutcome> outcomes(static_cast<std::size_t>(ranks));

  run_ranks(ranks, [&](int rank) {
    ThreadControl world(hub, rank);
    ThreadLinks links(machine, world);
    RankServices services;
    services.world = &world;
    services.communicator = [&](transport::Purpose purpose, const std::vector<int>& members) {
      return links.communicator(purpose, members, job.tuning.streams);
    };
    services.peer_memory = [&](std::int64_t bytes) { return links.peer_memory(bytes); };
    outcomes[static_cast<std::size_t>(rank)] = run_rank(job, services);
  });
  return outcomes;
}

}  // namespace refit::test_support
