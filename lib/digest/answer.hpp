#pragma once
// What an engine's own weight checker said of its parameters, compared with what it must hold: the answer of vLLM's
// POST /weight_checker {"action": "checksum"}, {"checksums": {"dp0:pp0:pcp0:tp0:NAME": SHA-256}}, or that of SGLang's
// /weights_checker {"action": "checksum"}, {"ranks": [{"checksums": {NAME: hash}, "parallelism_info": ...}]}.

#include <map>
#include <string>
#include <vector>

#include "digest/digest.hpp"

namespace refit::digest {

/// An answer, dealt to the ranks of a layout. Made before anything is digested, so that a mistake costs no time.
class Answer {
 public:
  /// Reads the file. `coordinates`: of all gen ranks, those of one engine, whose layout is `layout`. `asked`: the forms
  /// that will be digested. Errors (usage): a file that is no such answer, or one of a checker that failed; an entry
  /// that is there twice; none of the forms that it may be in is asked for.
  Answer(const std::string& path, const Forms& asked, const std::vector<std::string>& coordinates,
         const std::string& layout);

  /// Returns what of the digests it differs from. They are of the same ranks, with the same forms.
  Check compare(const Result& expected) const;

 private:
  using Checksums = std::map<std::string, std::string>;  ///< in lower case, by name
  void compare(const RankDigests& rank, const Checksums& found, Check& check) const;

  std::string path_;
  std::vector<Form> possible_, forms_;  ///< that the checker answers in; those of them that are digested
  std::vector<Checksums> by_rank_;
  std::vector<std::string> notes_;
};

}  // namespace refit::digest
