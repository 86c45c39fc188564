#pragma once
// Heads over ranks, as vLLM and SGLang cut them: which of a model's numbers of heads do not divide.

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model/model.hpp"

namespace refit::layout {

/// Mixers whose heads cannot be cut, of whose weights nothing more need be said, and why.
struct UncutHeads {
  std::set<model::Mixer> mixers;
  std::vector<std::string> sentences;
};

/// Checks heads over `ranks` ranks, which sentences call `over`: "TP4". KV heads may be fewer, if they divide the
/// ranks, and a single Mamba group is whole on every rank.
UncutHeads uncut_heads(const model::Model& model, std::int64_t ranks, const std::string& over);

}  // namespace refit::layout
