#include "app/cli.hpp"

#include <fmt/ranges.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <optional>

#include "app/case_reader.hpp"
#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "app/manual.hpp"
#include "app/probe_options.hpp"
#include "app/sweep.hpp"
#include "case/keys.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/interruption.hpp"
#include "core/text.hpp"
#include "engine/engine.hpp"
#include "explain/plan_case.hpp"
#include "report/files.hpp"

namespace refit::app {
namespace {

using cases::case_keys;
using cases::find_key;
using cases::Key;
using keys::Kind;

/// Arguments that `refit run` and `refit plan` share.
struct CaseArguments {
  std::string file;
  bool fixed = false;
  std::vector<Option> options;
};

std::string describe(const Key& key) {
  return fmt::format("{} [{}]{}", key.help, key.type,
                     key.preset.empty() ? "" : fmt::format(" (default {})", key.preset));
}

/// The keys that `wanted` keeps.
std::string keys_footer(const std::function<bool(const Key&)>& wanted) {
  std::string footer =
      "Keys for --set and case files; of one of several engines gen.1.KEY, or a [[gen]] section for each:\n";
  for (const Key& key : case_keys()) {
    if (wanted(key)) footer += fmt::format("  {:<36} {}\n", key.name, describe(key));
  }
  return footer;
}

void add_key_option(CLI::App& command, CaseArguments& arguments, const Key& key) {
  const auto store = [&arguments, &key](const std::string& text) {
    arguments.options.push_back({key.name, text, key.option});
  };
  if (key.kind == Kind::boolean) {
    command.add_flag_callback(
        key.option, [store] { store("true"); }, describe(key));
  } else if (key.kind == Kind::texts) {
    const auto join = [store](const std::vector<std::string>& words) {
      store(fmt::format("{}", fmt::join(words, ",")));
    };
    command.add_option_function<std::vector<std::string>>(key.option, join, describe(key))->expected(1)->take_all();
  } else {
    command.add_option_function<std::string>(key.option, store, describe(key))->option_text(key.type);
  }
}

void add_precision(CLI::App& command, CaseArguments& arguments) {
  const auto store = [&arguments](const std::string& text) {
    for (Option& option : precision_options(text, "--precision")) arguments.options.push_back(std::move(option));
  };
  command.add_option_function<std::string>("--precision", store,
                                           "train.precision and gen.precision: P for both, or P:Q (default bf16)");
}

void add_sets(CLI::App& command, CaseArguments& arguments) {
  const auto store = [&arguments](const std::vector<std::string>& sets) {
    for (const std::string& set : sets) {
      const std::size_t equals = set.find('=');
      if (equals == std::string::npos) fail_usage("--set {}: needs KEY=VALUE, e.g. --set train.layout=TP4", set);
      arguments.options.push_back({set.substr(0, equals), set.substr(equals + 1), "--set " + set.substr(0, equals)});
    }
  };
  command.add_option_function<std::vector<std::string>>("--set", store, "KEY=VALUE: any key of a case; repeatable")
      ->expected(1)
      ->take_all();
}

/// Adds as options the keys that `wanted` keeps.
void add_keys(CLI::App& command, CaseArguments& arguments, const std::function<bool(const Key&)>& wanted) {
  for (const Key& key : case_keys()) {
    if (!key.option.empty() && wanted(key)) add_key_option(command, arguments, key);
  }
  add_precision(command, arguments);
  add_sets(command, arguments);
  command.footer(keys_footer(wanted));
}

/// Adds the case argument, and those.
void add_case_keys(CLI::App& command, CaseArguments& arguments, const std::function<bool(const Key&)>& wanted) {
  command.add_option("CASE", arguments.file, "Case file (TOML), or a name of refit list cases or bugs");
  add_keys(command, arguments, wanted);
}

/// Returns whether a plan has the key: the only output of a run that a plan writes is its document.
bool is_of_a_plan(std::string_view key) {
  return !key.starts_with("output.") || key == "output.json" || key == "output.force";
}

/// Returns whether the key changes a plan. A plan accepts a run's other options without showing them, so that a run's
/// own command line tells its ranks.
bool is_used_by_a_plan(std::string_view key) {
  if (key.starts_with("expect.") || key.starts_with("bug.")) return false;
  const bool of_run =
      key.starts_with("run.") && key != "run.inject" && key != "run.strict_upstream" && key != "run.colocated";
  return is_of_a_plan(key) && !of_run;
}

bool is_of_a_diagnosis(std::string_view key) {
  return key.starts_with("model.") || key.starts_with("train.") || key.starts_with("gen.");
}

bool is_of_a_digest(std::string_view key) {
  return key == "run.seed" || (is_of_a_diagnosis(key) && key != "model.checkpoint" && key != "model.config");
}

void add_case_arguments(CLI::App& command, CaseArguments& arguments, const std::function<bool(const Key&)>& wanted) {
  command.add_flag("--fixed", arguments.fixed, "Of a case that replays a bug: without the bug");
  add_case_keys(command, arguments, wanted);
}

/// Names of models become paths.
void resolve_models(CaseArguments& arguments, const std::string& inputs) {
  for (Option& option : arguments.options) {
    if (option.key == "model.config") option.text = config_path(option.text, inputs);
  }
}

cases::Case case_of(CaseArguments arguments, const std::string& inputs) {
  resolve_models(arguments, inputs);
  if (!arguments.file.empty()) arguments.file = case_path(arguments.file, inputs);
  return read_case(arguments.file, arguments.options, arguments.fixed ? Twin::fixed : Twin::bug, inputs);
}

/// Runs `work`, which says what the ranks of a job have to do; nullopt where it throws, which sets `code`: the job
/// ends.
template <typename Work>
auto unless_refused(int& code, const Work& work) -> std::optional<decltype(work())> {
  try {
    return work();
  } catch (const Error& error) {
    code = engine::refuse(error);
    return std::nullopt;
  }
}

int run_case(const cases::Case& c, const std::vector<std::string>& arguments) {
  try {
    check_case(c);
    cases::require_executor(c);
  } catch (const Error& error) {
    // A run that is refused has a result too, lest an older one be taken for it.
    return engine::refuse(c, arguments, error);
  }
  return engine::run(c, arguments);
}

/// Whether the key is an output that holds one case alone, which a sweep does not have.
bool is_of_one_case(std::string_view key) {
  return key.starts_with("output.") && key != "output.json" && key != "output.csv" && key != "output.junit" &&
         key != "output.force";
}

/// Refuses such options. Those of a case file are left out.
void require_options_of_a_sweep(const CaseArguments& arguments) {
  for (const Option& option : arguments.options) {
    if (is_of_one_case(option.key))
      fail_usage("{}: means nothing for a sweep, which writes --json, --csv and --junit; leave it out", option.name);
  }
}

int run_sweep(const CaseArguments& arguments, const std::vector<std::string>& texts, const std::string& inputs_option,
              const std::vector<std::string>& command) {
  std::optional<engine::SweptCase> readable;
  std::vector<engine::SweptCase> all;
  try {
    const std::string inputs = inputs_folder(inputs_option);
    require_options_of_a_sweep(arguments);
    std::vector<SweptKey> keys;
    for (const std::string& text : texts) {
      keys.push_back(read_swept_key(text));
      for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
        if (keys[i].name == keys.back().name)
          fail_usage("--sweep {}: is there twice; list all values in one", keys[i].name);
      }
    }
    const auto read = [&](const std::vector<Option>& more) {
      CaseArguments with = arguments;
      with.options.insert(with.options.end(), more.begin(), more.end());
      cases::Case c = case_of(std::move(with), inputs);
      const cases::OutputSection given = std::exchange(c.output, {});
      c.output.json = given.json;
      c.output.csv = given.csv;
      c.output.junit = given.junit;
      c.output.force = given.force;
      return c;
    };
    all = read_sweep(keys, read, readable);
  } catch (const Error& error) {
    // A sweep that is refused has a result too, lest an older one be taken for it.
    return readable ? engine::refuse_sweep(*readable, command, error) : engine::refuse(error);
  }
  return engine::sweep(all, command);
}

/// Refuses options that only a run has. Such outputs in a case file are left out.
void require_options_of_a_plan(const CaseArguments& arguments) {
  for (const Option& option : arguments.options) {
    if (find_key(option.key) == nullptr || is_of_a_plan(option.key)) continue;
    fail_usage("{}: means nothing for a plan, which writes --json, --picture and --byte-matrix; leave it out",
               option.name);
  }
}

int plan_case(const cases::Case& c, explain::PlanOptions options, const std::string& hardware,
              const std::string& inputs, const std::vector<std::string>& arguments) {
  check_case(c);
  if (!hardware.empty()) {
    const std::string file = hardware_path(hardware, inputs);
    report::require_not_read(c.output.json, {file});
    options.hardware = read_hardware(file);
  }
  return explain::plan(c, options, arguments);
}

int diagnose_dumps(DiagnoseOptions options, CaseArguments arguments, const std::string& inputs) {
  for (const Option& option : arguments.options) {
    if (find_key(option.key) == nullptr || is_of_a_diagnosis(option.key)) continue;
    fail_usage("{}: means nothing for a diagnosis, which reads model, train and gen; leave it out", option.name);
  }
  resolve_models(arguments, inputs);
  options.inputs = inputs;
  options.case_file = arguments.file.empty() ? "" : case_path(arguments.file, inputs);
  options.options = arguments.options;
  return diagnose(options);
}

int digest_checkpoint(DigestOptions options, const CaseArguments& arguments, const std::string& inputs,
                      const std::string& chunk_bytes) {
  for (const Option& option : arguments.options) {
    if (find_key(option.key) == nullptr || is_of_a_digest(option.key)) continue;
    fail_usage("{}: means nothing for a digest, which reads a checkpoint, train and gen; leave it out", option.name);
  }
  options.inputs = inputs;
  options.options = arguments.options;
  if (!chunk_bytes.empty()) {
    const std::optional<std::int64_t> bytes = parse_bytes(chunk_bytes);
    if (!bytes || *bytes == 0) fail_usage("--chunk-bytes {}: needs bytes above 0, e.g. 64MiB", chunk_bytes);
    options.chunk_bytes = *bytes;
  }
  return digest(options);
}

/// All arguments of the command line.
struct Arguments {
  std::string inputs;
  bool version = false;
  CaseArguments run, plan, diagnosed, digested;
  std::vector<std::string> sweep;
  DiagnoseOptions diagnose;
  DigestOptions digest;
  std::string chunk_bytes;
  explain::PlanOptions plan_options;
  std::string hardware;
  ProbeArguments probe;
  InspectOptions inspect;
  SynthOptions synth;
  std::string format = "safetensors";
  ConvertOptions convert;
  std::string max_shard_size;
  std::string a, b;
  std::string what;
  bool list_json = false;
  bool list_names = false;
  std::string shell;
  std::string manual;
};

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& help) {
  CLI::App* command = app.add_subcommand(name, help);
  command->fallthrough();
  return command;
}

/// Refuses numbers that the parser would clamp to the largest one.
std::string in_64_bits(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} ? "" : fmt::format("needs an integer in 0..{}", std::numeric_limits<std::int64_t>::max());
}

void add_shard_size(CLI::App& command, Arguments& arguments) {
  command.add_option("--max-shard-size", arguments.max_shard_size, "Bytes per file, e.g. 5GB (default: one file)");
}

void add_plan(CLI::App& app, Arguments& arguments) {
  CLI::App* command = add_command(app, "plan", "Plan and cost a case of any world size, without weights, GPUs or MPI");
  add_case_arguments(*command, arguments.plan, [](const Key& key) { return is_of_a_plan(key.name); });
  command->footer(keys_footer([](const Key& key) { return is_used_by_a_plan(key.name); }) +
                  "The other keys and options of refit run, too, are accepted without changing the plan, but for files "
                  "to write.\n");
  for (const Key& key : case_keys()) {
    if (!key.option.empty() && is_of_a_plan(key.name) && !is_used_by_a_plan(key.name))
      command->get_option(key.option)->group("");
  }
  command->add_flag("--classify", arguments.plan_options.classify, "Print each tensor's path");
  command
      ->add_option("--explain", arguments.plan_options.explain,
                   "TENSOR: where its pieces live on both sides, and which copies move them; a glob; repeatable")
      ->expected(1)
      ->take_all();
  command->add_option("--picture", arguments.plan_options.picture,
                      "SVG of the explained tensors, or of the largest whose cut changes");
  command->add_option("--byte-matrix", arguments.plan_options.byte_matrix,
                      "File for the bytes from each rank to each, as nccl-tests' alltoallv reads them");
  command->add_option("--hardware", arguments.hardware,
                      "Hardware file, or a name in inputs/hardware (default: bytes without seconds)");
}

void add_probe(CLI::App& app, Arguments& arguments) {
  CLI::App* command = add_command(app, "probe", "Measure what links and memory reach, between every pair of ranks");
  ProbeArguments& given = arguments.probe;
  command->add_option("--bytes", given.bytes,
                      "Of a transfer in the matrices of pairs, e.g. 64MiB (default: 256MiB on GPUs, 32MiB on hosts)");
  command
      ->add_option("--sizes", given.sizes,
                   "Rows of the size tables: FIRST:LAST (each 4 times the one before), FIRST:LAST:FACTOR, a list with "
                   "commas, or none")
      ->capture_default_str();
  command
      ->add_option("--pairs", given.pairs,
                   "alone: one pair at a time; rounds: each rank with one partner at a time, all at once; auto: alone "
                   "up to 16 ranks")
      ->check(CLI::IsMember({"auto", "alone", "rounds"}))
      ->capture_default_str();
  command->add_option("--seconds", given.options.seconds, "Least measuring time per rate, in seconds")
      ->check(CLI::Range(0.001, 3600.0))
      ->check(
          [](const std::string& text) { return text.find_first_of("nN") == std::string::npos ? "" : "needs seconds"; })
      ->capture_default_str();
  command->add_option("--device", given.device, "cpu or cuda (default: what this build uses)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_option("--json", given.options.json, "Write everything that was measured");
  command->add_option("--save", given.options.save, "Write a hardware file for refit plan --hardware");
  command->add_flag("--force", given.options.force, "Replace existing files");
}

void add_diagnose(CLI::App& app, Arguments& arguments) {
  CLI::App* command =
      add_command(app, "diagnose", "Say from dumps what a broken refit put where, and which bug does so");
  command->add_option("--gen-dump", arguments.diagnose.gen_dump, "Folder with gen-rank-00000.safetensors (or .h5), ...")
      ->required();
  command->add_option("--expected", arguments.diagnose.expected,
                      "What gen should hold: the checkpoint that was refitted, or a folder of right gen dumps");
  command->add_option("--train-dump", arguments.diagnose.train_dump,
                      "Folder with train-rank-00000.safetensors, ...: right values of weights that were updated since");
  command->add_option("--json", arguments.diagnose.json, "Result file");
  command->add_flag("--force", arguments.diagnose.force, "Replace an existing file");
  add_case_keys(*command, arguments.diagnosed, [](const Key& key) { return is_of_a_diagnosis(key.name); });
}

void add_digest(CLI::App& app, Arguments& arguments) {
  CLI::App* command =
      add_command(app, "digest", "Say what gen ranks must hold after a refit of a checkpoint, a digest per parameter");
  command
      ->add_option(
          "CHECKPOINT", arguments.digest.source,
          "Checkpoint; or config.json, its folder or a model's name: synthetic weights from run.seed, as in a run")
      ->required();
  command->add_option("--from-dump", arguments.digest.dump,
                      "Folder with gen-rank-00000.safetensors (or .h5), ..., to be compared with the digests");
  command->add_option("--from-engine", arguments.digest.answer,
                      "Answer (JSON) of vLLM's /weight_checker or SGLang's /weights_checker, to be compared likewise");
  command
      ->add_option("--forms", arguments.digest.forms,
                   "Of refit, vllm, sglang (hash on a GPU), sglang-cpu; separated by commas (default: all)")
      ->delimiter(',');
  command->add_option("--chunk-bytes", arguments.chunk_bytes, "Of a parameter in memory at once (default 64MiB)");
  command->add_option("--json", arguments.digest.json, "Result file");
  command->add_flag("--force", arguments.digest.force, "Replace an existing file");
  add_keys(*command, arguments.digested, [](const Key& key) { return is_of_a_digest(key.name); });
}

void add_inspect(CLI::App& app, Arguments& arguments) {
  CLI::App* command = add_command(app, "inspect", "Family, tensors, files and totals of a checkpoint or config.json");
  command->add_option("CHECKPOINT", arguments.inspect.path, "Checkpoint, config.json, or a model's name")->required();
  command->add_option("--family", arguments.inspect.family, "For architectures that config.json does not name");
  command->add_option("--json", arguments.inspect.json, "Result file");
  command->add_flag("--force", arguments.inspect.force, "Replace an existing file");
}

/// Adds an option whose value is one of some words.
template <typename Value>
CLI::Option* add_word(CLI::App& command, const std::string& name, const std::map<std::string, Value>& words,
                      const std::function<void(Value)>& set, const std::string& help) {
  std::vector<std::string> known;
  for (const auto& [word, value] : words) known.push_back(word);
  return command
      .add_option_function<std::string>(
          name, [words, set](const std::string& word) { set(words.at(word)); }, help)
      ->check(CLI::IsMember(known));
}

/// Adds `--experts`, with which experts get a form of their own.
void add_experts(CLI::App& command, std::optional<model::ExpertForm>& experts, const std::string& otherwise) {
  const std::map<std::string, model::ExpertForm> forms{{"packed", model::ExpertForm::packed},
                                                       {"each", model::ExpertForm::each}};
  add_word<model::ExpertForm>(
      command, "--experts", forms, [&experts](model::ExpertForm form) { experts = form; },
      "packed (one tensor for all experts, as transformers 5 has them) | each (one for each); " + otherwise);
}

void add_synth(CLI::App& app, Arguments& arguments) {
  CLI::App* command = add_command(app, "synth", "Write a synthetic checkpoint of a model's shape");
  command->add_option("CONFIG", arguments.synth.config, "config.json, its folder, or a model's name")->required();
  command->add_option("OUT", arguments.synth.output, "Folder to write")->required();
  command->add_option("--family", arguments.synth.family, "For architectures that config.json does not name");
  command->add_option("--seed", arguments.synth.seed, "Of the values")
      ->check(CLI::NonNegativeNumber)
      ->check(in_64_bits)
      ->capture_default_str();
  command->add_option("--layers", arguments.synth.layers, "The first layers only; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  using enum StoredFormat;
  using model::Naming;
  const std::map<std::string, model::Quantisation> formats{{"fp8", fp8_block},
                                                           {"mxfp8", mxfp8},
                                                           {"fp8_tensor", fp8_tensor},
                                                           {"fp8_tensor:modelopt", {fp8_tensor, Naming::modelopt}},
                                                           {"fp8_channel", fp8_channel},
                                                           {"fp8_channel:modelopt", {fp8_channel, Naming::modelopt}},
                                                           {"fp8_channel:fbgemm", {fp8_channel, Naming::fbgemm_fp8}},
                                                           {"nvfp4", nvfp4},
                                                           {"nvfp4:modelopt", {nvfp4, Naming::modelopt}},
                                                           {"mxfp4", mxfp4},
                                                           {"int4", int4},
                                                           {"int4_asym", int4_asym}};
  add_word<model::Quantisation>(
      *command, "--quantisation", formats,
      [&arguments](model::Quantisation how) { arguments.synth.quantisation = how; },
      "Of the linear layers: fp8 (blocks of 128 x 128), mxfp8, fp8_tensor, fp8_channel, nvfp4, mxfp4, int4 or "
      "int4_asym, "
      "as compressed-tensors writes the last six (gpt-oss has MXFP4 in its own form); FORMAT:modelopt and "
      "fp8_channel:fbgemm as those do. As config.json says where it is not given");
  add_experts(*command, arguments.synth.experts, "as the family is published where it is not given");
  command->add_option("--format", arguments.format, "safetensors | hdf5")
      ->check(CLI::IsMember({"safetensors", "hdf5"}))
      ->capture_default_str();
  add_shard_size(*command, arguments);
  command->add_flag("--tied-lm-head", arguments.synth.tied_lm_head, "Write a tied model's lm_head.weight too");
  command->add_flag("--force", arguments.synth.force, "Replace an existing checkpoint");
}

void add_convert(CLI::App& app, Arguments& arguments) {
  CLI::App* command = add_command(app, "convert", "safetensors <-> HDF5, or experts in another form, bit for bit");
  command->add_option("IN", arguments.convert.input, "Checkpoint to read")->required();
  command->add_option("OUT", arguments.convert.output, "Folder to write")->required();
  add_experts(*command, arguments.convert.experts, "the format stays then");
  command->add_option("--family", arguments.convert.family, "With --experts: of what config.json does not name");
  add_shard_size(*command, arguments);
  command->add_flag("--force", arguments.convert.force, "Replace an existing checkpoint");
}

void add_commands(CLI::App& app, Arguments& arguments) {
  add_case_arguments(*add_command(app, "run", "Load, then update, refit and verify, step by step; report"),
                     arguments.run, [](const Key& /*key*/) { return true; });
  app.get_subcommand("run")
      ->add_option(
          "--sweep", arguments.sweep,
          "KEY=VALUE,VALUE: a run with each value, one after the other, and a table; of several keys with each "
          "combination; repeatable")
      ->expected(1)
      ->take_all();
  add_plan(app, arguments);
  add_probe(app, arguments);
  add_diagnose(app, arguments);
  add_digest(app, arguments);
  add_inspect(app, arguments);
  add_synth(app, arguments);
  add_convert(app, arguments);
  CLI::App* compare = add_command(app, "compare", "Compare two checkpoints or dump folders, tensor by tensor");
  compare->add_option("A", arguments.a, "Checkpoint or dump folder")->required();
  compare->add_option("B", arguments.b, "Checkpoint or dump folder")->required();
  CLI::App* list = add_command(app, "list", "What there is: models, families, cases, bugs, injections, executors, ...");
  list->add_option(
          "WHAT", arguments.what,
          "models | families | cases | bugs | injections | executors | trainers | engines | hardware | matrices | keys")
      ->required();
  list->add_flag("--json", arguments.list_json, "Print JSON: a list of objects");
  list->add_flag("--names", arguments.list_names, "Print names alone, one in each line")->excludes("--json");
  CLI::App* completion = add_command(app, "completion", "Print a shell's completion: source <(refit completion bash)");
  completion->add_option("SHELL", arguments.shell, "The shell")->required()->check(CLI::IsMember({"bash"}));
  CLI::App* manual = add_command(app, "manual", "Write the pages of man: refit manual ~/.local/share/man/man1");
  manual->add_option("FOLDER", arguments.manual, "Folder for refit.1, refit-run.1, ...; pages in it are replaced")
      ->required();
}

std::int64_t shard_bytes(const std::string& text) {
  if (text.empty()) return 0;
  const std::optional<std::int64_t> bytes = parse_bytes(text);
  if (!bytes || *bytes == 0) fail_usage("--max-shard-size {}: needs bytes above 0, e.g. 5GB", text);
  return *bytes;
}

/// Returns whether a launcher starts the command, as the ranks of a job.
bool is_of_a_job(const std::string& command) { return command == "run" || command == "probe"; }

int dispatch(const std::string& command, Arguments& a, const std::vector<std::string>& arguments) {
  // A rank that the launcher ends because another one has failed prints nothing.
  end_on_interruption(!is_of_a_job(command));
  int refused = 0;
  if (command == "run" && !a.sweep.empty()) return run_sweep(a.run, a.sweep, a.inputs, arguments);
  if (command == "run") {
    const auto c = unless_refused(refused, [&] { return case_of(a.run, inputs_folder(a.inputs)); });
    return c ? run_case(*c, arguments) : refused;
  }
  if (command == "probe") {
    const auto options = unless_refused(refused, [&] { return checked(a.probe); });
    return options ? engine::probe(*options, arguments) : refused;
  }
  const std::string inputs = inputs_folder(a.inputs);
  if (command == "plan") require_options_of_a_plan(a.plan);
  if (command == "plan") return plan_case(case_of(a.plan, inputs), a.plan_options, a.hardware, inputs, arguments);
  if (command == "diagnose") return diagnose_dumps(a.diagnose, a.diagnosed, inputs);
  if (command == "digest") return digest_checkpoint(a.digest, a.digested, inputs, a.chunk_bytes);
  if (command == "compare") return compare(a.a, a.b);
  if (command == "list")
    return list(a.what, inputs, a.list_names ? ListForm::names : a.list_json ? ListForm::json : ListForm::text);
  a.inspect.inputs = a.synth.inputs = inputs;
  if (command == "inspect") return inspect(a.inspect);
  a.synth.max_shard_bytes = a.convert.max_shard_bytes = shard_bytes(a.max_shard_size);
  if (command == "convert") return convert(a.convert);
  a.synth.format = a.format == "hdf5" ? checkpoint::Format::hdf5 : checkpoint::Format::safetensors;
  return synth(a.synth);
}

int write_manual(const CLI::App& app, const std::string& folder) {
  make_folder(folder);
  const auto write = [&folder](const CLI::App& command) {
    report::write_file(folder + '/' + manual_name(command), manual_page(command));
  };
  write(app);
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) write(*command);
  return 0;
}

}  // namespace

int execute(const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Moves model weights from a trainer's layout to inference engines' layouts, and proves that they arrived.",
      "refit");
  app.require_subcommand(0, 1);
  app.add_option("--inputs", a.inputs,
                 "Folder of models, cases and hardware (default $REFIT_INPUTS, or the installed)");
  app.add_flag("--version", a.version, "Versions of everything linked");
  app.footer(
      "Exit codes: 0 as expected; 1 wrong data, or a missed expectation; 2 a mistake in command line, case, checkpoint "
      "or "
      "an output's path; 3 communication failure, timeout, out of memory, an output that cannot be written, or "
      "interrupted; 77 this build or machine lacks what the case needs.\n");
  add_commands(app, a);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend() - 1));
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    if (chosen.empty() && !arguments[1].starts_with('-'))
      fail_usage("{}: no such command; refit --help lists them", arguments[1]);
    print("{}", (chosen.empty() ? &app : chosen.front())->help());
    return 0;
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    const Error refusal(ErrorKind::usage, error.what());
    if (!chosen.empty() && is_of_a_job(chosen.front()->get_name())) return engine::refuse(refusal);
    throw refusal;
  }
  if (a.version) return version();
  const auto chosen = app.get_subcommands();
  if (chosen.empty()) fail_usage("a command is required; refit --help lists them");
  if (chosen.front()->get_name() == "completion") {
    print("{}", bash_completion(app));
    return 0;
  }
  if (chosen.front()->get_name() == "manual") return write_manual(app, a.manual);
  return dispatch(chosen.front()->get_name(), a, arguments);
}

}  // namespace refit::app
