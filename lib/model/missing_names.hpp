#pragma once
// Reasons why names are missing in a checkpoint: changes of names by frameworks, and forms of weights that go by other
// names. Private to lib/model.
//
// Example: "model.norm.weight" is missing and "module.model.norm.weight" is there: "1 of the 1 missing names are there
// without "module.", which DistributedDataParallel puts there."

#include <set>
#include <string>
#include <vector>

namespace refit::model {

/// Returns lines for a message, each after a line break: the renaming of `others` (the names that are there) that
/// explains most of the `missing` names, if it explains more than half; and advice about forms that `others` are in.
std::string explain_missing(const std::set<std::string>& missing, const std::vector<std::string>& others);

}  // namespace refit::model
