#pragma once
// Ranges in which profilers show the host's work.

namespace refit::kernels {

/// The phase that a thread is in, as a region of Kokkos' tools and, in a build for GPUs, an NVTX range. A thread has
/// one at a time: the next phase's beginning ends the one before. The cost is negligible where no profiler listens.
class ProfilePhase {
 public:
  ProfilePhase() = default;
  ~ProfilePhase() { end(); }
  ProfilePhase(const ProfilePhase&) = delete;
  ProfilePhase& operator=(const ProfilePhase&) = delete;
  /// Begins a phase. Before Kokkos has been initialised and after its end there is no region.
  void begin(const char* name);
  void end();

 private:
  bool begun_ = false;
};

}  // namespace refit::kernels
