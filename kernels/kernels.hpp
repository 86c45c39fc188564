#pragma once
// The kernels behind a plain header: no Kokkos type appears here, so only kernels/ is compiled for a device.
//
// Kernels take sizes, strides and pointers; they know no tensor names and no layouts. The execution space comes first.
// Unless said otherwise a kernel is enqueued and the caller fences. Pointers must be reachable from the execution
// space.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/box.hpp"
#include "core/dtype.hpp"
#include "core/format.hpp"
#include "core/hash.hpp"
#include "core/quantiser.hpp"

namespace refit::kernels {

/// Says that a runtime is to use the device that the calling thread has made current, as other code of the process
/// does.
struct CurrentDevice {};

/// Starts and ends the kernel runtime; one per process, alive while any kernel runs.
class Runtime {
 public:
  /// Starts the runtime on the device of process `local_rank` of the `local_ranks` on this host: neighbours share one
  /// where there are fewer devices than processes. Errors (unavailable): kernels are built for a device, and there is
  /// none, or no driver, or one that is too old for the CUDA runtime that refit is built with.
  explicit Runtime(int local_rank = 0, int local_ranks = 1);
  /// Starts the runtime on the current device. Errors: as above.
  explicit Runtime(CurrentDevice);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  /// e.g. "Kokkos 3.4.1 (Serial)".
  static std::string version();
  /// True where kernels run on a device with memory of its own.
  static bool has_device();
  /// The UUID of this process's device (or MIG instance), as bytes; empty on a host.
  static std::string device_uuid();
};

/// Returns which of `devices` process `local_rank` of `local_ranks` uses: equal blocks of neighbours, so that the two
/// groups of a job are on different devices where that is possible.
constexpr int device_of(int local_rank, int local_ranks, int devices) {
  if (local_ranks <= devices) return local_rank;
  return static_cast<int>(static_cast<std::int64_t>(local_rank) * devices / local_ranks);
}

/// Returns the number of processor cores that this process may use, as mpirun, taskset or a container bound it.
std::int64_t usable_cores();

/// A queue on which kernels run in order (a stream on a GPU; the calling thread on a host).
class ExecutionSpace {
 public:
  /// `threads`: that share each kernel's items on a host, the calling one among them; 1 on a device. Errors (runtime),
  /// of the first kernel: they cannot be started.
  explicit ExecutionSpace(std::int64_t threads = 1);
  ~ExecutionSpace();
  ExecutionSpace(ExecutionSpace&&) noexcept;
  ExecutionSpace& operator=(ExecutionSpace&&) noexcept;
  /// Waits until everything enqueued so far is complete and visible to the host.
  void fence() const;

  struct Implementation;
  const Implementation& implementation() const { return *implementation_; }

 private:
  std::unique_ptr<Implementation> implementation_;
};

/// The blocks and scales of a tile that is quantised. The tile's last two dimensions are rows and columns of a matrix;
/// those before them count matrices.
///
/// A block's scale follows from the largest magnitude of the whole block, also where the tile has only a part of it.
/// That magnitude is read from the source where the source has the whole block, and from `maxima` elsewhere. E.g. rows
/// 64 .. 191 of [256, 256], of a source that has rows 0 .. 191: row 64, above 64, below 0. Blocks of rows 0 .. 127 are
/// all there; for those of rows 128 .. 255 maxima[2] and maxima[3] are read, with strides {2, 1}.
struct Blocks {
  Quantiser quantiser = Quantiser::nemo_rl;
  std::int64_t row = 0, column = 0;    ///< of the tile's first element in its matrix
  std::int64_t rows = 0, columns = 0;  ///< of the matrix
  /// Rows and columns of the matrix around the tile that the source has too, with the tile's strides; corners too.
  std::int64_t above = 0, below = 0, left = 0, right = 0;
  /// magnitude_bits (kernels/quantiser.hpp) of blocks; the first is that of the block in which the tile begins. Strides
  /// are in numbers, one per dimension of the tile: from matrix to matrix, to the block below and to the block on the
  /// right. Maxima are only read of blocks that the source does not have completely (needs_maxima).
  std::uint32_t* maxima = nullptr;
  Extents maxima_strides;
  /// magnitude_bits of the matrix's last element, with which nemo_rl pads ragged blocks: only for tiles of one matrix,
  /// and only read where the source does not have that element (needs_last).
  const std::uint32_t* last = nullptr;
  /// Destination of the scales; null: they are not stored. Each is stored repeats x repeats times, as if blocks were
  /// that much smaller. The first one is that of the smaller block in which the tile begins; strides are in scales and
  /// go from matrix to matrix, to the smaller block below and to the one on the right. All smaller blocks that the tile
  /// touches are written.
  std::byte* scales = nullptr;
  Extents scale_strides;
  std::int64_t repeats = 1;
};

/// One strided copy. Strides are in elements of the respective dtype; dtypes may differ, and values be transformed,
/// only if both are castable.
///
/// With Transform::quantise (and only then) a tile has `blocks`, and goes from a castable type to f8_e4m3. Where its
/// destination is null, it stores no bytes and no scales, but raises `maxima` to the magnitudes of its own values: a
/// rank's contribution to blocks that other ranks have parts of (and to `last`, by a tile of one element). The caller
/// sets the maxima to 0 before.
struct Tile {
  const std::byte* source = nullptr;
  std::byte* destination = nullptr;
  Extents extent;
  Extents source_strides;
  Extents destination_strides;
  DType from = DType::bf16;
  DType to = DType::bf16;
  Transform transform = Transform::none;
  /// Flags order tables of different ranks without their hosts. `wait` is in memory of this rank: the tile is not read
  /// before it holds the run's epoch. `signal` may be in a peer's memory: it is set to the epoch once all tiles of this
  /// table with that flag are stored and visible to every reader of the flag. Flags start at 0.
  const std::uint64_t* wait = nullptr;
  std::uint64_t* signal = nullptr;
  std::optional<Blocks> blocks = std::nullopt;
  /// Number of the peer whose memory the destination is (any number): tiles for different peers take turns, see
  /// CopyTable.
  std::int32_t peer = 0;
};

/// Returns indices first .. first + count - 1 of dimension `dimension` of a tile, with their blocks.
Tile part_of(const Tile& tile, int dimension, std::int64_t first, std::int64_t count);

/// Returns true where the tile is quantised and touches a block that its source does not have completely.
bool needs_maxima(const Tile& tile);

/// Returns true where the tile touches a block that is padded with the matrix's last element, which its source does not
/// have.
bool needs_last(const Tile& tile);

/// Sizes that decide how a table is carried out, never its results.
struct TableSizes {
  std::int64_t item_bytes = 0;  ///< most bytes of an item (at least an element); 0: 128 KiB, on hosts 256 KiB
  std::int64_t quantised_elements = 64 * 1024;           ///< of a quantised item (at least a block)
  std::int64_t streamed_bytes = std::int64_t{64} << 20;  ///< tables that write this much bypass a host's caches
  std::int64_t most_teams = 0;  ///< of a device that move bits as they are; 0: as many as it holds
};

/// A table of strided copies, made once and run as one launch as often as asked. Casts round to nearest even;
/// transformed values are computed in double and rounded once.
///
/// Tiles are collapsed where both ends are contiguous and cut into items of bounded size (TableSizes), so that any
/// number of workers balances. The items for each peer are spread evenly over the run, so that all of a rank's links
/// are busy from its beginning to its end, and a peer gets its share from every rank at any time. Destination boxes
/// must not overlap. `run` allocates nothing; on a device, tiles that are cast, tiles that are quantised and tiles
/// whose ends run along different dimensions take a launch of their own each. Elements of tiles that are cast or
/// transformed, or whose innermost dimension is strided, must be aligned to their size on a device, and so must scales
/// and maxima. bytes_read and bytes_written count elements once, and no scales. A block that a tile has only a part of
/// counts completely as read, for its maximum, where the source has it.
class CopyTable {
 public:
  CopyTable() = default;
  CopyTable(const ExecutionSpace& space, std::span<const Tile> tiles, const TableSizes& sizes = {});
  /// Enqueues all copies. Tables with flags need an `epoch`: a number that grows from run to run. A flag that this
  /// table waits for must be raised by another table, whose own tiles wait for none of this one's flags.
  void run(const ExecutionSpace& space, std::uint64_t epoch = 0) const;
  std::int64_t bytes_read() const { return bytes_read_; }
  std::int64_t bytes_written() const { return bytes_written_; }

 private:
  struct Items;
  std::shared_ptr<const Items> items_;
  std::int64_t bytes_read_ = 0;
  std::int64_t bytes_written_ = 0;
};

/// A box of a tensor where it is stored: the operand of fingerprints, counts and updates.
struct Region {
  std::byte* data = nullptr;  ///< the box's first element
  DType dtype = DType::bf16;
  Box box;          ///< in global coordinates
  Shape shape;      ///< of the whole tensor
  Extents strides;  ///< in elements
};

/// Writes `value` into every element of a strided box (`extent`, `strides` in elements of `dtype`).
void fill(const ExecutionSpace& space, std::byte* data, DType dtype, const Extents& extent, const Extents& strides,
          double value);

/// The byte that fills gen memory before the first refit: every float type reads it as NaN.
inline constexpr unsigned char kPoison = 0xFF;

/// Fills `bytes` bytes with kPoison.
void poison(const ExecutionSpace& space, std::byte* data, std::int64_t bytes);

/// Changes the low mantissa bits of every element as a function of (key, global linear index, step).
///
/// F32, F16 and BF16: bits ^= m << s with m in 1..7 from perturbation(key, index, step) and s = perturbation_shift. NaN
/// and infinity stay. Other types: the lowest bit flips, except for the largest values and NaN of F8_E4M3 (0x7E, 0x7F,
/// 0xFE, 0xFF), and of F8_E8M0 and U8, which may be E8M0 (254, 255). All other elements differ from their value of the
/// step before.
///
/// With a `fraction` below 1 only elements change whose own random bits of the step (is_perturbed) say so.
void perturb(const ExecutionSpace& space, const Region& region, std::uint64_t key, std::int64_t step,
             double fraction = 1);

/// Returns the least random number that no longer changes an element, of a fraction below 1.
constexpr std::uint64_t perturbation_bound(double fraction) {
  return static_cast<std::uint64_t>(fraction * 0x1p63) * 2;
}

/// Returns whether an element changes in a step, `mixed` being combine(key, step).
constexpr bool is_perturbed(std::uint64_t mixed, std::int64_t index, std::uint64_t bound) {
  return splitmix64(splitmix64(mixed) + static_cast<std::uint64_t>(index) * 0x9E3779B97F4A7C15ULL) < bound;
}

/// Returns the shift of the changed bits of a castable type: they are the lowest ones that BF16 has too, so that the
/// change survives a cast to it.
constexpr int perturbation_shift(DType dtype) {
  if (dtype == DType::f32) return 16;
  return dtype == DType::f16 ? 3 : 0;
}

/// Returns random bits for elements 4 x four .. 4 x four + 3 of one step, 16 each, the first one's lowest; `mixed` is
/// combine(key, step).
constexpr std::uint64_t perturbation_bits(std::uint64_t mixed, std::int64_t four) {
  return splitmix64(mixed ^ (static_cast<std::uint64_t>(four) * 0x9E3779B97F4A7C15ULL));
}

/// Returns the 3-bit mask 1..7 that an element's own 16 random bits make.
constexpr std::uint32_t perturbation_mask(std::uint32_t own) { return 1U + (own * 7U >> 16); }

/// Returns the 3-bit mask 1..7 of one element of one step.
constexpr std::uint32_t perturbation(std::uint64_t key, std::int64_t index, std::int64_t step) {
  const std::uint64_t bits = perturbation_bits(combine(key, static_cast<std::uint64_t>(step)), index / 4);
  return perturbation_mask(static_cast<std::uint32_t>(bits >> (16 * (index % 4))) & 0xFFFFU);
}

/// Keys of a fingerprint: F_k = sum over rows of R_k(row) x sum over columns of (bits + 1) x C_k(column), mod 2^64, for
/// k = 0, 1 (Sum128::low, high). A row is the flattened index of all dimensions but the last, a column the last index;
/// a 0- or 1-D tensor is one row.
constexpr std::uint64_t row_key(std::uint64_t name_hash, int sum, std::int64_t row) {
  return splitmix64(name_hash + 0x632BE59BD9B4E019ULL * (2U * static_cast<std::uint64_t>(sum) + 1U) +
                    splitmix64(static_cast<std::uint64_t>(row)));
}
constexpr std::uint64_t column_key(std::uint64_t name_hash, int sum, std::int64_t column) {
  return splitmix64(name_hash + 0xD1342543DE82EF95ULL * (2U * static_cast<std::uint64_t>(sum) + 2U) +
                    splitmix64(~static_cast<std::uint64_t>(column))) |
         1ULL;
}

/// A region whose fingerprint is taken. The bits are those of the elements transformed and converted to `as` (in
/// double, rounded once, nearest even; only between castable types), which is how both sides of a cast or transform
/// compare.
struct Fingerprint {
  Region region;
  DType as = DType::bf16;
  Transform transform = Transform::none;
  std::uint64_t name_hash = 0;
};

/// Adds the fingerprint of of[i] to sums[i] (host memory), for all i; complete on return. Thousands of regions take a
/// few launches and one wait.
void fingerprints(const ExecutionSpace& space, std::span<const Fingerprint> of, std::span<Sum128> sums);

/// Adds the fingerprint of one region likewise.
void fingerprint(const ExecutionSpace& space, const Region& region, DType as, Transform transform,
                 std::uint64_t name_hash, Sum128* result);

/// Adds to rows[row - first row of the box] the wrapping 64-bit sum over the box's columns j of fix(w) x sign(seed, j),
/// with fix(w) = round-to-nearest-even(w x 2^24) saturated at +-2^39 (NaN counts as +2^39); complete on return. Rows
/// are those of the box, flattened in its own order. Castable dtypes only. `rows` is host memory.
void signed_row_sums(const ExecutionSpace& space, const Region& region, std::uint64_t seed, std::int64_t* rows);

/// The scales of a region's blocks, as stored: the value of an element is its byte x its block's scale, rounded to a
/// float32. Blocks begin at multiples of their size, a power of two, in the tensor's last two dimensions; those before
/// them count matrices.
struct BlockScales {
  const std::byte* data = nullptr;  ///< the scale of the block in which the region begins
  DType dtype = DType::f32;         ///< F32, or U8 for E8M0 bytes
  Extents strides;                  ///< in scales: from matrix to matrix, to the block below, right
  BlockSize block = kFp8Block;      ///< e.g. 32 x 32 where scales are repeated 4 x 4 times
};

/// Adds the same sums of the values of a region of E4M3 bytes with scales.
void signed_row_sums(const ExecutionSpace& space, const Region& region, const BlockScales& scales, std::uint64_t seed,
                     std::int64_t* rows);

/// Returns +1 or -1 for column j.
constexpr std::int64_t sign(std::uint64_t seed, std::int64_t column) {
  return (splitmix64(seed ^ splitmix64(static_cast<std::uint64_t>(column))) >> 63) != 0 ? -1 : 1;
}

/// Count of the elements of `region` whose bits differ from `expected` (contiguous, row-major over the box, of dtype
/// region.dtype), counted where the region lies; complete on return. A region costs the same however many elements
/// differ.
struct Difference {
  std::int64_t count = 0;
  std::int64_t first = -1;  ///< linear index within the box of the first such element; -1 if none
};
Difference count_differences(const ExecutionSpace& space, const Region& region, const std::byte* expected);

/// Counts elements of a floating-point type that are NaN or infinite (E8M0: its NaN); other types have none. Complete
/// on return.
std::int64_t count_not_finite(const ExecutionSpace& space, const Region& region);

/// Counts elements, NaN aside, whose value type `to` does not have: a cast rounds them or makes them infinite. Castable
/// types only; complete on return.
std::int64_t count_rounded(const ExecutionSpace& space, const Region& region, DType to);

/// Counts finite elements that become infinite where they are transformed and cast to type `to`: each is beyond its
/// largest value. Castable types, and no Transform::quantise; complete on return, at once where there can be none.
Difference count_overflows(const ExecutionSpace& space, const Region& region, DType to,
                           Transform transform = Transform::none);

/// Writes the values of one seeded synthetic tensor: mean + scale x (a normal-looking deviate), a function of (key,
/// global linear index) only. They are computed in double and rounded once to the region's dtype: a castable one,
/// F8_E4M3 (saturated), or F8_E8M0 and U8, whose bytes are the nearest whole numbers.
void synthesise(const ExecutionSpace& space, const Region& region, std::uint64_t key, double mean, double scale);

/// Converts one value's bits; exact rule of every cast and transform here (computed in double, rounded once to nearest
/// even, NaN kept quiet; all NaN of a transformed type are one). For tests and references.
std::uint32_t convert_bits(std::uint32_t bits, DType from, DType to, Transform transform = Transform::none);

/// Flips the lowest bit of one byte; complete on return. For injected faults.
void flip_bit(const ExecutionSpace& space, std::byte* byte);

/// Copies `bytes` from source to destination with all of the space's workers; complete on return. The memory probe.
void copy_bytes(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes);

}  // namespace refit::kernels
