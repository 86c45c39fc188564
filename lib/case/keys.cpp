#include "case/keys.hpp"

#include <algorithm>
#include <limits>
#include <span>

#include "core/key_rows.hpp"
#include "gen/engines.hpp"
#include "train/trainers.hpp"
#include "transport/executors.hpp"

namespace refit::cases {
namespace {

using keys::Fields;
using keys::Kind;
using keys::kMany;
using keys::Value;
using Of = keys::Rows<Case>;
using SideRows = std::span<const layout::SideRow* const>;

std::string read_mismatch(const Fields& fields, ExpectedMismatch& out) {
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
keys::Key<Case> mismatches(std::string name, std::string help, Access access) {
  const auto assign = [](std::vector<ExpectedMismatch>& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::vector<Fields>>(&value);
    if (given == nullptr) return "needs tables with tensors = \"GLOB\" and fraction = 0.75";
    member.clear();
    for (const Fields& fields : *given) {
      const std::string wrong = read_mismatch(fields, member.emplace_back());
      if (!wrong.empty()) return wrong;
    }
    return "";
  };
  const auto print = [](const std::vector<ExpectedMismatch>& member) -> std::string {
    std::vector<std::string> rows;
    for (const auto& entry : member) {
      rows.push_back(fmt::format("{{tensors = {}, fraction = {}}}", keys::quoted(entry.tensors), entry.fraction));
    }
    return rows.empty() ? "" : fmt::format("[{}]", fmt::join(rows, ", "));
  };
  return Of::make_key(std::move(name), Kind::table, "tables", std::move(help), "", access, assign, print);
}

template <typename Access>
keys::Key<Case> update(std::string name, std::string help, Access access) {
  const auto assign = [](Update& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    const std::optional<Update> parsed = given == nullptr ? std::nullopt : parse_update(*given);
    if (!parsed) {
      return fmt::format(
          "needs \"perturb\", \"none\" or \"sparse:FRACTION\" with a fraction from 0 to 1, e.g. "
          "\"sparse:0.025\"{}",
          given == nullptr ? "" : fmt::format(", not \"{}\"", *given));
    }
    member = *parsed;
    return "";
  };
  return Of::make_key(std::move(name), Kind::word, "perturb | none | sparse:FRACTION", std::move(help), "", access,
                      assign, [](const Update& member) { return keys::quoted(to_string(member)); });
}

#define MEMBER(path) \
  [](auto& c) -> auto& { return c.path; }

/// The key that chooses a side out of `rows`, as its default.
template <typename Access>
keys::Key<Case> choice_of_side(std::string name, std::string help, SideRows rows, Access access) {
  std::vector<std::string> words;
  for (const layout::SideRow* row : rows) words.emplace_back(row->name);
  const auto assign = [rows, words](layout::Side& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    const layout::SideRow* row = given == nullptr ? nullptr : layout::find_row(rows, *given);
    if (row == nullptr) return keys::needs_one_of(words, value);
    member = row->make();
    return "";
  };
  const auto print = [](const layout::Side& member) { return keys::quoted(member->row().name); };
  const std::string type = fmt::format("{}", fmt::join(words, " | "));
  return Of::make_key(std::move(name), Kind::word, type, std::move(help), "", access, assign, print);
}

/// Returns a key's help: one sentence where all sides of a table read it and say the same of it, else each behind the
/// names of those who say so, "vllm: ...".
std::string help_of(const std::string& key, SideRows rows) {
  std::vector<std::pair<std::string, std::vector<std::string_view>>> helps;
  std::size_t readers = 0;
  for (const layout::SideRow* row : rows) {
    const auto found = std::ranges::find(row->keys(), key, &layout::SideKey::name);
    if (found == row->keys().end()) continue;
    ++readers;
    auto same = std::ranges::find(helps, found->help, [](const auto& one) { return one.first; });
    if (same == helps.end()) same = helps.insert(helps.end(), {found->help, {}});
    same->second.push_back(row->name);
  }
  if (helps.size() == 1 && readers == rows.size()) return helps.front().first;
  std::vector<std::string> texts;
  for (const auto& [help, names] : helps) texts.push_back(fmt::format("{}: {}", fmt::join(names, ", "), help));
  return fmt::format("{}", fmt::join(texts, " "));
}

/// Appends the keys of all sides of a table. Each is set on the side that the case has, if that side reads it:
/// `violations` refuses keys that mean nothing to it.
template <typename Access>
void add_sides(std::vector<Key>& out, SideRows rows, Access access) {
  for (const layout::SideRow* row : rows) {
    const std::unique_ptr<layout::SideSpec> untouched = row->make();
    for (const layout::SideKey& key : row->keys()) {
      if (std::ranges::find(out, key.name, &Key::name) != out.end()) continue;
      const auto set = [access, name = key.name](Case& c, const Value& value) -> std::string {
        const layout::SideKey* mine = access(c)->find_key(name);
        return mine == nullptr ? "" : mine->set(*access(c), value);
      };
      const auto get = [access, name = key.name](const Case& c) -> std::string {
        const layout::SideKey* mine = access(c)->find_key(name);
        return mine == nullptr ? "" : mine->get(*access(c));
      };
      out.push_back(
          {{key.name, key.kind, key.type, help_of(key.name, rows), key.option, set, get}, key.get(*untouched), true});
    }
  }
}

void add(std::vector<Key>& out, std::vector<keys::Key<Case>> rows) {
  const Case untouched;
  for (keys::Key<Case>& key : rows) {
    std::string preset = key.get(untouched);
    out.push_back({std::move(key), std::move(preset), false});
  }
}

std::vector<keys::Key<Case>> keys_of_the_model() {
  return {
      Of::text("name", "Name of the case in results.", MEMBER(name)),
      Of::text("description", "One sentence; a row of the published matrix keeps its title here.", MEMBER(description)),

      Of::input("model.config", "Hugging Face config.json alone: synthetic weights from run.seed.",
                MEMBER(model.config), "--model"),
      Of::input("model.checkpoint", "Folder with config.json and safetensors or HDF5 shards.", MEMBER(model.checkpoint),
                "--checkpoint"),
      Of::text("model.family", "Family, for architectures that config.json does not name.", MEMBER(model.family)),
      Of::integer("model.layers", 0, kMany, "Keep the first layers only; 0 = all.", MEMBER(model.layers), "--layers"),
      Of::word("model.tied_lm_head", "Tied models given by config only: is lm_head.weight in the checkpoint?",
               MEMBER(model.tied_lm_head)),
      Of::texts("model.skip", "Globs of the checkpoint's tensors that neither side has, e.g. \"mtp.*\", \"visual.*\".",
                MEMBER(model.skip)),

      Of::integer("adapters.rank", 0, kMany, "Rank of synthetic LoRA pairs beside weights; 0 = no adapters.",
                  MEMBER(adapters.rank)),
      Of::number("adapters.alpha", 0, 1e9, "number", "lora_alpha: W counts as W + alpha / rank B A; 0 = rank.",
                 MEMBER(adapters.alpha)),
      Of::texts("adapters.targets", "Last words of adapted modules (target_modules), e.g. \"q_proj\"; none = all.",
                MEMBER(adapters.targets)),
      Of::input("adapters.checkpoint",
                "PEFT's folder with adapter_config.json and adapter_model.safetensors, instead of synthetic pairs.",
                MEMBER(adapters.checkpoint), "--adapters"),
      Of::word("adapters.send", "LoRA pairs go to engines beside their weights, or merged into them.",
               MEMBER(adapters.send)),
      Of::boolean("adapters.only",
                  "Only adapters are trained and refitted; engines load all else from the checkpoint, once.",
                  MEMBER(adapters.only)),

      Of::input("m2n.model", "NCCL M2N's list of tensors, instead of a model: dtypes and placements are its own.",
                MEMBER(m2n.model), "--m2n-model"),
      Of::input("m2n.system", "NCCL M2N's two meshes, instead of train.layout and gen.layout.", MEMBER(m2n.system),
                "--m2n-system"),
  };
}

std::vector<keys::Key<Case>> keys_of_the_run() {
  return {
      Of::word("refit.bulk", "Which tensors take the bulk path.", MEMBER(refit.bulk), "--bulk"),
      Of::word("refit.executor", "How the bulk path moves bytes.", MEMBER(refit.executor), "--executor"),
      Of::word("refit.fan_out", "direct: gen replicas forward to each other what they get.", MEMBER(refit.fan_out),
               "--fan-out"),
      Of::word("refit.mechanism",
               "direct on GPUs: what stores plain copies into another GPU; auto: copy engines where they are faster.",
               MEMBER(refit.mechanism), "--mechanism"),
      Of::word(
          "refit.commit",
          "When gen generates from what arrives: in_place = at once, so that it pauses for the whole refit; layers "
          "= the same, one layer after the other; stage = beside the weights in use, then it is proved and flipped.",
          MEMBER(refit.commit), "--commit"),
      Of::bytes(
          "refit.stage_bytes",
          "stage: most memory of a gen rank for the second place of its weights; layers without one move while gen "
          "pauses. -1 = room for all.",
          MEMBER(refit.stage_bytes), -1, std::int64_t{1} << 40),
      Of::word("refit.communicators", "golden, p2p, m2n: one communicator, or one per train PP stage.",
               MEMBER(refit.communicators)),
      Of::integer(
          "refit.streams", 1, transport::kMostStreams,
          "golden, p2p, m2n: stages in flight (p2p: parts of stages where there are fewer).", MEMBER(refit.streams), "",
          "kernels of different streams wait for each other, so each needs one of a GPU's 32 queues, on up to three "
          "communicators"),
      Of::integer("refit.group_size", 1, 65536, "p2p: sends and receives per group, at most; m2n: tensors.",
                  MEMBER(refit.group_size)),
      Of::bytes("refit.chunk_bytes", "p2p, m2n: size of one chunk of the ring.", MEMBER(refit.chunk_bytes)),
      Of::integer("refit.ring_chunks", 1, 1024, "p2p, m2n: chunks in flight.", MEMBER(refit.ring_chunks)),
      Of::bytes("refit.small_bytes",
                "p2p, m2n: messages of fewer bytes are packed with others between the same ranks; -1 = 1 MiB on GPUs, "
                "16 KiB on hosts.",
                MEMBER(refit.small_bytes), -1, std::int64_t{1} << 30),
      Of::word("refit.delta",
               "p2p: refits after the first one send what has changed, in the form that has the fewest bytes, or in "
               "one form where that has fewer than the weights themselves.",
               MEMBER(refit.delta), "--delta"),
      Of::bytes("refit.misc_buffer_bytes", "Size of each of the misc path's two buffers; at least 4 KiB.",
                MEMBER(refit.misc_buffer_bytes)),
      Of::boolean("refit.check_agreement", "Compare the plans of every pair of ranks before the first step.",
                  MEMBER(refit.check_agreement)),

      Of::word("run.device", "Where weights live.", MEMBER(run.device), "--device"),
      Of::integer("run.threads", 1, 4096, "cpu: threads of each rank that copy, quantise and verify.",
                  MEMBER(run.threads), "--threads", "each needs a core of its own"),
      Of::boolean("run.colocated",
                  "Rank r is train rank r and gen rank r, with both memories, and copies between them cost no wire; as "
                  "many ranks as the larger side has.",
                  MEMBER(run.colocated), "--colocated"),
      Of::integer("run.ranks_per_device", 0, 1024, "Checked where it is not 0.", MEMBER(run.ranks_per_device)),
      Of::integer("run.steps", 1, kMany, "Measured refits.", MEMBER(run.steps), "--steps"),
      Of::integer("run.warmup", 0, kMany, "Refits before the measured ones.", MEMBER(run.warmup), "--warmup"),
      Of::integer("run.seed", 0, std::numeric_limits<std::int64_t>::max(), "Of synthetic weights and of the KL proxy.",
                  MEMBER(run.seed)),
      Of::integer("run.weight_version", 0, std::numeric_limits<std::int64_t>::max() / 2,
                  "Version of the first refit's weights; each refit brings the next one.", MEMBER(run.weight_version)),
      update("run.update",
             "What happens to the train weights before each refit: low bits of all elements change, of none, or of a "
             "fraction of them, 0 to 1.",
             MEMBER(run.update)),
      Of::word("run.verify", "Which refits are verified.", MEMBER(run.verify)),
      Of::number("run.timeout_seconds", 0, 1e6, "seconds",
                 "Longest time of one refit; 0 = none, and no phase has a limit.", MEMBER(run.timeout_seconds),
                 "--timeout"),
      Of::number(
          "run.phase_seconds", 0, 1e6, "seconds",
          "What every phase outside refits (start, probing, loading, verifying, dumping, end, ...) has on top of "
          "run.timeout_seconds, beside time for its bytes.",
          MEMBER(run.phase_seconds)),
      Of::number("run.count_seconds", 0, 1e6, "seconds",
                 "Longest time of counting wrong elements; wrong tensors and ranks are named before.",
                 MEMBER(run.count_seconds)),
      Of::number(
          "run.probe_seconds", 0, 60, "seconds",
          "Measuring time of each rate of links and memory, before the refits and after them; 0 = three times each.",
          MEMBER(run.probe_seconds)),
      Of::texts("run.inject", "Faults to inject (refit list injections).", MEMBER(run.inject), "--inject"),
      Of::text(
          "run.drill",
          "What befalls engines between refits: \"kill engine 1 after refit 2; rejoin before refit 4\", also restart "
          "and join.",
          MEMBER(run.drill), "--drill"),
      Of::word("run.strict_upstream", "Refuse what that version refuses.", MEMBER(run.strict_upstream)),

      Of::output("output.json", "Result file.", MEMBER(output.json), "--json"),
      Of::output("output.csv", "One row per refit.", MEMBER(output.csv), "--csv"),
      Of::output("output.hdf5", "Samples, phases, byte matrix and per-tensor results.", MEMBER(output.hdf5), "--hdf5"),
      Of::output("output.junit", "One test case.", MEMBER(output.junit), "--junit"),
      Of::output("output.m2n_metrics", "weight_sync in the metrics schema of NCCL M2N's benchmarks.",
                 MEMBER(output.m2n_metrics), "--m2n-metrics"),
      Of::output(
          "output.trace",
          "What every rank did when in the last refit, as trace events: open it in chrome://tracing or Perfetto.",
          MEMBER(output.trace), "--trace"),
      Of::output("output.timeline", "The same as a picture (SVG).", MEMBER(output.timeline), "--timeline"),
      Of::output("output.dump_train", "Folder for the train weights of every rank after the last refit.",
                 MEMBER(output.dump_train), "--dump-train"),
      Of::output("output.dump_gen", "Folder for the gen weights of every rank after the last refit.",
                 MEMBER(output.dump_gen), "--dump-gen"),
      Of::boolean("output.force", "Replace existing files, which are taken away when the run starts.",
                  MEMBER(output.force), "--force"),

      Of::number("expect.kl_max", 0, 1e9, "nats", "Largest KL divergence that passes.", MEMBER(expect.kl_max)),
      Of::number("expect.bulk_fraction", 0, 1, "0..1", "Bulk bytes / payload, +- 0.0005.",
                 MEMBER(expect.bulk_fraction)),
      Of::word("expect.outcome", "How the run has to end.", MEMBER(expect.outcome)),
      Of::text("expect.message", "A part of the error's text.", MEMBER(expect.message)),
      Of::text("expect.note", "A part of one of the notes of a run that comes to its end.", MEMBER(expect.note)),
      Of::texts("expect.figures", "Bounds of figures of the result, e.g. \"memory.staging_bytes_max <= 1048576\".",
                MEMBER(expect.figures)),
      mismatches("expect.mismatch", "Tensors that must be wrong, and by how much; all others must be right.",
                 MEMBER(expect.mismatch)),

      Of::text("bug.id", "Number of the bug that this case replays; refit run --fixed runs it without.",
               MEMBER(bug.id)),
      Of::text("bug.title", "One line.", MEMBER(bug.title)),
      Of::text("bug.symptom", "As its reporter saw it.", MEMBER(bug.symptom)),
      Of::text("bug.cause", "What was wrong, and why so many elements are.", MEMBER(bug.cause)),
      Of::text("bug.reference", "Pull request, issue or commit.", MEMBER(bug.reference)),
      Of::word("bug.kind", "What it leads to.", MEMBER(bug.kind)),
  };
}

std::vector<Key> make_keys() {
  std::vector<Key> all;
  add(all, keys_of_the_model());
  add(all, {choice_of_side("train.trainer", "Whose layouts the train side has; its other keys follow.",
                           train::trainers(), MEMBER(train))});
  add_sides(all, train::trainers(), MEMBER(train));
  add(all, {choice_of_side("gen.engine", "Whose layouts the gen side has; its other keys follow.", gen::engines(),
                           MEMBER(gen.front()))});
  add_sides(all, gen::engines(), MEMBER(gen.front()));
  add(all, keys_of_the_run());
  return all;
}

#undef MEMBER

}  // namespace

std::string Key::set_for(Case& c, std::size_t engine, const keys::Value& value) const {
  Case alone;  // with this engine as its only one
  alone.gen.front() = c.gen[engine];
  const std::string wrong = set(alone, value);
  c.gen[engine] = alone.gen.front();
  return wrong;
}

std::string Key::get_of(const Case& c, std::size_t engine) const {
  Case alone;
  alone.gen.front() = c.gen[engine];
  return get(alone);
}

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

}  // namespace refit::cases
