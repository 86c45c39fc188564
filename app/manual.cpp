#include "app/manual.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <map>
#include <regex>
#include <sstream>
#include <vector>

#include "case/keys.hpp"
#include "version/version.hpp"

namespace refit::app {
namespace {

using Words = std::vector<std::string>;

/// What `refit list` has for arguments of these names.
const std::map<std::string, std::string> kNamed{{"CASE", "cases bugs"},     {"CHECKPOINT", "models"},
                                                {"CONFIG", "models"},       {"--model", "models"},
                                                {"--hardware", "hardware"}, {"--inject", "injections"}};

std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : parent->get_name() + "-" + command.get_name();
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

/// The options that help shows, in its order.
std::vector<const CLI::Option*> shown(const CLI::App& command, bool positional) {
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_group().empty() && option->get_positional() == positional) options.push_back(option);
  }
  return options;
}

/// "-h, --help".
std::string spelling(const CLI::Option& option) {
  if (option.get_positional()) return option.get_name(true);
  Words names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return fmt::format("{}", fmt::join(names, ", "));
}

bool has_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

/// What help shows behind an option's name; the words of a choice are not in it.
std::string value_name(const CLI::Option& option) {
  return option.get_option_text().empty() ? "TEXT" : option.get_option_text();
}

/// Text of one line for roff: none of its characters commands anything.
std::string escaped(const std::string& text) {
  std::string result = text.starts_with('.') || text.starts_with('\'') ? "\\&" : "";
  for (const char c : text) result += c == '\\' ? "\\e" : c == '-' ? "\\-" : std::string(1, c);
  return result;
}

/// The same of several lines; each of them ends.
std::string roff(const std::string& text) {
  std::string result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result += escaped(line) + '\n';
  return result;
}

std::string tagged(const std::string& tag, const std::string& value, const std::string& text) {
  return fmt::format(".TP\n\\fB{}\\fR{}\n{}", escaped(tag), value.empty() ? "" : " \\fI" + escaped(value) + "\\fR",
                     roff(text));
}

std::string options_section(const std::string& heading, const std::vector<const CLI::Option*>& options) {
  if (options.empty()) return "";
  std::string text = ".SH " + heading + '\n';
  for (const CLI::Option* option : options) {
    const bool valued = !option->get_positional() && has_value(*option);
    text += tagged(spelling(*option), valued ? value_name(*option) : "", option->get_description());
  }
  return text;
}

/// A footer's lines; those that are indented are a word and what is said of it.
std::string footer_section(const std::string& footer) {
  static const std::regex kRow("^  (\\S+) +(.*)$");
  std::string text;
  std::istringstream stream(footer);
  for (std::string line; std::getline(stream, line);) {
    std::smatch row;
    if (line.empty()) continue;
    const bool is_row = std::regex_match(line, row, kRow);
    if (!is_row && !text.empty()) text += ".PP\n";
    text += is_row ? tagged(row[1], "", row[2]) : roff(line);
  }
  return text.empty() ? "" : ".SH NOTES\n" + text;
}

/// The words of which an option's value is one; empty: any text.
Words choices_of(const std::string& type, const std::string& description) {
  static const std::regex kSet("\\{([^{}]*)\\}"), kBars("^[\\w.-]+( \\| [\\w.-]+)+$"), kWord("[\\w.-]+");
  std::smatch found;
  std::string words;
  if (std::regex_search(type, found, kSet))
    words = found[1];
  else if (std::regex_match(type, kBars))
    words = type;
  else if (std::regex_match(description, kBars))
    words = description;
  return {std::sregex_token_iterator(words.begin(), words.end(), kWord), std::sregex_token_iterator()};
}

Words choices_of(const CLI::Option& option) {
  const std::string& text = option.get_option_text();
  return choices_of(text.empty() ? option.get_type_name() : text, option.get_description());
}

/// Bash's assignment of the words that may follow, or "" where files may.
std::string completed(const std::string& name, const Words& choices) {
  if (!choices.empty()) return fmt::format("words='{}'", fmt::join(choices, " "));
  const auto named = kNamed.find(name);
  return named == kNamed.end() ? "" : fmt::format("words=$(_refit_names {})", named->second);
}

/// Bash's cases of a command: the values of its options, then its options, then its arguments.
std::string completion_of(const CLI::App& command) {
  const std::string& name = command.get_name();
  std::string values, arguments;
  Words options{"--help", "--inputs"}, files;
  for (const CLI::Option* option : shown(command, false)) {
    if (option->check_name("--help")) continue;
    for (const std::string& one : option->get_lnames()) {
      options.push_back("--" + one);
      if (!has_value(*option) || one == "set") continue;  // its values are keys, of all commands alike
      const std::string words = completed("--" + one, choices_of(*option));
      if (words.empty())
        files.push_back(name + ":--" + one);
      else
        values += fmt::format("    {}:--{}) {} ;;\n", name, one, words);
    }
  }
  if (!files.empty()) values += fmt::format("    {}) return ;;\n", fmt::join(files, " | "));
  for (const CLI::Option* option : shown(command, true)) {
    const std::string words = completed(option->get_name(true), choices_of(*option));
    if (!words.empty()) arguments = words;
  }
  return fmt::format("{}    {}:*) if [[ $current == -* ]]; then words='{}'; {}fi ;;\n", values, name,
                     fmt::join(options, " "), arguments.empty() ? "" : "else " + arguments + "; ");
}

constexpr const char* kBash = R"(# Completion of refit's command line for bash: source <(refit completion bash)

# The names of these kinds, asked of the program that is being called.
_refit_names() {{
  local kind
  for kind; do "${{COMP_WORDS[0]/#\~/$HOME}}" list "$kind" --names 2>/dev/null; done
}}

_refit() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command= word words=
  # For bash, = is a word between two others.
  if [[ $current == = ]]; then current=; elif [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD - 2]}}; fi
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case $word in {commands}) command=$word; break ;; esac
  done
  case $command:$before in
    *:--inputs) return ;;
    *:--set) words='{keys}'; compopt -o nospace ;;
{values}{cases}    :*) words='{all} --help --version --inputs' ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}

complete -o bashdefault -o default -F _refit refit
)";

}  // namespace

std::string manual_name(const CLI::App& command) { return full_name(command) + ".1"; }

std::string manual_page(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  const std::string name = full_name(command);
  const std::string spelled = parent == nullptr ? name : parent->get_name() + " " + command.get_name();
  std::string capitals = name;
  std::ranges::transform(capitals, capitals.begin(), [](unsigned char c) { return std::toupper(c); });
  std::string text = fmt::format(".TH {} 1 \"\" \"refit {}\" refit\n.ad l\n.SH NAME\n{} \\- {}", escaped(capitals),
                                 release(), escaped(name), roff(command.get_description()));
  text += fmt::format(".SH SYNOPSIS\n\\fB{}\\fR [\\fIOPTIONS\\fR]", spelled);
  for (const CLI::Option* option : shown(command, true)) {
    const std::string argument = "\\fI" + option->get_name(true) + "\\fR";
    text += option->get_required() ? " " + argument : " [" + argument + "]";
  }
  if (parent == nullptr) text += " \\fICOMMAND\\fR ...";
  text += '\n' + options_section("ARGUMENTS", shown(command, true)) + options_section("OPTIONS", shown(command, false));
  Words others;
  if (parent == nullptr) {
    text += ".SH COMMANDS\n";
    for (const CLI::App* one : commands_of(command)) {
      text += tagged(one->get_name(), "", one->get_description());
      others.push_back(full_name(*one));
    }
  } else {
    others.push_back(parent->get_name());
  }
  text += footer_section(command.get_footer()) + ".SH SEE ALSO\n";
  for (const std::string& other : others)
    text += fmt::format(".BR {} (1){}\n", escaped(other), &other == &others.back() ? "" : ",");
  return text;
}

std::string bash_completion(const CLI::App& app) {
  Words commands, keys;
  std::string values, cases;
  for (const CLI::App* command : commands_of(app)) {
    commands.push_back(command->get_name());
    cases += completion_of(*command);
  }
  for (const cases::Key& key : cases::case_keys()) {
    keys.push_back(key.name + "=");
    const std::string words = completed("", choices_of(key.type, ""));
    if (!words.empty()) values += fmt::format("    *:{}) {} ;;\n", key.name, words);
  }
  return fmt::format(kBash, fmt::arg("commands", fmt::join(commands, " | ")), fmt::arg("keys", fmt::join(keys, " ")),
                     fmt::arg("values", values), fmt::arg("cases", cases), fmt::arg("all", fmt::join(commands, " ")));
}

}  // namespace refit::app
