#include "core/complaints.hpp"

#include <fmt/format.h>

namespace refit {

void Complaints::add(const std::string& key, const std::string& what) {
  const auto place = keys_.find(key);
  const std::string where = place == keys_.end() ? "" : place->second + ": ";
  texts_.push_back(fmt::format("{}{}{}: {}", where, who_, key, what));
}

void Complaints::meaningless(std::initializer_list<std::string> keys, const std::string& because) {
  for (const std::string& key : keys) {
    if (given(key)) add(key, fmt::format("means nothing {}; leave it out", because));
  }
}

}  // namespace refit
