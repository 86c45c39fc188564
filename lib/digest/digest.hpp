#pragma once
// What every gen rank must hold after a refit of a checkpoint, as a digest for each parameter: from the checkpoint and
// the engines' layout alone, in one process, without an engine and without a rank's weights in memory. What an engine
// or a dump says of itself is compared with it, so that nobody has to trust another engine.
//
// Example: rank 1 of TP2 must have an model.layers.0.mlp.gate_up_proj.weight whose SHA-256 is 5f0c..., whoever wrote
// it.

#include <cstdint>
#include <string>
#include <vector>

#include "case/case.hpp"
#include "digest/contents.hpp"
#include "digest/forms.hpp"

namespace refit::digest {

/// What is to be digested, and what compared with it.
struct Request {
  cases::Case c;  ///< complete; without a checkpoint its weights are synthetic, as those of a run
  Forms forms = Forms::all();
  std::int64_t chunk_bytes = std::int64_t{64} << 20;  ///< of a parameter, at most so many are in memory
  std::string dump;                                   ///< folder with dumps of gen ranks to be checked; empty: none
  std::string answer;  ///< file with what an engine's weight checker answered; empty: none
};

struct Row {
  Parameter parameter;
  Digests digests;
};

struct RankDigests {
  std::int32_t rank = 0;    ///< of gen
  std::int32_t engine = 0;  ///< of gen's engines
  std::string coordinates;
  std::string vllm_prefix;  ///< of the names in vLLM's answers: "dp0:pp0:pcp0:tp1:"
  std::vector<Row> rows;

  std::int64_t bytes() const;
  /// Returns SGLang's checksum of all these parameters; empty where that form was not asked for.
  std::string sglang_overall(Form form) const;
};

/// Returns a rank's number along an axis, as "tp=1 pp=0" says it; 0 where it says nothing.
std::int64_t coordinate(const std::string& coordinates, std::string_view axis);
/// Returns what the names of a rank's parameters begin with in vLLM's answers.
std::string vllm_prefix(const std::string& coordinates);

/// A parameter that is not what it must be.
struct Wrong {
  std::int32_t rank = 0;
  std::string parameter;
  std::string problem;  ///< "is not in the dump", or which form is what instead of what
};

/// What was compared with the digests.
struct Check {
  std::string what;  ///< "the dump FOLDER"
  std::int64_t parameters = 0;
  std::vector<Wrong> wrong;
  std::vector<std::string> notes;  ///< what was not compared
};

struct Result {
  std::string source, family;  ///< the checkpoint or model
  struct Engine {
    std::string name, layout, precision;
    std::int64_t ranks = 0;
  };
  std::vector<Engine> engines;
  Forms forms;
  std::vector<RankDigests> ranks;
  std::vector<std::string> notes;
  std::vector<Check> checks;  ///< none, or one of the dump and one of the answer

  bool equal() const;
};

/// Digests a checkpoint, and compares, while a kernel runtime is alive. In memory at once: a few chunks; where gen
/// quantises on the way, also the tensors that share a scale; of what an engine makes after loading, a matrix. Errors
/// (usage): no such layout, a checkpoint that lacks what gen stores, a dump or an answer that fits neither.
Result digest(const Request& request);

/// Returns a table of all digests, or, where something was compared, what is wrong.
std::string to_text(const Result& result);
/// Returns the document of schema `refit.digest` version 1.
std::string to_json(const Result& result);

}  // namespace refit::digest
