#pragma once
// The processes that take part, as the C interface has them.

#include <memory>

#include "embed/refit.h"
#include "embed/spec.hpp"
#include "transport/sockets.hpp"

namespace refit::embed {

/// Has `interrupted` asked while a rank of this process waits; nullptr: nobody.
void set_interrupted(int (*interrupted)(void));

class World {
 public:
  /// Finds the other processes. Collective. Errors (usage): rank, size or callback make no sense; runtime: the callback
  /// failed, or a process cannot be reached.
  World(const refit_control& control, const WorldOptions& options);

  transport::Control& control() { return *control_; }
  transport::SocketMesh& mesh() { return *mesh_; }
  double timeout_seconds() const { return options_.timeout_seconds; }

 private:
  WorldOptions options_;
  std::unique_ptr<transport::SocketMesh> mesh_;
  std::unique_ptr<transport::Control> control_;
};

}  // namespace refit::embed
