#include "app/case_keys.hpp"

#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "app/text.hpp"
#include "core/error.hpp"

namespace refit::app {
namespace {

using engine::Case;

constexpr std::int64_t kMany = 1'000'000'000;

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

/// A row whose member is what `access` returns; `assign(member, value)` stores and returns what is wrong, or "".
template <typename Access, typename Assign, typename Print>
Key make_key(std::string name, Kind kind, std::string type, std::string help, std::string option, Access access,
             Assign assign, Print print) {
  return {std::move(name),
          kind,
          std::move(type),
          std::move(help),
          std::move(option),
          [=](Case& c, const Value& value) -> std::string { return assign(access(c), value); },
          [=](const Case& c) -> std::string {
            Case copy = c;  // `access` needs a mutable case; printing is rare
            return print(access(copy));
          }};
}

template <typename Access>
Key text(std::string name, std::string help, Access access, std::string option = "", Kind kind = Kind::text) {
  const auto assign = [](std::string& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    if (given == nullptr) return "needs a string";
    if (given->empty()) return "is empty; leave it out";
    member = *given;
    return "";
  };
  const auto print = [](const std::string& member) { return member.empty() ? "" : quoted(member); };
  const bool path = kind == Kind::input || kind == Kind::output;
  return make_key(std::move(name), kind, path ? "path" : "text", std::move(help), std::move(option), access, assign,
                  print);
}

template <typename Access>
Key input(std::string name, std::string help, Access access, std::string option = "") {
  return text(std::move(name), std::move(help), access, std::move(option), Kind::input);
}

template <typename Access>
Key output(std::string name, std::string help, Access access, std::string option) {
  return text(std::move(name), std::move(help), access, std::move(option), Kind::output);
}

template <typename Access>
Key boolean(std::string name, std::string help, Access access, std::string option = "") {
  const auto assign = [](bool& member, const Value& value) -> std::string {
    const auto* given = std::get_if<bool>(&value);
    if (given == nullptr) return "needs true or false";
    member = *given;
    return "";
  };
  return make_key(std::move(name), Kind::boolean, "true | false", std::move(help), std::move(option), access, assign,
                  [](bool member) { return std::string(member ? "true" : "false"); });
}

template <typename Access>
Key integer(std::string name, std::int64_t least, std::int64_t most, std::string help, Access access,
            std::string option = "") {
  const std::string range = fmt::format("{}..{}", least, most);
  const auto assign = [=](std::int64_t& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::int64_t>(&value);
    if (given == nullptr || *given < least || *given > most) return "needs an integer in " + range;
    member = *given;
    return "";
  };
  return make_key(std::move(name), Kind::integer, range, std::move(help), std::move(option), access, assign,
                  [](std::int64_t member) { return fmt::format("{}", member); });
}

template <typename Access>
Key bytes(std::string name, std::string help, Access access) {
  constexpr std::int64_t kLeast = 64;
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  const auto assign = [](std::int64_t& member, const Value& value) -> std::string {
    std::optional<std::int64_t> given;
    if (const auto* words = std::get_if<std::string>(&value)) given = parse_bytes(*words);
    if (const auto* number = std::get_if<std::int64_t>(&value)) given = *number;
    if (!given || *given < kLeast || *given > kMost) return "needs bytes from 64 to 1TiB, e.g. \"8MiB\"";
    member = *given;
    return "";
  };
  return make_key(std::move(name), Kind::bytes, "bytes", std::move(help), "", access, assign,
                  [](std::int64_t member) { return quoted(bytes_text(member)); });
}

/// A real number in [least, most]; the member may be optional.
template <typename Access>
Key number(std::string name, double least, double most, std::string unit, std::string help, Access access,
           std::string option = "") {
  const auto assign = [=](auto& member, const Value& value) -> std::string {
    double given = std::numeric_limits<double>::quiet_NaN();
    if (const auto* real = std::get_if<double>(&value)) given = *real;
    if (const auto* whole = std::get_if<std::int64_t>(&value)) given = static_cast<double>(*whole);
    if (!(given >= least && given <= most)) return fmt::format("needs a number from {} to {}", least, most);
    member = given;
    return "";
  };
  const auto print = [](const auto& member) -> std::string {
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, double>) {
      return fmt::format("{}", member);
    } else {
      return member ? fmt::format("{}", *member) : "";
    }
  };
  return make_key(std::move(name), Kind::number, std::move(unit), std::move(help), std::move(option), access, assign,
                  print);
}

/// A word out of an enumeration's choices.
template <typename Access>
Key word(std::string name, std::string help, Access access, std::string option = "") {
  using E = std::decay_t<std::invoke_result_t<Access, Case&>>;
  const auto assign = [](E& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    const std::optional<E> parsed = given == nullptr ? std::nullopt : engine::parse<E>(*given);
    if (!parsed) {
      const engine::Choices all = engine::choices(E{});
      const std::string hint = given == nullptr ? "" : suggestion(*given, {all.begin(), all.end()});
      const std::string what = given == nullptr ? "" : fmt::format(", not \"{}\"", *given);
      return fmt::format("needs one of {}{}{}", fmt::join(all, ", "), what, hint);
    }
    member = *parsed;
    return "";
  };
  return make_key(std::move(name), Kind::word, fmt::format("{}", fmt::join(engine::choices(E{}), " | ")),
                  std::move(help), std::move(option), access, assign,
                  [](E member) { return quoted(engine::name(member)); });
}

template <typename Access>
Key parallelism(std::string name, std::string help, Access access, std::string option) {
  const auto assign = [](layout::Parallelism& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    if (given == nullptr) return "needs a layout such as \"TP2xPP2\"";
    try {
      member = layout::parse_parallelism(*given);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto print = [](const layout::Parallelism& member) {
    return member == layout::Parallelism{} ? "" : quoted(layout::to_string(member));
  };
  return make_key(std::move(name), Kind::layout, "layout", std::move(help), std::move(option), access, assign, print);
}

template <typename Access>
Key integers(std::string name, std::string help, Access access) {
  const auto assign = [](std::vector<std::int64_t>& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::vector<std::int64_t>>(&value);
    if (given == nullptr || given->empty()) return "needs a list of integers, e.g. [3, 2]";
    for (std::int64_t entry : *given) {
      if (entry < 0 || entry > kMany) return "has an entry that is negative or too large";
    }
    member = *given;
    return "";
  };
  const auto print = [](const std::vector<std::int64_t>& member) {
    return member.empty() ? "" : fmt::format("[{}]", fmt::join(member, ", "));
  };
  return make_key(std::move(name), Kind::integers, "integers", std::move(help), "", access, assign, print);
}

template <typename Access>
Key texts(std::string name, std::string help, Access access, std::string option) {
  const auto assign = [](std::vector<std::string>& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::vector<std::string>>(&value);
    if (given == nullptr) return "needs a list of names, e.g. [\"name\"]";
    member = *given;
    return "";
  };
  const auto print = [](const std::vector<std::string>& member) {
    std::vector<std::string> words;
    for (const std::string& entry : member) words.push_back(quoted(entry));
    return fmt::format("[{}]", fmt::join(words, ", "));
  };
  return make_key(std::move(name), Kind::texts, "names", std::move(help), std::move(option), access, assign, print);
}

std::string read_mismatch(const Fields& fields, engine::ExpectedMismatch& out) {
  for (const auto& [field, value] : fields) {
    if (field == "tensors" && std::holds_alternative<std::string>(value)) {
      out.tensors = std::get<std::string>(value);
    } else if (field == "fraction" && std::holds_alternative<double>(value)) {
      out.fraction = std::get<double>(value);
    } else if (field == "fraction" && std::holds_alternative<std::int64_t>(value)) {
      out.fraction = static_cast<double>(std::get<std::int64_t>(value));
    } else {
      return fmt::format("has an unknown or ill-typed {}; it takes tensors = \"GLOB\" and fraction = 0.75", field);
    }
  }
  if (out.tensors.empty()) return "needs tensors = \"GLOB\"";
  return out.fraction > 0 && out.fraction <= 1 ? "" : "needs a fraction above 0 and up to 1";
}

template <typename Access>
Key mismatches(std::string name, std::string help, Access access) {
  const auto assign = [](std::vector<engine::ExpectedMismatch>& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::vector<Fields>>(&value);
    if (given == nullptr) return "needs tables with tensors = \"GLOB\" and fraction = 0.75";
    member.clear();
    for (const Fields& fields : *given) {
      const std::string wrong = read_mismatch(fields, member.emplace_back());
      if (!wrong.empty()) return wrong;
    }
    return "";
  };
  const auto print = [](const std::vector<engine::ExpectedMismatch>& member) -> std::string {
    std::vector<std::string> rows;
    for (const auto& entry : member) {
      rows.push_back(fmt::format("{{tensors = {}, fraction = {}}}", quoted(entry.tensors), entry.fraction));
    }
    return rows.empty() ? "" : fmt::format("[{}]", fmt::join(rows, ", "));
  };
  return make_key(std::move(name), Kind::table, "tables", std::move(help), "", access, assign, print);
}

#define MEMBER(path) \
  [](Case & c) -> auto& { return c.path; }

std::vector<Key> make_keys() {
  return {
      text("name", "Name of the case in results.", MEMBER(name)),
      text("description", "One sentence; a row of the published matrix keeps its title here.", MEMBER(description)),

      input("model.config", "Hugging Face config.json alone: synthetic weights from run.seed.", MEMBER(model.config),
            "--model"),
      input("model.checkpoint", "Folder with config.json and safetensors or HDF5 shards.", MEMBER(model.checkpoint),
            "--checkpoint"),
      text("model.family", "Family, for architectures that config.json does not name.", MEMBER(model.family)),
      integer("model.layers", 0, kMany, "Keep the first layers only; 0 = all.", MEMBER(model.layers), "--layers"),
      word("model.tied_lm_head", "Tied models given by config only: is lm_head.weight in the checkpoint?",
           MEMBER(model.tied_lm_head)),

      parallelism("train.layout", "TP, CP, EP, DP, PP of the train side; required.", MEMBER(train.layout), "--train"),
      integer("train.first_stage_layers", 0, kMany, "Layers of the first PP stage; 0 = even split.",
              MEMBER(train.first_stage_layers)),
      integer("train.last_stage_layers", 0, kMany, "Layers of the last PP stage; 0 = even split.",
              MEMBER(train.last_stage_layers)),
      integers("train.stage_layers", "Layers of every PP stage.", MEMBER(train.stage_layers)),
      integer("train.make_vocab_size_divisible_by", 0, kMany,
              "The vocabulary is padded to a multiple of this times TP; 0 = not padded.",
              MEMBER(train.make_vocab_size_divisible_by)),
      word("train.precision", "Dtype of the train weights.", MEMBER(train.precision)),

      parallelism("gen.layout", "TP, DP, EP of the gen side; required.", MEMBER(gen.layout), "--gen"),
      word("gen.data_parallel", "DP replicas are separate engines, or vLLM's own DP (experts split over DP x TP).",
           MEMBER(gen.data_parallel)),
      boolean("gen.mtp", "The MTP drafter instead of the main model.", MEMBER(gen.mtp)),
      word("gen.precision", "Dtype of the gen weights.", MEMBER(gen.precision)),
      text("gen.quantiser", "Whose bits, when precision changes on the way.", MEMBER(gen.quantiser)),
      word("gen.moe_backend", "How the engine keeps expert weights.", MEMBER(gen.moe_backend)),
      word("gen.kv_cache_dtype", "Dtype of the KV cache.", MEMBER(gen.kv_cache_dtype)),

      word("refit.bulk", "Which tensors take the bulk path.", MEMBER(refit.bulk), "--bulk"),
      word("refit.executor", "How the bulk path moves bytes.", MEMBER(refit.executor), "--executor"),
      word("refit.communicators", "golden, p2p: one communicator, or one per train PP stage.",
           MEMBER(refit.communicators)),
      integer("refit.streams", 1, 1024, "golden, p2p: stages in flight.", MEMBER(refit.streams)),
      integer("refit.group_size", 1, 65536, "p2p: sends and receives per group, at most.", MEMBER(refit.group_size)),
      bytes("refit.chunk_bytes", "p2p: size of one chunk of the ring.", MEMBER(refit.chunk_bytes)),
      integer("refit.ring_chunks", 1, 1024, "p2p: chunks in flight.", MEMBER(refit.ring_chunks)),
      bytes("refit.misc_buffer_bytes", "Size of each of the misc path's two buffers.", MEMBER(refit.misc_buffer_bytes)),
      boolean("refit.check_agreement", "Compare the plans of every pair of ranks before the first step.",
              MEMBER(refit.check_agreement)),

      word("run.device", "Where weights live.", MEMBER(run.device), "--device"),
      integer("run.ranks_per_device", 0, 1024, "Checked where it is not 0.", MEMBER(run.ranks_per_device)),
      integer("run.steps", 1, kMany, "Measured refits.", MEMBER(run.steps), "--steps"),
      integer("run.warmup", 0, kMany, "Refits before the measured ones.", MEMBER(run.warmup), "--warmup"),
      integer("run.seed", 0, std::numeric_limits<std::int64_t>::max(), "Of synthetic weights and of the KL proxy.",
              MEMBER(run.seed)),
      word("run.update", "What happens to the train weights before each refit.", MEMBER(run.update)),
      word("run.verify", "Which refits are verified.", MEMBER(run.verify)),
      number("run.timeout_seconds", 0, 1e6, "seconds", "Longest time of one refit; 0 = none.",
             MEMBER(run.timeout_seconds), "--timeout"),
      texts("run.inject", "Bugs to inject (refit list bugs).", MEMBER(run.inject), "--inject"),
      word("run.strict_upstream", "Refuse what that version refuses.", MEMBER(run.strict_upstream)),

      output("output.json", "Result file.", MEMBER(output.json), "--json"),
      output("output.csv", "One row per refit.", MEMBER(output.csv), "--csv"),
      output("output.hdf5", "Samples, phases, byte matrix and per-tensor results.", MEMBER(output.hdf5), "--hdf5"),
      output("output.junit", "One test case.", MEMBER(output.junit), "--junit"),
      output("output.dump_train", "Folder for the train weights of every rank after the last refit.",
             MEMBER(output.dump_train), "--dump-train"),
      output("output.dump_gen", "Folder for the gen weights of every rank after the last refit.",
             MEMBER(output.dump_gen), "--dump-gen"),
      boolean("output.force", "Replace existing files.", MEMBER(output.force), "--force"),

      number("expect.kl_max", 0, 1e9, "nats", "Largest KL divergence that passes.", MEMBER(expect.kl_max)),
      number("expect.bulk_fraction", 0, 1, "0..1", "Bulk bytes / payload, +- 0.0005.", MEMBER(expect.bulk_fraction)),
      word("expect.outcome", "How the run has to end.", MEMBER(expect.outcome)),
      text("expect.message", "A part of the error's text.", MEMBER(expect.message)),
      mismatches("expect.mismatch", "Tensors that must be wrong, and by how much; all others must be right.",
                 MEMBER(expect.mismatch)),
  };
}

#undef MEMBER

}  // namespace

const std::vector<Key>& case_keys() {
  static const std::vector<Key> keys = make_keys();
  return keys;
}

const Key* find_key(std::string_view name) {
  for (const Key& key : case_keys()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const Key& key : case_keys()) names.push_back(key.name);
  return names;
}

std::string default_text(const Key& key) { return key.get(Case{}); }

}  // namespace refit::app
