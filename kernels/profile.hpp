#pragma once
// What profilers show of the host's work.

namespace refit::kernels {

/// The phase that a thread is in, as a region of Kokkos' tools and, in a build for GPUs, an NVTX range. One at a time:
/// the next one's beginning is the end of the one before. Costs nothing to speak of where no profiler listens.
class ProfilePhase {
 public:
  ProfilePhase() = default;
  ~ProfilePhase() { end(); }
  ProfilePhase(const ProfilePhase&) = delete;
  ProfilePhase& operator=(const ProfilePhase&) = delete;
  /// Before Kokkos has been initialised or after its end, no region.
  void begin(const char* name);
  void end();

 private:
  bool begun_ = false;
};

}  // namespace refit::kernels
