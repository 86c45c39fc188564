// Quantised parts of weights against the reference of the whole weights, however these are cut and stored.
//
// REFIT_PART_BLOCKS is the number of blocks (of FP8: rows) that the test quantises, e.g. 250000000 for 10^7 of each
// quantiser, by as many threads as there are cores; REFIT_PART_SEED their seed.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <deque>
#include <set>
#include <thread>

#include "kernels/part_numbers.hpp"
#include "kernels/parts.hpp"
#include "support/format_reference.hpp"
#include "unit/kernels_random.hpp"
#include "unit/quantiser_values.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;
using format_reference::Quantised;

struct Kind {
  StoredFormat format;
  Library library;
};

std::vector<Kind> kinds() {
  std::vector<Kind> result;
  for (std::size_t i = 0; i < choices(StoredFormat{}).size(); ++i) {
    const auto format = static_cast<StoredFormat>(i);
    for (const Library library : libraries(format)) {
      if (has_part_kernels(format, library)) result.push_back({format, library});
    }
  }
  return result;
}

float float_of(std::uint64_t bits, DType dtype) {
  return std::bit_cast<float>(convert_bits(static_cast<std::uint32_t>(bits), dtype, DType::f32));
}

/// A whole weight: its values, and what the reference makes of them.
struct Weight {
  std::int64_t rows = 0, columns = 0;
  std::vector<std::byte> values = {};
  std::vector<std::uint8_t> elements = {};  ///< row-major, a byte each
  std::vector<Quantised> blocks = {};       ///< row-major
  std::vector<std::uint32_t> amax = {};     ///< fp8_channel: a word for each row
};

/// A piece of a weight in memory of its own, and its destinations.
struct Piece {
  const Weight* weight = nullptr;
  Box box;
  Extents strides;
  Bytes source = {}, values = {}, scales = {}, tensor = {}, amax = {};
};

/// Up to three weights that share a word of amax, all of their pieces, and the table that quantises them.
class Group {
 public:
  Group(Random& random, const Kind& kind) : random_(random), kind_(kind) {
    const bool has_no_f16 = kind.format == StoredFormat::mxfp4 && kind.library == Library::compressed_tensors;
    from_ = std::array{DType::f32, DType::bf16, DType::f16}[random() % (has_no_f16 ? 2U : 3U)];
    scale_dtype_ = pick(random, 0, 1) == 0 ? from_ : DType::f32;
    group_ = std::int64_t{16} << pick(random, 0, 4);
    block_ = block_columns(kind.format, group_);
    exponent_ = static_cast<int>(pick(random, 0, 1) == 0 ? pick(random, -150, 127) : pick(random, -20, 10));
    usual_ = static_cast<int>(pick(random, quantiser_test::kFirstUsual - 1, quantiser_test::kKinds - 1));
    has_specials_ = pick(random, 0, 2) == 0;
    has_zeros_ = pick(random, 0, 9) == 0;
    for (std::int64_t i = kind.format == StoredFormat::nvfp4 ? pick(random, 1, 3) : 1; i > 0; --i) add_weight();
    for (Weight& weight : weights_) quantise(weight);
    for (const Weight& weight : weights_) cut(weight);
    word_.resize(sizeof(std::uint32_t));
  }

  std::int64_t blocks() const {
    std::int64_t result = 0;
    for (const Weight& weight : weights_) result += std::ssize(weight.blocks) + weight.rows;
    return result;
  }

  /// Appends the pieces, in random order, and sets all words of amax to 0.
  void append(std::vector<Part>& parts) {
    std::memset(word_.data(), 0, word_.size());
    for (Piece& piece : pieces_) parts.push_back(part_of(piece));
  }

  /// Joins the words of pieces as several ranks' are.
  void join() {
    if (kind_.format != StoredFormat::fp8_channel) return;
    for (Weight& weight : weights_) weight.amax.assign(static_cast<std::size_t>(weight.rows), 0);
    const auto for_each_word = [&](const auto& action) {
      for (Piece& piece : pieces_) {
        auto& words = const_cast<Weight*>(piece.weight)->amax;
        for (std::int64_t r = 0; r < piece.box.extent[0]; ++r) {
          action(words[static_cast<std::size_t>(piece.box.lower[0] + r)],
                 reinterpret_cast<std::uint32_t*>(piece.amax.data())[r]);
        }
      }
    };
    for_each_word([](std::uint32_t& all, std::uint32_t& own) { all = std::max(all, own); });
    for_each_word([](std::uint32_t& all, std::uint32_t& own) { own = all; });
  }

  void check() const {
    for (const Piece& piece : pieces_) {
      check(piece);
      if (testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  void add_weight() {
    Weight& weight = weights_.emplace_back();
    const bool is_large = pick(random_, 0, 60) == 0;
    weight.rows = is_large ? pick(random_, 1, 200) : pick(random_, 1, 9);
    weight.columns = block_ * pick(random_, 1, std::max<std::int64_t>(1, (is_large ? 3000 : 300) / block_));
    const std::int64_t count = weight.rows * weight.columns;
    weight.values.resize(static_cast<std::size_t>(count * byte_size(from_)));
    int shift = 0;
    bool is_zero = false;
    for (std::int64_t i = 0; i < count; ++i) {
      if (i % std::max<std::int64_t>(block_, 16) == 0) {
        shift = static_cast<int>(pick(random_, 0, 1) == 0 ? 0 : pick(random_, 0, 30));
        is_zero = pick(random_, 0, 19) == 0;
      }
      const bool special = has_specials_ && random_() % 200 == 0;
      const int kind = special ? static_cast<int>(random_() % quantiser_test::kFirstUsual) : usual_;
      const int exponent = exponent_ - shift - static_cast<int>(random_() % 5);
      const std::uint32_t bits = has_zeros_ || (is_zero && !special)
                                     ? static_cast<std::uint32_t>(random_() & 0x80000000U)
                                     : quantiser_test::random_value(random_, kind, exponent);
      write_bits(weight.values.data(), i, from_, convert_bits(bits, DType::f32, from_));
    }
  }

  float at(const Weight& weight, std::int64_t index) const {
    return float_of(read_bits(weight.values.data(), index, from_), from_);
  }

  /// Returns the largest magnitude of all weights; NaN is the largest.
  float amax() const {
    float result = 0.0F;
    for (const Weight& weight : weights_) {
      for (std::int64_t i = 0; i < weight.rows * weight.columns; ++i) {
        const float magnitude = std::fabs(at(weight, i));
        if (!(magnitude <= result) && result == result) result = magnitude;
      }
    }
    return result;
  }

  void quantise(Weight& weight) const {
    const float tensor_amax = amax();
    const bool is_whole = kind_.format == StoredFormat::fp8_tensor;
    const std::int64_t count = weight.rows * weight.columns;
    const std::int64_t size = is_whole ? count : kind_.format == StoredFormat::fp8_channel ? weight.columns : block_;
    std::vector<float> values(static_cast<std::size_t>(size));
    for (std::int64_t first = 0; first < count; first += size) {
      for (std::int64_t i = 0; i < size; ++i) values[static_cast<std::size_t>(i)] = at(weight, first + i);
      const format_reference::Block block{kind_.format, kind_.library, from_, tensor_amax, values};
      weight.blocks.push_back(format_reference::quantised(block));
      const std::vector<std::uint8_t>& elements = weight.blocks.back().elements;
      weight.elements.insert(weight.elements.end(), elements.begin(), elements.end());
    }
  }

  std::vector<std::int64_t> cuts(std::int64_t size) {
    std::set<std::int64_t> result{0, size};
    for (std::int64_t i = pick(random_, 0, 2); i > 0; --i) result.insert(pick(random_, 0, size));
    return {result.begin(), result.end()};
  }

  void cut(const Weight& weight) {
    const std::vector<std::int64_t> rows = cuts(weight.rows);
    const std::vector<std::int64_t> columns = cuts(weight.columns / block_);
    for (std::size_t r = 0; r + 1 < rows.size(); ++r) {
      for (std::size_t c = 0; c + 1 < columns.size(); ++c) {
        const Box box{{rows[r], columns[c] * block_}, {rows[r + 1] - rows[r], (columns[c + 1] - columns[c]) * block_}};
        pieces_.push_back(stored(weight, box));
      }
    }
  }

  Piece stored(const Weight& weight, const Box& box) {
    Piece piece{&weight, box, random_strides(random_, box.extent)};
    if (pick(random_, 0, 1) == 0) piece.strides = {round_up(box.extent[1], 16), 1};
    piece.source = random_memory(random_, box.extent, piece.strides, from_);
    for_each_index(box.extent, [&](const Extents& index, std::int64_t) {
      const std::int64_t at = (box.lower[0] + index[0]) * weight.columns + box.lower[1] + index[1];
      write_bits(piece.source.data(), offset_of(index, piece.strides), from_,
                 read_bits(weight.values.data(), at, from_));
    });
    const std::int64_t count = product(box.extent);
    const bool packed = element_bits(kind_.format) == 4;
    piece.values.resize(static_cast<std::size_t>(packed ? count / 2 : count));
    std::int64_t scales = packed ? count / block_ : 1;
    if (kind_.format == StoredFormat::fp8_channel) scales = box.extent[0];
    piece.scales.resize(static_cast<std::size_t>(scales * scale_size()));
    if (kind_.format == StoredFormat::nvfp4) piece.tensor.resize(sizeof(float));
    if (kind_.format == StoredFormat::fp8_channel) {
      piece.amax.resize(static_cast<std::size_t>(box.extent[0]) * sizeof(std::uint32_t));
      std::memset(piece.amax.data(), 0, piece.amax.size());
    }
    return piece;
  }

  bool has_byte_scales() const { return element_bits(kind_.format) == 4 && !is_int4(kind_.format); }
  std::int64_t scale_size() const { return has_byte_scales() ? 1 : byte_size(scale_dtype_); }

  Part part_of(Piece& piece) {
    Part part;
    part.source = piece.source.data();
    part.rows = piece.box.extent[0];
    part.columns = piece.box.extent[1];
    part.source_strides[0] = piece.strides[0];
    part.source_strides[1] = piece.strides[1];
    part.from = from_;
    part.format = kind_.format;
    part.library = kind_.library;
    part.group = group_;
    const bool of_piece = kind_.format == StoredFormat::fp8_channel;
    part.amax = reinterpret_cast<std::uint32_t*>(of_piece ? piece.amax.data() : word_.data());
    part.values = piece.values.data();
    part.scales = piece.scales.data();
    part.scale_dtype = scale_dtype_;
    part.tensor_scale = piece.tensor.empty() ? nullptr : piece.tensor.data();
    return part;
  }

  std::uint8_t element(const Piece& piece, std::int64_t index) const {
    const auto byte = [&](std::int64_t i) {
      return static_cast<std::uint8_t>(piece.values[static_cast<std::size_t>(i)]);
    };
    if (element_bits(kind_.format) == 8) return byte(index);
    return index % 2 == 0 ? byte(index / 2) & 0x0FU : static_cast<std::uint8_t>(byte(index / 2) >> 4);
  }

  void check(const Piece& piece) const {
    const Weight& weight = *piece.weight;
    const std::int64_t columns = piece.box.extent[1];
    for (std::int64_t i = 0; i < product(piece.box.extent); ++i) {
      const std::int64_t row = piece.box.lower[0] + i / columns;
      const std::int64_t at = row * weight.columns + piece.box.lower[1] + i % columns;
      ASSERT_EQ(element(piece, i), weight.elements[static_cast<std::size_t>(at)])
          << *this << fmt::format(": row {} column {}, {:a}", row, at % weight.columns, this->at(weight, at));
    }
    const std::int64_t scales = std::ssize(piece.scales) / scale_size();
    for (std::int64_t i = 0; i < scales; ++i) check_scale(piece, i);
    if (piece.tensor.empty()) return;
    float tensor = weight.blocks.front().tensor;
    if (kind_.library == Library::te) {  // which keeps the amax
      const float divisor = 2688.0F / tensor;
      tensor = divisor == 0.0F ? 1.0F : std::isinf(divisor) ? std::numeric_limits<float>::max() : divisor;
    }
    check_number(piece.tensor, 0, DType::f32, tensor, "tensor's scale");
  }

  void check_scale(const Piece& piece, std::int64_t scale) const {
    const Weight& weight = *piece.weight;
    std::int64_t block = 0;
    if (kind_.format == StoredFormat::fp8_channel) block = piece.box.lower[0] + scale;
    if (element_bits(kind_.format) == 4) {
      const std::int64_t across = piece.box.extent[1] / block_;
      block = (piece.box.lower[0] + scale / across) * (weight.columns / block_) + piece.box.lower[1] / block_ +
              scale % across;
    }
    const Quantised& expected = weight.blocks[static_cast<std::size_t>(block)];
    if (has_byte_scales()) {
      ASSERT_EQ(static_cast<std::uint8_t>(piece.scales[static_cast<std::size_t>(scale)]), expected.byte)
          << *this << ": scale of block " << block;
    } else {
      check_number(piece.scales, scale, scale_dtype_, expected.scale, "scale");
    }
  }

  void check_number(const Bytes& memory, std::int64_t index, DType dtype, float expected, const char* what) const {
    const std::uint64_t found = read_bits(memory.data(), index, dtype);
    const std::uint32_t bits = convert_bits(std::bit_cast<std::uint32_t>(expected), DType::f32, dtype);
    const std::uint32_t nan = convert_bits(0x7FC00000U, DType::f32, dtype);
    ASSERT_EQ(found, expected == expected ? bits : nan) << *this << ": " << what << " " << index;
  }

  friend std::ostream& operator<<(std::ostream& out, const Group& of) {
    out << name(of.kind_.format) << " " << name(of.kind_.library) << " " << name(of.from_);
    return out << " [" << of.weights_.front().rows << ", " << of.weights_.front().columns << "]";
  }

  Random& random_;
  Kind kind_;
  DType from_ = DType::f32, scale_dtype_ = DType::f32;
  std::int64_t group_ = 128, block_ = 1;
  int exponent_ = 0, usual_ = 0;
  bool has_specials_ = false, has_zeros_ = false;
  std::deque<Weight> weights_;
  std::vector<Piece> pieces_;
  Bytes word_;
};

/// Checks at least that many random blocks, in tables of 64 groups of any kinds.
void check_random_blocks(Random random, const std::vector<Kind>& kinds, std::int64_t blocks) {
  const ExecutionSpace space;
  std::size_t kind = 0;
  while (blocks > 0 && !testing::Test::HasFatalFailure()) {
    std::deque<Group> groups;
    std::vector<Part> parts;
    for (int i = 0; i < 64; ++i) {
      groups.emplace_back(random, kinds[kind++ % kinds.size()]);
      groups.back().append(parts);
      blocks -= groups.back().blocks();
    }
    std::shuffle(parts.begin(), parts.end(), random);
    const PartTable table(space, parts);
    table.raise_amax(space);
    space.fence();
    for (Group& group : groups) group.join();
    table.quantise(space);
    space.fence();
    for (const Group& group : groups) group.check();
  }
}

TEST(Parts, EqualTheReferenceHoweverTheyAreCut) {
  const std::int64_t blocks = setting("REFIT_PART_BLOCKS", 200000);
  const auto seed = static_cast<std::uint64_t>(setting("REFIT_PART_SEED", 23));
  const std::int64_t threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::jthread> workers;
  for (std::int64_t thread = 0; thread < threads; ++thread) {
    workers.emplace_back([=] {
      std::seed_seq seeds{seed, static_cast<std::uint64_t>(thread)};
      check_random_blocks(Random(seeds), kinds(), blocks / threads + 1);
    });
  }
}

/// The numbers that devices compute with are the same on hosts: compares them with the steps, on random blocks.
template <typename Numbers>
void check_numbers(Random& random) {
  using Steps = typename Numbers::Steps;
  const DType from = Steps::kFrom;
  std::int64_t usual = 0;
  for (int block = 0; block < 1000; ++block) {
    std::array<float, 16> values{};
    std::uint32_t amax = 0;
    const auto exponent = static_cast<int>(pick(random, 0, 3) == 0 ? pick(random, -126, 127) : pick(random, -20, 4));
    const auto kind = static_cast<int>(pick(random, quantiser_test::kFirstUsual, quantiser_test::kKinds - 1));
    for (float& value : values) {
      const bool special = random() % 40 == 0;
      const std::uint32_t bits = quantiser_test::random_value(random, special ? (random() % 2 == 0 ? 0 : 4) : kind,
                                                              exponent - static_cast<int>(random() % 9));
      value = float_of(convert_bits(bits, DType::f32, from), from);
      amax = std::max(amax, magnitude_bits(value));
    }
    const float largest = std::bit_cast<float>(amax);
    const float tensor = Steps::tensor_scale(largest * static_cast<float>(pick(random, 1, 40)));
    const Scaling by = Steps::scaling(largest, tensor);
    const Numbers numbers(amax, by);
    if (!Steps::has_numbers(amax, by) || !numbers.are_usual()) continue;
    ++usual;
    for (const float value : values) {
      std::uint8_t found = 0;
      if constexpr (Steps::kIsPacked) {
        found = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(numbers.nibble_code(value)) -
                                          std::bit_cast<std::uint32_t>(kE2m1Code));
      } else {
        found = e4m3_from_number(numbers.kept_number(value));
      }
      ASSERT_EQ(found, Steps::element(value, by))
          << fmt::format("{:a}, amax {:a}, multiplier {:a}, divisor {:a}", value, largest, by.multiplier, by.divisor);
    }
  }
  if constexpr (Numbers::kIsUsable) {
    EXPECT_GT(usual, 400) << "of 1000 blocks";
  }
}

TEST(Parts, NumbersEqualTheSteps) {
  Random random(29);
#define REFIT_CHECK(format, library)                                                  \
  {                                                                                   \
    SCOPED_TRACE(#format " " #library);                                               \
    check_numbers<PartNumbers<StoredFormat::format, Library::library, F32>>(random);  \
    check_numbers<PartNumbers<StoredFormat::format, Library::library, F16>>(random);  \
    check_numbers<PartNumbers<StoredFormat::format, Library::library, BF16>>(random); \
  }
  REFIT_PART_QUANTISERS(REFIT_CHECK)
#undef REFIT_CHECK
}

TEST(Parts, CodesOfAllMagnitudes) {
  for (std::uint32_t bits = 0; bits < std::bit_cast<std::uint32_t>(7.0F); bits += 61) {
    const float magnitude = std::bit_cast<float>(bits);
    const std::uint32_t code = std::bit_cast<std::uint32_t>(e2m1_code(magnitude));
    ASSERT_EQ(code - std::bit_cast<std::uint32_t>(kE2m1Code), e2m1_index(bits, Ties::even)) << magnitude;
  }
}

TEST(Parts, EveryQuantiserButThoseOfOtherBlocks) {
  EXPECT_EQ(kinds().size(), 25U);
  for (const Kind& kind : kinds()) {
    const auto known = libraries_on_the_way(kind.format);
    EXPECT_NE(std::find(known.begin(), known.end(), kind.library), known.end()) << name(kind.library);
  }
  EXPECT_FALSE(has_part_kernels(StoredFormat::nvfp4, Library::te_16x16));
  EXPECT_FALSE(has_part_kernels(StoredFormat::int4_asym, Library::compressed_tensors));
  EXPECT_FALSE(has_part_kernels(StoredFormat::fp8_block, Library::te));
  EXPECT_FALSE(has_part_kernels(StoredFormat::nvfp4, Library::triton));
}

TEST(Parts, RefusesWhatItCannotDo) {
  const ExecutionSpace space;
  alignas(16) std::byte bytes[64] = {};
  Part part{.source = bytes, .rows = 1, .columns = 16, .source_strides = {16, 1}, .values = bytes};
  EXPECT_THROW(PartTable(space, {&part, 1}), Error);  // no word of amax
  std::uint32_t word = 0;
  part.amax = &word;
  PartTable(space, {&part, 1});
  part.columns = 8;
  EXPECT_THROW(PartTable(space, {&part, 1}), Error);  // half of a block
  part.columns = 16;
  part.library = Library::te_16x16;
  EXPECT_THROW(PartTable(space, {&part, 1}), Error);
  part.library = Library::te;
  part.from = DType::f8_e4m3;
  EXPECT_THROW(PartTable(space, {&part, 1}), Error);
}

TEST(Parts, OfTheHeader) {
  EXPECT_EQ(amax_words(StoredFormat::nvfp4, 64), 1);
  EXPECT_EQ(amax_words(StoredFormat::fp8_tensor, 64), 1);
  EXPECT_EQ(amax_words(StoredFormat::fp8_channel, 64), 64);
  EXPECT_EQ(amax_words(StoredFormat::int4, 64), 0);
  EXPECT_EQ(block_columns(StoredFormat::nvfp4, 128), 16);
  EXPECT_EQ(block_columns(StoredFormat::mxfp4, 128), 32);
  EXPECT_EQ(block_columns(StoredFormat::int4, 128), 128);
  EXPECT_EQ(block_columns(StoredFormat::fp8_channel, 128), 1);
}

}  // namespace
}  // namespace refit::kernels
