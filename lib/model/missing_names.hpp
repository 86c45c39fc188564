#pragma once
// Why names are missing in a checkpoint: what frameworks do to names, and forms of weights that go by other names.
// Private to lib/model.
//
// Example: "model.norm.weight" is missing and "module.model.norm.weight" is there: "1 of the 1 missing names are there
// without "module.", which DistributedDataParallel puts there."

#include <set>
#include <string>
#include <vector>

namespace refit::model {

/// Lines for a message, each after a line break: the renaming of `others`, which are there, that makes most of the
/// `missing` names, if it makes more than half of them; and what is known of forms that `others` are in.
std::string explain_missing(const std::set<std::string>& missing, const std::vector<std::string>& others);

}  // namespace refit::model
