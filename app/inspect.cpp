#include <algorithm>
#include <filesystem>

#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "model/model.hpp"

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
    ++tensors;
    if (!is_scale(tensor.role)) parameters += tensor.elements();
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

void print_totals(const char* label, const Totals& totals) {
  print("{:<24} {} tensors, {} parameters, {} bytes\n", label, grouped(totals.tensors), grouped(totals.parameters),
        grouped(totals.bytes));
}

std::string_view quantised(model::WeightFormat how) {
  if (how == model::WeightFormat::unquantised) return "";
  return how == model::WeightFormat::fp8_block ? ", linear layers in FP8 with blocks of 128 x 128"
                                               : ", linear layers in MXFP8";
}

void print_config(const model::Config& config) {
  print("family {}: {} layers, hidden {}, vocabulary {}, {} query and {} KV heads of {}", config.family, config.layers,
        config.hidden_size, config.vocab_size, config.attention_heads, config.kv_heads, config.head_dim);
  if (config.experts > 0) print(", {} experts of {}", config.experts, config.expert_intermediate_size);
  if (config.intermediate_size > 0) print(", intermediate {}", config.intermediate_size);
  print(", {}{}{}\n", name(config.dtype), quantised(config.weight_format), config.tied ? ", tied" : "");
}

/// Totals of the model; where it is tied, with and without the second copy of the embedding.
void print_model_totals(const model::Model& model, bool from_checkpoint) {
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
  if (model.config.mtp_layers > 0) print_totals("multi-token prediction:", prediction);
  if (!model.config.tied) {
    return print_totals(model.config.mtp_layers > 0 ? "without multi-token prediction:" : "total:", with);
  }
  if (!present) {
    for (const model::Tensor& tensor : model.tensors) {
      if (tensor.role == model::Role::embedding) with.add(tensor);
    }
  }
  if (from_checkpoint) print("tied: lm_head.weight is {} in the checkpoint\n", present ? "present" : "absent");
  print_totals("without lm_head.weight:", without);
  print_totals("with lm_head.weight:", with);
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

int inspect_config(const std::string& path, const std::string& family) {
  const model::Model model = model::build_model(model::read_config(path, family), false);
  std::vector<Row> rows;
  for (const model::Tensor& tensor : model.tensors) {
    rows.push_back({tensor.name, tensor.file_shape(), tensor.dtype, tensor.bytes(), "-"});
  }
  print("{}: no weights; what the model would have\n", path);
  print_config(model.config);
  print_notes(model.notes);
  print_rows(rows);
  print_model_totals(model, false);
  return 0;
}

int inspect_checkpoint(const std::string& path, const std::string& family) {
  const checkpoint::Checkpoint found = checkpoint::open(path);
  std::vector<Row> rows;
  for (const checkpoint::Entry& entry : found.entries) {
    const std::string& file = found.files[static_cast<std::size_t>(entry.file)];
    rows.push_back({entry.info.name, entry.info.shape, entry.info.dtype, entry.bytes(), fs::path(file).filename()});
  }
  print("{}: {}\n", path, found.format == checkpoint::Format::hdf5 ? "HDF5" : "safetensors");
  for (std::size_t i = 0; i < found.files.size(); ++i) {
    print("file {}: {} bytes\n", fs::path(found.files[i]).filename().string(), grouped(found.identities[i].bytes));
  }
  print_notes(found.notes);
  print_rows(rows);
  const fs::path config = fs::path(found.folder) / "config.json";
  const model::Config parsed = model::read_config(config.string(), family);
  print_config(parsed);
  const model::Model model = model::build_model(parsed, found.tensor_infos(), path);
  print_notes(model.notes);
  print_unknown(model);
  print_model_totals(model, true);
  return 0;
}

/// Whether a file or folder is a checkpoint, or means to be one: config.json alone is none.
bool holds_weights(const fs::path& path) {
  std::error_code error;
  if (path.extension() == ".safetensors" || path.extension() == ".h5") return true;
  for (const fs::directory_entry& item : fs::directory_iterator(path, error)) {
    const std::string name = item.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".h5") || name.ends_with(".index.json")) return true;
  }
  return false;
}

}  // namespace

int inspect(const InspectOptions& options) {
  if (holds_weights(options.path)) return inspect_checkpoint(options.path, options.family);
  return inspect_config(config_path(options.path, options.inputs), options.family);
}

}  // namespace refit::app
