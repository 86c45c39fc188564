#include "digest/digest.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "app/commands.hpp"
#include "app/dump_facts.hpp"
#include "app/inputs.hpp"
#include "checkpoint/checkpoint.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "diagnose/dumps.hpp"
#include "report/files.hpp"

namespace refit::app {
namespace {

digest::Forms forms_of(const std::vector<std::string>& names) {
  if (names.empty()) return digest::Forms::all();
  digest::Forms forms;
  for (const std::string& name : names) {
    const std::optional<digest::Form> form = parse_choice<digest::Form>(name);
    if (!form) fail_usage("--forms {}: needs some of {}", name, fmt::join(choices(digest::Form{}), ", "));
    forms.add(*form);
  }
  return forms;
}

/// Returns whether a path has weights, or looks as if it should: anything but a config.json, a folder with nothing else
/// of a checkpoint, and a model's name.
bool is_checkpoint(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error))
    return std::filesystem::exists(path, error) && !path.ends_with(".json");
  for (const auto& file : std::filesystem::directory_iterator(path, error)) {
    const std::string name = file.path().filename();
    if (name.ends_with(".safetensors") || name.ends_with(".h5") || name.ends_with(".index.json")) return true;
  }
  return false;
}

/// Returns the folder of a checkpoint, given by its path or by that of its only file.
std::string folder_of(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return path;
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  const checkpoint::Checkpoint read = checkpoint::open(folder);
  if (read.files.size() == 1 && std::filesystem::equivalent(read.files.front(), path, error)) return folder;
  fail_usage("{}: is not all that is read of the checkpoint in its folder; give the folder, {}", path, folder);
}

/// Lets go of freed memory at once. Else glibc keeps blocks of up to 32 MiB for later, and those of whole tensors, of
/// many sizes, leave gaps that none fits: 620 MB for Qwen3-0.6B in NVFP4 instead of 108.
void return_freed_memory() {
#ifdef __GLIBC__
  constexpr int kMapped = 1 << 20;
  mallopt(M_MMAP_THRESHOLD, kMapped);
#endif
}

cases::Case case_of(const std::vector<Option>& options, const std::string& inputs) {
  cases::Case c = read_case("", options, Twin::bug, inputs);
  c.run.inject.clear();
  c.run.device = kernels::Runtime::has_device() ? cases::Device::cuda : cases::Device::cpu;
  check_case(c);
  if (c.adapters.given()) fail_usage("adapters: refit digest knows weights without adapters; leave the section out");
  return c;
}

/// Returns a case whose trainer changes nothing: a single rank of FSDP's, which has tensors as they are, or of
/// Megatron's, where FSDP does not know the model. Errors (usage): of that with fewer complaints.
cases::Case with_plain_trainer(const std::vector<Option>& options, const std::string& inputs) {
  std::string complaints;
  for (const auto& [trainer, layout] : {std::pair("fsdp", "FSDP1"), std::pair("megatron", "TP1")}) {
    std::vector<Option> all = options;
    if (!is_given(options, "train.trainer")) all.push_back({"train.trainer", trainer, "train.trainer"});
    if (!is_given(options, "train.layout")) all.push_back({"train.layout", layout, "train.layout"});
    try {
      cases::Case c = case_of(all, inputs);
      const cases::Setup legal(c);
      return c;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::usage) throw;
      const std::string text = error.what();
      if (complaints.empty() || std::ranges::count(text, '\n') <= std::ranges::count(complaints, '\n'))
        complaints = text;
    }
  }
  fail_usage("{}", complaints);
}

}  // namespace

int digest(const DigestOptions& given) {
  return_freed_memory();
  const kernels::Runtime runtime;
  if (!given.json.empty()) report::fail_refused(report::refused_outputs({given.json}, given.force));
  report::require_not_read(given.json, {given.source, given.dump, given.answer});
  digest::Request request;
  request.forms = forms_of(given.forms);
  if (given.chunk_bytes > 0) request.chunk_bytes = given.chunk_bytes;
  request.dump = given.dump;
  request.answer = given.answer;
  std::vector<Option> options = given.options;
  const bool has_weights = is_checkpoint(given.source);
  options.push_back({has_weights ? "model.checkpoint" : "model.config",
                     has_weights ? folder_of(given.source) : config_path(given.source, given.inputs), "CHECKPOINT"});
  if (!given.dump.empty()) add_facts(diagnose::Dumps(given.dump, "gen").metadata(), options);
  if (!is_given(options, "gen.layout")) {
    fail_usage("--gen is required{}: the layout of the engine, e.g. TP4",
               given.dump.empty() ? "" : fmt::format(", which {} does not say", given.dump));
  }
  const bool has_trainer = is_given(options, "train.layout");
  request.c = has_trainer ? case_of(options, given.inputs) : with_plain_trainer(options, given.inputs);

  if (!given.json.empty()) report::remove_output(given.json);
  const digest::Result result = digest::digest(request);
  print("{}", digest::to_text(result));
  try {
    if (!given.json.empty()) report::write_file(given.json, digest::to_json(result));
  } catch (const Error& error) {
    if (result.equal()) throw;
    print_error("refit: error: {}\n", error.what());  // wrong data is the verdict
  }
  return result.equal() ? 0 : static_cast<int>(ErrorKind::data);
}

}  // namespace refit::app
