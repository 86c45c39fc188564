#pragma once
// Diagnosis of a refit from the contents of its ranks after it: where each wrong region's content really belongs, and
// which known bug leaves such a pattern. One process, no MPI; works on dumps of refit and of real engines alike.

#include <string>
#include <vector>

#include "case/case.hpp"
#include "diagnose/replay.hpp"

namespace refit::diagnose {

struct Request {
  cases::Case c;             ///< complete; model.checkpoint is the expected checkpoint where there is one
  bool knows_train = false;  ///< train's layout is that of the run, not just some legal one
  std::string gen_dump;
  std::string train_dump;     ///< the truth, where given; empty = none
  std::string expected_dump;  ///< of gen ranks that are right (truth where there is no train dump); empty = none
};

struct Diagnosis {
  std::int32_t gen_ranks = 0;
  std::int64_t tensors = 0, tensors_wrong = 0;    ///< that were compared
  std::int64_t elements = 0, elements_wrong = 0;  ///< stored on gen ranks
  std::string truth;                              ///< source of the right values: "the train dump", ...
  std::vector<Finding> findings;
  std::string cause;               ///< of everything, where it is plain; else empty
  std::vector<std::string> notes;  ///< parts that were not compared, and why
  std::vector<NamedBug> bugs;      ///< empty: none known

  bool equal() const { return findings.empty(); }
};

/// Compares and explains, while a kernel runtime is alive. Errors (usage): dumps that do not fit the case.
Diagnosis diagnose(const Request& request);

/// Returns the text for people: a heading, a line for each finding, the bug's name.
std::string to_text(const Diagnosis& diagnosis);

/// Returns the document of schema `refit.diagnosis` version 1.
std::string to_json(const Diagnosis& diagnosis);

}  // namespace refit::diagnose
