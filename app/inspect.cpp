#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "model/model.hpp"
#include "report/files.hpp"

namespace refit::app {
namespace fs = std::filesystem;
namespace {

struct Row {
  std::string name;
  Shape shape;
  DType dtype;
  std::int64_t bytes;
  std::string file;
};

struct Totals {
  std::int64_t tensors = 0;
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;

  void add(const model::Tensor& tensor) {
    if (!is_scale(tensor.role)) parameters += tensor.elements();
    if (tensor.kept == model::Kept::parts) return;  // its parts are there instead
    ++tensors;
    bytes += tensor.bytes();
  }
};

void print_rows(const std::vector<Row>& rows) {
  std::size_t width = 6;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  print("{:<{}}  {:<8} {:>22} {:>18}  {}\n", "tensor", width, "dtype", "shape", "bytes", "file");
  for (const Row& row : rows) {
    print("{:<{}}  {:<8} {:>22} {:>18}  {}\n", row.name, width, name(row.dtype), to_string(row.shape),
          grouped(row.bytes), row.file);
  }
}

/// Totals with a name, as they are printed.
using NamedTotals = std::vector<std::pair<std::string, Totals>>;

void print_totals(const NamedTotals& all) {
  for (const auto& [label, totals] : all) {
    print("{:<24} {} tensors, {} parameters, {} bytes\n", label + ":", grouped(totals.tensors),
          grouped(totals.parameters), grouped(totals.bytes));
  }
}

std::string words_of(const model::Quantisation& how) {
  switch (how.format) {
    case StoredFormat::unquantised: return "";
    case StoredFormat::fp8_block: return "FP8 with blocks of 128 x 128";
    case StoredFormat::mxfp8: return "MXFP8";
    case StoredFormat::fp8_tensor: return "FP8 with a scale for each tensor";
    case StoredFormat::fp8_channel: return "FP8 with a scale for each row";
    case StoredFormat::nvfp4: return "NVFP4";
    case StoredFormat::mxfp4: return "MXFP4";
    case StoredFormat::int4: return fmt::format("INT4 in groups of {}", how.group);
    case StoredFormat::int4_asym: return fmt::format("INT4 with zero points in groups of {}", how.group);
    case StoredFormat::gptq: return fmt::format("GPTQ's INT4 in groups of {}", how.group);
    case StoredFormat::awq: return fmt::format("AWQ's INT4 in groups of {}", how.group);
  }
  return "";
}

std::string quantised(const model::Quantisation& how) {
  if (how.format == StoredFormat::unquantised) return "";
  return fmt::format(", {} in {}", how.naming == model::Naming::mxfp4 ? "experts" : "linear layers", words_of(how));
}

void print_config(const model::Config& config) {
  print("family {}: {} layers, hidden {}, vocabulary {}, {} query and {} KV heads of {}", config.family, config.layers,
        config.hidden_size, config.vocab_size, config.attention_heads, config.kv_heads, config.head_dim);
  if (config.experts > 0) print(", {} experts of {}", config.experts, config.expert_intermediate_size);
  if (config.intermediate_size > 0) print(", intermediate {}", config.intermediate_size);
  if (config.vision.depth > 0) {
    print(", a vision tower of {} blocks of {}", config.vision.depth, config.vision.hidden_size);
  }
  print(", {}{}{}\n", name(config.dtype), quantised(config.quantisation), config.tied ? ", tied" : "");
}

/// Returns totals of the model; where it is tied, with and without the second copy of the embedding.
NamedTotals totals_of(const model::Model& model) {
  Totals without, with, prediction;
  bool present = false;
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.layer >= model.config.layers) {
      prediction.add(tensor);
      continue;
    }
    const bool copy = model.config.tied && tensor.role == model::Role::lm_head;
    present = present || copy;
    if (!copy) without.add(tensor);
    with.add(tensor);
  }
  NamedTotals all;
  if (model.config.mtp_layers > 0) all.emplace_back("multi-token prediction", prediction);
  if (!model.config.tied) {
    all.emplace_back(model.config.mtp_layers > 0 ? "without multi-token prediction" : "total", with);
    return all;
  }
  if (!present) {
    for (const model::Tensor& tensor : model.tensors) {
      if (tensor.role == model::Role::embedding) with.add(tensor);
    }
  }
  all.emplace_back("without lm_head.weight", without);
  all.emplace_back("with lm_head.weight", with);
  return all;
}

void print_tied(const model::Model& model) {
  if (!model.config.tied) return;
  const bool present = std::ranges::any_of(
      model.tensors, [](const model::Tensor& tensor) { return tensor.role == model::Role::lm_head; });
  print("tied: lm_head.weight is {} in the checkpoint\n", present ? "present" : "absent");
}

/// The document of schema `refit.inspect` version 1.
std::string to_json(const std::string& path, const std::string& format, const model::Model& model,
                    const std::vector<Row>& rows) {
  using nlohmann::ordered_json;
  const model::Config& config = model.config;
  ordered_json document{{"schema", "refit.inspect"},
                        {"schema_version", 1},
                        {"path", path},
                        {"format", format},
                        {"family", config.family},
                        {"layers", config.layers},
                        {"hidden_size", config.hidden_size},
                        {"vocab_size", config.vocab_size},
                        {"experts", config.experts},
                        {"dtype", name(config.dtype)},
                        {"tied", config.tied}};
  document["totals"] = ordered_json::array();
  for (const auto& [label, totals] : totals_of(model)) {
    document["totals"].push_back(
        {{"of", label}, {"tensors", totals.tensors}, {"parameters", totals.parameters}, {"bytes", totals.bytes}});
  }
  document["unknown"] = ordered_json::array();
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.role == model::Role::unknown) document["unknown"].push_back(tensor.name);
  }
  document["tensors"] = ordered_json::array();
  for (const Row& row : rows) {
    document["tensors"].push_back({{"name", row.name},
                                   {"dtype", name(row.dtype)},
                                   {"shape", std::vector<std::int64_t>(row.shape.begin(), row.shape.end())},
                                   {"bytes", row.bytes},
                                   {"file", row.file}});
  }
  return document.dump(2) + "\n";
}

void print_notes(const std::vector<std::string>& notes) {
  for (const std::string& note : notes) print("note: {}\n", note);
}

void print_unknown(const model::Model& model) {
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.role != model::Role::unknown) continue;
    print("unknown: {} {} (no rule: whole on every rank, misc)\n", tensor.name, to_string(tensor.shape));
  }
}

/// Prints a model: first everything that sums it up, then every tensor.
void print_model(const model::Model& model, const std::vector<Row>& rows, bool from_checkpoint) {
  print_config(model.config);
  print_notes(model.notes);
  if (from_checkpoint) print_unknown(model);
  if (from_checkpoint) print_tied(model);
  print_totals(totals_of(model));
  print_rows(rows);
}

void inspect_config(const std::string& path, const InspectOptions& options) {
  const model::Model model = model::build_model(model::read_config(path, options.family), false);
  std::vector<Row> rows;
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.kept == model::Kept::parts) continue;
    rows.push_back({tensor.name, tensor.file_shape(), tensor.dtype, tensor.bytes(), "-"});
  }
  print("{}: no weights; what the model would have\n", path);
  print_model(model, rows, false);
  if (!options.json.empty()) report::write_file(options.json, to_json(path, "config.json", model, rows));
}

void inspect_checkpoint(const InspectOptions& options) {
  const std::string& path = options.path;
  const checkpoint::Checkpoint found = checkpoint::open(path);
  std::vector<Row> rows;
  for (const checkpoint::Entry& entry : found.entries) {
    const std::string& file = found.files[static_cast<std::size_t>(entry.file)];
    rows.push_back({entry.info.name, entry.info.shape, entry.info.dtype, entry.bytes(), fs::path(file).filename()});
  }
  const char* format = found.format == checkpoint::Format::hdf5 ? "HDF5" : "safetensors";
  print("{}: {}\n", path, format);
  for (std::size_t i = 0; i < found.files.size(); ++i) {
    print("file {}: {} bytes\n", fs::path(found.files[i]).filename().string(), grouped(found.identities[i].bytes));
  }
  print_notes(found.notes);
  const fs::path config = fs::path(found.folder) / "config.json";
  try {
    const model::Config parsed = model::read_config(config.string(), options.family);
    const model::Model model = model::build_model(parsed, found.tensor_infos(), path);
    print_model(model, rows, true);
    if (!options.json.empty()) report::write_file(options.json, to_json(path, format, model, rows));
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::usage) print_rows(rows);  // they show what does not fit
    throw;
  }
}

/// Returns whether a file or folder is a checkpoint of any kind, or is meant to be one: config.json alone is none.
bool holds_weights(const fs::path& path) {
  constexpr std::string_view kEndings[] = {".safetensors", ".h5", ".index.json", ".gguf", ".pth", ".distcp"};
  const auto is_weights = [&](const std::string& name) {
    return name.starts_with("pytorch_model") ||
           std::ranges::any_of(kEndings, [&](std::string_view ending) { return name.ends_with(ending); });
  };
  std::error_code error;
  if (is_weights(path.filename().string())) return true;
  return std::ranges::any_of(fs::directory_iterator(path, error), [&](const fs::directory_entry& item) {
    return is_weights(item.path().filename().string());
  });
}

}  // namespace

int inspect(const InspectOptions& options) {
  if (!options.json.empty()) report::fail_refused(report::refused_outputs({options.json}, options.force));
  report::require_not_read(options.json, {options.path});
  if (holds_weights(options.path)) {
    inspect_checkpoint(options);
  } else {
    inspect_config(config_path(options.path, options.inputs), options);
  }
  return 0;
}

}  // namespace refit::app
