// Share of the memory's rate that kernels reach, on a device or a host: kernels_bench [MiB]
//
// `MiB` (256 on hosts, 2048 on devices) is the size of the bf16 matrix that all kernels work on. GB/s counts bytes read
// and bytes written; `ratio` is that rate over the one of copy_bytes, 1 being as fast. Each kernel is measured in turns
// with copy_bytes, and the least times are compared: of the clock on devices, of the calling thread's processor on
// hosts, so that other processes' turns do not count. Buffers lie in the memory of the execution space.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <vector>

#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"
#include "kernels/parts.hpp"

namespace refit::kernels {
namespace {

constexpr int kTurns = 7;
constexpr std::int64_t kColumns = 8192;
constexpr std::int64_t kPartBytes = 512 * 1024;
constexpr std::int64_t kPartColumns = 1024;

double now() {
  if (Runtime::has_device()) {
    const std::chrono::duration<double> time = std::chrono::steady_clock::now().time_since_epoch();
    return time.count();
  }
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

class Bench {
 public:
  explicit Bench(std::int64_t bytes)
      : rows_(bytes / 2 / kColumns),
        bytes_(rows_ * kColumns * 2),
        source_(bytes_),
        destination_(2 * bytes_),
        words_(rows_ * byte_size(DType::u32)) {
    synthesise(space_, matrix(), 1, 0.0, 0.02);
    poison(space_, destination_.data(), 2 * bytes_);
    fill(space_, words_.data(), DType::f32, {rows_}, {1}, 0.0);
    space_.fence();
    std::printf("# %s, %.0f MiB of bf16, least of %d\n", Runtime::version().c_str(),
                static_cast<double>(bytes_) / (1 << 20), kTurns);
    std::printf("%-44s %10s %10s %8s\n", "kernel", "ms", "GB/s", "ratio");
  }

  void copies() const {
    copy("copy [rows, 8192]", {rows_, kColumns}, {kColumns, 1}, {kColumns, 1}, DType::bf16, DType::bf16);
    for (const std::int64_t run : {4096, 512, 577, 64, 8}) {
      char name[64];
      std::snprintf(name, sizeof(name), "copy rows of %lld B, gaps of the same", static_cast<long long>(2 * run));
      copy(name, {rows_ * kColumns / run / 2, run}, {2 * run, 1}, {run, 1}, DType::bf16, DType::bf16);
    }
    copy("copy rows of 577 to pitch 600", {rows_ * kColumns / 600, 577}, {577, 1}, {600, 1}, DType::bf16, DType::bf16);
    copy("copy transposed", {rows_, kColumns}, {kColumns, 1}, {1, rows_}, DType::bf16, DType::bf16);
    copy("cast bf16 -> f32", {rows_, kColumns}, {kColumns, 1}, {kColumns, 1}, DType::bf16, DType::f32);
    copy("cast f32 -> bf16", {rows_, kColumns / 2}, {kColumns / 2, 1}, {kColumns / 2, 1}, DType::f32, DType::bf16);
    copy("cast bf16 -> f16", {rows_, kColumns}, {kColumns, 1}, {kColumns, 1}, DType::bf16, DType::f16);
    copy("cast bf16 -> f32, rows of 577", {rows_ * kColumns / 577, 577}, {577, 1}, {577, 1}, DType::bf16, DType::f32);
  }

  void quantisers() const {
    quantise("quantise 128 x 128", Quantiser::nemo_rl, kColumns);
    quantise("quantise 128 x 128, powers of two", Quantiser::vllm_ue8m0, kColumns);
    quantise("quantise 128 x 128, [rows, 768]", Quantiser::nemo_rl, 768);
    quantise("quantise 128 x 128, half of [rows, 384]", Quantiser::nemo_rl, 384, 192);
    quantise("quantise 1 x 32", Quantiser::mxfp8, kColumns);
    quantise("quantise 1 x 32, [rows, 768]", Quantiser::mxfp8, 768);
  }

  void parts() const {
    amax("amax", StoredFormat::fp8_tensor, DType::bf16);
    amax("amax of rows", StoredFormat::fp8_channel, DType::bf16);
    amax("amax of f32", StoredFormat::fp8_tensor, DType::f32);
    using enum Library;
    for (const Library library : {compressed_tensors, modelopt, te, flashinfer, torchao}) {
      quantise_parts(StoredFormat::nvfp4, library, DType::bf16);
    }
    quantise_parts(StoredFormat::nvfp4, modelopt, DType::f32);
    for (const Library library : {compressed_tensors, triton, torchao_rceil}) {
      quantise_parts(StoredFormat::mxfp4, library, DType::bf16);
    }
    for (const Library library : {compressed_tensors, modelopt, vllm}) {
      quantise_parts(StoredFormat::fp8_tensor, library, DType::bf16);
    }
    quantise_parts(StoredFormat::fp8_channel, vllm, DType::bf16);
    quantise_parts(StoredFormat::int4, compressed_tensors, DType::bf16);
  }

  void readers() const {
    for (const DType as : {DType::bf16, DType::f32}) {
      report(as == DType::bf16 ? "fingerprint" : "fingerprint as f32", bytes_, [this, as] {
        Sum128 sum;
        fingerprint(space_, matrix(), as, Transform::none, 7, &sum);
      });
    }
    report("fingerprint, rows of 577", bytes_, [this] {
      Sum128 sum;
      fingerprint(space_, odd(), DType::bf16, Transform::none, 7, &sum);
    });
    std::vector<Fingerprint> parts;
    const Shape part{kPartBytes / 2 / kPartColumns, kPartColumns};
    for (std::int64_t offset = 0; offset + kPartBytes <= bytes_; offset += kPartBytes) {
      const Region region{source_.data() + offset, DType::bf16, Box::whole(part), part, {kPartColumns, 1}};
      parts.push_back({region, DType::bf16, Transform::none, static_cast<std::uint64_t>(offset)});
    }
    std::vector<Sum128> of_parts(parts.size());
    report("fingerprints, regions of 512 KiB", std::ssize(parts) * kPartBytes,
           [&] { fingerprints(space_, parts, of_parts); });
    std::vector<std::int64_t> sums(static_cast<std::size_t>(rows_));
    report("signed_row_sums", bytes_, [this, &sums] { signed_row_sums(space_, matrix(), 7, sums.data()); });
    report("count_differences", 2 * bytes_, [this] { count_differences(space_, matrix(), source_.data()); });
    report("count_overflows, bf16 to f16", bytes_, [this] { count_overflows(space_, matrix(), DType::f16); });
  }

  void writers() const {
    const Extents extent{rows_, kColumns};
    report("fill", bytes_, [&] { fill(space_, destination_.data(), DType::bf16, extent, {kColumns, 1}, 1.0); });
    report("poison", bytes_, [&] { poison(space_, destination_.data(), bytes_); });
    report("synthesise", bytes_, [&] { synthesise(space_, matrix(), 1, 0.0, 0.02); });
    report("perturb", 2 * bytes_, [&] { perturb(space_, matrix(), 7, 1); });
    report("perturb, rows of 577", 2 * bytes_, [&] { perturb(space_, odd(), 7, 1); });
  }

  /// Measures launches: a kernel with almost nothing to do costs its launch.
  void launches() const {
    const Region small{source_.data(), DType::bf16, Box::whole({2048}), {2048}, {1}};
    const Tile tile{source_.data(), destination_.data(), {2048}, {1}, {1}, DType::bf16, DType::bf16};
    const CopyTable table(space_, {&tile, 1});
    report("copy of 4 KiB", 2 * small.box.volume() * 2, [&] { table.run(space_); });
    report("fingerprint of 4 KiB", small.box.volume() * 2, [&] {
      Sum128 sum;
      fingerprint(space_, small, DType::bf16, Transform::none, 7, &sum);
    });
  }

 private:
  Region matrix() const {
    return {source_.data(), DType::bf16, Box::whole({rows_, kColumns}), {rows_, kColumns}, {kColumns, 1}};
  }
  /// Returns the same bytes in rows that begin at any multiple of 2.
  Region odd() const {
    const Shape shape{bytes_ / 2 / 577, 577};
    return {source_.data(), DType::bf16, Box::whole(shape), shape, {577, 1}};
  }

  void copy(const char* name, const Extents& extent, const Extents& from, const Extents& to, DType source,
            DType destination) const {
    const Tile tile{source_.data(), destination_.data(), extent, from, to, source, destination};
    const CopyTable table(space_, {&tile, 1});
    report(name, table.bytes_read() + table.bytes_written(), [&] { table.run(space_); });
  }

  /// Measures the first `part` columns of a matrix, 0 being all of them.
  void quantise(const char* name, Quantiser quantiser, std::int64_t columns, std::int64_t part = 0) const {
    const std::int64_t rows = rows_ * kColumns / columns / 128 * 128;
    const std::int64_t across = columns / block_size(quantiser).columns;
    const DeviceBuffer scales(rows / block_size(quantiser).rows * across * byte_size(scale_dtype(quantiser)));
    Tile tile{source_.data(), destination_.data(), {rows, columns}, {columns, 1},
              {columns, 1},   DType::bf16,         DType::f8_e4m3,  Transform::quantise};
    Blocks& blocks = tile.blocks.emplace();
    blocks.quantiser = quantiser;
    blocks.rows = rows;
    blocks.columns = columns;
    blocks.scales = scales.data();
    blocks.scale_strides = {across, 1};
    if (part != 0) tile = part_of(tile, 1, 0, part);
    const CopyTable table(space_, {&tile, 1});
    report(name, table.bytes_read() + table.bytes_written() + scales.bytes(), [&] { table.run(space_); });
  }

  /// Returns the whole matrix as a part, with destinations behind each other.
  Part part(StoredFormat format, Library library, DType from) const {
    const std::int64_t columns = kColumns * 2 / byte_size(from);
    const std::int64_t value_bytes = rows_ * columns * element_bits(format) / 8;
    Part part{.source = source_.data(), .rows = rows_, .columns = columns, .source_strides = {columns, 1}};
    part.from = from;
    part.format = format;
    part.library = library;
    part.amax = reinterpret_cast<std::uint32_t*>(words_.data());
    part.values = destination_.data();
    part.scales = destination_.data() + value_bytes;
    return part;
  }

  void amax(const char* name, StoredFormat format, DType from) const {
    const Part whole = part(format, libraries(format).front(), from);
    const PartTable table(space_, {&whole, 1});
    report(name, bytes_, [&] { table.raise_amax(space_); });
  }

  void quantise_parts(StoredFormat format, Library library, DType from) const {
    const Part whole = part(format, library, from);
    const PartTable table(space_, {&whole, 1});
    table.raise_amax(space_);
    const std::int64_t elements = whole.rows * whole.columns;
    std::int64_t bytes = bytes_ + elements * element_bits(format) / 8;
    if (element_bits(format) == 4) bytes += elements / block_columns(format, whole.group) * (is_int4(format) ? 4 : 1);
    char label[64];
    std::snprintf(label, sizeof(label), "%s %s from %s", std::string(name(format)).c_str(),
                  std::string(name(library)).c_str(), std::string(name(from)).c_str());
    report(label, bytes, [&] { table.quantise(space_); });
  }

  double seconds(const std::function<void()>& action) const {
    const double start = now();
    action();
    space_.fence();
    return now() - start;
  }

  void report(const char* name, std::int64_t bytes, const std::function<void()>& kernel) const {
    const auto copy = [this] { copy_bytes(space_, source_.data(), destination_.data(), bytes_); };
    double least = 1e30;
    double yardstick = 1e30;
    kernel();
    copy();
    for (int turn = 0; turn < kTurns; ++turn) {
      least = std::min(least, seconds(kernel));
      yardstick = std::min(yardstick, seconds(copy));
    }
    const double rate = static_cast<double>(bytes) / least / 1e9;
    const double of_copy = static_cast<double>(2 * bytes_) / yardstick / 1e9;
    std::printf("%-44s %10.4f %10.1f %8.3f\n", name, least * 1e3, rate, rate / of_copy);
    std::fflush(stdout);
  }

  std::int64_t rows_;
  std::int64_t bytes_;
  DeviceBuffer source_;
  DeviceBuffer destination_;
  DeviceBuffer words_;
  ExecutionSpace space_;
};

int run(int argc, char** argv) {
  const Runtime runtime;
  const std::int64_t mib = argc > 1 ? std::atoll(argv[1]) : (Runtime::has_device() ? 2048 : 256);
  if (mib < 1) fail_usage("kernels_bench: {} is not a number of MiB", argv[1]);
  const Bench bench(mib << 20);
  bench.copies();
  bench.quantisers();
  bench.parts();
  bench.readers();
  bench.writers();
  bench.launches();
  return 0;
}

}  // namespace
}  // namespace refit::kernels

int main(int argc, char** argv) {
  try {
    return refit::kernels::run(argc, argv);
  } catch (const refit::Error& error) {
    std::fprintf(stderr, "kernels_bench: %s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
