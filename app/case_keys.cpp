#include "app/case_keys.hpp"

#include <limits>

#include "app/case_rows.hpp"

namespace refit::app {
namespace {

using engine::Case;

#define MEMBER(path) \
  [](Case & c) -> auto& { return c.path; }

std::vector<Key> make_keys() {
  using namespace rows;
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
      texts("model.skip", "Globs of the checkpoint's tensors that neither side has, e.g. \"mtp.*\", \"visual.*\".",
            MEMBER(model.skip)),

      input("m2n.model", "NCCL M2N's list of tensors, instead of a model: dtypes and placements are its own.",
            MEMBER(m2n.model), "--m2n-model"),
      input("m2n.system", "NCCL M2N's two meshes, instead of train.layout and gen.layout.", MEMBER(m2n.system),
            "--m2n-system"),

      parallelism("train.layout", "TP, CP, EP, ETP, DP, PP of the train side; required.", MEMBER(train.layout),
                  "--train"),
      integer("train.first_stage_layers", 0, kMany, "Layers of the first PP stage; 0 = even split.",
              MEMBER(train.first_stage_layers)),
      integer("train.last_stage_layers", 0, kMany, "Layers of the last PP stage; 0 = even split.",
              MEMBER(train.last_stage_layers)),
      integers("train.stage_layers", "Layers of every PP stage.", MEMBER(train.stage_layers)),
      text("train.hybrid_layer_pattern", "Nemotron-H: a letter per layer (M * E -), | where a PP stage ends.",
           MEMBER(train.hybrid_layer_pattern)),
      integer("train.make_vocab_size_divisible_by", 0, kMany,
              "The vocabulary is padded to a multiple of this times TP; 0 = not padded.",
              MEMBER(train.make_vocab_size_divisible_by)),
      word("train.precision", "Dtype of the train weights; fp8 (blocks of 128 x 128) and mxfp8 of linear layers'.",
           MEMBER(train.precision)),

      parallelism("gen.layout", "TP, DP, EP of the gen side; required.", MEMBER(gen.layout), "--gen"),
      word("gen.data_parallel", "DP replicas are separate engines, or vLLM's own DP (experts split over DP x TP).",
           MEMBER(gen.data_parallel)),
      boolean("gen.mtp", "The MTP drafter instead of the main model.", MEMBER(gen.mtp)),
      word("gen.precision", "Dtype of the gen weights; as above.", MEMBER(gen.precision)),
      text("gen.quantiser",
           "Whose bits, when gen alone is fp8 (nemo_rl, nemo_rl_pow2, te, te_pow2, vllm, vllm_ue8m0) or mxfp8 (mxfp8, "
           "mxfp8_nemo_rl); the first is the default.",
           MEMBER(gen.quantiser)),
      word("gen.moe_backend", "How the engine keeps expert weights.", MEMBER(gen.moe_backend)),
      word("gen.kv_cache_dtype", "Dtype of the KV cache; fp8 has scales, which refits bring too.",
           MEMBER(gen.kv_cache_dtype)),
      input("gen.kv_scales", "Calibration of the FP8 KV cache: JSON, a number for each scale.", MEMBER(gen.kv_scales)),

      word("refit.bulk", "Which tensors take the bulk path.", MEMBER(refit.bulk), "--bulk"),
      word("refit.executor", "How the bulk path moves bytes.", MEMBER(refit.executor), "--executor"),
      word("refit.fan_out", "direct: gen replicas forward to each other what they get.", MEMBER(refit.fan_out),
           "--fan-out"),
      word("refit.communicators", "golden, p2p, m2n: one communicator, or one per train PP stage.",
           MEMBER(refit.communicators)),
      integer(
          "refit.streams", 1, 8, "golden, p2p, m2n: stages in flight (p2p: parts of stages where there are fewer).",
          MEMBER(refit.streams), "",
          "kernels of different streams wait for each other, so each needs one of a GPU's 32 queues, on up to three "
          "communicators"),
      integer("refit.group_size", 1, 65536, "p2p: sends and receives per group, at most; m2n: tensors.",
              MEMBER(refit.group_size)),
      bytes("refit.chunk_bytes", "p2p, m2n: size of one chunk of the ring.", MEMBER(refit.chunk_bytes)),
      integer("refit.ring_chunks", 1, 1024, "p2p, m2n: chunks in flight.", MEMBER(refit.ring_chunks)),
      bytes("refit.misc_buffer_bytes", "Size of each of the misc path's two buffers; at least 4 KiB.",
            MEMBER(refit.misc_buffer_bytes)),
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
      number("run.timeout_seconds", 0, 1e6, "seconds", "Longest time of one refit; 0 = none, and no phase has a limit.",
             MEMBER(run.timeout_seconds), "--timeout"),
      number("run.phase_seconds", 0, 1e6, "seconds",
             "What every phase outside refits (start, probing, loading, verifying, dumping, end, ...) has on top of "
             "run.timeout_seconds, beside time for its bytes.",
             MEMBER(run.phase_seconds)),
      number("run.count_seconds", 0, 1e6, "seconds",
             "Longest time of counting wrong elements; wrong tensors and ranks are named before.",
             MEMBER(run.count_seconds)),
      texts("run.inject", "Faults to inject (refit list injections).", MEMBER(run.inject), "--inject"),
      word("run.strict_upstream", "Refuse what that version refuses.", MEMBER(run.strict_upstream)),

      output("output.json", "Result file.", MEMBER(output.json), "--json"),
      output("output.csv", "One row per refit.", MEMBER(output.csv), "--csv"),
      output("output.hdf5", "Samples, phases, byte matrix and per-tensor results.", MEMBER(output.hdf5), "--hdf5"),
      output("output.junit", "One test case.", MEMBER(output.junit), "--junit"),
      output("output.m2n_metrics", "weight_sync in the metrics schema of NCCL M2N's benchmarks.",
             MEMBER(output.m2n_metrics), "--m2n-metrics"),
      output("output.dump_train", "Folder for the train weights of every rank after the last refit.",
             MEMBER(output.dump_train), "--dump-train"),
      output("output.dump_gen", "Folder for the gen weights of every rank after the last refit.",
             MEMBER(output.dump_gen), "--dump-gen"),
      boolean("output.force", "Replace existing files, which are taken away when the run starts.", MEMBER(output.force),
              "--force"),

      number("expect.kl_max", 0, 1e9, "nats", "Largest KL divergence that passes.", MEMBER(expect.kl_max)),
      number("expect.bulk_fraction", 0, 1, "0..1", "Bulk bytes / payload, +- 0.0005.", MEMBER(expect.bulk_fraction)),
      word("expect.outcome", "How the run has to end.", MEMBER(expect.outcome)),
      text("expect.message", "A part of the error's text.", MEMBER(expect.message)),
      text("expect.note", "A part of one of the notes of a run that comes to its end.", MEMBER(expect.note)),
      texts("expect.figures", "Bounds of figures of the result, e.g. \"memory.staging_bytes_max <= 1048576\".",
            MEMBER(expect.figures)),
      mismatches("expect.mismatch", "Tensors that must be wrong, and by how much; all others must be right.",
                 MEMBER(expect.mismatch)),

      text("bug.id", "Number of the bug that this case replays; refit run --fixed runs it without.", MEMBER(bug.id)),
      text("bug.title", "One line.", MEMBER(bug.title)),
      text("bug.symptom", "As its reporter saw it.", MEMBER(bug.symptom)),
      text("bug.cause", "What was wrong, and why so many elements are.", MEMBER(bug.cause)),
      text("bug.reference", "Pull request, issue or commit.", MEMBER(bug.reference)),
      word("bug.kind", "What it leads to.", MEMBER(bug.kind)),
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
