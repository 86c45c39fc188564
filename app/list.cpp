#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <span>

#include "app/case_reader.hpp"
#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/nearest.hpp"
#include "core/text.hpp"
#include "gen/engines.hpp"
#include "inject/faults.hpp"
#include "model/model.hpp"
#include "train/trainers.hpp"
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

using SideRows = std::span<const layout::SideRow* const>;

/// The TP sizes with which the default of them is legal for a model without any other parallelism.
std::string legal_tp(SideRows rows, const model::Model& model) {
  return fmt::format("{}", fmt::join(rows.front()->make()->legal_tp(model), " "));
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
    print("{:32}  {:11}  {:7}  {:>15}  {:3}  {:20}  {:20}  {}\n", name, config.family, tensors, grouped(parameters),
          config.mtp_layers, legal_tp(train::trainers(), model), legal_tp(gen::engines(), model),
          first_line(folder / "description.txt"));
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
    const cases::BugSection bug = read_bug((fs::path(inputs) / "bugs" / file).string());
    lines.push_back(
        {fs::path(file).stem().string(), fmt::format("{:4}  {:11}  {}", bug.id, name(bug.kind), bug.title)});
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

std::vector<Line> sides(SideRows rows) {
  std::vector<Line> lines;
  for (const layout::SideRow* row : rows) lines.push_back({std::string(row->name), std::string(row->sentence)});
  return lines;
}

std::vector<Line> lines_of(const std::string& what, const std::string& inputs) {
  if (what == "cases") return cases(inputs);
  if (what == "bugs") return bugs(inputs);
  if (what == "injections") return injections();
  if (what == "executors") return executors();
  if (what == "trainers") return sides(train::trainers());
  if (what == "engines") return sides(gen::engines());
  const std::vector<std::string> known{"models", "cases", "bugs", "injections", "executors", "trainers", "engines"};
  fail_usage("list {}: needs one of {}{}", what, fmt::join(known, ", "), suggestion(what, known));
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
