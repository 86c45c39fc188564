#include "gen/engines.hpp"

#include "gen/sglang/side.hpp"
#include "gen/vllm/side.hpp"

namespace refit::gen {

std::span<const layout::SideRow* const> engines() {
  static const layout::SideRow* const rows[] = {&vllm::engine(), &sglang::engine()};
  return rows;
}

}  // namespace refit::gen
