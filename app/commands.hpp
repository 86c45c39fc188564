#pragma once
// The commands beside run, plan and probe (which are the engine's): each prints to stdout and returns an exit code.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/case_reader.hpp"
#include "checkpoint/checkpoint.hpp"
#include "model/model.hpp"

namespace refit::app {

struct InspectOptions {
  std::string path;  ///< checkpoint, folder with config.json alone, config.json, or a model's name
  std::string family;
  std::string inputs;
  std::string json;  ///< file; empty = none
  bool force = false;
};

/// Prints family, tensors and totals. Errors (usage): missing or malformed tensors, after the readable ones are
/// printed.
int inspect(const InspectOptions& options);

struct SynthOptions {
  std::string config;  ///< config.json, its folder, or a model's name
  std::string output;
  std::string family;
  std::string inputs;
  std::int64_t seed = 1;
  std::int64_t layers = 0;
  std::optional<model::Quantisation> quantisation;  ///< none: as config.json says
  std::optional<model::ExpertForm> experts;         ///< none: as the family is published
  bool tied_lm_head = false;                        ///< write a tied model's lm_head.weight too
  checkpoint::Format format = checkpoint::Format::safetensors;
  std::int64_t max_shard_bytes = 0;
  bool force = false;
};

/// Writes a synthetic checkpoint.
int synth(const SynthOptions& options);

struct ConvertOptions {
  std::string input;
  std::string output;
  std::optional<model::ExpertForm> experts;  ///< their new form; none = the other format
  std::string family;                        ///< empty = as config.json says
  std::int64_t max_shard_bytes = 0;
  bool force = false;
};

/// Converts safetensors <-> HDF5, or the same format with experts in another form.
int convert(const ConvertOptions& options);

/// Compares two checkpoints or dump folders; returns 1 where they differ.
int compare(const std::string& a, const std::string& b);

struct DiagnoseOptions {
  std::string gen_dump;
  std::string train_dump;  ///< empty = none
  std::string expected;    ///< checkpoint or dump folder; empty = none
  std::string json;        ///< file; empty = none
  bool force = false;
  std::string case_file;  ///< empty = none
  std::string inputs;     ///< the folder of models
  std::vector<Option> options;
};

/// Compares dumps with the expected contents, and names the errors; returns 1 where there are any. Errors (usage):
/// neither dumps nor options say how the dumps were made.
int diagnose(const DiagnoseOptions& options);

struct DigestOptions {
  std::string source;              ///< checkpoint, folder with config.json alone, config.json, or a model's name
  std::vector<std::string> forms;  ///< their names; empty = all
  std::int64_t chunk_bytes = 0;    ///< 0 = the default
  std::string dump;                ///< folder; empty = none
  std::string answer;              ///< file of an engine's weight checker; empty = none
  std::string json;                ///< file; empty = none
  bool force = false;
  std::string inputs;  ///< the folder of models
  std::vector<Option> options;
};

/// Prints what gen ranks must hold after a refit of a checkpoint or of a synthetic model, as digests; or compares a
/// dump or an engine's answer with it, and returns 1 where they differ. Errors (usage): no layout of gen, neither as an
/// option nor in the dump.
int digest(const DigestOptions& options);

/// A list as a table, as JSON (a list of objects whose keys are the columns), or as its names alone, one in each line.
enum class ListForm { text, json, names };

/// Prints the list of `what`: models, cases, bugs, injections, executors, trainers or engines.
int list(const std::string& what, const std::string& inputs, ListForm form);

/// Prints the versions of everything linked.
int version();

}  // namespace refit::app
