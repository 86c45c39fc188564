#include "app/commands.hpp"
#include "core/console.hpp"
#include "core/text.hpp"

namespace refit::app {

int compare(const std::string& a, const std::string& b) {
  std::int64_t compared = 0;
  const std::vector<checkpoint::TensorDifference> differences = checkpoint::compare(a, b, &compared);
  for (const checkpoint::TensorDifference& difference : differences) {
    print("{}: {}\n", difference.name, difference.problem);
  }
  if (differences.empty()) {
    print("equal: {} tensors\n", grouped(compared));
    return 0;
  }
  print("different: {} tensors of {} compared\n", grouped(std::ssize(differences)), grouped(compared));
  return static_cast<int>(ErrorKind::data);
}

}  // namespace refit::app
