#pragma once
// A caller's tensors as the storages of a rank's layout: found by name, checked, and used where they lie.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/world.hpp"
#include "embed/refit.h"
#include "layout/layout.hpp"
#include "transport/foreign_memory.hpp"

namespace refit::embed {

/// The memory of a rank's storages on one side.
struct Binding {
  std::vector<std::byte*> addresses;  ///< of layout.storages, in their order
  std::vector<std::string> ignored;   ///< names of tensors that the layout does not have

  friend bool operator==(const Binding&, const Binding&) = default;
};

/// Finds the storages of `layout` among `tensors`. `owner`: of the storages, for messages, "gen rank 1". On the gen
/// side
/// (`is_written`) no two may share memory. Errors (usage), with the first tensor as subject and all of them in the
/// text: names that are missing or twice there, other shapes, dtypes or strides, null addresses.
Binding bind_tensors(const layout::LocalLayout& layout, std::span<const refit_tensor> tensors, const std::string& owner,
                     bool is_written);

/// Returns the storages as blocks of memory.
std::vector<transport::OwnedBlock> blocks_of(const layout::LocalLayout& layout, const Binding& binding,
                                             bool is_written);

}  // namespace refit::embed
