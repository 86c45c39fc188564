#include "app/case_reader.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "app/toml_depth.hpp"
#include "case/keys.hpp"
#include "case/upstream/upstream.hpp"
#include "core/error.hpp"
#include "core/key_rows.hpp"
#include "core/nearest.hpp"
#include "core/text.hpp"
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

namespace refit::app {
namespace {

using cases::Case;
using cases::case_keys;
using cases::find_key;
using cases::Key;
using cases::key_names;
using keys::Fields;
using keys::Kind;
using keys::Scalar;
using keys::Value;

constexpr std::uintmax_t kMaxFileBytes = 1 << 20;

std::string place(const std::string& file, const toml::source_region& source) {
  return fmt::format("{}:{}:{}", file, source.begin.line, source.begin.column);
}

toml::table parse_file(const std::string& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) fail_usage("{}: no such file", file);
  if (std::filesystem::file_size(file, error) > kMaxFileBytes) fail_usage("{}: larger than 1 MiB", file);
  std::ifstream stream(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) fail_usage("{}: cannot be read", file);
  if (const int line = line_of_deep_key(text); line > 0)
    fail_usage("{}:{}: a key has more than {} parts", file, line, kMaxKeyParts);
  try {
    return toml::parse(text, file);
  } catch (const toml::parse_error& wrong) {
    if (wrong.source().begin.line == 0) fail_usage("{}: {}", file, wrong.description());
    fail_usage("{}: {}", place(file, wrong.source()), wrong.description());
  }
}

std::optional<Scalar> to_scalar(const toml::node& node) {
  if (const auto* value = node.as_boolean()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_string()) return value->get();
  return std::nullopt;
}

std::optional<Fields> to_fields(const toml::node& node) {
  const toml::table* table = node.as_table();
  if (table == nullptr) return std::nullopt;
  Fields fields;
  for (const auto& [key, value] : *table) {
    const std::optional<Scalar> scalar = to_scalar(value);
    if (!scalar) return std::nullopt;
    fields[std::string(key.str())] = *scalar;
  }
  return fields;
}

template <typename T, typename Convert>
std::optional<Value> to_list(const toml::array& array, const Convert& convert) {
  std::vector<T> list;
  for (const toml::node& entry : array) {
    auto converted = convert(entry);
    if (!converted) return std::nullopt;
    list.push_back(std::move(*converted));
  }
  return list;
}

template <typename T>
std::optional<T> scalar_as(const toml::node& node) {
  const std::optional<Scalar> scalar = to_scalar(node);
  const T* value = scalar ? std::get_if<T>(&*scalar) : nullptr;
  return value == nullptr ? std::nullopt : std::optional<T>(*value);
}

/// The table of the keys in which a bug's fixed twin differs.
constexpr std::string_view kFixed = "bug.fixed";

/// A TOML value as the key's setter takes it; nothing for types that no key has (dates, mixed arrays).
std::optional<Value> to_value(const toml::node& node, Kind kind) {
  if (const auto scalar = to_scalar(node)) {
    return std::visit([](const auto& value) { return Value(value); }, *scalar);
  }
  const toml::array* array = node.as_array();
  if (array == nullptr) return std::nullopt;
  if (kind == Kind::integers) return to_list<std::int64_t>(*array, scalar_as<std::int64_t>);
  if (kind == Kind::texts) return to_list<std::string>(*array, scalar_as<std::string>);
  if (kind == Kind::table) return to_list<Fields>(*array, to_fields);
  return std::nullopt;
}

bool takes_string(Kind kind) {
  return kind == Kind::text || kind == Kind::word || kind == Kind::layout || kind == Kind::input ||
         kind == Kind::output;
}

/// An option's text: TOML where it parses as a value of fitting type, else a string (or a list at commas).
Value option_value(const Key& key, const std::string& text) {
  if (line_of_deep_key(text) > 0) return text;
  try {
    const toml::table table = toml::parse("value = " + text);
    const toml::node* node = table.size() == 1 ? table.get("value") : nullptr;
    const std::optional<Value> value = node == nullptr ? std::nullopt : to_value(*node, key.kind);
    if (value && (!takes_string(key.kind) || std::holds_alternative<std::string>(*value))) return *value;
  } catch (const toml::parse_error&) {
    // not TOML: a bare word
  }
  if (key.kind == Kind::texts) return split_list(text);
  return text;
}

constexpr std::string_view kGen = "gen.";
constexpr std::string_view kGenLayout = "gen.layout";

/// A key as it is typed: "gen.1.layout" is gen.layout of engine 1, "gen.layout" that of all engines.
struct NamedKey {
  std::string key;
  std::optional<std::size_t> engine = {};
};

NamedKey named_key(const std::string& name) {
  constexpr std::size_t kMaxDigits = 6;
  const std::size_t end =
      name.starts_with(kGen) ? name.find_first_not_of("0123456789", kGen.size()) : std::string::npos;
  if (end == std::string::npos || name[end] != '.' || end == kGen.size() || end > kGen.size() + kMaxDigits)
    return {name};
  return {std::string(kGen) + name.substr(end + 1), std::stoul(name.substr(kGen.size(), end - kGen.size()))};
}

/// Returns the layouts that a value lists: "TP4+TP1xDP4".
std::vector<std::string> listed_layouts(const Value& value) {
  std::vector<std::string> layouts;
  const auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return layouts;
  std::size_t begin = 0;
  for (std::size_t plus = text->find('+'); plus != std::string::npos; plus = text->find('+', begin)) {
    layouts.push_back(text->substr(begin, plus - begin));
    begin = plus + 1;
  }
  layouts.push_back(text->substr(begin));
  return layouts;
}

/// Fills a case key by key and collects mistakes. Keys of sides wait until `finish_sides`, since other keys say which
/// sides there are.
class Filler {
 public:
  explicit Filler(Case& c) : case_(c) {}

  void add(const std::string& where, const std::string& what) { mistakes_.push_back(where + ": " + what); }

  void unknown(const std::string& where, const std::string& name) {
    add(where, fmt::format("unknown key {}{}", name, suggestion(name, key_names())));
  }

  /// `engine`: the only one of which the key is set; nothing: of all.
  void set(const Key& key, const Value& value, const std::string& where, std::optional<std::size_t> engine = {}) {
    if (key.of_side || key.of_engine()) {
      waiting_.push_back({&key, value, where, engine});
    } else {
      note(key.name, where, key.set(case_, value), key.name);
    }
  }

  /// Says how many engines a case file lists, [[gen]] each.
  void list_engines(std::size_t count, const std::string& where) {
    listed_ = count;
    listed_at_ = where;
  }

  void finish_sides() {
    make_engines();
    const auto store_all = [&](bool of_side) {
      for (const Waiting& one : waiting_)
        if (one.key->of_side == of_side) store(one);
    };
    store_all(false);  // which engine each is
    cases::choose_sides(case_);
    store_all(true);
    waiting_.clear();
  }

  /// Takes over the other filler's mistakes.
  void take(const Filler& other) { mistakes_.insert(mistakes_.end(), other.mistakes_.begin(), other.mistakes_.end()); }

  void finish() const {
    if (!mistakes_.empty()) fail_usage("{}", fmt::join(mistakes_, "\n"));
  }

 private:
  struct Waiting {
    const Key* key;
    Value value;
    std::string where;
    std::optional<std::size_t> engine;
  };

  bool lists_layouts(const Waiting& one) const { return one.key->name == kGenLayout && !one.engine; }

  /// Makes as many engines as are listed, or as the last gen.layout has layouts.
  void make_engines() {
    std::size_t count = std::max<std::size_t>(1, listed_);
    for (const Waiting& one : waiting_) {
      const std::size_t layouts = lists_layouts(one) ? listed_layouts(one.value).size() : 1;
      if (listed_ == 0 && lists_layouts(one)) count = std::max<std::size_t>(1, layouts);
      if (listed_ > 0 && layouts > 1 && layouts != listed_)
        add(one.where, fmt::format("gen.layout lists {} layouts, but {} has {} engines, [[gen]] each", layouts,
                                   listed_at_, listed_));
    }
    if (count > 1 && case_.m2n.given()) {
      add(listed_at_.empty() ? waiting_.back().where : listed_at_,
          fmt::format("{} engines are listed, but m2n.system has one gen side; leave them out", count));
      count = 1;
    }
    case_.gen = std::vector<layout::Side>(count, case_.gen.front());
  }

  void store(const Waiting& one) {
    const std::size_t engines = case_.gen.size();
    const Key& key = *one.key;
    if (!key.of_engine()) return note(key.name, one.where, key.set(case_, one.value), key.name);
    if (one.engine && *one.engine >= engines) {
      return add(one.where, fmt::format("there is no gen.{}: {}", *one.engine,
                                        engines == 1 ? "the case has one engine, gen.0"
                                                     : fmt::format("the engines are gen.0 to gen.{}", engines - 1)));
    }
    const bool has_reader =
        std::ranges::any_of(case_.gen, [&](const auto& engine) { return engine->find_key(key.name); });
    const std::vector<std::string> layouts =
        lists_layouts(one) ? listed_layouts(one.value) : std::vector<std::string>();
    if (std::ranges::any_of(layouts, &std::string::empty) && layouts.size() > 1) {
      return add(one.where, fmt::format("{} \"{}\" has no layout on one side of a +; write for instance TP4+TP2",
                                        key.name, std::get<std::string>(one.value)));
    }
    for (std::size_t e = 0; e < engines; ++e) {
      if (one.engine && *one.engine != e) continue;
      // What is given for all engines is meant for those that read it.
      if (!one.engine && key.of_side && has_reader && case_.gen[e]->find_key(key.name) == nullptr) continue;
      const Value value = layouts.size() > 1 && e < layouts.size() ? Value(layouts[e]) : one.value;
      note(cases::key_of_engine(key.name, e, engines), one.where, key.set_for(case_, e, value),
           cases::name_of_engine(e, engines) + key.name);
    }
  }

  /// Notes that a key was given, or what is wrong with its value.
  void note(const std::string& given, const std::string& where, const std::string& wrong, const std::string& name) {
    if (wrong.empty()) {
      case_.given[given] = where;
    } else {
      add(where, name + " " + wrong);
    }
  }

  Case& case_;
  std::vector<std::string> mistakes_;
  std::vector<Waiting> waiting_;
  std::size_t listed_ = 0;  ///< engines of the case file; 0: it has [gen], or none
  std::string listed_at_;
};

/// Returns whether a text is one of the words that a key takes beside a path: those in its type, "linear | path".
bool is_word(const Key& row, const std::string& text) {
  return (" " + row.type).find(" " + text + " | ") != std::string::npos;
}

void read_node(Filler& filler, const std::string& file, const std::string& name, const toml::key& key,
               const toml::node& node, std::optional<std::size_t> engine = {}) {
  const std::string where = place(file, key.source());
  const Key* row = find_key(name);
  if (row == nullptr && named_key(name + ".").engine)
    return filler.add(where, fmt::format("{} is no section; write [[gen]] for each engine, in their order", name));
  if (row == nullptr) return filler.unknown(where, name);
  std::optional<Value> value = to_value(node, row->kind);
  if (!value) return filler.add(where, fmt::format("{} has a value of a wrong type; it takes {}", name, row->type));
  auto* text = std::get_if<std::string>(&*value);
  if (row->kind == Kind::input && text != nullptr && !text->empty() && !is_word(*row, *text)) {
    *text = (std::filesystem::path(file).parent_path() / *text).lexically_normal().string();
  }
  filler.set(*row, *value, where, engine);
}

std::vector<std::string> section_names() {
  std::set<std::string> names;
  for (const std::string& name : key_names()) {
    if (const std::size_t dot = name.find('.'); dot != std::string::npos) names.insert(name.substr(0, dot));
  }
  return {names.begin(), names.end()};
}

void read_section(Filler& filler, const std::string& file, const toml::key& key, const toml::table& section,
                  std::optional<std::size_t> engine = {}) {
  const std::string name(key.str());
  const std::vector<std::string> sections = section_names();
  if (std::find(sections.begin(), sections.end(), name) == sections.end()) {
    return filler.add(place(file, key.source()), fmt::format("unknown section {}{}", name, suggestion(name, sections)));
  }
  for (const auto& [inner, node] : section) {
    const std::string full = name + "." + std::string(inner.str());
    if (full != kFixed || !node.is_table()) read_node(filler, file, full, inner, node, engine);
  }
}

/// [[gen]]: an engine each.
void read_engines(Filler& filler, const std::string& file, const toml::key& key, const toml::array& engines) {
  if (engines.size() == 1) return read_section(filler, file, key, *engines.front().as_table());
  filler.list_engines(engines.size(), place(file, key.source()));
  for (std::size_t e = 0; e < engines.size(); ++e) read_section(filler, file, key, *engines[e].as_table(), e);
}

void read_table(Filler& filler, const std::string& file, const toml::table& table) {
  for (const auto& [key, node] : table) {
    if (const toml::table* section = node.as_table()) {
      read_section(filler, file, key, *section);
    } else if (key.str() == "gen" && node.is_array_of_tables()) {
      read_engines(filler, file, key, *node.as_array());
    } else {
      read_node(filler, file, std::string(key.str()), key, node);
    }
  }
}

/// Takes a bug out of a case: its injections, and what is expected of it.
void remove_bug(Case& c) {
  c.run.inject.clear();
  c.expect = {};
  std::erase_if(c.given, [](const auto& key) { return key.first == "run.inject" || key.first.starts_with("expect."); });
}

/// Reads a case file. [bug.fixed] is read for its mistakes even where the fixed twin is not asked for.
void read_file(Filler& filler, const std::string& file, Case& c, Twin twin) {
  const toml::table table = parse_file(file);
  read_table(filler, file, table);
  if (twin == Twin::fixed && !table.contains("bug")) fail_usage("{}: --fixed needs a case with a [bug]", file);
  if (twin == Twin::fixed) remove_bug(c);
  const toml::table* fixed = table["bug"]["fixed"].as_table();
  if (fixed == nullptr) return;
  Case scratch;
  Filler trial(scratch);
  read_table(twin == Twin::fixed ? filler : trial, file, *fixed);
  trial.finish_sides();
  filler.take(trial);
}

/// A model given by an option replaces the one of the case file.
void replace_model(Case& c, const std::string& key, const std::set<std::string>& by_option) {
  const bool config = key == "model.config";
  const std::string other = config ? "model.checkpoint" : "model.config";
  if ((!config && key != "model.checkpoint") || by_option.contains(other)) return;
  (config ? c.model.checkpoint : c.model.config).clear();
  c.given.erase(other);
}

void read_options(Filler& filler, Case& c, const std::vector<Option>& options) {
  std::set<std::string> seen;
  for (const bool of_one_engine : {false, true}) {  // after what is given for all
    for (const Option& option : options) {
      const auto [name, engine] = named_key(option.key);
      if (engine.has_value() != of_one_engine) continue;
      const Key* key = find_key(name);
      if (key == nullptr) {
        filler.unknown(option.name, option.key);
        continue;
      }
      replace_model(c, key->name, seen);
      if (!seen.insert(option.key).second) filler.add(option.name, option.key + " is given twice");
      filler.set(*key, option_value(*key, option.text), option.name, engine);
    }
  }
}

bool is_folder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

/// A model's name in a case file has become a path beside the file.
void find_model(std::string& config, const std::string& inputs) {
  const std::filesystem::path path(config);
  std::error_code error;
  if (config.empty() || inputs.empty() || std::filesystem::exists(path, error)) return;
  const std::filesystem::path named = std::filesystem::path(inputs) / "models" / path.filename() / "config.json";
  if (std::filesystem::exists(named, error)) config = named.string();
}

void require_layouts(Filler& filler, const Case& c) {
  const std::string where = c.file.empty() ? "command line" : c.file;
  const auto require = [&](const layout::SideSpec& side, const auto& given_as, const std::string& who) {
    for (const layout::SideKey& key : side.row().keys()) {
      if (key.kind == Kind::layout && !c.given.contains(given_as(key.name)))
        filler.add(where, fmt::format("{}{} is required ({} {})", who, key.name, key.option, side.row().example));
    }
  };
  require(
      *c.train, [](const std::string& key) { return key; }, "");
  for (std::size_t e = 0; e < c.gen.size(); ++e) {
    require(
        *c.gen[e], [&](const std::string& key) { return cases::key_of_engine(key, e, c.gen.size()); },
        cases::name_of_engine(e, c.gen.size()));
  }
}

/// Returns a key's value as TOML text, a path absolute.
std::string with_absolute_path(const Key& key, const std::string& text) {
  if (key.kind != Kind::input || text.empty()) return text;
  const std::string path = keys::unquoted(text);
  return is_word(key, path) ? text : keys::quoted(std::filesystem::absolute(path).lexically_normal().string());
}

/// Returns the facts about a run that its dumps record.
std::map<std::string, std::string> facts_of(const Case& c) {
  std::map<std::string, std::string> facts;
  for (const Key& key : case_keys()) {
    const bool described = std::ranges::any_of(std::initializer_list<std::string_view>{"model.", "adapters.", "train."},
                                               [&](std::string_view section) { return key.name.starts_with(section); });
    if (described && c.given.contains(key.name)) facts.emplace(key.name, with_absolute_path(key, key.get(c)));
    for (std::size_t e = 0; key.of_engine() && e < c.gen.size(); ++e) {
      const std::string name = cases::key_of_engine(key.name, e, c.gen.size());
      if (c.given.contains(name)) facts.emplace(name, with_absolute_path(key, key.get_of(c, e)));
    }
  }
  if (c.gen.size() == 1) return facts;
  // All layouts in one key say how many engines there are.
  for (std::size_t e = 0; e < c.gen.size(); ++e)
    facts.erase(cases::key_of_engine(std::string(kGenLayout), e, c.gen.size()));
  facts.emplace(kGenLayout, fmt::format("\"{}\"", c.gen_layout()));
  return facts;
}

}  // namespace

Case read_case(const std::string& file, const std::vector<Option>& options, Twin twin, const std::string& inputs) {
  Case c;
  c.file = file;
  c.name = file.empty() ? "command line" : std::filesystem::path(file).stem().string();
  Filler filler(c);
  if (file.empty() && twin == Twin::fixed) fail_usage("--fixed needs a case file with a [bug]");
  if (!file.empty()) read_file(filler, file, c, twin);
  if (c.description.empty()) c.description = c.bug.title;
  read_options(filler, c, options);
  filler.finish_sides();
  filler.finish();  // a layout that could not be read is not also reported as missing
  require_layouts(filler, c);
  filler.finish();
  find_model(c.model.config, inputs);
  if (is_folder(c.model.config)) c.model.config = (std::filesystem::path(c.model.config) / "config.json").string();
  cases::complete(c);
  c.facts = facts_of(c);
  return c;
}

void check_case(const Case& c) {
  const std::vector<std::string> found = cases::violations(c);
  if (!found.empty()) fail_usage("{}", pair::with_reference(fmt::format("{}", fmt::join(found, "\n"))));
  cases::require_supported(c);
}

namespace {

struct HardwareKey {
  std::string_view name;
  double explain::Hardware::*member;
  bool is_required = true;
};

constexpr HardwareKey kRates[] = {
    {"device_in", &explain::Hardware::device_in},        {"device_out", &explain::Hardware::device_out},
    {"domain_in", &explain::Hardware::domain_in, false}, {"domain_out", &explain::Hardware::domain_out, false},
    {"broadcast", &explain::Hardware::broadcast, false}, {"memory", &explain::Hardware::memory},
    {"messages", &explain::Hardware::messages, false}};

struct HardwareCount {
  std::string_view name;
  std::int64_t explain::Hardware::*member;
};

struct HardwareList {
  std::string_view name;
  std::vector<double> explain::Hardware::*member;
  double explain::Hardware::*best;
};

constexpr HardwareList kLists[] = {
    {"each_domain_in", &explain::Hardware::each_domain_in, &explain::Hardware::domain_in},
    {"each_domain_out", &explain::Hardware::each_domain_out, &explain::Hardware::domain_out}};

constexpr std::int64_t kMostDevices = 1 << 20;

constexpr HardwareCount kCounts[] = {{"ranks_per_device", &explain::Hardware::ranks_per_device},
                                     {"devices_per_domain", &explain::Hardware::devices_per_domain}};

}  // namespace

explain::Hardware read_hardware(const std::string& file) {
  const toml::table table = parse_file(file);
  explain::Hardware hardware;
  hardware.file = file;
  std::vector<std::string> names = {"description"};
  std::vector<std::string> mistakes;
  for (const auto& [name, member, is_required] : kRates) {
    names.emplace_back(name);
    if (!is_required && !table.contains(name)) continue;
    hardware.*member = table[name].value<double>().value_or(0.0);
    if (!(hardware.*member > 0)) mistakes.push_back(fmt::format("{}: {} must be a number above 0", file, name));
  }
  for (const auto& [name, member, best] : kLists) {
    names.emplace_back(name);
    if (!table.contains(name)) continue;
    std::vector<double>& rates = hardware.*member;
    if (const toml::array* list = table[name].as_array())
      for (const toml::node& rate : *list) rates.push_back(rate.value<double>().value_or(0.0));
    if (rates.empty() || !(*std::ranges::min_element(rates) > 0) || hardware.*best != *std::ranges::max_element(rates))
      mistakes.push_back(
          fmt::format("{}: {} must be a list of numbers above 0, a domain's each, of which the largest is {}", file,
                      name, name.substr(5)));
  }
  if (hardware.each_domain_in.size() != hardware.each_domain_out.size())
    mistakes.push_back(fmt::format("{}: each_domain_in and each_domain_out must list as many domains", file));
  names.emplace_back("launch_seconds");  // 0 where one rank was measured, which sends nothing
  hardware.launch_seconds = table["launch_seconds"].value<double>().value_or(-1.0);
  if (!(hardware.launch_seconds >= 0))
    mistakes.push_back(fmt::format("{}: launch_seconds must be a number of at least 0", file));
  names.emplace_back("memory_is_shared");
  hardware.memory_is_shared = table["memory_is_shared"].value<bool>().value_or(false);
  if (table.contains("memory_is_shared") && !table["memory_is_shared"].is_boolean())
    mistakes.push_back(fmt::format("{}: memory_is_shared must be true or false", file));
  for (const auto& [name, member] : kCounts) {
    names.emplace_back(name);
    if (member == &explain::Hardware::ranks_per_device && table.contains("devices")) continue;
    hardware.*member = table[name].value<std::int64_t>().value_or(0);
    if (hardware.*member < 1) mistakes.push_back(fmt::format("{}: {} must be an integer of at least 1", file, name));
  }
  names.emplace_back("devices");
  if (const toml::array* devices = table["devices"].as_array()) {
    for (const toml::node& device : *devices) hardware.devices.push_back(device.value<std::int64_t>().value_or(-1));
  }
  const auto is_wrong = [](std::int64_t device) { return device < 0 || device >= kMostDevices; };
  if (table.contains("devices") && (hardware.devices.empty() || std::ranges::any_of(hardware.devices, is_wrong)))
    mistakes.push_back(
        fmt::format("{}: devices must be a list of numbers below {}: the device of each rank, train's "
                    "first",
                    file, kMostDevices));
  if (!hardware.devices.empty() && table.contains("ranks_per_device"))
    mistakes.push_back(fmt::format("{}: devices says more than ranks_per_device: give one of them", file));
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    mistakes.push_back(fmt::format("{}: unknown key {}{}", place(file, key.source()), name, suggestion(name, names)));
  }
  if (!mistakes.empty()) fail_usage("{}", fmt::join(mistakes, "\n"));
  return hardware;
}

cases::BugSection read_bug(const std::string& file) {
  Case c;
  Filler filler(c);
  const toml::table table = parse_file(file);
  for (const auto& [key, node] : table) {
    if (key.str() == "bug" && node.is_table()) read_section(filler, file, key, *node.as_table());
  }
  filler.finish();
  return c.bug;
}

std::string read_description(const std::string& file) {
  return parse_file(file)["description"].value<std::string>().value_or("");
}

}  // namespace refit::app
