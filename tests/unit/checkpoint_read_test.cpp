// Reading boxes into strided places, against a loop over elements.

#include <array>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "checkpoint_support.hpp"

namespace refit::checkpoint::test {
namespace {

std::int64_t pick(std::mt19937_64& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

Shape random_shape(std::mt19937_64& random) {
  Shape shape;
  const std::int64_t dimensions = pick(random, 0, 4);
  for (std::int64_t d = 0; d < dimensions; ++d) shape.push_back(pick(random, 1, d + 1 == dimensions ? 90 : 9));
  return shape;
}

Box random_box(const Shape& shape, std::mt19937_64& random) {
  Box box = Box::whole(shape);
  for (int d = 0; d < shape.size(); ++d) {
    if (pick(random, 0, 2) == 0) continue;
    box.lower[d] = pick(random, 0, shape[d] - 1);
    box.extent[d] = pick(random, 1, shape[d] - box.lower[d]);
  }
  return box;
}

/// Returns strides that give every element a place of its own: those of a permuted, padded array.
Extents random_strides(const Extents& extent, std::mt19937_64& random) {
  std::vector<int> order(static_cast<std::size_t>(extent.size()));
  std::iota(order.begin(), order.end(), 0);
  if (pick(random, 0, 2) == 0) std::shuffle(order.begin(), order.end(), random);
  Extents strides = extent;
  std::int64_t next = pick(random, 0, 3) == 0 ? 2 : 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    strides[*d] = next;
    next *= extent[*d] + (pick(random, 0, 2) == 0 ? pick(random, 0, 3) : 0);
  }
  return strides;
}

/// A place for a box with canaries around and between.
struct Place {
  Extents strides;
  refit::Format format;
  DType dtype;
  std::vector<std::byte> memory;

  Place(const Extents& extent, const Extents& place_strides, refit::Format as)
      : strides(place_strides), format(as), dtype(as.dtype) {
    Extents last = extent;
    for (int d = 0; d < last.size(); ++d) --last[d];
    memory.assign(static_cast<std::size_t>((offset_of(last, strides) + 3) * byte_size(dtype)), std::byte{0xEE});
  }
  std::byte* first() { return memory.data() + byte_size(dtype); }
};

/// Returns the contents of `place` after reading `box` of `tensor`, seen with `shape`: one element after the other.
std::vector<std::byte> expected(const Tensor& tensor, const Shape& shape, const Box& box, Place place) {
  const auto size_from = static_cast<std::size_t>(byte_size(tensor.info.dtype));
  const auto size_to = static_cast<std::size_t>(byte_size(place.dtype));
  const Extents tensor_strides = row_major_strides(shape);
  for (std::int64_t i = 0; i < box.volume(); ++i) {
    Extents index = box.extent;
    std::int64_t rest = i;
    for (int d = box.extent.size() - 1; d >= 0; --d) {
      index[d] = rest % box.extent[d];
      rest /= box.extent[d];
    }
    const std::byte* from =
        tensor.bytes.data() +
        static_cast<std::size_t>(offset_of(box.lower, tensor_strides) + offset_of(index, tensor_strides)) * size_from;
    std::byte* to = place.first() + static_cast<std::size_t>(offset_of(index, place.strides)) * size_to;
    if (place.format == refit::Format(tensor.info.dtype) || !is_castable(tensor.info.dtype)) {
      std::memcpy(to, from, size_from);
    } else {
      std::uint32_t bits = 0;
      std::memcpy(&bits, from, size_from);
      bits = kernels::convert_bits(bits, tensor.info.dtype, place.dtype,
                                   transform(Conversion::none, place.format.conversion));
      std::memcpy(to, &bits, size_to);
    }
  }
  return place.memory;
}

/// Returns the same for a box of the tensor's own shape.
std::vector<std::byte> expected(const Tensor& tensor, const Box& box, const Place& place) {
  return expected(tensor, tensor.info.shape, box, place);
}

class CheckpointRead : public testing::TestWithParam<Format> {};

TEST_P(CheckpointRead, EveryTypeComesBackShardedAndWhole) {
  for (std::int64_t max_shard : {0, 1, 300}) {
    const Folder folder;
    std::mt19937_64 random(3);
    std::vector<Tensor> tensors;
    for (DType dtype : kAllTypes) {
      const std::string type(name(dtype));
      tensors.push_back(random_tensor(type + ".matrix", {5, 7}, dtype, random));
      tensors.push_back(random_tensor(type + ".scalar", {}, dtype, random));
      tensors.push_back(random_tensor(type + ".none", {3, 0}, dtype, random));
    }
    write_checkpoint(GetParam(), folder.path(), tensors, max_shard);
    const Checkpoint checkpoint = open(folder.path());
    EXPECT_EQ(checkpoint.entries.size(), tensors.size());
    EXPECT_EQ(checkpoint.files.size() > 1, max_shard > 0);
    for (const Tensor& tensor : tensors) {
      const Entry* entry = checkpoint.find(tensor.info.name);
      ASSERT_NE(entry, nullptr) << tensor.info.name;
      EXPECT_EQ(entry->info.shape, tensor.info.shape) << tensor.info.name;
      EXPECT_EQ(entry->info.dtype, tensor.info.dtype) << tensor.info.name;
      EXPECT_EQ(read_whole(checkpoint, tensor.info.name), tensor.bytes) << tensor.info.name;
    }
  }
}

TEST_P(CheckpointRead, RandomBoxesStridesAndCastsMatchTheLoop) {
  const Folder folder;
  std::mt19937_64 random(4);
  std::vector<Tensor> tensors;
  for (int i = 0; i < 120; ++i) {
    const DType dtype = i % 2 == 0
                            ? kAllTypes[static_cast<std::size_t>(pick(random, 1, 3))]  // castable: F32, F16, BF16
                            : kAllTypes[static_cast<std::size_t>(pick(random, 0, 15))];
    tensors.push_back(random_tensor("t" + std::to_string(i), random_shape(random), dtype, random));
  }
  write_checkpoint(GetParam(), folder.path(), tensors, 20'000);
  const Checkpoint checkpoint = open(folder.path());
  std::vector<Read> reads;
  std::vector<Place> places;
  std::vector<std::vector<std::byte>> wanted;
  places.reserve(1200);
  std::int64_t needed = 0;
  for (int i = 0; i < 1200; ++i) {
    const Tensor& tensor = tensors[std::size_t(pick(random, 0, 119))];
    const Box box = random_box(tensor.info.shape, random);
    const bool cast = is_castable(tensor.info.dtype) && pick(random, 0, 1) == 0;
    const DType dtype = cast ? kAllTypes[static_cast<std::size_t>(pick(random, 1, 3))] : tensor.info.dtype;
    const auto conversion = static_cast<Conversion>(cast && pick(random, 0, 1) == 0 ? pick(random, 1, 2) : 0);
    places.emplace_back(box.extent, random_strides(box.extent, random), refit::Format(dtype, conversion));
    reads.push_back({checkpoint.find(tensor.info.name), box, places.back().first(), places.back().format,
                     places.back().strides, tensor.info.shape});
    wanted.push_back(expected(tensor, box, places.back()));
    needed += box.volume() * byte_size(tensor.info.dtype);
  }
  const kernels::ExecutionSpace space;
  std::int64_t last_done = 0;
  const ReadStatistics statistics = read(space, checkpoint, reads, [&](std::int64_t done, std::int64_t all) {
    EXPECT_EQ(all, needed);
    last_done = done;
  });
  EXPECT_EQ(statistics.bytes_needed, needed);
  EXPECT_EQ(last_done, needed);
  for (std::size_t i = 0; i < reads.size(); ++i) {
    EXPECT_EQ(places[i].memory, wanted[i]) << reads[i].entry->info.name << " " << to_string(reads[i].box) << " strides "
                                           << to_string(reads[i].strides) << " as " << name(reads[i].format.dtype);
  }
}

TEST_P(CheckpointRead, ColumnsOfAWideMatrixAreReadThroughOrSkipped) {
  struct Case {
    std::int64_t columns, first, count, bytes_read;
  };
  constexpr std::int64_t kRows = 2100;  // more than one preadv holds
  for (const Case& c : {Case{1024, 0, 256, 0}, Case{20'000, 500, 100, kRows * 200}, Case{8, 2, 1, 0}}) {
    const Folder folder;
    std::mt19937_64 random(5);
    const std::vector<Tensor> tensors{random_tensor("w", {kRows, c.columns}, DType::bf16, random)};
    write_checkpoint(GetParam(), folder.path(), tensors, 0);
    const Checkpoint checkpoint = open(folder.path());
    const Box box{{0, c.first}, {kRows, c.count}};
    Place place(box.extent, {c.count, 1}, DType::bf16);
    const Read one{checkpoint.find("w"), box, place.first(), DType::bf16, place.strides, {kRows, c.columns}};
    const auto wanted = expected(tensors[0], box, place);
    const ReadStatistics statistics = read(kernels::ExecutionSpace{}, checkpoint, std::span(&one, 1));
    EXPECT_EQ(place.memory, wanted) << c.columns;
    EXPECT_EQ(statistics.bytes_needed, box.volume() * 2);
    if (c.bytes_read > 0) {
      EXPECT_EQ(statistics.bytes_read, c.bytes_read);  // the gaps are skipped
    } else {
      EXPECT_GT(statistics.bytes_read, kRows * c.columns * 2 * 9 / 10);  // the gaps are read through
      EXPECT_LE(statistics.bytes_read, kRows * c.columns * 2);
    }
  }
}

TEST_P(CheckpointRead, CastsOfTensorsBeyondTheBufferAreWhole) {
  const Folder folder;
  std::mt19937_64 random(6);
  const std::vector<Tensor> tensors{random_tensor("w", {3, 1'500'000}, DType::f32, random)};
  write_checkpoint(GetParam(), folder.path(), tensors, 0);
  const Checkpoint checkpoint = open(folder.path());
  const Box box{{0, 1}, {3, 1'499'000}};
  Place place(box.extent, {1'500'003, 1}, DType::bf16);
  const Read one{checkpoint.find("w"), box, place.first(), DType::bf16, place.strides, tensors[0].info.shape};
  const auto wanted = expected(tensors[0], box, place);
  const ReadStatistics statistics = read(kernels::ExecutionSpace{}, checkpoint, std::span(&one, 1));
  EXPECT_TRUE(place.memory == wanted);
  EXPECT_EQ(statistics.bytes_read, statistics.bytes_needed);
}

/// Reads `box` of the only tensor of a checkpoint, seen with `shape`, and compares with the loop.
ReadStatistics read_and_check(Format format, const Tensor& tensor, const Shape& shape, const Box& box,
                              const Extents& strides, refit::Format as) {
  const Folder folder;
  write_checkpoint(format, folder.path(), {tensor}, 0);
  const Checkpoint checkpoint = open(folder.path());
  Place place(box.extent, strides, as);
  const Read one{checkpoint.find(tensor.info.name), box, place.first(), as, strides, shape};
  const auto wanted = expected(tensor, shape, box, place);
  const ReadStatistics statistics = read(kernels::ExecutionSpace{}, checkpoint, std::span(&one, 1));
  EXPECT_TRUE(place.memory == wanted) << to_string(shape) << to_string(box) << name(as.dtype);
  EXPECT_EQ(statistics.bytes_needed, box.volume() * byte_size(tensor.info.dtype));
  return statistics;
}

TEST_P(CheckpointRead, MoreDimensionsThanTheEntryAndTransposedPlaces) {
  // Experts [E, H, 2 I] with gate and up in turns, read as [E, H, I, 2].
  constexpr std::int64_t kE = 3;
  constexpr std::int64_t kH = 70;
  constexpr std::int64_t kI = 45;
  std::mt19937_64 random(8);
  const Tensor tensor = random_tensor("w", {kE, kH, 2 * kI}, DType::bf16, random);
  const Shape shape{kE, kH, kI, 2};
  const Box whole = Box::whole(shape);
  const Box part{{1, 0, 11, 0}, {2, kH, 21, 2}};
  const Box gate{{0, 3, 0, 0}, {kE, 60, kI, 1}};
  const Box up{{0, 3, 7, 1}, {kE, 60, 13, 1}};
  for (const Box& box : {whole, part, gate, up}) {
    const std::int64_t h = box.extent[1];
    const std::int64_t i = box.extent[2];
    for (DType dtype : {DType::bf16, DType::f32}) {
      // out[e][2 i + c][h], and gate before up: out[e][c][i][h].
      read_and_check(GetParam(), tensor, shape, box, {2 * i * h, 1, 2 * h, h}, dtype);
      const auto statistics = read_and_check(GetParam(), tensor, shape, box, {2 * i * h, 1, h, i * h}, dtype);
      EXPECT_LE(statistics.bytes_read, kE * kH * kI * 2 * 2);
    }
  }
}

TEST_P(CheckpointRead, TransposedPlacesBeyondTheBuffer) {
  std::mt19937_64 random(9);
  const Tensor tensor = random_tensor("w", {2, 1100, 4200}, DType::bf16, random);  // 18.5 MB
  const Box box{{0, 0, 100, 0}, {2, 1100, 1900, 2}};
  const auto statistics =
      read_and_check(GetParam(), tensor, {2, 1100, 2100, 2}, box, {3800 * 1100, 1, 1100, 1900 * 1100}, DType::bf16);
  EXPECT_LE(statistics.bytes_read, 2 * 1100 * 4200 * 2);
}

TEST_P(CheckpointRead, ConversionsOfStoredValues) {
  std::mt19937_64 random(10);
  for (DType from : {DType::bf16, DType::f32}) {
    const Tensor tensor = random_tensor("a", {300}, from, random);
    for (Conversion conversion : {Conversion::minus_one, Conversion::negative_exp}) {
      for (DType to : {DType::bf16, DType::f32}) {
        read_and_check(GetParam(), tensor, {300}, {{20}, {200}}, {1}, {to, conversion});
      }
    }
  }
}

/// One of two tensors, at its very end, has a single value that bf16 lacks.
TEST_P(CheckpointRead, SaysWhichReadsWereRounded) {
  const Folder folder;
  const kernels::ExecutionSpace space;
  constexpr std::int64_t kElements = 5'000'003;
  std::vector<Tensor> tensors;
  for (const std::string name : {"exact", "inexact"}) {
    Tensor& tensor = tensors.emplace_back();
    tensor.info = {name, {kElements}, DType::f32};
    tensor.bytes.resize(static_cast<std::size_t>(kElements) * 4);
    for (std::int64_t i = 0; i < kElements; ++i) {
      // Values of bf16, among them infinities; and NaN, whose lost bits are no rounding.
      const std::uint32_t bits = i % 1001 == 0 ? 0x7FC01234U : static_cast<std::uint32_t>(i * 7919) << 16;
      std::memcpy(tensor.bytes.data() + 4 * i, &bits, 4);
    }
  }
  const std::uint32_t bits = 0x3F800001U;
  std::memcpy(tensors[1].bytes.data() + 4 * (kElements - 1), &bits, 4);
  write_checkpoint(GetParam(), folder.path(), tensors, 0);
  const Checkpoint checkpoint = open(folder.path());
  std::vector<std::byte> out(static_cast<std::size_t>(kElements) * 4);
  const auto rounded = [&](DType to) {
    std::vector<Read> reads;
    for (const std::string name : {"inexact", "exact"}) {
      reads.push_back({checkpoint.find(name), Box::whole({kElements}), out.data(), to, {1}, {kElements}});
    }
    std::vector<bool> result;
    for (const CastLoss& loss : read(space, checkpoint, reads).losses) result.push_back(loss.rounded);
    return result;
  };
  EXPECT_EQ(rounded(DType::bf16), (std::vector<bool>{true, false}));
  EXPECT_EQ(rounded(DType::f32), (std::vector<bool>{false, false}));
  EXPECT_EQ(rounded(DType::f16), (std::vector<bool>{true, true}));  // bf16 has more exponents
}

/// Overflows of boxes are counted in each read by itself, through several buffers, with the first's place in the file.
TEST_P(CheckpointRead, CountsWhatBecomesInfinite) {
  const Folder folder;
  const kernels::ExecutionSpace space;
  constexpr std::int64_t kRows = 1501, kColumns = 4001;         // 12 MB of bf16: more than a buffer
  constexpr std::uint32_t kLargest = 0x477F, kBeyond = 0x4780;  // 65280 and 65536; 65520 is not in bf16
  Tensor tensor{{"w", {kRows, kColumns}, DType::bf16}, std::vector<std::byte>(kRows * kColumns * 2)};
  const auto set = [&](std::int64_t row, std::int64_t column, std::uint32_t bits) {
    std::memcpy(tensor.bytes.data() + 2 * (row * kColumns + column), &bits, 2);
  };
  for (std::int64_t row = 0; row < kRows; ++row) {
    set(row, 0, kLargest);
    set(row, 1, 0xFF80);  // infinite in the file
    set(row, 2, 0x7FC0);  // NaN
  }
  set(0, 5, kBeyond);
  set(700, 3000, 0x8000 | kBeyond);
  set(1500, 7, 0x7F7F);
  set(1500, 4000, kBeyond);
  write_checkpoint(GetParam(), folder.path(), {tensor}, 0);
  const Checkpoint checkpoint = open(folder.path());
  std::vector<std::byte> out(kRows * kColumns * 4);
  const auto losses = [&](const refit::Format& to) {
    std::vector<Read> reads;
    for (const Box& box :
         {Box::whole({kRows, kColumns}), Box{{1, 6}, {kRows - 1, kColumns - 6}}, Box{{1, 0}, {699, 9}}})
      reads.push_back({checkpoint.find("w"), box, out.data(), to, row_major_strides(box.extent), {kRows, kColumns}});
    std::vector<std::array<std::int64_t, 2>> result;
    for (const CastLoss& loss : read(space, checkpoint, reads).losses)
      result.push_back({loss.overflows, loss.first_overflow});
    return result;
  };
  using Expected = std::vector<std::array<std::int64_t, 2>>;
  EXPECT_EQ(losses(DType::f16), (Expected{{4, 5}, {3, 700 * kColumns + 3000}, {0, 0}}));
  EXPECT_EQ(losses({DType::f16, Conversion::minus_one}), (Expected{{4, 5}, {3, 700 * kColumns + 3000}, {0, 0}}));
  EXPECT_EQ(losses(DType::f32), (Expected{{0, 0}, {0, 0}, {0, 0}}));
  EXPECT_EQ(losses(DType::bf16), (Expected{{0, 0}, {0, 0}, {0, 0}}));
}

TEST_P(CheckpointRead, QuantisedBytesAndTheirScalesStayAsTheyAre) {
  std::mt19937_64 random(12);
  const Tensor values = random_tensor("w", {256, 320}, DType::f8_e4m3, random);
  const refit::Format scaled(DType::f8_e4m3, Conversion::block_scaled);
  const Box box{{3, 128}, {200, 128}};
  for (const Extents& strides : {Extents{128, 1}, Extents{1, 200}}) {  // read directly, and through a buffer
    read_and_check(GetParam(), values, {256, 320}, box, strides, scaled);
    read_and_check(GetParam(), random_tensor("w", {256, 320}, DType::f8_e8m0, random), {256, 320}, box, strides,
                   DType::u8);
  }
  const Folder folder;
  write_checkpoint(GetParam(), folder.path(), {random_tensor("plain", {4, 4}, DType::bf16, random)}, 0);
  const Checkpoint checkpoint = open(folder.path());
  std::vector<std::byte> out(16);
  const Read one{checkpoint.find("plain"), Box::whole({4, 4}), out.data(), scaled, {4, 1}, {4, 4}};
  expect_usage([&] { read(kernels::ExecutionSpace{}, checkpoint, std::span(&one, 1)); },
               {"'plain'", "BF16", "F8_E4M3"});
}

TEST_P(CheckpointRead, RefusesAShapeOfOtherSize) {
  const Folder folder;
  std::mt19937_64 random(11);
  write_checkpoint(GetParam(), folder.path(), {random_tensor("w", {4, 6}, DType::f32, random)}, 0);
  const Checkpoint checkpoint = open(folder.path());
  std::vector<float> out(24);
  const Shape shape{4, 3, 3};
  const Read one{checkpoint.find("w"),
                 Box::whole({4, 3, 2}),
                 reinterpret_cast<std::byte*>(out.data()),
                 DType::f32,
                 {6, 2, 1},
                 shape};
  EXPECT_THROW(read(kernels::ExecutionSpace{}, checkpoint, std::span(&one, 1)), Error);
}

TEST_P(CheckpointRead, ErrorsNameFileAndTensor) {
  const Folder folder;
  std::mt19937_64 random(7);
  const std::vector<Tensor> tensors{random_tensor("first", {100}, DType::f32, random),
                                    random_tensor("ids", {100}, DType::i64, random)};
  write_checkpoint(GetParam(), folder.path(), tensors, 0);
  const Checkpoint checkpoint = open(folder.path());
  std::vector<float> out(100);
  Read one{checkpoint.find("ids"), Box::whole({100}), reinterpret_cast<std::byte*>(out.data()), DType::f32, {1}, {100}};
  const kernels::ExecutionSpace space;
  expect_usage([&] { read(space, checkpoint, std::span(&one, 1)); }, {checkpoint.files[0], "'ids'", "I64", "F32"});
  one.entry = checkpoint.find("first");
  const std::int64_t offset = one.entry->offset;
  std::filesystem::resize_file(checkpoint.files[0], static_cast<std::uintmax_t>(offset + 40));
  expect_usage([&] { read(space, checkpoint, std::span(&one, 1)); },
               {checkpoint.files[0], "was written to since its header was read", std::to_string(offset + 40) + " now"});
  std::filesystem::remove(checkpoint.files[0]);
  expect_usage([&] { read(space, checkpoint, std::span(&one, 1)); }, {checkpoint.files[0], "cannot open"});
}

INSTANTIATE_TEST_SUITE_P(Formats, CheckpointRead, testing::Values(Format::safetensors, Format::hdf5),
                         [](const auto& test_info) {
                           return test_info.param == Format::safetensors ? "safetensors" : "hdf5";
                         });

}  // namespace
}  // namespace refit::checkpoint::test
