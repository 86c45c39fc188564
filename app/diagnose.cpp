#include "diagnose/diagnose.hpp"

#include <algorithm>
#include <filesystem>

#include "app/commands.hpp"
#include "checkpoint/rank_files.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "report/files.hpp"

namespace refit::app {
namespace {

bool is_given(const std::vector<Option>& options, std::string_view key) {
  return std::any_of(options.begin(), options.end(), [&](const Option& option) { return option.key == key; });
}

bool is_dump(const std::string& path) { return !checkpoint::rank_files(path).empty(); }

/// Returns whether the key is that of one of several engines: "gen.1.layout".
bool is_of_one_engine(const std::string& key) {
  return key.starts_with("gen.") && key.size() > 4 && key[4] >= '0' && key[4] <= '9';
}

/// Adds the facts that the dump records about its run as options, where no option gives them.
void add_facts(const std::map<std::string, std::string>& metadata, std::vector<Option>& options) {
  const std::string prefix = cases::kFactPrefix;
  const bool has_model = is_given(options, "model.config") || is_given(options, "model.checkpoint");
  const bool has_engines = is_given(options, "gen.layout");
  for (const auto& [name, value] : metadata) {
    if (!name.starts_with(prefix)) continue;
    const std::string key = name.substr(prefix.size());
    const bool is_model = key == "model.config" || key == "model.checkpoint";
    if (is_given(options, key) || (is_model && has_model) || (has_engines && is_of_one_engine(key))) continue;
    options.push_back({key, value, "the dump's " + key});
  }
}

void require_known(const DiagnoseOptions& given, const std::vector<Option>& options) {
  std::string missing;
  const auto require = [&](bool there, const char* option) {
    if (!there) missing += (missing.empty() ? "" : " and ") + std::string(option);
  };
  require(is_given(options, "model.config") || is_given(options, "model.checkpoint"), "--model or --checkpoint");
  require(is_given(options, "gen.layout"), "--gen");
  require(given.train_dump.empty() || is_given(options, "train.layout"), "--train");
  if (!missing.empty()) {
    fail_usage(
        "{}: these dumps do not say how they were made (no {}* in their metadata): give {}, and what else of "
        "the run's case is not the default",
        given.gen_dump, cases::kFactPrefix, missing);
  }
}

}  // namespace

int diagnose(const DiagnoseOptions& given) {
  const kernels::Runtime runtime;
  if (!given.json.empty()) report::fail_refused(report::refused_outputs({given.json}, given.force));
  diagnose::Request request;
  request.gen_dump = given.gen_dump;
  request.train_dump = given.train_dump;
  std::vector<Option> options = given.options;
  if (!given.expected.empty()) {
    if (is_dump(given.expected)) {
      request.expected_dump = given.expected;
    } else {
      options.push_back({"model.checkpoint", given.expected, "--expected"});
    }
  }
  if (given.case_file.empty()) {
    add_facts(diagnose::Dumps(given.gen_dump, "gen").metadata(), options);
    require_known(given, options);
  }
  request.knows_train = !given.case_file.empty() || is_given(options, "train.layout");
  if (!request.knows_train) options.push_back({"train.layout", "TP1", "--train"});
  request.c = read_case(given.case_file, options, Twin::bug, given.inputs);
  request.c.run.inject.clear();
  request.c.run.device = kernels::Runtime::has_device() ? cases::Device::cuda : cases::Device::cpu;
  check_case(request.c);

  if (!given.json.empty()) report::remove_output(given.json);
  const diagnose::Diagnosis diagnosis = diagnose::diagnose(request);
  print("{}", diagnose::to_text(diagnosis));
  try {
    if (!given.json.empty()) report::write_file(given.json, diagnose::to_json(diagnosis));
  } catch (const Error& error) {
    if (diagnosis.equal()) throw;
    print_error("refit: error: {}\n", error.what());  // wrong data is the verdict
  }
  return diagnosis.equal() ? 0 : static_cast<int>(ErrorKind::data);
}

}  // namespace refit::app
