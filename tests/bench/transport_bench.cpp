// Costs of executors on a host, as ratios inside one run:
//
//   mpirun -n 2 (or 4, ...) transport_bench [MiB [chunk KiB]]
//   mpirun -n TRAIN+GEN transport_bench CONFIG TRAIN GEN    e.g. inputs/models/qwen3-0.6b/config.json TP1 TP1
//
//  - direct against copies: the same source ranks, at the same time, copy as many bytes in order from their own memory
//    into the same shared windows, in pieces of 256 KiB: by memcpy, and by stores past the caches. With two threads for
//    each rank beside.
//  - p2p with two chunks in the ring against one, on boxes that are strided at both ends (not of a model).
//
// Without a model, the first half of the ranks are sources, the second destinations; `MiB` (512) is the size of all
// that is moved, `chunk KiB` (1024) that of a chunk of the ring. What is compared is measured in turns; times are the
// maximum over ranks, and the minima over turns are compared.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>

#include "gen/vllm/layout.hpp"
#include "kernels/stream.hpp"
#include "train/megatron/layout.hpp"
#include "transport/executor.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit {
namespace {

using transport::Control;

constexpr int kTurns = 15;
constexpr std::int64_t kThreads = 2;
constexpr std::int64_t kPiece = 256 * 1024;
constexpr std::int64_t kColumns = 8192;
constexpr std::int64_t kTensors = 16;

/// Every tensor [rows, columns] cut evenly along one dimension, each part in a storage whose rows are `pitch` long.
class EvenLayout final : public layout::Layout {
 public:
  EvenLayout(std::int32_t ranks, int dimension, std::int64_t pitch) : ranks_(ranks), cut_(dimension), pitch_(pitch) {}

  std::int32_t ranks() const override { return ranks_; }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const model::Tensor&) const override { return 0; }
  std::optional<Format> format(const model::Tensor& tensor) const override { return tensor.dtype; }
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override {
    Box box = Box::whole(tensor.shape);
    box.extent[cut_] /= ranks_;
    box.lower[cut_] = to_int(rank) * box.extent[cut_];
    rows_ = box.extent[0];
    out.push_back({box, {{tensor.index, -1, -1}, 0, {pitch_, 1}}, tensor.dtype});
  }
  layout::Storage storage(const layout::StorageKey& key, Rank) const override {
    return {key, "", {rows_, pitch_}, DType::bf16};
  }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank) const override { return ""; }

 private:
  std::int32_t ranks_;
  int cut_;
  std::int64_t pitch_;
  mutable std::int64_t rows_ = 0;  // of every tensor: all have one shape
};

std::vector<model::Tensor> make_tensors(std::int64_t bytes) {
  const std::int64_t rows = bytes / kTensors / kColumns / 2 / 64 * 64;
  std::vector<model::Tensor> tensors;
  for (std::int32_t i = 0; i < kTensors; ++i) {
    tensors.push_back({i, fmt::format("t{}", i), {rows, kColumns}, DType::bf16, model::Role::final_norm, -1, -1});
  }
  return tensors;
}

/// Returns the seconds of the slowest rank.
template <typename Body>
double timed(Control& world, const Body& body) {
  world.barrier();
  const auto begin = std::chrono::steady_clock::now();
  body();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return world.max(seconds.count());
}

struct Way {
  const char* name;
  std::function<void()> run;
};

/// Runs all in turns; prints the least time of each, and the ratios of the first one's rate to the others'.
void compare(Control& world, std::int64_t bytes, const std::vector<Way>& ways) {
  std::vector<double> least(ways.size(), 1e30);
  for (int turn = -1; turn < kTurns; ++turn) {
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const double seconds = timed(world, ways[i].run);
      if (turn >= 0) least[i] = std::min(least[i], seconds);
    }
  }
  if (world.rank() != 0) return;
  for (std::size_t i = 0; i < ways.size(); ++i) {
    std::printf("%-22s %8.2f ms %7.2f GB/s %9.3f\n", ways[i].name, least[i] * 1e3,
                static_cast<double>(bytes) / least[i] / 1e9, least[i] / least[0]);
  }
}

/// One rank's part of a job between two even layouts.
struct Part {
  Part(Control& world, const std::vector<model::Tensor>& tensors, const layout::Layout& from, const layout::Layout& to)
      : map{from.ranks(), to.ranks()}, source(world.rank() < from.ranks()) {
    me.self = map.own(world.rank());
    const Rank rank = source ? *me.self.source : *me.self.destination;
    layout = materialise(source ? from : to, tensors, rank);
    copies = plan::Planner(tensors, from, to).rank_plan(me.self).copies;
    std::vector<int> members(static_cast<std::size_t>(world.size()));
    std::iota(members.begin(), members.end(), 0);
    communicator = transport::make_mpi_communicator(members, 0, 2);
    bytes = transport::ArenaMap(layout).bytes;
  }
  void attach(std::byte* arena) {
    std::memset(arena, 1, static_cast<std::size_t>(bytes));
    (source ? me.source : me.destination) = transport::LocalMemory(layout, arena);
  }

  WorldMap map;
  bool source;
  transport::Endpoint me;
  layout::LocalLayout layout;
  std::vector<plan::Copy> copies;
  std::unique_ptr<transport::Communicator> communicator;
  std::int64_t bytes = 0;
};

void plain_copy(std::byte* destination, const std::byte* source, std::int64_t bytes) {
  std::memcpy(destination, source, static_cast<std::size_t>(bytes));
}

void past_caches(std::byte* destination, const std::byte* source, std::int64_t bytes) {
  kernels::stream_copy(destination, source, bytes);
}

void direct_against_copies(Control& world, const std::vector<model::Tensor>& tensors, const layout::Layout& from,
                           const layout::Layout& to) {
  Part part(world, tensors, from, to);
  const auto peers = transport::make_mpi_peer_memory(part.source ? 0 : part.bytes);
  std::vector<std::byte> own(static_cast<std::size_t>(part.source ? part.bytes : 0));
  part.attach(part.source ? own.data() : peers->local());
  const kernels::ExecutionSpace space;
  const kernels::ExecutionSpace team_space(kThreads);
  transport::Progress progress;
  const transport::Routes routes(from, {part.communicator.get()}, part.map);
  const auto make = [&](const kernels::ExecutionSpace& on) {
    return make_direct(on, routes, part.me, {}, part.copies, *peers, nullptr, world, part.map, {}, progress);
  };
  const auto direct = make(space);
  const auto team = make(team_space);
  std::vector<std::int64_t> to_rank(static_cast<std::size_t>(world.size()), 0);
  for (const plan::Copy& copy : part.copies) {
    if (part.me.sends(copy))
      to_rank[static_cast<std::size_t>(transport::world_ranks(copy, part.map).destination)] += copy.wire_bytes();
  }
  const auto copies = [&](const auto& copy) {
    return [&, copy] {
      for (int rank = 0; rank < world.size(); ++rank) {
        const std::int64_t sent = to_rank[static_cast<std::size_t>(rank)];
        for (std::int64_t done = 0; done < sent; done += kPiece)
          copy(peers->map(rank) + done, own.data() + done % part.bytes, std::min(kPiece, sent - done));
      }
      kernels::stream_fence();
      world.barrier();
    };
  };
  const std::int64_t bytes = world.sum(std::accumulate(to_rank.begin(), to_rank.end(), std::int64_t{0}));
  compare(world, bytes,
          {{"direct", [&] { direct->execute(); }},
           {"direct, 2 threads", [&] { team->execute(); }},
           {"memcpy in order", copies(plain_copy)},
           {"stores past caches", copies(past_caches)}});
}

void rings(Control& world, const std::vector<model::Tensor>& tensors, std::int64_t bytes, std::int64_t chunk_bytes) {
  const std::int32_t half = world.size() / 2;
  const EvenLayout from(half, 1, kColumns + 64);
  const EvenLayout to(half, 0, kColumns + 64);
  Part part(world, tensors, from, to);
  std::vector<std::byte> own(static_cast<std::size_t>(part.bytes));
  part.attach(own.data());
  const kernels::ExecutionSpace space;
  transport::Progress progress;
  const transport::Routes routes(from, {part.communicator.get()}, part.map);
  const auto make = [&](std::int64_t chunks) {
    return make_p2p(space, routes, part.me, part.copies, {1, 1024, chunk_bytes, chunks}, progress);
  };
  const auto two = make(2);
  const auto one = make(1);
  compare(world, bytes, {{"p2p, ring of 2", [&] { two->execute(); }}, {"p2p, ring of 1", [&] { one->execute(); }}});
}

/// Of a model between two layouts.
void model_direct(Control& world, const char* config, const char* train, const char* gen) {
  const model::Model model = build_model(model::read_config(config), false);
  train::megatron::Options train_options;
  train_options.sizes = layout::parse_parallelism(train);
  const auto from = train::megatron::make_layout(model, train_options);
  gen::vllm::Options gen_options;
  gen_options.sizes = layout::parse_parallelism(gen);
  const auto to = gen::vllm::make_layout(model, gen_options);
  if (world.size() != from->ranks() + to->ranks()) {
    fail_usage("transport_bench: {} -> {} has {} + {} ranks, not {}", train, gen, from->ranks(), to->ranks(),
               world.size());
  }
  if (world.rank() == 0) std::printf("# %s, %s -> %s, least of %d\n", config, train, gen, kTurns);
  direct_against_copies(world, model.tensors, *from, *to);
}

void even(Control& world, std::int64_t mib, std::int64_t chunk_kib) {
  if (world.size() % 2 != 0) fail_usage("transport_bench needs an even number of ranks, not {}", world.size());
  const std::int32_t half = world.size() / 2;
  const std::vector<model::Tensor> tensors = make_tensors(mib << 20);
  const std::int64_t bytes = kTensors * tensors.front().bytes();
  if (world.rank() == 0) {
    std::printf("# %d + %d ranks, %.0f MiB, least of %d\n", half, half, static_cast<double>(bytes) / (1 << 20), kTurns);
  }
  direct_against_copies(world, tensors, EvenLayout(half, 0, kColumns), EvenLayout(half, 0, kColumns));
  rings(world, tensors, bytes, chunk_kib << 10);
}

int run(int argc, char** argv) {
  const transport::MpiSession session;
  const kernels::Runtime runtime;
  const auto world = transport::make_mpi_control();
  if (argc == 4) {
    model_direct(*world, argv[1], argv[2], argv[3]);
  } else {
    even(*world, argc > 1 ? std::atoll(argv[1]) : 512, argc > 2 ? std::atoll(argv[2]) : 1024);
  }
  return 0;
}

}  // namespace
}  // namespace refit

int main(int argc, char** argv) {
  try {
    return refit::run(argc, argv);
  } catch (const refit::Error& error) {
    std::fprintf(stderr, "transport_bench: %s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
