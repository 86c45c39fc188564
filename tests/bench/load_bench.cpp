// Loading a checkpoint into Megatron's layout, against plain pread, as a ratio inside one run:
//   mpirun -n T load_bench CHECKPOINT LAYOUT        e.g. mpirun -n 2 load_bench build/checkpoints/smollm2-135m PP2
//
// T ranks load their train shards at the same time; then, at the same time, T loops of pread read the same byte ranges
// (from the first to the last byte of every box) from the page cache into equally large, already touched memory. Turns
// alternate; times are the maximum over ranks, and the minima over turns are compared.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/clock.hpp"
#include "engine/weights.hpp"
#include "layout/parallelism.hpp"
#include "transport/arena.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit {
namespace {

constexpr int kTurns = 9;
constexpr std::int64_t kCall = 8 << 20;

/// The bytes that one rank reads of one file.
struct Span {
  std::int32_t file;
  std::int64_t offset, bytes;
};

std::vector<Span> spans_of(const cases::Setup& setup, const layout::LocalLayout& local) {
  std::vector<Span> spans;
  for (const layout::LocalPiece& piece : local.pieces) {
    const model::Tensor& tensor = setup.model[piece.tensor];
    if (setup.model.canonical(tensor).index != tensor.index) continue;
    const checkpoint::Entry& entry = *setup.checkpoint->find(tensor.name);
    const Extents strides = row_major_strides(tensor.shape);
    Extents last = piece.piece.box.lower;
    for (int d = 0; d < last.size(); ++d) last[d] += piece.piece.box.extent[d] - 1;
    const std::int64_t first = offset_of(piece.piece.box.lower, strides);
    const std::int64_t count = offset_of(last, strides) - first + 1;
    const std::int64_t size = byte_size(entry.info.dtype);
    spans.push_back({entry.file, entry.offset + first * size, count * size});
  }
  return spans;
}

void pread_all(const std::vector<int>& files, const std::vector<Span>& spans, std::byte* memory) {
  for (const Span& span : spans) {
    for (std::int64_t done = 0; done < span.bytes;) {
      const auto wanted = static_cast<std::size_t>(std::min(kCall, span.bytes - done));
      const ssize_t got = pread(files[static_cast<std::size_t>(span.file)], memory, wanted, span.offset + done);
      if (got <= 0) fail_runtime("pread failed");
      memory += got;
      done += got;
    }
  }
}

int measure(const std::string& folder, const std::string& layout) {
  transport::MpiSession session;
  const kernels::Runtime runtime;
  const kernels::ExecutionSpace space;
  const auto world = transport::make_mpi_control();
  cases::Case c;
  c.model.checkpoint = folder;
  const std::string wrong = c.train->find_key("train.layout")->set(*c.train, layout);
  if (!wrong.empty()) fail_usage("{}", wrong);
  cases::complete(c);
  const cases::Setup setup(c);
  if (setup.train->ranks() != session.size()) fail_usage("{} needs {} ranks", layout, setup.train->ranks());

  const Rank rank{session.rank()};
  const layout::LocalLayout local = layout::materialise(*setup.train, setup.model.tensors, rank);
  const auto arena = transport::make_host_arena(transport::ArenaMap(local).bytes);
  const engine::Weights weights(setup, local, Group::train, rank, transport::LocalMemory(local, arena->span().data()));
  const std::vector<Span> spans = spans_of(setup, local);
  std::int64_t bytes = 0;
  for (const Span& span : spans) bytes += span.bytes;
  const auto plain = transport::make_host_arena(bytes);
  std::vector<int> files;
  for (const std::string& file : setup.checkpoint->files) files.push_back(open(file.c_str(), O_RDONLY));

  double load = 1e9, reference = 1e9;
  for (int turn = 0; turn <= kTurns; ++turn) {
    world->barrier();
    double start = now();
    weights.load(space, {});
    const double loaded = world->max(now() - start);
    world->barrier();
    start = now();
    pread_all(files, spans, plain->span().data());
    const double read = world->max(now() - start);
    if (turn == 0) continue;  // the page cache is warm from here
    load = std::min(load, loaded);
    reference = std::min(reference, read);
  }
  const std::int64_t total = world->sum(bytes);
  if (session.rank() == 0) {
    std::printf(
        "ranks %d  layout %s  %.1f MB read\nload   %8.2f ms  %6.2f GB/s\npread  %8.2f ms  %6.2f GB/s\nload reaches "
        "%.2f of pread\n",
        session.size(), layout.c_str(), static_cast<double>(total) / 1e6, load * 1e3,
        static_cast<double>(total) / load / 1e9, reference * 1e3, static_cast<double>(total) / reference / 1e9,
        reference / load);
  }
  return 0;
}

}  // namespace
}  // namespace refit

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: mpirun -n T load_bench CHECKPOINT LAYOUT\n");
    return 2;
  }
  return refit::measure(argv[1], argv[2]);
}
