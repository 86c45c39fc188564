#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <variant>

#include "app/case_reader.hpp"
#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "case/keys.hpp"
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

/// Text, or a number.
using Cell = std::variant<std::string, std::int64_t>;

/// One kind of thing: a heading, and a row for each of the kind.
struct Table {
  std::vector<std::string> heading;
  std::vector<std::vector<Cell>> rows;
  bool has_heading = false;  ///< printed too, where it is not JSON
  std::vector<std::size_t> least_widths = {};
};

std::string first_line(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

using SideRows = std::span<const layout::SideRow* const>;

/// Returns the TP sizes that are legal for a model in the first of `rows`, the default, without any other parallelism.
std::string legal_tp(SideRows rows, const model::Model& model) {
  return fmt::format("{}", fmt::join(rows.front()->make()->legal_tp(model), " "));
}

/// Returns a row per model: the facts that follow from its config.json alone.
Table models(const std::string& inputs) {
  Table table{{"model", "family", "tensors", "parameters", "MTP", "train TP", "gen TP", "description"},
              {},
              true,
              {32, 11, 7, 15, 3, 20, 20}};
  for (const std::string& name : model_names(inputs)) {
    const fs::path folder = fs::path(inputs) / "models" / name;
    const model::Config config = model::read_config((folder / "config.json").string());
    const model::Model model = model::build_model(config, false);
    std::int64_t tensors = 0;
    std::int64_t parameters = 0;
    for (const model::Tensor& tensor : model.tensors) {
      if (tensor.layer >= config.layers) continue;
      ++tensors;
      parameters += is_scale(tensor.role) ? 0 : tensor.elements();
    }
    table.rows.push_back({name, config.family, tensors, parameters, config.mtp_layers,
                          legal_tp(train::trainers(), model), legal_tp(gen::engines(), model),
                          first_line(folder / "description.txt")});
  }
  return table;
}

/// Returns the name of a case's model: the folder's where it is a config.json.
std::string model_of(const cases::Case& c) {
  if (!c.m2n.model.empty()) return fs::path(c.m2n.model).stem().string();
  if (!c.model.checkpoint.empty()) return fs::path(c.model.checkpoint).filename().string();
  return fs::path(c.model.config).parent_path().filename().string();
}

Table cases(const std::string& inputs) {
  Table table{{"case", "model", "train", "gen", "ranks", "description"}, {}, true};
  for (const std::string& file : case_files(inputs)) {
    const std::string path = (fs::path(inputs) / "cases" / file).string();
    try {
      const cases::Case c = read_case(path, {}, Twin::bug, inputs);
      table.rows.push_back({file, model_of(c), to_string(c.train->sizes()), c.gen_layout(),
                            std::int64_t{c.world().size()}, c.description});
    } catch (const Error&) {  // it takes what it lacks from options
      table.rows.push_back({file, "-", "-", "-", "-", read_description(path)});
    }
  }
  return table;
}

/// Name, number, kind and title of every bug with a case of its own, by number.
Table bugs(const std::string& inputs) {
  Table table{{"bug", "id", "kind", "title"}, {}, false};
  for (const std::string& file : toml_files(inputs, "bugs")) {
    const cases::BugSection bug = read_bug((fs::path(inputs) / "bugs" / file).string());
    table.rows.push_back({fs::path(file).stem().string(), bug.id, std::string(name(bug.kind)), bug.title});
  }
  return table;
}

Table injections() {
  Table table{{"injection", "description"}, {}, false};
  for (const auto& [name, description, needs] : inject::injections()) {
    table.rows.push_back({name, needs.empty() ? description : fmt::format("{} (needs {})", description, needs)});
  }
  return table;
}

Table executors() {
  Table table{{"executor", "description"}, {}, false};
  for (const transport::ExecutorRow& row : transport::executors()) {
    table.rows.push_back({std::string(row.name),
                          fmt::format("{}{}", row.sentence, row.missing().empty() ? "" : " (not in this build)")});
  }
  return table;
}

Table sides(const std::string& what, SideRows rows) {
  Table table{{what, "description"}, {}, false};
  for (const layout::SideRow* row : rows) table.rows.push_back({std::string(row->name), std::string(row->sentence)});
  return table;
}

Table families() {
  Table table{{"family", "model types", "architectures"}, {}, true};
  for (const std::string& name : model::family_names()) {
    const model::FamilyWords words = model::words_of(name);
    table.rows.push_back({name, fmt::format("{}", fmt::join(words.model_types, " ")),
                          fmt::format("{}", fmt::join(words.architectures, " "))});
  }
  return table;
}

/// The keys of a case, as docs/cases.md has them; those of [bug] are extending.md's.
Table keys() {
  Table table{{"key", "option", "values", "default", "description"}, {}, true};
  for (const cases::Key& key : cases::case_keys()) {
    if (!key.name.starts_with("bug.")) table.rows.push_back({key.name, key.option, key.type, key.preset, key.help});
  }
  return table;
}

/// The files of a folder below inputs/, with their descriptions.
Table described(const std::string& what, const std::string& inputs, const std::string& folder) {
  Table table{{what, "description"}, {}, false};
  for (const std::string& file : toml_files(inputs, folder)) {
    table.rows.push_back(
        {fs::path(file).stem().string(), read_description((fs::path(inputs) / folder / file).string())});
  }
  return table;
}

Table table_of(const std::string& what, const std::string& inputs) {
  if (what == "models") return models(inputs);
  if (what == "families") return families();
  if (what == "cases") return cases(inputs);
  if (what == "bugs") return bugs(inputs);
  if (what == "injections") return injections();
  if (what == "executors") return executors();
  if (what == "trainers") return sides("trainer", train::trainers());
  if (what == "engines") return sides("engine", gen::engines());
  if (what == "hardware") return described("hardware", inputs, "hardware");
  if (what == "matrices") return described("matrix", inputs, "matrix");
  if (what == "keys") return keys();
  const std::vector<std::string> known{"models",   "families", "cases",    "bugs",     "injections", "executors",
                                       "trainers", "engines",  "hardware", "matrices", "keys"};
  fail_usage("list {}: needs one of {}{}", what, fmt::join(known, ", "), suggestion(what, known));
}

void print_json(const Table& table) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::vector<Cell>& row : table.rows) {
    nlohmann::ordered_json object;
    for (std::size_t i = 0; i < row.size(); ++i)
      std::visit([&](const auto& value) { object[table.heading[i]] = value; }, row[i]);
    all.push_back(std::move(object));
  }
  print("{}\n", all.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

/// Columns of numbers, or of a dash for none, are aligned at their right ends.
void print_text(const Table& table) {
  std::vector<std::vector<std::string>> lines;
  if (table.has_heading) lines.push_back(table.heading);
  for (const std::vector<Cell>& row : table.rows) {
    std::vector<std::string>& line = lines.emplace_back();
    for (const Cell& cell : row) {
      const std::int64_t* number = std::get_if<std::int64_t>(&cell);
      line.push_back(number == nullptr ? std::get<std::string>(cell) : grouped(*number));
    }
  }
  const std::size_t columns = table.heading.size();
  std::vector<std::size_t> width = table.least_widths;
  width.resize(columns, 0);
  std::vector<bool> right(columns);
  for (std::size_t i = 0; i < columns; ++i) {
    for (const auto& line : lines) width[i] = std::max(width[i], line[i].size());
    const auto is_number = [&](const auto& row) { return std::holds_alternative<std::int64_t>(row[i]); };
    const auto is_fit = [&](const auto& row) { return is_number(row) || row[i] == Cell("-"); };
    right[i] = std::ranges::any_of(table.rows, is_number) && std::ranges::all_of(table.rows, is_fit);
  }
  for (const auto& line : lines) {
    for (std::size_t i = 0; i + 1 < columns; ++i) {
      right[i] ? print("{:>{}}  ", line[i], width[i]) : print("{:<{}}  ", line[i], width[i]);
    }
    print("{}\n", line.back());
  }
}

}  // namespace

int list(const std::string& what, const std::string& inputs, ListForm form) {
  const Table table = table_of(what, inputs);
  if (form == ListForm::json) print_json(table);
  if (form == ListForm::text) print_text(table);
  if (form == ListForm::names) {
    for (const auto& row : table.rows) print("{}\n", std::get<std::string>(row.front()));
  }
  return 0;
}

}  // namespace refit::app
