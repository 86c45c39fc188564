#include "digest/digest.hpp"

#include <fmt/ranges.h>

#include "app/commands.hpp"
#include "app/dump_facts.hpp"
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

}  // namespace

int digest(const DigestOptions& given) {
  const kernels::Runtime runtime;
  if (!given.json.empty()) report::fail_refused(report::refused_outputs({given.json}, given.force));
  digest::Request request;
  request.forms = forms_of(given.forms);
  if (given.chunk_bytes > 0) request.chunk_bytes = given.chunk_bytes;
  request.dump = given.dump;
  request.answer = given.answer;
  std::vector<Option> options = given.options;
  options.push_back({"model.checkpoint", given.checkpoint, "CHECKPOINT"});
  if (!given.dump.empty()) add_facts(diagnose::Dumps(given.dump, "gen").metadata(), options);
  if (!is_given(options, "gen.layout")) {
    fail_usage("--gen is required{}: the layout of the engine, e.g. TP4",
               given.dump.empty() ? "" : fmt::format(", which {} does not say", given.dump));
  }
  if (!is_given(options, "train.layout")) options.push_back({"train.layout", "TP1", "--train"});
  request.c = read_case("", options, Twin::bug, given.inputs);
  request.c.run.inject.clear();
  request.c.run.device = kernels::Runtime::has_device() ? cases::Device::cuda : cases::Device::cpu;
  check_case(request.c);

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
