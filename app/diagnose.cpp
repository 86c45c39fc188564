#include "diagnose/diagnose.hpp"

#include <algorithm>
#include <filesystem>

#include "app/commands.hpp"
#include "app/dump_facts.hpp"
#include "checkpoint/rank_files.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "report/files.hpp"

namespace refit::app {
namespace {

bool is_dump(const std::string& path) { return !checkpoint::rank_files(path).empty(); }

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
  report::require_not_read(given.json, {given.gen_dump, given.train_dump, given.expected, given.case_file});
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
