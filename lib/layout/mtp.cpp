#include "layout/mtp.hpp"

namespace refit::layout {
namespace {

constexpr std::string_view kMtp[] = {"off", "only", "with"};

}  // namespace

Choices choices(Mtp) { return kMtp; }

}  // namespace refit::layout
