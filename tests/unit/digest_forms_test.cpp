// Digests in the engines' own forms: published vectors of SHA-256, and what SGLang's code gave for the same bytes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>

#include "digest/forms.hpp"

namespace refit::digest {
namespace {

std::string sha256(const std::string& text, Sha256::By by) {
  Sha256 sum(by);
  sum.update(text);
  return sum.hex();
}

class DigestSha256 : public testing::TestWithParam<Sha256::By> {};

/// FIPS 180-4's examples and NIST's long one.
TEST_P(DigestSha256, GivesPublishedDigests) {
  EXPECT_EQ(sha256("", GetParam()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc", GetParam()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", GetParam()),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(std::string(1'000'000, 'a'), GetParam()),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/// Lengths around a block, where the count of bits moves to a block of its own, against the other implementation.
TEST_P(DigestSha256, DoesNotDependOnParts) {
  for (std::size_t length = 0; length < 260; ++length) {
    std::string text;
    for (std::size_t i = 0; i < length; ++i) text += static_cast<char>(i * 31 + length);
    Sha256 parts(GetParam());
    for (std::size_t at = 0, part = 1; at < length; at += part, part = part % 90 + 7)
      parts.update(text.substr(at, part));
    EXPECT_EQ(parts.hex(), sha256(text, Sha256::By::plain_code)) << length;
  }
}

INSTANTIATE_TEST_SUITE_P(By, DigestSha256, testing::Values(Sha256::By::instructions, Sha256::By::plain_code));

std::vector<std::byte> bytes_of(std::int64_t count) {
  std::vector<std::byte> bytes;
  for (std::int64_t i = 0; i < count; ++i) bytes.push_back(static_cast<std::byte>(i * i * 7 + i * 3 + (i >> 8)));
  return bytes;
}

/// gpu_tensor_hash of SGLang 0.5.23, in Triton's interpreter, of as many bytes: several tiles, and ends inside a word.
TEST(DigestSglang, IsTheHashOfItsKernels) {
  const std::map<std::int64_t, std::string> recorded{
      {0, "0000000000000000"},     {1, "3d93a6540b54ef2a"},     {3, "fa54651434c49650"},
      {4, "15585910f15b6ae0"},     {5, "bf68c6ac996fdd2e"},     {32768, "4394096d624adb79"},
      {32769, "f35b91a16a14c48f"}, {33001, "ab17a019d306a8a1"}, {100000, "c1cdce8eee82ba20"}};
  for (const auto& [count, expected] : recorded) {
    const std::vector<std::byte> bytes = bytes_of(count);
    SglangHash once(count);
    once.update(bytes);
    EXPECT_EQ(once.hex(), expected) << count;
    SglangHash parts(count);
    std::size_t part = 1;
    for (std::size_t at = 0; at < bytes.size(); at += part, part = part * 3 % 9973 + 1)
      parts.update(std::span(bytes).subspan(at, std::min(part, bytes.size() - at)));
    EXPECT_EQ(parts.hex(), expected) << count << " in parts";
  }
}

TEST(DigestSglang, TakesBlocksAsTheCheckerDoes) {
  const auto scales = SglangScales::of({4, 300, 384}, {4, 3, 3});
  ASSERT_TRUE(scales);
  EXPECT_EQ(scales->block, 128);
  const auto narrow = SglangScales::of({100, 192}, {2, 2});  // blocks of 128 columns would be ragged: it takes 96
  ASSERT_TRUE(narrow);
  EXPECT_EQ(narrow->block, 96);
  EXPECT_FALSE(SglangScales::of({128, 200}, {1, 3}));  // "cannot infer block size"
  EXPECT_FALSE(SglangScales::of({128, 192}, {1, 2}));  // two rows of scales would be needed
  EXPECT_FALSE(SglangScales::of({128}, {1}));
  EXPECT_FALSE(SglangScales::of({2, 128, 128}, {1, 1, 1}));
}

/// Two matrices of 3 x 4 with blocks of 2 x 2, element by element from any beginning.
TEST(DigestSglang, DequantisesEachElementWithItsBlock) {
  auto scales = SglangScales::of({2, 3, 4}, {2, 2, 2});
  ASSERT_TRUE(scales);
  const std::vector<float> of_blocks{1.0F, 2.0F, 4.0F, 8.0F, 0.5F, 0.25F, 3.0F, 1.0009765625F};
  scales->scales = std::as_bytes(std::span(of_blocks));
  const std::vector<std::byte> ones(24, std::byte{0x38});  // 1.0 in E4M3
  const std::vector<float> expected{1,    1,    2,     2,     1,    1,    2,     2,     4, 4, 8, 8,
                                    0.5F, 0.5F, 0.25F, 0.25F, 0.5F, 0.5F, 0.25F, 0.25F, 3, 3, 1, 1};  // rounded
  for (std::size_t first = 0; first < ones.size(); ++first) {
    std::vector<std::uint16_t> values(ones.size() - first);
    scales->dequantise(static_cast<std::int64_t>(first), std::span(ones).subspan(first), values.data());
    for (std::size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(std::bit_cast<float>(std::uint32_t{values[i]} << 16), expected[first + i]) << first << " " << i;
  }
}

}  // namespace
}  // namespace refit::digest
