#pragma once
// Which modules a configuration quantises, by the list of those that it does not. Private to lib/model.
//
// An entry is a module's name ("model.layers.0.mlp.gate"), a pattern as of a shell ("model.layers.*.mlp.gate"), or
// "re:" and a regular expression that a name begins with. Unless names are exact, those within a named module are named
// too.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/model.hpp"

namespace refit::model {

/// The list of a configuration, made ready for many names.
class Modules {
 public:
  /// Entries that are `unreadable` describe no module.
  explicit Modules(const Config& config);
  /// Returns true unless the configuration excepts the module of a tensor of that name from quantisation.
  bool are_converted(std::string_view tensor_name) const;

 private:
  struct Lists;
  std::shared_ptr<const Lists> lists_;
};

/// Returns why an entry of a list cannot be read: "re:" with something that is no regular expression here; else "".
std::string_view unreadable(const std::string& entry);

/// Returns an entry for every module but those: for configurations that list what is quantised. It is unreadable where
/// there are too many.
std::string all_but(const std::vector<std::string>& entries);

/// Returns the regular expression of a text itself.
std::string escaped(std::string_view name);

}  // namespace refit::model
