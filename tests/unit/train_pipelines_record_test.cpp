// Train's layouts against what Megatron-Core held with virtual stages, custom pipeline layouts and expert tensor
// parallelism (tests/data/README.md), element by element; and what it refused.

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.hpp"
#include "train/megatron/side.hpp"

namespace refit::train::megatron {
namespace {

using nlohmann::json;
using Values = std::map<std::string, std::vector<float>>;  ///< by name

const std::string kRecord = REFIT_RECORDED_PIPELINES;

json read_json(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

/// The checkpoint from which a layout was loaded.
struct Source {
  model::Model model;
  Values values;
};

Values read_values(const checkpoint::Checkpoint& files) {
  Values result;
  for (const checkpoint::Entry& entry : files.entries) {
    EXPECT_EQ(entry.info.dtype, DType::f32) << entry.info.name;
    std::vector<float>& values = result[entry.info.name];
    values.resize(static_cast<std::size_t>(entry.bytes()) / sizeof(float));
    std::ifstream file(files.files[static_cast<std::size_t>(entry.file)], std::ios::binary);
    file.seekg(entry.offset);
    file.read(reinterpret_cast<char*>(values.data()), entry.bytes());
  }
  return result;
}

/// Returns the checkpoint of llama_tied_mg, which is llama8_tied_mg with 6 layers and was not recorded, from what vLLM
/// held of it: rows of fused parameters.
Source rebuilt_llama() {
  model::Config config = model::read_config(kRecord + "/ckpt/llama8_tied_mg/config.json");
  config.layers = 6;
  Source source{model::build_model(config, false), {}};
  Values held;
  for (int rank : {0, 1})
    held.merge(
        read_values(checkpoint::open(fmt::format("{}/vllm/llama_tied_mg/pp2/rank{}.safetensors", kRecord, rank))));
  const std::int64_t q = config.attention_heads * config.head_dim;
  const std::int64_t kv = config.kv_heads * config.head_dim;
  const std::map<std::string, std::pair<std::string, std::int64_t>> fused = {
      {"q_proj", {"qkv_proj", 0}},
      {"k_proj", {"qkv_proj", q}},
      {"v_proj", {"qkv_proj", q + kv}},
      {"gate_proj", {"gate_up_proj", 0}},
      {"up_proj", {"gate_up_proj", config.intermediate_size}}};
  for (const model::Tensor& tensor : source.model.tensors) {
    std::string from = tensor.name;
    std::int64_t row = 0;
    for (const auto& [part, whole] : fused) {
      const std::size_t at = from.find("." + part + ".");
      if (at == std::string::npos) continue;
      from.replace(at + 1, part.size(), whole.first);
      row = whole.second;
      break;
    }
    const auto first = held.at(from).begin() + static_cast<std::ptrdiff_t>(row * tensor.elements() / tensor.shape[0]);
    source.values[tensor.name].assign(first, first + static_cast<std::ptrdiff_t>(tensor.elements()));
  }
  return source;
}

Source read_source(const std::string& name) {
  if (name == "llama_tied_mg") return rebuilt_llama();
  std::string folder = fmt::format("{}/ckpt/{}", kRecord, name);
  if (!std::filesystem::exists(folder)) folder = fmt::format("{}/ckpt/{}", REFIT_RECORDED_ENGINES, name);
  const checkpoint::Checkpoint files = checkpoint::open(folder);
  return {model::build_model(model::read_config(folder + "/config.json"), files.tensor_infos(), folder),
          read_values(files)};
}

/// One layout: loaded, or refused by Megatron-Core.
struct Entry {
  std::string folder;
  std::string checkpoint;
  Side side;
  std::string refusal;                          ///< Megatron-Core's words
  std::vector<std::vector<std::string>> files;  ///< by rank and model chunk

  friend void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.folder; }
};

/// Megatron-Core's own settings, or those of the index.
void set(const std::string& name, const json& value, Options& options) {
  if (name == "train.virtual_pipeline" || name == "virtual_pipeline_model_parallel_size") {
    options.virtual_stages = value;
  } else if (name == "train.pipeline_layout" || name == "pipeline_model_parallel_layout") {
    options.pipeline_layout = value;
  } else if (name == "train.first_stage_layers" || name == "num_layers_in_first_pipeline_stage") {
    options.first_stage_layers = value;
  } else if (name == "train.last_stage_layers" || name == "num_layers_in_last_pipeline_stage") {
    options.last_stage_layers = value;
  } else if (name == "train.account_for_embedding" || name == "account_for_embedding_in_pipeline_split") {
    options.account_for_embedding = value;
  } else if (name == "train.account_for_loss" || name == "account_for_loss_in_pipeline_split") {
    options.account_for_loss = value;
  } else if (name == "train.expert_tensor_parallel") {
    options.sizes.etp = value;
  } else if (name == "hybrid_layer_pattern") {
    options.hybrid_layer_pattern = value;
  } else {
    EXPECT_EQ(name, "train.expert_tensor_parallel_unset");  // the Bridge sets it
  }
}

Entry loaded_entry(const json& layout) {
  Entry entry{layout.at("folder"), layout.at("checkpoint"), {}, "", {}};
  entry.side.written.sizes = layout::parse_parallelism(layout.at("layout").get<std::string>());
  for (const auto& [name, value] : layout.at("settings").items()) set(name, value, entry.side.written);
  for (const json& rank : layout.at("chunks")) {
    entry.files.emplace_back();
    for (const json& chunk : rank) entry.files.back().push_back(chunk.at("file"));
  }
  return entry;
}

Entry refused_entry(const json& refused) {
  const std::string folder = refused.at("folder");
  Entry entry{folder, refused.at("family"), {}, refused.at("message").back(), {}};
  const json document = read_json(fmt::format("{}/{}/refused.json", kRecord, folder));
  const json& sizes = document.at("requested");
  layout::Parallelism& to = entry.side.written.sizes;
  to.tp = sizes.at("tp");
  to.pp = sizes.at("pp");
  to.cp = sizes.at("cp");
  to.ep = sizes.at("ep");
  to.etp = sizes.at("etp");
  to.dp = sizes.at("world").get<std::int64_t>() / (to.tp * to.cp * to.pp);
  for (const auto& [name, value] : document.at("provider_overrides").items()) set(name, value, entry.side.written);
  return entry;
}

std::vector<Entry> entries() {
  std::vector<Entry> all;
  for (const json& layout : read_json(kRecord + "/index.json")) {
    if (layout.at("side") == "train") all.push_back(loaded_entry(layout));
  }
  for (const json& refused : read_json(kRecord + "/refused.json")) {
    if (refused.at("side") == "train") all.push_back(refused_entry(refused));
  }
  for (Entry& entry : all) {
    entry.side.kept_as = layout::Precision::fp32;
    entry.side.complete();
  }
  return all;
}

/// Calls visit(a, b) for the offsets of a box's elements by two sets of strides.
template <typename Visit>
void walk(const Extents& extent, const Extents& a, const Extents& b, const Visit& visit) {
  Extents index = Extents::filled(extent.size(), 0);
  for (std::int64_t left = product(extent); left > 0; --left) {
    visit(offset_of(index, a), offset_of(index, b));
    for (int d = extent.size() - 1; d >= 0 && ++index[d] == extent[d]; --d) index[d] = 0;
  }
}

constexpr float kUnwritten = -7;  // no element of a checkpoint

/// Returns what a rank stores, by storage.
std::vector<std::vector<float>> contents(const layout::LocalLayout& local, const Source& source) {
  std::vector<std::vector<float>> result;
  for (const layout::Storage& storage : local.storages)
    result.emplace_back(static_cast<std::size_t>(storage.elements()), kUnwritten);
  for (const auto& [tensor, storage, piece] : local.pieces) {
    const model::Tensor& of = source.model.canonical(source.model[tensor]);
    const std::vector<float>& values = source.values.at(of.name);
    const Extents strides = row_major_strides(of.shape);
    const std::int64_t first = offset_of(piece.box.lower, strides);
    std::vector<float>& to = result.at(static_cast<std::size_t>(storage));
    const float less = piece.format.conversion == Conversion::minus_one ? 1 : 0;
    walk(piece.box.extent, strides, piece.place.strides, [&](std::int64_t from, std::int64_t at) {
      to.at(static_cast<std::size_t>(piece.place.offset + at)) =
          values.at(static_cast<std::size_t>(first + from)) - less;
    });
  }
  for (const auto& [storage, fill] : local.fills) {
    std::vector<float>& to = result.at(static_cast<std::size_t>(storage));
    walk(fill.extent, fill.place.strides, fill.place.strides, [&](std::int64_t, std::int64_t at) {
      to.at(static_cast<std::size_t>(fill.place.offset + at)) = static_cast<float>(fill.value);
    });
  }
  return result;
}

void compare_rank(const Entry& entry, const layout::Layout& layout, const Source& source, std::int32_t rank) {
  SCOPED_TRACE(rank);
  std::vector<Values> held;
  std::vector<std::map<std::string, Shape>> shapes;
  for (const std::string& file : entry.files.at(static_cast<std::size_t>(rank))) {
    const checkpoint::Checkpoint dump = checkpoint::open(fmt::format("{}/{}/{}", kRecord, entry.folder, file));
    held.push_back(read_values(dump));
    shapes.emplace_back();
    for (const checkpoint::Entry& tensor : dump.entries) shapes.back()[tensor.info.name] = tensor.info.shape;
  }
  EXPECT_EQ(layout.chunks(), std::ssize(held));
  const layout::LocalLayout local = layout::materialise(layout, source.model.tensors, Rank{rank});
  const auto mine = contents(local, source);
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const layout::Storage& storage = local.storages[i];
    const auto chunk = static_cast<std::size_t>(std::max(storage.key.chunk, 0));
    const auto found = held.at(chunk).find(storage.name);
    if (found == held[chunk].end()) {
      ADD_FAILURE() << "Megatron-Core has no " << storage.title() << ", or only one";
      continue;
    }
    EXPECT_EQ(to_string(storage.shape), to_string(shapes[chunk].at(storage.name))) << storage.title();
    EXPECT_TRUE(mine[i] == found->second) << storage.title() << " has other values";
    held[chunk].erase(found);
  }
  for (std::size_t chunk = 0; chunk < held.size(); ++chunk) {
    for (const auto& [name, values] : held[chunk])
      ADD_FAILURE() << "nothing is stored in " << name << " of chunk " << chunk;
  }
}

/// A part of Megatron-Core's words, and of refit's.
const std::pair<const char*, const char*> kRefusals[] = {
    {"Bias in Moe", "legal: ETP1"},
    {"cannot be set with other pipeline layout arguments", "train.pipeline_layout: gives every stage; leave out"},
    {"number of layers at first stage: 3must be divisible",
     "virtual_stages 2 does not divide the layers of each PP rank, 3, 5"},
    {"should be greater than 1 with interleaved schedule", "legal: virtual_stages 1, or PP > 1"},
    {"Number of decoder layers 5must match num_layers 6", "has 5 decoder layers (t), the model 6 [L4]"},
    {"number of model chunks is the same across all", "the layers of each PP rank, 3, 3; legal: 1, 3 [L4]"},
    {"ZeroDivisionError", "leave one of the two out"},
    {"temporarily unsupported in Hybrid models", "virtual stages of a hybrid model"},
    {"is not divisible by expert_tensor_model_pipeline_parallel size", "does not divide the 6 ranks of a stage"}};

class RecordedPipelines : public testing::TestWithParam<Entry> {};

TEST_P(RecordedPipelines, AreWhatMegatronHeldOrRefused) {
  const Entry& entry = GetParam();
  const Source source = read_source(entry.checkpoint);
  const GivenKeys none;
  Complaints complaints(none);
  entry.side.check(complaints, entry.side);
  std::vector<std::string> broken = complaints.texts();
  for (const std::string& text : entry.side.violations(source.model)) broken.push_back(text);
  if (!entry.refusal.empty()) {
    const auto* row = std::ranges::find_if(
        kRefusals, [&](const auto& each) { return entry.refusal.find(each.first) != std::string::npos; });
    ASSERT_NE(row, std::end(kRefusals)) << entry.refusal;
    EXPECT_THAT(broken, testing::Contains(testing::HasSubstr(row->second)));
    return;
  }
  ASSERT_THAT(broken, testing::IsEmpty());
  const auto layout = entry.side.make_layout(source.model);
  ASSERT_EQ(layout->ranks(), std::ssize(entry.files));
  for (std::int32_t rank = 0; rank < layout->ranks(); ++rank) compare_rank(entry, *layout, source, rank);
}

INSTANTIATE_TEST_SUITE_P(Layouts, RecordedPipelines, testing::ValuesIn(entries()), [](const auto& test) {
  std::string name = test.param.folder.substr(test.param.folder.find('/') + 1);
  std::ranges::replace_if(
      name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name + (test.param.refusal.empty() ? "" : "_refused");
});

}  // namespace
}  // namespace refit::train::megatron
