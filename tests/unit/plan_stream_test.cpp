// The misc stream: where every byte of every tensor lies.

#include <gtest/gtest.h>

#include <random>

#include "plan/plan.hpp"
#include "plan/stream.hpp"
#include "support/random_layout.hpp"

namespace refit::plan {
namespace {

using test_support::flat;
using test_support::for_each_index;
using test_support::position;
using test_support::shifted;

TEST(StreamBoxes, AreTheFlatRangeInOrder) {
  const Shape shapes[] = {{7}, {3, 4}, {1, 5}, {4, 1}, {2, 3, 4}, {3, 1, 2}, {2, 2, 2, 3}};
  for (const Shape& shape : shapes) {
    for (std::int64_t begin = 0; begin <= product(shape); ++begin) {
      for (std::int64_t count = 0; begin + count <= product(shape); ++count) {
        std::vector<std::int64_t> elements, expected;
        for (std::int64_t i = 0; i < count; ++i) expected.push_back(begin + i);
        const auto boxes = boxes_of_flat_range(shape, begin, count);
        EXPECT_LE(static_cast<int>(boxes.size()), 2 * shape.size() - 1);
        for (const Box& box : boxes) {
          EXPECT_GT(box.volume(), 0);
          for_each_index(box.extent,
                         [&](const Extents& index) { elements.push_back(flat(shifted(box.lower, index), shape)); });
        }
        EXPECT_EQ(elements, expected) << to_string(shape) << " from " << begin << ", " << count;
      }
    }
  }
}

TEST(StreamBoxes, OfAScalar) {
  EXPECT_EQ(boxes_of_flat_range({}, 0, 1), std::vector<Box>{Box{}});
  EXPECT_TRUE(boxes_of_flat_range({}, 0, 0).empty());
}

/// A source that stores tensors in a precision, but those without a rule in their own type.
class Source final : public layout::Layout {
 public:
  explicit Source(DType precision) : precision_(precision) {}
  std::int32_t ranks() const override { return 1; }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const model::Tensor&) const override { return 0; }
  std::optional<Format> format(const model::Tensor& tensor) const override {
    if (tensor.role == model::Role::gdn_out_norm) return Format{precision_, Conversion::minus_one};
    return tensor.role == model::Role::unknown ? tensor.dtype : precision_;
  }
  void pieces(const model::Tensor&, Rank, std::vector<layout::Piece>&) const override {}
  layout::Storage storage(const layout::StorageKey& key, Rank) const override { return {key, "", {}, precision_}; }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank) const override { return ""; }

 private:
  DType precision_;
};

/// Pieces of all tensors: every element once, in stream order, within the bytes of its buffer.
void check_stream(const std::vector<model::Tensor>& tensors, DType precision, std::int64_t buffer_bytes) {
  const Source source(precision);
  const StreamLayout stream(tensors, source, buffer_bytes);
  std::vector<std::vector<int>> written;
  std::int64_t total = 0;
  for (std::int32_t b = 0; b < stream.buffers(); ++b) {
    EXPECT_LE(stream.bytes(b), stream.capacity());
    EXPECT_EQ(stream.storage({b, -1, -1}, Rank{0}).bytes(), stream.bytes(b));
    written.emplace_back(static_cast<std::size_t>(stream.bytes(b)), 0);
  }
  std::pair<std::int32_t, std::int64_t> last{0, -1};
  std::int64_t padding = 0;
  for (const model::Tensor& tensor : tensors) {
    const DType dtype = tensor.role == model::Role::unknown ? tensor.dtype : precision;
    std::vector<layout::Piece> pieces;
    stream.pieces(tensor, Rank{0}, pieces);
    std::int64_t next = 0;
    for (const layout::Piece& piece : pieces) {
      const bool centred = tensor.role == model::Role::gdn_out_norm;
      EXPECT_EQ(piece.format, (Format{dtype, centred ? Conversion::minus_one : Conversion::none}));
      for_each_index(piece.box.extent, [&](const Extents& index) {
        EXPECT_EQ(flat(shifted(piece.box.lower, index), tensor.shape), next++) << tensor.name;
        const std::int32_t buffer = piece.place.storage.parameter;
        const std::int64_t byte = position(piece.place, index) * byte_size(dtype);
        EXPECT_LT(last, std::make_pair(buffer, byte)) << tensor.name;
        if (buffer == last.first) padding += byte - last.second - 1;
        last = {buffer, byte + byte_size(dtype) - 1};
        for (std::int64_t i = 0; i < byte_size(dtype); ++i)
          ++written[static_cast<std::size_t>(buffer)].at(static_cast<std::size_t>(byte + i));
      });
    }
    EXPECT_EQ(next, tensor.elements()) << tensor.name;
    total += tensor.elements() * byte_size(dtype);
  }
  std::int64_t used = 0;
  for (const auto& buffer : written) {
    for (int times : buffer) {
      EXPECT_LE(times, 1);
      used += times;
    }
  }
  EXPECT_EQ(used, total);
  EXPECT_LE(padding, 7 * static_cast<std::int64_t>(tensors.size()));  // alignment between types only
}

TEST(Stream, HoldsEveryByteOnce) {
  std::mt19937_64 random(7);
  const DType types[] = {DType::f32, DType::bf16, DType::i64, DType::u8};
  for (int round = 0; round < 60; ++round) {
    auto tensors = test_support::random_tensors(random, 6, 5);
    for (auto& tensor : tensors) {
      tensor.dtype = types[random() % std::size(types)];
      constexpr model::Role kSome[] = {model::Role::unknown, model::Role::final_norm, model::Role::gdn_out_norm};
      tensor.role = kSome[random() % std::size(kSome)];
    }
    for (const std::int64_t bytes : {1, 8, 9, 24, 100, 1000, 1 << 20}) {
      SCOPED_TRACE(fmt::format("round {} buffers of {}", round, bytes));
      check_stream(tensors, round % 2 == 0 ? DType::bf16 : DType::f32, bytes);
    }
  }
}

TEST(Stream, CutsATensorWhereABufferEnds) {
  const std::vector<model::Tensor> tensors{{0, "a", {3, 4}, DType::f32, model::Role::unknown, -1, -1},
                                           {1, "b", {2}, DType::bf16, model::Role::final_norm, -1, -1}};
  const Source source(DType::bf16);
  const StreamLayout stream(tensors, source, 20);
  ASSERT_EQ(stream.buffers(), 3);
  EXPECT_EQ(stream.bytes(0), 20);
  EXPECT_EQ(stream.bytes(1), 20);
  EXPECT_EQ(stream.bytes(2), 8 + 4);
  std::vector<layout::Piece> pieces;
  stream.pieces(tensors[0], Rank{0}, pieces);
  ASSERT_EQ(pieces.size(), 5u);
  EXPECT_EQ(pieces[0].box, (Box{{0, 0}, {1, 4}}));
  EXPECT_EQ(pieces[1].box, (Box{{1, 0}, {1, 1}}));
  EXPECT_EQ(pieces[2].box, (Box{{1, 1}, {1, 3}}));
  EXPECT_EQ(pieces[3].box, (Box{{2, 0}, {1, 2}}));
  EXPECT_EQ(pieces[4].box, (Box{{2, 2}, {1, 2}}));
  EXPECT_EQ(pieces[4].place, (layout::Place{{2, -1, -1}, 0, {4, 1}}));
}

/// Counts the pieces that are asked for.
class Counted final : public layout::Layout {
 public:
  explicit Counted(const StreamLayout& stream) : stream_(stream) {}
  std::int32_t ranks() const override { return 1; }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const model::Tensor& tensor) const override { return stream_.placement_class(tensor); }
  std::optional<Format> format(const model::Tensor& tensor) const override { return stream_.format(tensor); }
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override {
    const auto before = std::ssize(out);
    stream_.pieces(tensor, rank, out);
    count_ += std::ssize(out) - before;
  }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override {
    return stream_.storage(key, rank);
  }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank) const override { return ""; }

  std::int64_t count() const { return count_; }

 private:
  const StreamLayout& stream_;
  mutable std::int64_t count_ = 0;
};

/// A plan into the stream looks at each part of a tensor a few times, however many there are: 20,000 parts of one row,
/// or of many.
TEST(Stream, IsPlannedInLinearTime) {
  for (const Shape& shape : {Shape{1, 40'000}, Shape{100, 400}, Shape{40'000}}) {
    const std::vector<model::Tensor> tensors{{0, "t0", shape, DType::f32, model::Role::unknown, -1, -1}};
    test_support::MeshLayout source;
    source.tensors = tensors;
    source.mesh = {2, 2};
    source.format_of = {DType::f32};
    source.storage_of = {0};
    source.reversed = {false};
    source.cuts = {{{1, 0, test_support::Rule::chunk}}};
    const StreamLayout stream(tensors, source, 8);
    ASSERT_EQ(stream.buffers(), 20'000);
    const Counted counted(stream);
    const RankPlan plan = Planner(tensors, source, counted).rank_plan(Side::destination, Rank{0});
    std::int64_t elements = 0;
    std::int32_t next = 0;  // the buffers in order, each filled
    for (const Copy& copy : plan.copies) {
      elements += copy.elements();
      const std::int32_t buffer = copy.destination.place.storage.parameter;
      EXPECT_TRUE(buffer == next || buffer == next - 1);
      next = buffer + 1;
    }
    EXPECT_EQ(elements, 40'000);
    EXPECT_EQ(next, 20'000);
    EXPECT_LE(counted.count(), 4 * 20'000);
  }
}

}  // namespace
}  // namespace refit::plan
