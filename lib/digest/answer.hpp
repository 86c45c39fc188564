#pragma once
// What an engine's own weight checker said of its parameters, compared with what it must hold: the answer of vLLM's
// POST /weight_checker {"action": "checksum"}, {"checksums": {"dp0:pp0:pcp0:tp0:NAME": SHA-256}}, or that of SGLang's
// /weights_checker {"action": "checksum"}, {"ranks": [{"checksums": {NAME: hash}, "parallelism_info": ...}]}.

#include "digest/digest.hpp"

namespace refit::digest {

/// Errors (usage): a file that is no such answer; an answer to be compared with several engines.
Check check_answer(const std::string& path, const Result& expected);

}  // namespace refit::digest
