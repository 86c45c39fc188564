// Gen's layouts against what SGLang held (tests/data/README.md), element by element; and what SGLang refused.
//
// REFIT_SGLANG and REFIT_FP8 name folders with all that was recorded; without them the parts that the repository holds
// are read. There the bytes of FP8 weights are zeros, of which only names, shapes and dtypes are compared.

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/checkpoint.hpp"
#include "gen/sglang/layout.hpp"
#include "support/sha256.hpp"

namespace refit::gen::sglang {
namespace {

using nlohmann::json;
using Bytes = std::vector<std::byte>;

std::string variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}
std::string record() { return variable("REFIT_SGLANG", REFIT_RECORDED_SGLANG); }
std::string fp8_record() { return variable("REFIT_FP8", REFIT_RECORDED_FP8); }
bool has_fp8_weights() { return std::getenv("REFIT_FP8") != nullptr; }

/// One layout of the record's index.
struct Entry {
  std::string folder;
  std::string checkpoint;  ///< its folder
  Options options;
  bool quantised = false;
  bool refused = false;
  bool after_loading = false;  ///< the dumps are of weights that SGLang has processed
  std::set<std::string> never_written;

  friend void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.folder; }
};

/// A map stands in a file or in the argument itself.
std::vector<std::vector<std::int64_t>> expert_location(const json& value) {
  json document = value;
  if (value.is_string() && value.get<std::string>().starts_with("{")) document = json::parse(value.get<std::string>());
  if (document.is_string()) {
    std::ifstream file(record() + "/" + value.get<std::string>());
    document = json::parse(file);
  }
  return document.at("physical_to_logical_map").get<std::vector<std::vector<std::int64_t>>>();
}

/// SGLang's own arguments. The old spelling of attention data parallelism is dp_size with enable_dp_attention.
void set_argument(const std::string& name, const json& value, Options& options) {
  const auto word = [&](auto& member) {
    member = parse_choice<std::decay_t<decltype(member)>>(value.get<std::string>()).value();
  };
  if (name == "tp_size") {
    options.sizes.tp = value;
  } else if (name == "ep_size") {
    options.sizes.ep = value;
  } else if (name == "pp_size") {
    options.sizes.pp = value;
  } else if (name == "attn_dp_size" || name == "dp_size") {
    options.attn_dp_size = value;
  } else if (name == "moe_dense_tp_size") {
    options.moe_dense_tp_size = value;
  } else if (name == "enable_dp_lm_head") {
    options.enable_dp_lm_head = value;
  } else if (name == "ep_num_redundant_experts") {
    options.ep_num_redundant_experts = value;
  } else if (name == "init_expert_location") {
    if (value != "trivial") options.physical_to_logical_map = expert_location(value);
  } else if (name == "moe_runner_backend") {
    word(options.moe_runner_backend);
  } else if (name == "moe_a2a_backend") {
    word(options.moe_a2a_backend);
  } else if (name == "enforce_shared_experts_fusion") {
    options.enforce_shared_experts_fusion = value;
  } else if (name == "disable_shared_experts_fusion") {
    options.disable_shared_experts_fusion = value;
  } else if (name == "speculative_algorithm") {
    options.mtp = Mtp::only;
  } else {
    const bool is_of_no_weight =
        name == "enable_dp_attention" || name == "kv_cache_dtype" || name.starts_with("speculative_");
    EXPECT_TRUE(is_of_no_weight) << name << " is no argument that this test knows";
  }
}

/// Refusals that are none of a layout: of how config.json is written, and of a machine without a GPU.
bool is_of_no_layout(const json& layout) {
  const std::string checkpoint = layout.at("checkpoint");
  return checkpoint == "qwen3_mxfp8_plain" || checkpoint == "qwen3_mxfp8_ct" ||
         (checkpoint == "deepseek_v3_mxfp8" && layout.at("gpu") == "B200");
}

std::vector<Entry> entries() {
  std::ifstream file(record() + "/index.json");
  std::vector<Entry> all;
  for (const json& layout : json::parse(file)) {
    Entry entry;
    entry.folder = layout.at("folder");
    entry.refused = layout.contains("refused");
    entry.quantised = layout.contains("needs");
    entry.after_loading = layout.contains("post");
    entry.checkpoint =
        (entry.quantised ? fp8_record() : record()) + "/ckpt/" + layout.at("checkpoint").get<std::string>();
    for (const std::string name : layout.value("never_written", json::array())) entry.never_written.insert(name);
    Options& options = entry.options;
    for (const auto& [name, value] : layout.at("args").items()) set_argument(name, value, options);
    options.gpu_arch = layout.at("gpu") == "B200" ? GpuArch::sm100 : GpuArch::sm90;
    options.precision = layout.at("dtype") == "float32" ? DType::f32 : DType::bf16;
    options.swiglu_interleaved = layout.contains("env") && layout["env"].contains("SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED");
    if (std::filesystem::exists(entry.checkpoint) && !is_of_no_layout(layout)) all.push_back(std::move(entry));
  }
  return all;
}

/// A safetensors file or folder.
class Tensors {
 public:
  explicit Tensors(const std::string& path) : checkpoint_(checkpoint::open(path)) {}
  const checkpoint::Checkpoint& get() const { return checkpoint_; }
  Bytes bytes(const checkpoint::Entry& entry) const {
    Bytes result(static_cast<std::size_t>(entry.bytes()));
    std::ifstream file(checkpoint_.files[static_cast<std::size_t>(entry.file)], std::ios::binary);
    file.seekg(entry.offset);
    file.read(reinterpret_cast<char*>(result.data()), entry.bytes());
    EXPECT_TRUE(file.good()) << entry.info.name;
    return result;
  }

 private:
  checkpoint::Checkpoint checkpoint_;
};

/// Writes `value` as `dtype` stores it.
void store(float value, DType dtype, std::byte* to) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::f32) {
    std::memcpy(to, &bits, sizeof bits);
  } else if (dtype == DType::bf16) {
    const auto half = static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U);  // ties to even
    std::memcpy(to, &half, sizeof half);
  } else {
    EXPECT_EQ(value, 0.0F) << "a constant of " << name(dtype);
    *to = std::byte{0};
  }
}

/// What a rank must hold of one storage.
struct Content {
  layout::Storage storage;
  Bytes bytes;
  std::vector<int> writes;
  std::uint32_t tolerance = 0;  ///< units in the last place of float32 by which values may differ
};

/// Returns whether float32 values, which have one sign, are at most so many units in the last place apart.
bool is_close(const Bytes& mine, const Bytes& theirs, std::uint32_t tolerance) {
  for (std::size_t at = 0; at + sizeof tolerance <= mine.size(); at += sizeof tolerance) {
    std::uint32_t a = 0;
    std::uint32_t b = 0;
    std::memcpy(&a, mine.data() + at, sizeof a);
    std::memcpy(&b, theirs.data() + at, sizeof b);
    if (std::max(a, b) - std::min(a, b) > tolerance) return false;
  }
  return mine.size() == theirs.size();
}

/// The storages that a rank has by a layout, made of the checkpoint's values.
class Built {
 public:
  Built(const layout::Layout& layout, const model::Model& model, const Tensors& source, Rank rank)
      : local_(layout::materialise(layout, model.tensors, rank)) {
    for (const layout::Storage& storage : local_.storages) {
      contents_.push_back({storage, Bytes(static_cast<std::size_t>(storage.bytes())),
                           std::vector<int>(static_cast<std::size_t>(storage.elements()), 0), 0});
    }
    for (const layout::LocalPiece& entry : local_.pieces) put(entry, model[entry.tensor], source);
    for (const auto& entry : local_.fills) {
      Content& to = content(entry.storage);
      walk(entry.fill.extent, [&](const Extents& index) {
        store(static_cast<float>(entry.fill.value), to.storage.dtype,
              target(to, entry.fill.place.offset + offset_of(index, entry.fill.place.strides)));
      });
    }
  }

  const std::vector<Content>& contents() const { return contents_; }

 private:
  template <typename Visit>
  static void walk(const Extents& extent, const Visit& visit) {
    Extents index = Extents::filled(extent.size(), 0);
    for (std::int64_t left = product(extent); left > 0; --left) {
      visit(index);
      for (int d = extent.size() - 1; d >= 0 && ++index[d] == extent[d]; --d) index[d] = 0;
    }
  }

  Content& content(std::int32_t index) { return contents_[static_cast<std::size_t>(index)]; }

  static std::byte* target(Content& to, std::int64_t element) {
    ++to.writes.at(static_cast<std::size_t>(element));
    return to.bytes.data() + static_cast<std::size_t>(element * byte_size(to.storage.dtype));
  }

  void put(const layout::LocalPiece& entry, const model::Tensor& tensor, const Tensors& source) {
    const checkpoint::Entry& from = *source.get().find(tensor.name);
    const Bytes bytes = source.bytes(from);
    const Extents strides = row_major_strides(tensor.shape);
    const std::int64_t first = offset_of(entry.piece.box.lower, strides);
    const std::int64_t size = byte_size(from.info.dtype);
    const Conversion conversion = entry.piece.format.conversion;
    Content& to = content(entry.storage);
    if (conversion == Conversion::negative_exp) to.tolerance = 1;  // torch's exponential is one off in places
    EXPECT_EQ(entry.piece.format.dtype, to.storage.dtype) << tensor.name;
    walk(entry.piece.box.extent, [&](const Extents& index) {
      const std::byte* value = bytes.data() + (first + offset_of(index, strides)) * size;
      std::byte* there = target(to, entry.piece.place.offset + offset_of(index, entry.piece.place.strides));
      if (from.info.dtype == to.storage.dtype && conversion != Conversion::negative_exp) {
        std::memcpy(there, value, static_cast<std::size_t>(size));
        return;
      }
      ASSERT_EQ(from.info.dtype, DType::f32) << tensor.name;
      float number = 0;
      std::memcpy(&number, value, sizeof number);
      if (conversion == Conversion::negative_exp) number = -static_cast<float>(std::exp(static_cast<double>(number)));
      store(number, to.storage.dtype, there);
    });
  }

  layout::LocalLayout local_;
  std::vector<Content> contents_;
};

/// What SGLang held on a rank: tensors, and of some only their shape, dtype and SHA-256.
class Dump {
 public:
  Dump(const Entry& entry, std::int32_t rank)
      : of_changed_only_(entry.after_loading),
        tensors_(fmt::format("{}/{}/rank{}{}.safetensors", record(), entry.folder, rank,
                             entry.after_loading ? "_post" : "")) {
    std::ifstream file(fmt::format("{}/{}/rank{}_fp8_sha256.json", record(), entry.folder, rank));
    if (file) digests_ = json::parse(file);
    for (const checkpoint::Entry& tensor : tensors_.get().entries) left_.insert(tensor.info.name);
    for (const auto& [name, digest] : digests_.items()) left_.insert(name);
  }

  void compare(const Content& mine, bool has_values) {
    const std::string& name = mine.storage.name;
    const auto once = std::count(mine.writes.begin(), mine.writes.end(), 1);
    EXPECT_EQ(once, mine.storage.elements()) << name << ": elements that are written once";
    if (left_.erase(name) == 0) {
      if (of_changed_only_) return;
      ADD_FAILURE() << "SGLang has no " << name;
    } else if (const checkpoint::Entry* tensor = tensors_.get().find(name)) {
      EXPECT_EQ(to_string(mine.storage.shape), to_string(tensor->info.shape)) << name;
      EXPECT_EQ(mine.storage.dtype, tensor->info.dtype) << name;
      const Bytes theirs = tensors_.bytes(*tensor);
      const bool close = mine.tolerance > 0 && is_close(mine.bytes, theirs, mine.tolerance);
      EXPECT_TRUE(mine.bytes == theirs || close) << name << " has other values";
    } else {
      const json& digest = digests_.at(name);
      EXPECT_THAT(digest.at("shape").get<std::vector<std::int64_t>>(),
                  testing::ElementsAreArray(mine.storage.shape.begin(), mine.storage.shape.end()))
          << name;
      EXPECT_EQ(refit::name(mine.storage.dtype), digest.at("dtype").get<std::string>()) << name;
      if (has_values) {
        EXPECT_EQ(test_support::sha256(mine.bytes), digest.at("sha256").get<std::string>()) << name;
      }
    }
  }

  /// The names that nothing was compared with, but for scales of the KV cache, which come from no checkpoint.
  std::set<std::string> left() const {
    std::set<std::string> result;
    for (const std::string& name : left_) {
      const checkpoint::Entry* tensor = tensors_.get().find(name);
      const bool is_cache_scale = tensor != nullptr && tensor->info.shape.size() == 0 && name.ends_with("_scale");
      if (!is_cache_scale) result.insert(name);
    }
    return result;
  }

 private:
  bool of_changed_only_;  ///< it has the tensors that processing after loading changed
  Tensors tensors_;
  json digests_ = json::object();
  std::set<std::string> left_;
};

class RecordedSglang : public testing::TestWithParam<Entry> {};

TEST_P(RecordedSglang, IsWhatSglangHeldOrRefused) {
  const Entry& entry = GetParam();
  const Tensors source(entry.checkpoint);
  const model::Model model = model::build_model(model::read_config(entry.checkpoint + "/config.json"),
                                                source.get().tensor_infos(), entry.checkpoint);
  Options options = entry.options;
  options.weight_format = model.config.quantisation.format;
  const std::vector<std::string> broken = violations(model, options);
  if (entry.refused) {
    EXPECT_THAT(broken, testing::Not(testing::IsEmpty()));
    return;
  }
  ASSERT_THAT(broken, testing::IsEmpty());
  const auto layout = make_layout(model, options);
  const auto derived = make_derived_layout(model, options, *layout);
  for (std::int32_t rank = 0; rank < layout->ranks(); ++rank) {
    SCOPED_TRACE(rank);
    Dump dump(entry, rank);
    const Built weights(*layout, model, source, Rank{rank});
    for (const Content& content : weights.contents()) dump.compare(content, !entry.quantised || has_fp8_weights());
    if (!entry.quantised) {
      const Built made(*derived, model, source, Rank{rank});
      for (const Content& content : made.contents()) dump.compare(content, true);
    }
    for (const std::string& name : dump.left()) {
      // Derived of quantised weights: without a rule here.
      const bool is_derived = entry.quantised && (name.ends_with(".w_kc") || name.ends_with(".w_vc"));
      EXPECT_TRUE(is_derived || entry.never_written.contains(name)) << "nothing is stored in SGLang's " << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, RecordedSglang, testing::ValuesIn(entries()), [](const auto& test) {
  std::string name = test.param.folder.substr(test.param.folder.find('/') + 1);
  std::ranges::replace(name, '/', '_');
  return name + (test.param.refused ? "_refused" : "");
});

}  // namespace
}  // namespace refit::gen::sglang
