// vLLM's layouts of quantised models, and what it makes of the weights after loading, against what vLLM held
// (tests/data/README.md); and what vLLM refused.
//
// REFIT_FORMAT_LAYOUTS names a folder with another part of the record, such as all of it.

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/checkpoint.hpp"
#include "core/error.hpp"
#include "gen/vllm/layout.hpp"
#include "gen/vllm/processed.hpp"
#include "kernels/processed.hpp"
#include "support/sha256.hpp"

namespace refit::gen::vllm {
namespace {

using nlohmann::json;
using Bytes = std::vector<std::byte>;

std::string record() {
  const char* folder = std::getenv("REFIT_FORMAT_LAYOUTS");
  return folder != nullptr ? folder : REFIT_RECORDED_FORMATS;
}

json index() {
  std::ifstream file(record() + "/index.json");
  return json::parse(file);
}

/// A storage as the record describes it.
struct Described {
  std::string dtype;
  std::string shape;
  std::string content;
  friend bool operator==(const Described&, const Described&) = default;
  friend void PrintTo(const Described& it, std::ostream* out) {
    *out << it.dtype << ' ' << it.shape << ' ' << it.content;
  }
};

Described described(DType dtype, const Shape& shape, const Bytes& bytes) {
  constexpr std::size_t kShown = 64;
  std::string text;
  if (bytes.size() > kShown) {
    text = "sha256:" + test_support::sha256(bytes).substr(0, 16);
  } else {
    for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  }
  return {std::string(name(dtype)), to_string(shape), text};
}

std::map<std::string, Described> recorded(const json& storages) {
  std::map<std::string, Described> result;
  for (const auto& [name, storage] : storages.items()) {
    // Buffers of the attention, which no weight becomes, and its cache.
    if (name.find("attn._") != std::string::npos || name.find(".attn.kv_cache") != std::string::npos) continue;
    Shape shape;
    for (const std::int64_t extent : storage[1]) shape.push_back(extent);
    result.emplace(name, Described{storage[0], to_string(shape), storage[2]});
  }
  return result;
}

std::size_t size_of(DType dtype) { return static_cast<std::size_t>(byte_size(dtype)); }

/// Returns a bfloat16 number of ordinary size in float16, whose mantissa has all of its bits; small ones are rounded.
std::uint16_t half_of(float value) {
  int exponent = 0;
  const float mantissa = std::frexp(std::abs(value), &exponent);  // 0.5 .. 1
  EXPECT_LE(exponent, 15) << value;
  const bool is_normal = exponent > -14 && value != 0;
  const auto below = static_cast<int>(std::nearbyint(std::ldexp(std::abs(value), 24)));
  const int bits = is_normal ? ((exponent + 13) << 10) + static_cast<int>(std::ldexp(mantissa, 11)) : below;
  return static_cast<std::uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
}

template <typename Visit>
void walk(const Extents& extent, const Visit& visit) {
  Extents index = Extents::filled(extent.size(), 0);
  for (std::int64_t left = product(extent); left > 0; --left) {
    visit(index);
    for (int d = extent.size() - 1; d >= 0; --d) {
      if (++index[d] < extent[d]) break;
      index[d] = 0;
    }
  }
}

/// The storages that a rank has by a layout, made of a checkpoint's bytes, element by element.
class Built {
 public:
  Built(const layout::Layout& layout, const model::Model& model, const checkpoint::Checkpoint& source, Rank rank)
      : local(layout::materialise(layout, model.tensors, rank)) {
    for (const layout::Storage& storage : local.storages) {
      data.emplace_back(static_cast<std::size_t>(storage.bytes()));
      writes_.emplace_back(static_cast<std::size_t>(storage.elements()), 0);
    }
    for (const layout::LocalPiece& piece : local.pieces) put(piece, model[piece.tensor], source);
    for (const auto& [storage, fill] : local.fills) {
      const auto value = static_cast<float>(fill.value);
      Bytes bytes(size_of(local.storages[static_cast<std::size_t>(storage)].dtype));
      if (bytes.size() == sizeof value) std::memcpy(bytes.data(), &value, sizeof value);
      EXPECT_TRUE(value == 0 || bytes.size() == sizeof value);
      walk(fill.extent, [&](const Extents& at) {
        write(storage, fill.place.offset + offset_of(at, fill.place.strides), bytes.data());
      });
    }
  }

  /// Returns the storages, each element of which was written once.
  std::map<std::string, Described> all() const {
    std::map<std::string, Described> result;
    for (std::size_t i = 0; i < data.size(); ++i) {
      const layout::Storage& mine = local.storages[i];
      EXPECT_THAT(writes_[i], testing::Each(1)) << mine.name;
      result.emplace(mine.name, described(mine.dtype, mine.shape, data[i]));
    }
    return result;
  }

  layout::LocalLayout local;
  std::vector<Bytes> data;

 private:
  void write(std::int32_t storage, std::int64_t element, const std::byte* value) {
    const auto at = static_cast<std::size_t>(storage);
    const layout::Storage& target = local.storages[at];
    ASSERT_TRUE(element >= 0 && element < target.elements()) << target.name << ": a place beyond its end";
    const std::size_t size = size_of(target.dtype);
    std::memcpy(data[at].data() + static_cast<std::size_t>(element) * size, value, size);
    ++writes_[at][static_cast<std::size_t>(element)];
  }

  void put(const layout::LocalPiece& entry, const model::Tensor& tensor, const checkpoint::Checkpoint& source) {
    const checkpoint::Entry& from = *source.find(tensor.name);
    Bytes bytes(static_cast<std::size_t>(from.bytes()));
    std::ifstream file(source.files[static_cast<std::size_t>(from.file)], std::ios::binary);
    file.seekg(from.offset);
    file.read(reinterpret_cast<char*>(bytes.data()), from.bytes());
    const Extents strides = row_major_strides(tensor.shape);
    const DType to = local.storages[static_cast<std::size_t>(entry.storage)].dtype;
    const std::size_t size = size_of(from.info.dtype);
    const std::int64_t first = offset_of(entry.piece.box.lower, strides);
    walk(entry.piece.box.extent, [&](const Extents& index) {
      const std::byte* value = bytes.data() + static_cast<std::size_t>(first + offset_of(index, strides)) * size;
      const std::int64_t at = entry.piece.place.offset + offset_of(index, entry.piece.place.strides);
      const bool are_same = from.info.dtype == to || (!is_castable(to) && size == size_of(to));
      if (are_same) return write(entry.storage, at, value);
      ASSERT_EQ(from.info.dtype, DType::bf16) << tensor.name;
      const std::byte widened[] = {std::byte{0}, std::byte{0}, value[0], value[1]};
      if (to == DType::f32) return write(entry.storage, at, widened);
      ASSERT_EQ(to, DType::f16) << tensor.name;
      float number = 0;
      std::memcpy(&number, widened, sizeof number);
      const std::uint16_t half = half_of(number);
      write(entry.storage, at, reinterpret_cast<const std::byte*>(&half));
    });
  }

  std::vector<std::vector<int>> writes_;
};

const float* floats(const Bytes& bytes) { return reinterpret_cast<const float*>(bytes.data()); }
const std::uint8_t* numbers(const Bytes& bytes) { return reinterpret_cast<const std::uint8_t*>(bytes.data()); }

/// Returns what the rule makes, as the record describes it.
Described made(const layout::Processed& it, const Built& loaded) {
  const auto data = [&](std::int32_t storage) -> const Bytes& {
    return loaded.data[static_cast<std::size_t>(storage)];
  };
  Bytes bytes;
  for (std::int64_t i = 0; i < product(it.shape); ++i) {
    if (const auto* rule = std::get_if<NumberRule>(&it.rule)) {
      const std::int64_t group = it.repeats ? 0 : i;
      float number = kernels::processed_number(*rule, floats(data(it.source)), group);
      if (it.other >= 0) number *= kernels::processed_number(*rule, floats(data(it.other)), group);
      const auto* as_bytes = reinterpret_cast<const std::byte*>(&number);
      bytes.insert(bytes.end(), as_bytes, as_bytes + sizeof number);
    } else {
      const float* scales = it.other < 0 ? nullptr : floats(data(it.other));
      const auto& of_bytes = std::get<ByteRule>(it.rule);
      bytes.push_back(std::byte{kernels::processed_byte(of_bytes, numbers(data(it.source)), scales, i)});
    }
  }
  return described(it.dtype, it.shape, bytes);
}

Options options_of(const json& entry) {
  Options options;
  const auto& settings = entry.at("settings");
  options.sizes.tp = settings.at("tp");
  if (settings.at("ep")) options.sizes.ep = settings.at("tp");
  const std::string checkpoint = entry.at("checkpoint");
  if (settings.at("backend") != "cutlass") return options;
  options.linear_backend = LinearBackend::cutlass;
  if (checkpoint.starts_with("gpt_oss")) options.moe_backend = MoeBackend::marlin;
  if (checkpoint.starts_with("qwen3_moe")) options.moe_backend = MoeBackend::flashinfer_cutlass;
  return options;
}

/// What is refused here: what vLLM refuses, and groups of columns that it cuts, of which it keeps no scale.
const std::map<std::string, const char*> kRefused = {
    {"llama256_ct_int4/tp4_emulation", "o_proj's 64 columns of a rank are not whole blocks of 128"},
    {"llama256_gptq/tp4_emulation", "o_proj's 64 columns of a rank are not whole blocks of 128"},
    {"llama256_awq/tp4_emulation", "o_proj's 64 columns of a rank are not whole blocks of 128"},
};

/// One layout of the record's index.
struct Entry {
  json layout;
  std::string folder() const { return layout.at("folder"); }
  friend void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.folder(); }
};

std::vector<Entry> entries() {
  std::vector<Entry> all;
  for (const json& layout : index()) all.push_back({layout});
  return all;
}

class RecordedFormats : public testing::TestWithParam<Entry> {};

/// Compares what a rank holds after loading.
void expect_processed(const model::Model& model, const Options& options, const Built& loaded, const json& rank) {
  if (!unknown_processing(model.quantisation.format).empty() || options.moe_backend == MoeBackend::marlin) return;
  if (!rank.contains("processed")) {  // vLLM could not
    EXPECT_THROW(process(model, options, loaded.local), Error);
    return;
  }
  const auto before = recorded(rank.at("loaded"));
  std::map<std::string, Described> expected = recorded(rank.at("processed"));
  for (const layout::Processed& it : process(model, options, loaded.local)) {
    SCOPED_TRACE(it.name);
    const Described mine = made(it, loaded);
    const auto found = expected.find(it.name);
    if (found != expected.end()) {
      EXPECT_EQ(mine, found->second);
      expected.erase(found);
    } else {  // nothing changed
      ASSERT_TRUE(before.contains(it.name));
      EXPECT_EQ(mine, before.at(it.name));
    }
  }
  for (const auto& [name, storage] : expected) ADD_FAILURE() << "vLLM makes " << name;
}

TEST_P(RecordedFormats, AreWhatVllmHeldOrRefused) {
  const json& entry = GetParam().layout;
  const std::string folder = record() + "/ckpt/" + entry.at("checkpoint").get<std::string>();
  const checkpoint::Checkpoint source = checkpoint::open(folder);
  const model::Model model =
      model::build_model(model::read_config(folder + "/config.json"), source.tensor_infos(), folder);
  Options options = options_of(entry);
  options.weight_format = model.quantisation.format;
  if (is_transposed(options.weight_format)) options.precision = DType::f16;
  const std::vector<std::string> broken = violations(model, options);
  if (const auto refused = kRefused.find(entry.at("folder")); refused != kRefused.end()) {
    EXPECT_THAT(broken, testing::Contains(testing::HasSubstr(refused->second)));
    return;
  }
  ASSERT_THAT(broken, testing::IsEmpty());
  if (entry.contains("refused")) return;  // for values, which layouts do not know
  const std::set<std::string> unwritten = entry.at("never_written");
  const auto layout = make_layout(model, options);
  for (std::int32_t r = 0; r < layout->ranks(); ++r) {
    SCOPED_TRACE(fmt::format("rank {}", r));
    const json& rank = entry.at("ranks").at(static_cast<std::size_t>(r));
    const Built built(*layout, model, source, Rank{r});
    const auto mine = built.all();
    const auto theirs = recorded(rank.at("loaded"));
    for (const auto& [name, storage] : mine) {
      ASSERT_TRUE(theirs.contains(name)) << "vLLM has no " << name;
      EXPECT_EQ(storage, theirs.at(name)) << name;
    }
    for (const auto& [name, storage] : theirs)
      EXPECT_TRUE(mine.contains(name) || unwritten.contains(name)) << "nothing is stored in vLLM's " << name;
    expect_processed(model, options, built, rank);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, RecordedFormats, testing::ValuesIn(entries()), [](const auto& test) {
  std::string name = test.param.folder();
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
});

}  // namespace
}  // namespace refit::gen::vllm
