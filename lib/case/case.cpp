#include "case/case.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <set>

#include "case/upstream/upstream.hpp"
#include "core/error.hpp"
#include "kernels/kernels.hpp"
#include "m2n/m2n.hpp"
#include "report/figures.hpp"
#include "report/files.hpp"

namespace refit::cases {
namespace {

constexpr std::string_view kTiedLmHead[] = {"absent", "present"};
constexpr std::string_view kCommunicators[] = {"single", "per-stage"};
constexpr std::string_view kDevice[] = {"cpu", "cuda"};
constexpr std::string_view kSparse = "sparse:";
constexpr std::string_view kVerify[] = {"every", "last", "off"};
constexpr std::string_view kStrict[] = {"off", "seed", "merged"};
constexpr std::string_view kOutcome[] = {"pass", "mismatch", "error", "timeout"};
constexpr std::string_view kBugKind[] = {"mismatch", "hang", "memory", "assertion", "performance"};

constexpr std::int64_t kLeastMiscBuffer = 4096;

/// Refuses keys that mean nothing beside a list of tensors.
void check_list(const Case& c, Complaints& complaints) {
  for (const auto& [key, path] : {std::pair{"m2n.model", c.m2n.model}, {"m2n.system", c.m2n.system}})
    complaints.require(!path.empty(), key, "needs the other of m2n.model (--m2n-model) and m2n.system (--m2n-system)");
  for (const auto& [key, place] : c.given) {
    if ((key.starts_with("model.") && key != "model.layers") || key == "refit.bulk")
      complaints.meaningless({key}, "with m2n.model and m2n.system");
  }
}

void check_model(const Case& c, Complaints& complaints) {
  if (c.m2n.given()) return check_list(c, complaints);
  const bool config = !c.model.config.empty();
  const bool checkpoint = !c.model.checkpoint.empty();
  complaints.require(config || checkpoint, "model.config",
                     "a model is required: model.config (--model) or model.checkpoint (--checkpoint)");
  complaints.require(!config || !checkpoint, "model.config", "give either this or model.checkpoint, not both");
  if (!checkpoint) complaints.meaningless({"model.skip"}, "without model.checkpoint, whose tensors it leaves out");
  if (checkpoint) complaints.meaningless({"model.tied_lm_head"}, "with model.checkpoint, which shows it itself");
}

void check_adapters(const Case& c, Complaints& complaints) {
  const AdapterSection& a = c.adapters;
  if (!a.given()) {
    return complaints.meaningless({"adapters.alpha", "adapters.targets", "adapters.send", "adapters.only"},
                                  "without adapters.rank or adapters.checkpoint");
  }
  const char* key = a.checkpoint.empty() ? "adapters.rank" : "adapters.checkpoint";
  complaints.require(!c.m2n.given(), key, "means nothing with m2n.model and m2n.system; leave it out");
  if (!a.checkpoint.empty()) {
    complaints.meaningless({"adapters.rank", "adapters.alpha", "adapters.targets"},
                           "with adapters.checkpoint, whose adapter_config.json says it");
  }
  if (c.m2n.given()) return;
  complaints.require(c.train->keeps_adapters(), key,
                     fmt::format("{} has no rule for LoRA pairs", c.train->row().chosen_by));
  for (const layout::Side& engine : c.gen) {
    complaints.require(a.send == model::SendAdapters::merged || engine->keeps_adapters(), "adapters.send",
                       fmt::format("apart: {} has no rule for LoRA pairs here; use adapters.send = \"merged\"",
                                   engine->row().chosen_by));
  }
  complaints.require(!a.only || !quantiser_of(c), "adapters.only",
                     "needs engines with the precision of the checkpoint: weights that are quantised on the way are "
                     "train's; use gen.precision = train.precision");
}

void check_refit(const Case& c, Complaints& complaints) {
  const auto& mine = transport::row_of(c.refit.executor);
  const std::string because = fmt::format("with refit.executor = \"{}\"", mine.name);
  std::set<std::string_view> meaningless;
  for (const transport::ExecutorRow& row : transport::executors())
    meaningless.insert(row.options.begin(), row.options.end());
  for (const std::string_view option : mine.options) meaningless.erase(option);
  for (const std::string_view option : meaningless) complaints.meaningless({fmt::format("refit.{}", option)}, because);
  complaints.require(
      c.refit.misc_buffer_bytes >= kLeastMiscBuffer, "refit.misc_buffer_bytes",
      fmt::format("{} is less than {}: each buffer has a plan and a broadcast of its own, so that smaller "
                  "ones take longer to plan than to send; use 4KiB or more",
                  c.refit.misc_buffer_bytes, kLeastMiscBuffer));
  complaints.require(
      c.gen.size() == 1 || c.refit.executor != ExecutorKind::m2n, "refit.executor",
      fmt::format("m2n: its operation has one gen mesh, and there are {} engines; use p2p or direct", c.gen.size()));
  if (c.run.device == Device::cpu)
    complaints.meaningless({"run.ranks_per_device", "refit.mechanism"}, "with run.device = \"cpu\"");
  if (c.run.device == Device::cuda) complaints.meaningless({"run.threads"}, "with run.device = \"cuda\"");
  complaints.require(
      !c.run.colocated || c.gen.size() == 1, "run.colocated",
      fmt::format("one engine can share train's ranks, and there are {}; use run.colocated = false", c.gen.size()));
  complaints.require(
      !c.run.colocated || c.refit.executor != ExecutorKind::m2n, "run.colocated",
      "executor m2n needs train and gen ranks that are apart: its meshes may not share ranks; use golden, "
      "p2p or direct");
  complaints.require(
      c.refit.commit != Commit::layers || mine.has_parts, "refit.commit",
      fmt::format("\"layers\" with executor {} would take its staging memory once for each layer; use direct or p2p",
                  mine.name));
  if (c.refit.commit != Commit::stage)
    complaints.meaningless({"refit.stage_bytes"}, fmt::format("with refit.commit = \"{}\"", name(c.refit.commit)));
  if (c.run.timeout_seconds <= 0) complaints.meaningless({"run.phase_seconds"}, "with run.timeout_seconds = 0");
}

/// The one injected bug that is about drills; the others are about ranks of one session.
constexpr std::string_view kDrilledBug = "B62-stale-engine";

void check_drill(const Case& c, Complaints& complaints) {
  if (c.run.drill.empty()) return;
  for (const std::string& wrong : read_drill(c.run.drill, c.gen.size(), c.run.refits()).wrong)
    complaints.add("run.drill", wrong);
  complaints.require(!c.run.colocated, "run.drill",
                     "needs train and gen ranks that are apart (run.colocated = false): a process that dies takes both "
                     "sides of its rank along");
  complaints.require(c.refit.commit != Commit::stage, "run.drill",
                     "refit.commit = \"stage\" is not drilled: engines are refitted in place, or layer by layer");
  complaints.require(!c.adapters.given(), "run.drill", "adapters are not drilled; leave the section out");
  complaints.require(c.refit.executor != ExecutorKind::m2n, "run.drill",
                     "executor m2n: its library keeps one operation for the whole run; use golden, p2p or direct");
  for (const std::string& name : c.run.inject)
    complaints.require(name == kDrilledBug, "run.drill",
                       fmt::format("goes with no injected bug but {}, and {} is injected", kDrilledBug, name));
}

void check_expect(const Case& c, Complaints& complaints) {
  const ExpectedOutcome outcome = c.expect.outcome;
  const bool verified = c.run.verify != Verify::off;
  complaints.require(verified || !c.expect.kl_max, "expect.kl_max", "needs run.verify");
  complaints.require(verified || outcome != ExpectedOutcome::mismatch, "expect.outcome",
                     "\"mismatch\" is never found with run.verify = \"off\"");
  complaints.require(c.expect.mismatch.empty() || outcome == ExpectedOutcome::mismatch, "expect.mismatch",
                     "needs expect.outcome = \"mismatch\"");
  complaints.require(
      c.expect.message.empty() || outcome == ExpectedOutcome::error || outcome == ExpectedOutcome::timeout,
      "expect.message", "needs expect.outcome = \"error\" or \"timeout\"");
  const bool ends = outcome == ExpectedOutcome::pass || outcome == ExpectedOutcome::mismatch;
  const char* needs_end = "needs expect.outcome = \"pass\" or \"mismatch\"";
  complaints.require(ends || c.expect.note.empty(), "expect.note", needs_end);
  complaints.require(ends || c.expect.figures.empty(), "expect.figures", needs_end);
  for (const std::string& figure : c.expect.figures) {
    const std::string problem = report::figure_problem(figure);
    complaints.require(problem.empty(), "expect.figures", problem);
  }
}

/// Requires that a bug's entry in the catalogue is whole or absent.
void check_bug(const Case& c, Complaints& complaints) {
  const auto given = [](const auto& key) { return key.first.starts_with("bug."); };
  if (std::none_of(c.given.begin(), c.given.end(), given)) return;
  for (const char* key : {"bug.id", "bug.title", "bug.symptom", "bug.cause", "bug.reference", "bug.kind"}) {
    complaints.require(complaints.given(key), key,
                       fmt::format("is missing{}; [bug] needs all its keys", c.file.empty() ? "" : " in " + c.file));
  }
}

/// Returns the file that a path leads to, through any links; it need not exist.
std::filesystem::path real_path(const std::string& path) {
  std::error_code error;
  const std::filesystem::path found = std::filesystem::weakly_canonical(path, error);
  return error ? std::filesystem::path(path).lexically_normal() : found;
}

void check_output(const Case& c, Complaints& complaints) {
  const OutputSection& o = c.output;
  std::map<std::string, std::string> owner;
  for (const auto& [key, path] : {std::pair{"output.json", o.json},
                                  {"output.csv", o.csv},
                                  {"output.hdf5", o.hdf5},
                                  {"output.junit", o.junit},
                                  {"output.m2n_metrics", o.m2n_metrics},
                                  {"output.trace", o.trace},
                                  {"output.timeline", o.timeline}}) {
    if (path.empty()) continue;
    const std::string input = input_of(c, path);
    complaints.require(input.empty(), key, fmt::format("\"{}\" is {}, which is read", path, input));
    const auto [other, fresh] = owner.emplace(path, key);
    complaints.require(fresh, key, fmt::format("\"{}\" is also the file of {}", path, other->second));
  }
}

}  // namespace

std::string input_of(const Case& c, const std::string& path) {
  if (path.empty()) return {};
  const std::filesystem::path file = real_path(path);
  std::vector<std::pair<std::string, std::string>> inputs = {{"the case", c.file},
                                                             {"the file of model.config", c.model.config},
                                                             {"the file of m2n.model", c.m2n.model},
                                                             {"the file of m2n.system", c.m2n.system}};
  if (!c.adapters.checkpoint.empty()) {
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
      inputs.emplace_back("a file of adapters.checkpoint", c.adapters.checkpoint + "/" + name);
  }
  const auto add_inputs = [&](const layout::SideSpec& side) {
    for (const auto& [key, input] : side.inputs()) inputs.emplace_back("the file of " + key, input);
  };
  add_inputs(*c.train);
  for (const layout::Side& engine : c.gen) add_inputs(*engine);
  for (const auto& [what, input] : inputs) {
    if (!input.empty() && file == real_path(input)) return what;
  }
  const bool is_weights = !c.model.checkpoint.empty() && report::is_file_of_weights(path, c.model.checkpoint);
  return is_weights ? "a file of model.checkpoint" : "";
}

Choices choices(TiedLmHead) { return kTiedLmHead; }
Choices choices(Communicators) { return kCommunicators; }
Choices choices(Device) { return kDevice; }
Choices choices(Verify) { return kVerify; }
Choices choices(Strict) { return kStrict; }
Choices choices(ExpectedOutcome) { return kOutcome; }
Choices choices(BugKind) { return kBugKind; }

std::string to_string(const Update& update) {
  if (update.kind == Update::Kind::sparse) return fmt::format("{}{}", kSparse, update.fraction);
  return update.kind == Update::Kind::none ? "none" : "perturb";
}

std::optional<Update> parse_update(std::string_view text) {
  if (text == "perturb") return Update();
  if (text == "none") return Update{Update::Kind::none, 0};
  if (!text.starts_with(kSparse)) return std::nullopt;
  const std::string_view number = text.substr(kSparse.size());
  Update update{Update::Kind::sparse, 0};
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), update.fraction);
  const bool is_number = error == std::errc() && end == number.data() + number.size();
  if (!is_number || std::signbit(update.fraction) || !(update.fraction <= 1)) return std::nullopt;
  return update;
}

WorldMap Case::world() const { return Sides::world(run.colocated); }

Drill Case::drill() const { return read_drill(run.drill, gen.size(), run.refits()).drill; }

const std::string& Case::source() const {
  if (m2n.given()) return m2n.model;
  return model.checkpoint.empty() ? model.config : model.checkpoint;
}

void choose_sides(Case& c) {
  if (!c.m2n.given()) return;
  c.train = m2n::listed_train(c.m2n.system);
  c.gen = {m2n::listed_gen(c.m2n.system)};
}

std::vector<std::string> violations(const Case& c) {
  Complaints complaints(c.given);
  check_model(c, complaints);
  pair::check_sides(c, complaints);
  check_upstream(c, complaints);
  check_adapters(c, complaints);
  check_refit(c, complaints);
  check_drill(c, complaints);
  check_expect(c, complaints);
  check_bug(c, complaints);
  check_output(c, complaints);
  return complaints.texts();
}

void require_supported(const Case& c) {
  pair::require_precisions(c, c.model.checkpoint.empty() ? "" : " where the checkpoint is not quantised");
  const bool has_device = kernels::Runtime::has_device();
  if (c.run.device == Device::cuda && !has_device) fail_unavailable("run.device: this build has no CUDA; use cpu");
  if (c.run.device == Device::cpu && has_device)
    fail_unavailable(
        "run.device: the kernels of this build run on GPUs; use --device cuda, or a build with preset cpu");
}

void require_executor(const Case& c) {
  const std::string_view missing = transport::row_of(c.refit.executor).missing();
  if (!missing.empty()) fail_unavailable("refit.executor: {}", missing);
}

session::How how_of(const Case& c) {
  session::How how;
  how.executor = c.refit.executor;
  how.tuning.streams = c.refit.streams;
  how.tuning.group_size = c.refit.group_size;
  how.tuning.chunk_bytes = c.refit.chunk_bytes;
  how.tuning.ring_chunks = c.refit.ring_chunks;
  if (c.refit.small_bytes >= 0) how.tuning.small_bytes = c.refit.small_bytes;
  how.tuning.delta = c.refit.delta;
  how.per_stage = c.refit.communicators == Communicators::per_stage;
  how.fan_out = c.refit.fan_out;
  how.mechanism = c.refit.mechanism;
  how.commit = c.refit.commit;
  how.misc_buffer_bytes = c.refit.misc_buffer_bytes;
  how.check_agreement = c.refit.check_agreement;
  how.byte_matrix = !c.output.hdf5.empty();
  how.probe_seconds = c.run.probe_seconds;
  return how;
}

}  // namespace refit::cases
