// Costs of executors on a host, as ratios inside one run: mpirun -n 2 (or 4, ...) transport_bench [MiB [chunk KiB]]
//
// The first half of the ranks are sources, the second destinations; `MiB` (512) is the size of all that is moved,
// `chunk KiB` (1024) that of a chunk of the ring.
//  - direct against memcpy: the same source ranks, at the same time, copy the same boxes into the same shared window.
//  - p2p with two chunks in the ring against one, on boxes that are strided at both ends. Each pair is measured in
//  turns; times are the maximum over ranks, and the minima over turns are compared.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "transport/executor.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit {
namespace {

using transport::Control;

constexpr int kTurns = 7;
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

/// Runs both in turns; prints the least time of each and the ratio of the first's rate to the second's.
template <typename First, typename Second>
void compare(Control& world, std::int64_t bytes, const char* first_name, const First& first, const char* second_name,
             const Second& second) {
  timed(world, first);
  timed(world, second);
  double least[2] = {1e30, 1e30};
  for (int turn = 0; turn < kTurns; ++turn) {
    least[0] = std::min(least[0], timed(world, first));
    least[1] = std::min(least[1], timed(world, second));
  }
  if (world.rank() != 0) return;
  const auto rate = [bytes](double seconds) { return static_cast<double>(bytes) / seconds / 1e9; };
  std::printf("%-22s %8.2f ms %7.2f GB/s\n%-22s %8.2f ms %7.2f GB/s\nratio of rates %22.3f\n", first_name,
              least[0] * 1e3, rate(least[0]), second_name, least[1] * 1e3, rate(least[1]), least[1] / least[0]);
}

/// One rank's part of a job between two even layouts.
struct Part {
  Part(Control& world, const std::vector<model::Tensor>& tensors, const EvenLayout& from, const EvenLayout& to)
      : map{from.ranks(), to.ranks()}, source(world.rank() < from.ranks()) {
    me.self = map.own(world.rank());
    const Rank rank = source ? *me.self.source : *me.self.destination;
    layout = materialise(source ? static_cast<const layout::Layout&>(from) : to, tensors, rank);
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

void direct_against_memcpy(Control& world, const std::vector<model::Tensor>& tensors, std::int64_t bytes) {
  const std::int32_t half = world.size() / 2;
  const EvenLayout from(half, 0, kColumns);
  const EvenLayout to(half, 0, kColumns);
  Part part(world, tensors, from, to);
  const auto peers = transport::make_mpi_peer_memory(part.source ? 0 : part.bytes);
  std::vector<std::byte> own(static_cast<std::size_t>(part.source ? part.bytes : 0));
  part.attach(part.source ? own.data() : peers->local());
  const kernels::ExecutionSpace space;
  transport::Progress progress;
  const transport::Routes routes(from, {part.communicator.get()}, part.map);
  const auto direct =
      make_direct(space, routes, part.me, part.copies, *peers, nullptr, world, part.map, transport::Tuning{}, progress);
  // Source r and destination r hold the same storages at the same offsets.
  const auto copy = [&] {
    if (part.source) {
      std::byte* arena = peers->map(half + world.rank());
      for (const plan::Copy& one : part.copies) {
        const std::byte* first = part.me.source.address(one.source.place, one.source.format.dtype);
        std::memcpy(arena + (first - own.data()), first, static_cast<std::size_t>(one.wire_bytes()));
      }
    }
    world.barrier();
  };
  compare(
      world, bytes, "direct", [&] { direct->execute(); }, "memcpy", copy);
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
  compare(
      world, bytes, "p2p, ring of 2", [&] { two->execute(); }, "p2p, ring of 1", [&] { one->execute(); });
}

int run(int argc, char** argv) {
  const transport::MpiSession session;
  const kernels::Runtime runtime;
  const auto world = transport::make_mpi_control();
  if (world->size() % 2 != 0) fail_usage("transport_bench needs an even number of ranks, not {}", world->size());
  const std::int64_t mib = argc > 1 ? std::atoll(argv[1]) : 512;
  const std::vector<model::Tensor> tensors = make_tensors(mib << 20);
  const std::int64_t bytes = kTensors * tensors.front().bytes();
  if (world->rank() == 0) {
    std::printf("# %d + %d ranks, %.0f MiB, least of %d\n", world->size() / 2, world->size() / 2,
                static_cast<double>(bytes) / (1 << 20), kTurns);
  }
  direct_against_memcpy(*world, tensors, bytes);
  rings(*world, tensors, bytes, (argc > 2 ? std::atoll(argv[2]) : 1024) << 10);
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
