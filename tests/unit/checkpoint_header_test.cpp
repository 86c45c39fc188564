// safetensors headers: what is read, what is refused and how the refusal reads.

#include <fmt/format.h>

#include "checkpoint_support.hpp"

namespace refit::checkpoint::test {
namespace {

struct Refusal {
  const char* name;
  std::string file;   ///< the bytes of the whole file
  std::string cause;  ///< part of the message
};

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

std::string with(const std::string& tensors, std::size_t data_bytes) {
  return raw_safetensors("{" + tensors + "}", std::string(data_bytes, 'x'));
}

std::string with_shape(const std::string& shape) { return with(tensor("w", "U8", shape, "[0,4]"), 4); }
std::string with_offsets(const std::string& offsets) { return with(tensor("w", "U8", "[4]", offsets), 4); }
std::string with_dtype(const std::string& dtype) { return with(tensor("w", dtype, "[4]", "[0,4]"), 4); }

std::string with_length(std::uint64_t length) {
  std::string file = raw_safetensors("{}", "");
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>((length >> (8 * i)) & 0xFFU);
  return file;
}

std::vector<Refusal> refusals() {
  const std::string first = tensor("a", "U8", "[4]", "[0,4]");
  return {
      {"empty_file", "", "too few"},
      {"seven_bytes", "1234567", "too few"},
      {"header_beyond_file", with_length(3), "truncated"},
      {"header_over_limit", with_length(100'000'001), "larger than the limit"},
      {"header_length_absurd", with_length(~0ULL), "larger than the limit"},
      {"header_empty", raw_safetensors("", ""), "not a JSON object"},
      {"header_array", raw_safetensors("[]", ""), "not a JSON object"},
      {"header_byte_order_mark", raw_safetensors("\xEF\xBB\xBF{}", ""), "not a JSON object"},
      {"header_cut", raw_safetensors(R"({"a":{"dty)", ""), "not valid JSON"},
      {"header_trailing_text", raw_safetensors("{} {}", ""), "not valid JSON"},
      {"header_zero_byte", raw_safetensors(std::string("{}\0x", 4), ""), "zero byte"},
      {"header_not_utf8", raw_safetensors("{\"\xFF\":{}}", ""), "not valid UTF-8"},
      {"header_deep_arrays", raw_safetensors(R"({"a":)" + std::string(1'000'000, '['), ""), "array"},
      {"header_deep_objects", raw_safetensors(R"({"a":{"shape":[)" + std::string(1'000'000, '['), ""),
       "nested more than"},
      {"header_deep_metadata", raw_safetensors(R"({"__metadata__":{"a":{"a":{"a":{}}}}})", ""), "__metadata__"},
      {"data_truncated", with(first, 3), "truncated"},
      {"data_after_end", with(first, 5), "forbids holes"},
      {"data_hole", with(first + "," + tensor("b", "U8", "[2]", "[6,8]"), 8), "forbids holes"},
      {"data_hole_at_start", with(tensor("b", "U8", "[2]", "[6,8]"), 8), "forbids holes"},
      {"data_without_tensors", raw_safetensors("{}", "x"), "forbids holes"},
      {"overlap", with(first + "," + tensor("b", "U8", "[4]", "[2,6]"), 6), "'a' and 'b' overlap"},
      {"overlap_equal", with(first + "," + tensor("b", "U8", "[4]", "[0,4]"), 4), "overlap"},
      {"offsets_backwards", with_offsets("[4,0]"), "backwards"},
      {"offsets_one", with_offsets("[0]"), "lacks two data_offsets"},
      {"offsets_three", with_offsets("[0,4,4]"), "two numbers"},
      {"offsets_negative", with_offsets("[-4,0]"), "negative"},
      {"offsets_fraction", with_offsets("[0,4.0]"), "fractional"},
      {"offsets_too_large", with_offsets("[0,18446744073709551615]"), "too large"},
      {"offsets_beyond_64_bits", with_offsets("[0,99999999999999999999999]"), "too large"},
      {"offsets_text", with_offsets("\"0\""), "a string is not allowed"},
      {"shape_too_small", with_shape("[3]"), "needs 3 bytes"},
      {"shape_too_large", with_shape("[5]"), "needs 5 bytes"},
      {"shape_overflow", with_shape("[4294967296,4294967296]"), "more than 2^63"},
      {"shape_overflow_hidden_by_zero", with_shape("[4294967296,4294967296,0]"), "more than 2^63"},
      {"shape_negative", with_shape("[-1]"), "negative"},
      {"shape_six_dimensions", with_shape("[1,1,1,1,1,4]"), "more than 5 dimensions"},
      {"shape_nested", with_shape("[[4]]"), "nested more than"},
      {"shape_null", with_shape("null"), "null is not allowed"},
      {"shape_object", with_shape("{}"), "an object is not allowed"},
      {"dtype_unknown", with_dtype("C64"), "'C64', which refit does not move"},
      {"dtype_sub_byte", with_dtype("F4"), "'F4' (less than one byte"},
      {"dtype_case", with_dtype("bf16"), "'bf16'"},
      {"tensor_twice", with(first + "," + first, 4), "lists 'a' twice"},
      {"field_twice", raw_safetensors(R"({"w":{"dtype":"U8","dtype":"U8"}})", ""), "lists dtype twice"},
      {"field_unknown", raw_safetensors(R"({"w":{"strides":[1]}})", ""), "unknown key 'strides'"},
      {"field_missing_dtype", raw_safetensors(R"({"w":{"shape":[0],"data_offsets":[0,0]}})", ""), "lacks dtype"},
      {"field_missing_shape", raw_safetensors(R"({"w":{"dtype":"U8","data_offsets":[0,0]}})", ""), "lacks shape"},
      {"field_missing_offsets", raw_safetensors(R"({"w":{"dtype":"U8","shape":[0]}})", ""), "lacks two data_offsets"},
      {"tensor_is_number", raw_safetensors(R"({"w":1})", ""), "'w': a number is not allowed"},
      {"metadata_number", raw_safetensors(R"({"__metadata__":{"a":1}})", ""), "must map strings to strings"},
      {"metadata_twice", raw_safetensors(R"({"__metadata__":{"a":"1","a":"2"}})", ""), "lists 'a' twice"},
      {"metadata_text", raw_safetensors(R"({"__metadata__":"a"})", ""), "must map strings to strings"},
  };
}

class CheckpointHeader : public testing::TestWithParam<Refusal> {};

TEST_P(CheckpointHeader, IsRefusedWithFileAndCause) {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  write_file(path, GetParam().file);
  expect_usage([&] { open(folder.path()); }, {path, GetParam().cause});
}

INSTANTIATE_TEST_SUITE_P(All, CheckpointHeader, testing::ValuesIn(refusals()),
                         [](const auto& test_info) { return std::string(test_info.param.name); });

TEST(CheckpointSafetensors, ReadsTensorsInAnyOrderWithMetadataAndPadding) {
  const Folder folder;
  const std::string json = "{" + tensor("late", "BF16", "[2]", "[3,7]") + "," +
                           tensor("none", "F32", "[0,7]", "[3,3]") + "," + tensor("scalar", "U8", "[]", "[0,1]") +
                           R"(,"__metadata__":{"format":"pt"},)" + tensor("caf\xC3\xA9", "U8", "[1,2]", "[1,3]") +
                           "}   ";
  write_file(folder.file("one.safetensors"), raw_safetensors(json, "abcdefg"));
  const Checkpoint checkpoint = open(folder.file("one.safetensors"));
  const auto start = static_cast<std::int64_t>(json.size()) + 8;
  ASSERT_EQ(checkpoint.entries.size(), 4U);
  EXPECT_EQ(checkpoint.entries[0].info.name, "scalar");
  EXPECT_EQ(checkpoint.entries[0].bytes(), 1);
  EXPECT_EQ(checkpoint.find("caf\xC3\xA9")->offset, start + 1);
  EXPECT_EQ(checkpoint.find("none")->bytes(), 0);
  EXPECT_EQ(checkpoint.find("late")->offset, start + 3);
  EXPECT_EQ(checkpoint.find("late")->info.dtype, DType::bf16);
  EXPECT_EQ(checkpoint.find("absent"), nullptr);
  EXPECT_EQ(checkpoint.metadata.at("format"), "pt");
  EXPECT_EQ(checkpoint.identities.at(0).bytes, start + 7);
  EXPECT_EQ(checkpoint.tensor_infos().size(), 4U);
}

TEST(CheckpointSafetensors, DumpHasExactlyTheseBytes) {
  const Folder folder;
  const std::byte data[] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4},
                            std::byte{5}, std::byte{6}, std::byte{7}};
  const DumpTensor tensors[] = {{{"b", {2, 1}, DType::bf16}, data}, {{"a\"", {3}, DType::u8}, data + 4}};
  write_safetensors(folder.file("tiny.safetensors"), tensors, {{"rank", "0"}});
  const std::string json = R"({"__metadata__":{"rank":"0"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},)"
                           R"("a\"":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}})";
  const std::string padded = json + std::string((8 - json.size() % 8) % 8, ' ');
  EXPECT_EQ(read_file(folder.file("tiny.safetensors")), raw_safetensors(padded, "\1\2\3\4\5\6\7"));
  EXPECT_EQ(folder.list(), std::vector<std::string>{"tiny.safetensors"});
  EXPECT_EQ(open(folder.file("tiny.safetensors")).metadata.at("rank"), "0");
}

TEST(CheckpointSafetensors, DumpErrorsNameThePath) {
  const Folder folder;
  const std::string path = folder.file("absent/dump.safetensors");
  expect_usage([&] { write_safetensors(path, {}, {}); }, {"cannot write " + path});
  const DumpTensor twice[] = {{{"w", {0}, DType::u8}, nullptr}, {{"w", {0}, DType::u8}, nullptr}};
  expect_usage([&] { write_safetensors(folder.file("dump.safetensors"), twice, {}); }, {"dump.safetensors", "'w'"});
}

}  // namespace
}  // namespace refit::checkpoint::test
