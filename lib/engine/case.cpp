#include "engine/case.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <set>

#include "core/error.hpp"
#include "engine/figures.hpp"
#include "kernels/kernels.hpp"
#include "m2n/m2n.hpp"

namespace refit::engine {
namespace {

constexpr std::string_view kTiedLmHead[] = {"absent", "present"};
constexpr std::string_view kPrecision[] = {"bf16", "fp32", "fp8", "mxfp8"};
constexpr std::string_view kDataParallel[] = {"engines", "internal"};
constexpr std::string_view kMoeBackend[] = {"triton", "flashinfer_cutlass", "flashinfer_trtllm", "deep_gemm"};
constexpr std::string_view kKvCacheDtype[] = {"auto", "fp8"};
constexpr std::string_view kBulk[] = {"all", "whitelist", "blacklist", "ffn"};
constexpr std::string_view kCommunicators[] = {"single", "per-stage"};
constexpr std::string_view kFanOut[] = {"auto", "on", "off"};
constexpr std::string_view kDevice[] = {"cpu", "cuda"};
constexpr std::string_view kUpdate[] = {"perturb", "none"};
constexpr std::string_view kVerify[] = {"every", "last", "off"};
constexpr std::string_view kStrict[] = {"off", "seed", "merged"};
constexpr std::string_view kOutcome[] = {"pass", "mismatch", "error", "timeout"};
constexpr std::string_view kBugKind[] = {"mismatch", "hang", "memory", "assertion", "performance"};

constexpr std::int64_t kLeastMiscBuffer = 4096;

bool is_quantised(Precision precision) { return precision == Precision::fp8 || precision == Precision::mxfp8; }

/// Collects violations; each is put behind its key and the place where the key was given.
class Complaints {
 public:
  explicit Complaints(const Case& c) : case_(c) {}

  bool given(const std::string& key) const { return case_.given.contains(key); }

  void add(const std::string& key, const std::string& what) {
    const auto place = case_.given.find(key);
    const std::string where = place == case_.given.end() ? "" : place->second + ": ";
    texts_.push_back(fmt::format("{}{}: {}", where, key, what));
  }

  void require(bool condition, const std::string& key, const std::string& what) {
    if (!condition) add(key, what);
  }

  void meaningless(std::initializer_list<std::string> keys, const std::string& because) {
    for (const std::string& key : keys) {
      if (given(key)) add(key, fmt::format("means nothing {}; leave it out", because));
    }
  }

  const std::vector<std::string>& texts() const { return texts_; }

 private:
  const Case& case_;
  std::vector<std::string> texts_;
};

void check_model(const Case& c, Complaints& complaints) {
  const bool config = !c.model.config.empty();
  const bool checkpoint = !c.model.checkpoint.empty();
  complaints.require(config || checkpoint, "model.config",
                     "a model is required: model.config (--model) or model.checkpoint (--checkpoint)");
  complaints.require(!config || !checkpoint, "model.config", "give either this or model.checkpoint, not both");
  if (!checkpoint) complaints.meaningless({"model.skip"}, "without model.checkpoint, whose tensors it leaves out");
  if (checkpoint) complaints.meaningless({"model.tied_lm_head"}, "with model.checkpoint, which shows it itself");
}

/// The files say all that these keys do.
void check_m2n(const Case& c, Complaints& complaints) {
  for (const auto& [key, path] : {std::pair{"m2n.model", c.m2n.model}, {"m2n.system", c.m2n.system}})
    complaints.require(!path.empty(), key, "needs the other of m2n.model (--m2n-model) and m2n.system (--m2n-system)");
  for (const auto& [key, place] : c.given) {
    const bool said = key.starts_with("train.") || key.starts_with("gen.") ||
                      (key.starts_with("model.") && key != "model.layers") || key == "refit.bulk" ||
                      key == "run.strict_upstream";
    if (said) complaints.add(key, "means nothing with m2n.model and m2n.system; leave it out");
  }
}

void check_train(const Case& c, Complaints& complaints) {
  const Parallelism& p = c.train.layout;
  const auto& stages = c.train.stage_layers;
  if (!stages.empty()) {
    complaints.require(c.train.first_stage_layers == 0 && c.train.last_stage_layers == 0, "train.stage_layers",
                       "gives every stage; leave out first_stage_layers and last_stage_layers");
  }
  if (!c.train.hybrid_layer_pattern.empty()) {
    complaints.require(stages.empty() && c.train.first_stage_layers == 0 && c.train.last_stage_layers == 0,
                       "train.hybrid_layer_pattern",
                       "gives every stage; leave out stage_layers, first_stage_layers and last_stage_layers");
  }
  if (p.pp == 1) complaints.meaningless({"train.first_stage_layers", "train.last_stage_layers"}, "without PP");
}

void check_quantiser(const Case& c, Complaints& complaints) {
  const bool mx = c.gen.precision == Precision::mxfp8;
  const auto given = parse_quantiser(c.gen.quantiser);
  if (given && is_mx(*given) == mx) return;
  const char* problem = given ? "is not one of" : "is unknown; use one of";
  complaints.add("gen.quantiser", fmt::format("\"{}\" {} those for gen.precision = \"{}\": {}", c.gen.quantiser,
                                              problem, name(c.gen.precision), fmt::join(quantiser_names(mx), ", ")));
}

void check_gen(const Case& c, Complaints& complaints) {
  const Parallelism& p = c.gen.layout;
  complaints.require(
      p.pp == 1 && p.cp == 1 && p.etp == 1, "gen.layout",
      fmt::format("{}: vLLM gen PP must be 1, and so must CP and ETP; use TP, DP and EP [V19]", to_string(p)));
  if (is_quantised(c.gen.precision) && c.gen.kv_cache_dtype == KvCacheDtype::automatic) {
    complaints.meaningless({"gen.kv_scales"}, "with gen.kv_cache_dtype = \"auto\"");
  }
  if (!is_quantised(c.gen.precision)) {
    complaints.meaningless({"gen.quantiser", "gen.kv_cache_dtype", "gen.kv_scales"},
                           fmt::format("with gen.precision = \"{}\"", name(c.gen.precision)));
  } else if (is_quantised(c.train.precision)) {
    complaints.meaningless({"gen.quantiser"}, fmt::format("with train.precision = \"{}\": what is quantised already is "
                                                          "copied",
                                                          name(c.train.precision)));
  } else if (!c.gen.quantiser.empty()) {
    check_quantiser(c, complaints);
  }
}

/// In their words a quantised train side has fp8_param, and gen's mxfp8 is fp8 with is_mx, of which the original knew
/// nothing.
template <typename Require>
void check_upstream_fp8(const Case& c, const Require& require) {
  const bool seed = c.run.strict_upstream == Strict::seed;
  const bool fp8_param = is_quantised(c.train.precision);
  const bool fp8 = is_quantised(c.gen.precision);
  const bool mx = c.gen.precision == Precision::mxfp8;
  require(c.gen.precision != Precision::fp32, "gen.precision", "fp32 is none of bf16 and fp8 [V12]");
  require(seed || !fp8_param || !mx, "gen.precision",
          "train weights in FP8 cannot feed mxfp8; legal: train.precision = bf16, or fp8 on both sides [V13]");
  require(!fp8 || c.train.precision != Precision::mxfp8, "train.precision",
          "the FP8 recipe must be blockwise, not mxfp8; legal: fp8 [V14]");
  require(seed || fp8_param || !mx || c.train.precision == Precision::bf16, "train.precision",
          fmt::format("mxfp8 is made of bf16, not of {}; legal: bf16 [V15]", name(c.train.precision)));
  require(!fp8 || fp8_param || (mx && !seed), "gen.precision",
          fmt::format("{} needs train weights in FP8; legal: train.precision = fp8 [V16]", name(c.gen.precision)));
  require(!fp8_param || fp8, "train.precision",
          fmt::format("{} weights have no {} consumer; legal: gen.precision = fp8 [V17]", name(c.train.precision),
                      name(c.gen.precision)));
}

/// What the original and the merged version refuse of a case, whatever its model.
void check_upstream(const Case& c, Complaints& complaints) {
  if (c.run.strict_upstream == Strict::off) return;
  const bool seed = c.run.strict_upstream == Strict::seed;
  const auto require = [&](bool legal, const char* key, const std::string& what) {
    complaints.require(legal, key, fmt::format("strict_upstream = {}: {}", name(c.run.strict_upstream), what));
  };
  const std::int64_t etp = c.train.layout.etp;
  const std::int64_t ep = c.gen.layout.ep;
  const std::int64_t tp = c.gen.layout.tp;
  require(etp == 1, "train.layout", fmt::format("ETP{} is not supported; legal: ETP1 [V7]", etp));
  require(c.train.stage_layers.empty(), "train.stage_layers",
          "a pipeline layout is not supported; legal: first_stage_layers and last_stage_layers [V8]");
  require(c.train.hybrid_layer_pattern.empty(), "train.hybrid_layer_pattern",
          "its bars are not read; legal: first_stage_layers and last_stage_layers [V8]");
  check_upstream_fp8(c, require);
  require(is_quantised(c.gen.precision) || is_quantised(c.train.precision) || c.train.precision == c.gen.precision,
          "train.precision",
          fmt::format("{} bytes cannot be copied into {}; legal: equal precisions [L11]", name(c.train.precision),
                      name(c.gen.precision)));
  require(ep == 1 || (!seed && ep == tp), "gen.layout",
          seed ? fmt::format("EP{} must be 1 [V18]", ep) : fmt::format("EP{} must be 1 or TP, {} [V18]", ep, tp));
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
  if (c.run.device == Device::cpu) complaints.meaningless({"run.ranks_per_device"}, "with run.device = \"cpu\"");
  if (c.run.timeout_seconds <= 0) complaints.meaningless({"run.phase_seconds"}, "with run.timeout_seconds = 0");
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
    const std::string problem = figure_problem(figure);
    complaints.require(problem.empty(), "expect.figures", problem);
  }
}

/// A catalogue's entry is whole or absent.
void check_bug(const Case& c, Complaints& complaints) {
  const auto given = [](const auto& key) { return key.first.starts_with("bug."); };
  if (std::none_of(c.given.begin(), c.given.end(), given)) return;
  for (const char* key : {"bug.id", "bug.title", "bug.symptom", "bug.cause", "bug.reference", "bug.kind"}) {
    complaints.require(complaints.given(key), key,
                       fmt::format("is missing{}; [bug] needs all its keys", c.file.empty() ? "" : " in " + c.file));
  }
}

/// The file that a path leads to, by whatever links; it need not exist.
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
                                  {"output.m2n_metrics", o.m2n_metrics}}) {
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
  for (const auto& [what, input] : {std::pair<const char*, std::string>{"the case", c.file},
                                    {"the file of model.config", c.model.config},
                                    {"the file of gen.kv_scales", c.gen.kv_scales},
                                    {"the file of m2n.model", c.m2n.model},
                                    {"the file of m2n.system", c.m2n.system}}) {
    if (!input.empty() && file == real_path(input)) return what;
  }
  const std::string name = file.filename().string();
  const bool looks_so = name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".h5") ||
                        name.ends_with(".safetensors.index.json");
  std::error_code error;
  const bool is_there = looks_so && !c.model.checkpoint.empty() && std::filesystem::exists(file, error);
  return is_there && file.parent_path() == real_path(c.model.checkpoint) ? "a file of model.checkpoint" : "";
}

Choices choices(TiedLmHead) { return kTiedLmHead; }
Choices choices(Precision) { return kPrecision; }
Choices choices(DataParallel) { return kDataParallel; }
Choices choices(MoeBackend) { return kMoeBackend; }
Choices choices(KvCacheDtype) { return kKvCacheDtype; }
Choices choices(Bulk) { return kBulk; }
Choices choices(ExecutorKind) {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> all;
    for (const transport::ExecutorRow& row : transport::executors()) all.push_back(row.name);
    return all;
  }();
  return names;
}
Choices choices(Communicators) { return kCommunicators; }
Choices choices(FanOut) { return kFanOut; }
Choices choices(Device) { return kDevice; }
Choices choices(Update) { return kUpdate; }
Choices choices(Verify) { return kVerify; }
Choices choices(Strict) { return kStrict; }
Choices choices(ExpectedOutcome) { return kOutcome; }
Choices choices(BugKind) { return kBugKind; }

void complete(Case& c) {
  if (!c.m2n.system.empty()) {
    const m2n::System system = m2n::read_system(c.m2n.system);
    c.train.layout = system.train.parallelism();
    c.gen.layout = system.gen.parallelism();
  }
  c.train.layout = layout::with_data_parallel(c.train.layout);
  if (c.gen.layout.dp == 0) c.gen.layout.dp = 1;
}

std::vector<std::string> violations(const Case& c) {
  Complaints complaints(c);
  if (c.m2n.given()) {
    check_m2n(c, complaints);
  } else {
    check_model(c, complaints);
    check_train(c, complaints);
    check_gen(c, complaints);
  }
  check_upstream(c, complaints);
  check_refit(c, complaints);
  check_expect(c, complaints);
  check_bug(c, complaints);
  check_output(c, complaints);
  return complaints.texts();
}

model::WeightFormat weight_format_of(Precision precision) {
  if (precision == Precision::fp8) return model::WeightFormat::fp8_block;
  return precision == Precision::mxfp8 ? model::WeightFormat::mxfp8 : model::WeightFormat::unquantised;
}

std::optional<Quantiser> quantiser_of(const Case& c) {
  if (is_quantised(c.train.precision) || !is_quantised(c.gen.precision)) return std::nullopt;
  if (!c.gen.quantiser.empty()) return parse_quantiser(c.gen.quantiser);
  return c.gen.precision == Precision::mxfp8 ? Quantiser::mxfp8 : Quantiser::nemo_rl;
}

void require_supported(const Case& c) {
  Complaints complaints(c);
  complaints.require(!is_quantised(c.train.precision) || c.gen.precision == c.train.precision, "train.precision",
                     fmt::format("{0} weights are copied as they are: {0} -> {1} is not possible; set gen.precision = "
                                 "{0}, or train.precision = bf16{2}",
                                 name(c.train.precision), name(c.gen.precision),
                                 c.model.checkpoint.empty() ? "" : " where the checkpoint is not quantised"));
  if (!complaints.texts().empty()) fail_usage("{}", fmt::join(complaints.texts(), "; "));

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
  how.per_stage = c.refit.communicators == Communicators::per_stage;
  how.fan_out = c.refit.fan_out;
  how.misc_buffer_bytes = c.refit.misc_buffer_bytes;
  how.check_agreement = c.refit.check_agreement;
  how.byte_matrix = !c.output.hdf5.empty();
  return how;
}

void validate_for_model(const Case& c, bool moe) {
  if (moe) return;
  Complaints complaints(c);
  complaints.meaningless({"gen.moe_backend"}, "for a model without experts");
  if (!complaints.texts().empty()) fail_usage("{}", fmt::join(complaints.texts(), "; "));
}

}  // namespace refit::engine
