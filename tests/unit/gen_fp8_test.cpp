// Gen's layouts of quantised models against what vLLM held (tests/data/README.md), byte for byte; and what vLLM
// refused.
//
// REFIT_FP8 names a folder with all that was recorded; without it the part that the repository holds is read.

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/checkpoint.hpp"
#include "gen/vllm/layout.hpp"

namespace refit::gen::vllm {
namespace {

using Bytes = std::vector<std::byte>;

std::string record() {
  const char* folder = std::getenv("REFIT_FP8");
  return folder != nullptr ? folder : REFIT_RECORDED_FP8;
}

/// One layout of the record's index.
struct Entry {
  std::string name;  ///< "qwen3_fp8_tp2"
  std::string checkpoint;
  std::string folder;  ///< of the ranks' dumps; empty where vLLM refused
  Options options;
  std::set<std::string> never_written;

  friend void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.folder; }
};

std::vector<Entry> entries() {
  std::ifstream file(record() + "/index.json");
  std::vector<Entry> all;
  for (const auto& layout : nlohmann::json::parse(file)) {
    Entry entry;
    entry.checkpoint = layout.at("checkpoint");
    const bool is_refused = layout.contains("refused");
    if (!is_refused) {
      entry.folder = layout.at("folder");
      for (const std::string name : layout.at("never_written")) entry.never_written.insert(name);
    }
    const auto& settings = layout.at("settings");
    entry.options.sizes.tp = settings.at("tp");
    if (settings.at("ep")) entry.options.sizes.ep = settings.at("tp");
    const std::string backend = settings.value("gen.moe_backend", "");
    if (backend == "deep_gemm") entry.options.moe_backend = MoeBackend::deep_gemm;
    const std::string cache = settings.value("gen.kv_cache_dtype", "");
    entry.name = fmt::format("{}_{}{}{}{}", entry.checkpoint, std::string(layout.at("layout")),
                             backend.empty() ? "" : "_" + backend, cache.empty() ? "" : "_kv_" + cache,
                             is_refused ? "_refused" : "");
    all.push_back(std::move(entry));
  }
  return all;
}

/// A safetensors file or folder in memory.
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

std::size_t size_of(DType dtype) { return static_cast<std::size_t>(byte_size(dtype)); }

/// Returns `value` as `dtype` stores it.
Bytes constant(double value, DType dtype) {
  const auto as_float = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  Bytes result(size_of(dtype));
  switch (dtype) {
    case DType::f32: std::memcpy(result.data(), &as_float, result.size()); break;
    case DType::bf16: {
      const std::uint32_t half = (as_float + 0x7FFFU + (as_float >> 16U & 1U)) >> 16U;  // to nearest, ties to even
      result = {static_cast<std::byte>(half), static_cast<std::byte>(half >> 8U)};
      break;
    }
    default: EXPECT_EQ(value, 0.0) << "a constant of " << name(dtype);
  }
  return result;
}

/// The storages that a rank must have by the layout, made of the checkpoint's bytes, element by element.
class Built {
 public:
  Built(const layout::Layout& layout, const model::Model& model, const Tensors& source, Rank rank)
      : local_(layout::materialise(layout, model.tensors, rank)) {
    for (const layout::Storage& storage : local_.storages) {
      data_.emplace_back(static_cast<std::size_t>(storage.bytes()));
      writes_.emplace_back(static_cast<std::size_t>(storage.elements()), 0);
    }
    for (const layout::LocalPiece& entry : local_.pieces) {
      put(entry, model[entry.tensor], source);
    }
    for (const auto& entry : local_.fills) {
      const Bytes value = constant(entry.fill.value, storage(entry.storage).dtype);
      walk(entry.fill.extent, [&](const Extents& index) {
        write(entry.storage, entry.fill.place.offset + offset_of(index, entry.fill.place.strides), value.data());
      });
    }
  }

  /// Compares name, shape, dtype and bytes of every storage; returns their names.
  std::set<std::string> expect_equal(const Tensors& dump) const {
    std::set<std::string> names;
    for (std::size_t i = 0; i < data_.size(); ++i) {
      const layout::Storage& mine = local_.storages[i];
      names.insert(mine.name);
      const auto once = std::count(writes_[i].begin(), writes_[i].end(), 1);
      EXPECT_EQ(once, mine.elements()) << mine.name << ": elements that are written once";
      const checkpoint::Entry* entry = dump.get().find(mine.name);
      if (entry == nullptr) {
        ADD_FAILURE() << "vLLM has no " << mine.name;
        continue;
      }
      EXPECT_EQ(to_string(mine.shape), to_string(entry->info.shape)) << mine.name;
      EXPECT_EQ(mine.dtype, entry->info.dtype) << mine.name;
      EXPECT_TRUE(data_[i] == dump.bytes(*entry)) << mine.name << " has other bytes";
    }
    return names;
  }

 private:
  const layout::Storage& storage(std::int32_t index) const { return local_.storages[static_cast<std::size_t>(index)]; }

  template <typename Visit>
  static void walk(const Extents& extent, const Visit& visit) {
    Extents index = Extents::filled(extent.size(), 0);
    for (std::int64_t left = product(extent); left > 0; --left) {
      visit(index);
      for (int d = extent.size() - 1; d >= 0; --d) {
        if (++index[d] < extent[d]) break;
        index[d] = 0;
      }
    }
  }

  void write(std::int32_t index, std::int64_t element, const std::byte* value) {
    const layout::Storage& target = storage(index);
    ASSERT_TRUE(element >= 0 && element < target.elements()) << target.name << ": a place beyond its end";
    const std::size_t size = size_of(target.dtype);
    std::memcpy(data_[static_cast<std::size_t>(index)].data() + static_cast<std::size_t>(element) * size, value, size);
    ++writes_[static_cast<std::size_t>(index)][static_cast<std::size_t>(element)];
  }

  /// Repeated scales are once in the file: strides of 0.
  void put(const layout::LocalPiece& entry, const model::Tensor& tensor, const Tensors& source) {
    const checkpoint::Entry& from = *source.get().find(tensor.name);
    const Bytes bytes = source.bytes(from);
    const Extents file = row_major_strides(tensor.file_shape());
    const Extents strides = tensor.repeats > 1 ? Extents{file[0], 0, file[1], 0} : file;
    const DType to = storage(entry.storage).dtype;
    EXPECT_EQ(entry.piece.format.dtype, to) << tensor.name;
    const std::int64_t first = offset_of(entry.piece.box.lower, strides);
    walk(entry.piece.box.extent, [&](const Extents& index) {
      const std::byte* value =
          bytes.data() + static_cast<std::size_t>(first + offset_of(index, strides)) * size_of(from.info.dtype);
      const std::int64_t at = entry.piece.place.offset + offset_of(index, entry.piece.place.strides);
      if (from.info.dtype == to) return write(entry.storage, at, value);
      ASSERT_EQ(from.info.dtype, DType::f32) << tensor.name;
      float number = 0;
      std::memcpy(&number, value, sizeof number);
      write(entry.storage, at, constant(number, to).data());
    });
  }

  layout::LocalLayout local_;
  std::vector<Bytes> data_;
  std::vector<std::vector<int>> writes_;
};

class RecordedFp8 : public testing::TestWithParam<Entry> {};

TEST_P(RecordedFp8, IsWhatVllmHeldOrRefused) {
  const Entry& entry = GetParam();
  const std::string folder = record() + "/ckpt/" + entry.checkpoint;
  const Tensors source(folder);
  model::Model model =
      model::build_model(model::read_config(folder + "/config.json"), source.get().tensor_infos(), folder);
  Options options = entry.options;
  options.weight_format = model.config.quantisation.format;
  const std::vector<std::string> broken = violations(model, options);
  if (entry.folder.empty()) {
    EXPECT_THAT(broken, testing::Not(testing::IsEmpty()));
    return;
  }
  // Without modules_to_not_convert vLLM casts this model's router to FP8, and leaves its scale as constructed.
  if (entry.checkpoint == "qwen3_moe_fp8_nolist") {
    EXPECT_THAT(broken, testing::ElementsAre(testing::HasSubstr("layers.0.mlp.gate.weight is not among the modules")));
    return;
  }
  ASSERT_THAT(broken, testing::IsEmpty());
  refine_scales(model, options);
  const auto layout = make_layout(model, options);
  for (std::int32_t rank = 0; rank < layout->ranks(); ++rank) {
    SCOPED_TRACE(rank);
    const Tensors dump(fmt::format("{}/{}/rank{}.safetensors", record(), entry.folder, rank));
    const std::set<std::string> names = Built(*layout, model, source, Rank{rank}).expect_equal(dump);
    for (const checkpoint::Entry& other : dump.get().entries) {
      const std::string& name = other.info.name;
      // Buffers of the attention begin with an underscore.
      if (names.contains(name) || entry.never_written.contains(name) || name.find("attn._") != std::string::npos) {
        continue;
      }
      ADD_FAILURE() << "nothing is stored in vLLM's " << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, RecordedFp8, testing::ValuesIn(entries()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace refit::gen::vllm
