#include <algorithm>
#include <array>
#include <numeric>

#include "checkpoint/chunks.hpp"
#include "checkpoint/contents.hpp"
#include "checkpoint/dequantise.hpp"
#include "checkpoint/gather.hpp"
#include "core/box.hpp"
#include "core/error.hpp"
#include "kernels/memory.hpp"

namespace refit::checkpoint {
namespace {

constexpr std::int64_t kTinyRun = 64;                       // bytes; below, a copy is cheaper than an iovec
constexpr std::int64_t kShortRow = std::int64_t{16} << 10;  // bytes; read whole where runs are tiny
constexpr std::int64_t kSlotAlignment = 64;
constexpr std::int64_t kReport = std::int64_t{64} << 20;  // bytes between calls of `progress`

/// Calls `visit(file_offset, elements, place_offset)` for each run of `box` that is contiguous both in a row-major
/// array of `shape` and in a place with `strides`; offsets in elements, the place's from the box's first element.
template <typename Visit>
void for_each_run(const Shape& shape, const Box& box, const Extents& strides, const Visit& visit) {
  const Extents file_strides = row_major_strides(shape);
  std::int64_t run = 1;
  int outer = box.extent.size();
  while (outer > 0) {
    const int d = outer - 1;
    if (box.extent[d] != 1 && (file_strides[d] != run || strides[d] != run)) break;
    run *= box.extent[d];
    --outer;
  }
  Extents index = Extents::filled(box.extent.size(), 0);
  const std::int64_t first = offset_of(box.lower, file_strides);
  while (true) {
    visit(first + offset_of(index, file_strides), run, offset_of(index, strides));
    int d = outer - 1;
    while (d >= 0 && ++index[d] == box.extent[d]) index[d--] = 0;
    if (d < 0) return;
  }
}

/// Returns the length of the runs that for_each_run visits, in elements.
std::int64_t run_length(const Shape& shape, const Box& box, const Extents& strides) {
  const Extents file_strides = row_major_strides(shape);
  std::int64_t run = 1;
  for (int d = box.extent.size() - 1; d >= 0; --d) {
    if (box.extent[d] != 1 && (file_strides[d] != run || strides[d] != run)) break;
    run *= box.extent[d];
  }
  return run;
}

/// Returns true where the destination holds the bits of the file. Quantised checkpoints have E4M3's bytes already, and
/// bytes of E8M0 may be called U8.
bool keeps_bits(const Read& read) {
  const DType file = read.entry->info.dtype;
  if (read.format == refit::Format(DType::f8_e4m3, Conversion::block_scaled)) return file == DType::f8_e4m3;
  if (read.format == refit::Format(DType::u8) && file == DType::f8_e8m0) return true;
  return read.format == refit::Format(file);
}

void check(const ModelRead& read, const Checkpoint& checkpoint) {
  REFIT_ASSERT(read.entry != nullptr && read.data != nullptr);
  const Entry& entry = *read.entry;
  const int dimensions = read.shape.size();
  REFIT_ASSERT(read.weight || product(read.shape) == product(entry.info.shape));
  REFIT_ASSERT(read.box.lower.size() == dimensions && read.box.extent.size() == dimensions);
  REFIT_ASSERT(read.strides.size() == dimensions);
  for (int d = 0; d < dimensions; ++d) {
    REFIT_ASSERT(read.box.lower[d] >= 0 && read.box.extent[d] >= 0);
    REFIT_ASSERT(read.box.extent[d] <= read.shape[d] - read.box.lower[d]);
  }
  const bool is_number = is_castable(read.format.dtype) && read.format.conversion != Conversion::block_scaled;
  const bool is_made = read.weight && is_number && read.format.conversion == Conversion::none;
  const bool is_cast = !read.weight && is_castable(read.format.dtype) && is_castable(entry.info.dtype);
  if (!is_made && !is_cast && (read.weight || !keeps_bits(read))) {
    fail_usage("{}: tensor {} is {} and cannot be loaded as {}", checkpoint.files[static_cast<std::size_t>(entry.file)],
               in_quotes(entry.info.name), name(entry.info.dtype), name(read.format.dtype));
  }
}

/// Returns the box of [..., rows, columns] of a box of the weight.
Box by_rows(const QuantisedWeight& weight, const Box& box) {
  return {weight.by_rows(box.lower), weight.by_rows(box.extent)};
}

/// Returns the bytes that a read needs.
std::int64_t bytes_of(const ModelRead& read) {
  if (!read.weight) return read.box.volume() * byte_size(read.entry->info.dtype);
  return read.weight->bytes_needed(by_rows(*read.weight, read.box));
}

class Reader {
 public:
  /// Adds the loss of read number i to losses[i].
  Reader(const kernels::ExecutionSpace& space, const Checkpoint& checkpoint, std::int64_t total_bytes,
         const std::function<void(std::int64_t, std::int64_t)>& progress, std::span<CastLoss> losses)
      : space_(space), checkpoint_(checkpoint), total_bytes_(total_bytes), progress_(progress), losses_(losses) {}

  void read(const ModelRead& read, std::size_t number) {
    if (read.box.empty()) return;
    number_ = number;
    if (read.weight) {
      dequantise(read);
    } else {
      take(read);
    }
    if (progress_ && done_ == total_bytes_) progress_(done_, total_bytes_);
  }

  /// Waits until everything is in its place. Errors (usage): the last file has changed meanwhile.
  void finish() {
    launch();
    space_.fence();
    gather_.close();
  }

  std::int64_t bytes_read() const { return gather_.bytes_read(); }

 private:
  void open(const Entry& entry) {
    if (entry.file == file_) return;
    file_ = entry.file;
    gather_.open(checkpoint_, file_);
  }

  void take(const Read& read) {
    open(*read.entry);
    const std::int64_t size = byte_size(read.format.dtype);
    // Files are read straight into their places where the host can write there.
    const bool direct =
        !kernels::Runtime::has_device() && keeps_bits(read) &&
        (run_length(read.shape, read.box, read.strides) * size >= kTinyRun || read.box.volume() * size < kTinyRun);
    if (direct) {
      gather_into(read, read.box, read.data, read.strides);
      gather_.flush();
    } else {
      stage(read);
    }
  }

  void gather_into(const Read& read, const Box& box, std::byte* data, const Extents& strides) {
    gather_into(*read.entry, read.shape, box, data, strides);
  }

  /// Reads a box of a tensor with the stored dtype.
  void gather_into(const Entry& entry, const Shape& shape, const Box& box, std::byte* data, const Extents& strides) {
    const std::int64_t size = byte_size(entry.info.dtype);
    for_each_run(shape, box, strides, [&](std::int64_t from, std::int64_t count, std::int64_t to) {
      // a run longer than this is cut, so that progress is seen
      for (std::int64_t part = 0; part < count * size; part += kReport) {
        const std::int64_t bytes = std::min(kReport, count * size - part);
        gather_.add(entry, entry.offset + from * size + part, bytes, data + to * size + part);
        advance(bytes);
      }
    });
  }

  /// Reads into a slot, whose parts are copied to their places when it is full.
  void stage(const Read& read) {
    const std::int64_t size = byte_size(read.entry->info.dtype);
    const Box wide = widened(read);
    for_each_chunk(wide, kBufferBytes / size, [&](const Box& part) {
      std::byte* buffer = reserve(part.volume() * size);
      const Box wanted = *intersect(part, read.box);
      const Extents buffer_strides = row_major_strides(part.extent);
      gather_into(read, part, buffer, buffer_strides);
      gather_.flush();
      const bool keeps = keeps_bits(read);
      tiles_.push_back({buffer + offset_of(relative(wanted, part), buffer_strides) * size,
                        read.data + offset_of(relative(wanted, read.box), read.strides) * byte_size(read.format.dtype),
                        wanted.extent, buffer_strides, read.strides, keeps ? read.format.dtype : read.entry->info.dtype,
                        read.format.dtype,
                        keeps ? Transform::none : transform(Conversion::none, read.format.conversion)});
      parts_.push_back({number_, wanted, &read.shape});
    });
  }

  /// Makes a box of a weight of its parts, in a slot.
  void dequantise(const ModelRead& read) {
    const QuantisedWeight& weight = *read.weight;
    const DType dtype = read.format.dtype;
    const std::int64_t size = byte_size(dtype);
    const Box box = by_rows(weight, read.box);
    const Extents strides = weight.by_rows(read.strides);
    for_each_chunk(box, kBufferBytes / size, [&](const Box& chunk) {
      std::byte* buffer = reserve(chunk.volume() * size);
      const std::vector<PartBytes> parts = read_parts(weight, chunk);
      weight.decode(chunk, parts, buffer, dtype);
      if (dtype != DType::f32) look_for_overflows(weight, chunk, parts, buffer, dtype);
      tiles_.push_back({buffer, read.data + offset_of(relative(chunk, box), strides) * size, chunk.extent,
                        row_major_strides(chunk.extent), strides, dtype, dtype});
      parts_.push_back({number_, chunk, &weight.shape()});
    });
  }

  /// Counts values of a chunk that are finite as float32 and not as `dtype`.
  void look_for_overflows(const QuantisedWeight& weight, const Box& chunk, std::span<const PartBytes> parts,
                          std::byte* values, DType dtype) const {
    const auto region = [&](std::byte* data, DType of) {
      return kernels::Region{data,
                             of,
                             {weight.of_weight(chunk.lower), weight.of_weight(chunk.extent)},
                             weight.of_weight(weight.shape()),
                             weight.of_weight(row_major_strides(chunk.extent))};
    };
    if (kernels::count_not_finite(space_, region(values, dtype)) == 0) return;
    const kernels::SharedBuffer wide(chunk.volume() * byte_size(DType::f32));
    weight.decode(chunk, parts, wide.data(), DType::f32);
    const kernels::Region exact = region(wide.data(), DType::f32);
    add_overflows(kernels::count_overflows(space_, exact, dtype), exact, losses_[number_]);
  }

  std::vector<PartBytes> read_parts(const QuantisedWeight& weight, const Box& box) {
    std::vector<PartBytes> parts;
    for (const QuantisedPart& part : weight.parts()) {
      const Box touched = part.touched(box);
      const std::int64_t bytes = touched.volume() * byte_size(part.entry->info.dtype);
      parts.push_back({&part, touched, std::vector<std::byte>(static_cast<std::size_t>(bytes))});
      open(*part.entry);
      gather_into(*part.entry, part.shape, touched, parts.back().bytes.data(), row_major_strides(touched.extent));
      gather_.flush();
    }
    return parts;
  }

  /// Returns that many bytes of a slot, at most kBufferBytes.
  std::byte* reserve(std::int64_t bytes) {
    if (used_ + bytes > kBufferBytes) launch();
    if (slots_[slot_].bytes() == 0) slots_[slot_] = kernels::SharedBuffer(kBufferBytes);
    std::byte* reserved = slots_[slot_].data() + used_;
    used_ = round_up(used_ + bytes, kSlotAlignment);
    return reserved;
  }

  /// Starts the copies out of the slot; the other one, whose copies are then complete, is filled meanwhile.
  void launch() {
    space_.fence();
    kernels::CopyTable(space_, tiles_).run(space_);
    look_for_losses();
    tiles_.clear();
    parts_.clear();
    used_ = 0;
    slot_ = 1 - slot_;
  }

  /// Looks at all casts and transforms: for rounding until a value of the read is rounded.
  void look_for_losses() const {
    for (std::size_t i = 0; i < tiles_.size(); ++i) {
      const kernels::Tile& tile = tiles_[i];
      if (!is_castable(tile.from) || !is_castable(tile.to)) continue;
      CastLoss& loss = losses_[parts_[i].read];
      // The region is only read from.
      const kernels::Region region{const_cast<std::byte*>(tile.source), tile.from, parts_[i].box, *parts_[i].shape,
                                   tile.source_strides};
      add_overflows(kernels::count_overflows(space_, region, tile.to, tile.transform), region, loss);
      const bool may_round = tile.transform == Transform::none && tile.from != tile.to && tile.to != DType::f32;
      if (may_round && !loss.rounded) loss.rounded = kernels::count_rounded(space_, region, tile.to) > 0;
    }
  }

  static void add_overflows(const kernels::Difference& found, const kernels::Region& region, CastLoss& loss) {
    if (found.count == 0) return;
    const std::int64_t first = offset_of(unravel(found.first, region.box), row_major_strides(region.shape));
    loss.first_overflow = loss.overflows == 0 ? first : std::min(loss.first_overflow, first);
    loss.overflows += found.count;
  }

  /// Returns the box with whole rows where its own part of them is tiny, over as many dimensions as make up such a row.
  static Box widened(const Read& read) {
    Box box = read.box;
    std::int64_t row = byte_size(read.entry->info.dtype);
    if (box.volume() * row < kTinyRun) return box;
    for (int d = read.shape.size() - 1; d >= 0 && row * box.extent[d] < kTinyRun; --d) {
      row *= read.shape[d];
      if (row > kShortRow) break;
      box.lower[d] = 0;
      box.extent[d] = read.shape[d];
    }
    return box;
  }

  void advance(std::int64_t bytes) {
    done_ = std::min(done_ + bytes, total_bytes_);
    if (!progress_ || done_ - reported_ < kReport) return;
    reported_ = done_;
    progress_(done_, total_bytes_);
  }

  const kernels::ExecutionSpace& space_;
  const Checkpoint& checkpoint_;
  std::int64_t total_bytes_;
  const std::function<void(std::int64_t, std::int64_t)>& progress_;
  std::span<CastLoss> losses_;
  std::size_t number_ = 0;  ///< of the read
  Gather gather_;
  std::array<kernels::SharedBuffer, 2> slots_;
  std::size_t slot_ = 0;
  std::int64_t used_ = 0;  ///< of the slot
  /// The place of a tile in its tensor.
  struct Part {
    std::size_t read;  ///< number
    Box box;
    const Shape* shape;  ///< of the read
  };
  std::vector<kernels::Tile> tiles_;
  std::vector<Part> parts_;  ///< of the tiles
  std::int32_t file_ = -1;
  std::int64_t done_ = 0;
  std::int64_t reported_ = 0;
};

/// Returns the reads in the order of their bytes: one file is open at a time, and is read from front to back.
std::vector<std::size_t> file_order(std::span<const ModelRead> reads) {
  std::vector<std::size_t> order(reads.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) {
    const Entry& entry = *reads[i].entry;
    if (reads[i].weight) return std::make_pair(entry.file, entry.offset);
    const std::int64_t first = offset_of(reads[i].box.lower, row_major_strides(reads[i].shape));
    return std::make_pair(entry.file, entry.offset + first * byte_size(entry.info.dtype));
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  return order;
}

}  // namespace

ReadStatistics read(const kernels::ExecutionSpace& space, const Checkpoint& checkpoint, std::span<const Read> reads,
                    const std::function<void(std::int64_t, std::int64_t)>& progress) {
  std::vector<ModelRead> plain;
  for (const Read& read : reads) plain.push_back({read});
  return checkpoint::read(space, checkpoint, std::span<const ModelRead>(plain), progress);
}

ReadStatistics read(const kernels::ExecutionSpace& space, const Checkpoint& checkpoint,
                    std::span<const ModelRead> reads, const std::function<void(std::int64_t, std::int64_t)>& progress) {
  ReadStatistics statistics;
  for (const ModelRead& read : reads) {
    check(read, checkpoint);
    statistics.bytes_needed += bytes_of(read);
  }
  statistics.losses.resize(reads.size());
  Reader reader(space, checkpoint, statistics.bytes_needed, progress, statistics.losses);
  for (std::size_t i : file_order(reads)) reader.read(reads[i], i);
  reader.finish();
  statistics.bytes_read = reader.bytes_read();
  return statistics;
}

}  // namespace refit::checkpoint
