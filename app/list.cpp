#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "app/case_reader.hpp"
#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "app/text.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/nearest.hpp"
#include "engine/setup.hpp"
#include "inject/faults.hpp"
#include "model/model.hpp"
#include "transport/m2n/m2n.hpp"

namespace refit::app {
namespace fs = std::filesystem;
namespace {

struct Line {
  std::string name;
  std::string description;
};

std::string first_line(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

/// A line per model, after a heading: what follows from its config.json alone.
int list_models(const std::string& inputs) {
  print("{:32}  {:11}  {:>7}  {:>15}  {:>3}  {:20}  {:20}  {}\n", "model", "family", "tensors", "parameters", "MTP",
        "train TP", "gen TP", "description");
  for (const std::string& name : model_names(inputs)) {
    const fs::path folder = fs::path(inputs) / "models" / name;
    const model::Config config = model::read_config((folder / "config.json").string());
    const model::Model model = model::build_model(config, false);
    std::int64_t tensors = 0;
    std::int64_t parameters = 0;
    for (const model::Tensor& tensor : model.tensors) {
      if (tensor.layer >= config.layers) continue;
      ++tensors;
      parameters += tensor.elements();
    }
    const engine::LegalSizes legal = engine::legal_sizes(model);
    print("{:32}  {:11}  {:7}  {:>15}  {:3}  {:20}  {:20}  {}\n", name, config.family, tensors, grouped(parameters),
          config.mtp_layers, fmt::format("{}", fmt::join(legal.train_tp, " ")),
          fmt::format("{}", fmt::join(legal.gen_tp, " ")), first_line(folder / "description.txt"));
  }
  return 0;
}

std::vector<Line> cases(const std::string& inputs) {
  std::vector<Line> lines;
  for (const std::string& file : case_files(inputs)) {
    lines.push_back({file, read_description((fs::path(inputs) / "cases" / file).string())});
  }
  return lines;
}

/// Name, kind and title of every bug with a case of its own, by number.
std::vector<Line> bugs(const std::string& inputs) {
  std::vector<Line> lines;
  for (const std::string& file : bug_files(inputs)) {
    const engine::BugSection bug = read_bug((fs::path(inputs) / "bugs" / file).string());
    lines.push_back(
        {fs::path(file).stem().string(), fmt::format("{:4}  {:11}  {}", bug.id, engine::name(bug.kind), bug.title)});
  }
  return lines;
}

std::vector<Line> injections() {
  std::vector<Line> lines;
  for (const auto& [name, description, needs] : inject::injections()) {
    lines.push_back({name, needs.empty() ? description : fmt::format("{} (needs {})", description, needs)});
  }
  return lines;
}

std::vector<Line> executors() {
  std::vector<Line> lines;
  for (const transport::ExecutorRow& row : transport::executors()) {
    lines.push_back({std::string(row.name),
                     fmt::format("{}{}", row.sentence, row.missing().empty() ? "" : " (not in this build)")});
  }
  return lines;
}

std::vector<Line> lines_of(const std::string& what, const std::string& inputs) {
  if (what == "cases") return cases(inputs);
  if (what == "bugs") return bugs(inputs);
  if (what == "injections") return injections();
  if (what == "executors") return executors();
  fail_usage("list {}: needs one of models, cases, bugs, injections, executors{}", what,
             suggestion(what, {"models", "cases", "bugs", "injections", "executors"}));
}

}  // namespace

int list(const std::string& what, const std::string& inputs) {
  if (what == "models") return list_models(inputs);
  const std::vector<Line> lines = lines_of(what, inputs);
  std::size_t width = 0;
  for (const Line& line : lines) width = std::max(width, line.name.size());
  for (const Line& line : lines) print("{:<{}}  {}\n", line.name, width, line.description);
  return 0;
}

}  // namespace refit::app
