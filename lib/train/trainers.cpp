#include "train/trainers.hpp"

#include "train/fsdp/side.hpp"
#include "train/megatron/side.hpp"

namespace refit::train {

std::span<const layout::SideRow* const> trainers() {
  static const layout::SideRow* const rows[] = {&megatron::trainer(), &fsdp::trainer()};
  return rows;
}

}  // namespace refit::train
