// CUDA's functions for builds without CUDA, so that callers need no #if.

#include "core/error.hpp"
#include "transport/cuda.hpp"
#include "transport/foreign_memory.hpp"
#include "transport/nccl.hpp"

namespace refit::transport {
namespace {

[[noreturn]] void fail_absent(const char* what) {
  fail_unavailable("{}: this build has no CUDA; configure it with -DREFIT_ENABLE_CUDA=ON (preset cuda)", what);
}

}  // namespace

DeviceArena::DeviceArena(std::int64_t /*bytes*/) : data_(nullptr, nullptr) { fail_absent("device memory"); }

std::shared_ptr<NcclWindows> make_nccl_windows(double /*timeout_seconds*/) { fail_absent("windows of NCCL"); }

std::unique_ptr<PeerMemory> make_cuda_peer_memory(Control& /*world*/, std::int64_t /*bytes*/,
                                                  const std::shared_ptr<NcclWindows>& /*windows*/) {
  fail_absent("peer memory of devices");
}

std::unique_ptr<PeerMemory> make_foreign_device_memory(Control& /*world*/, std::span<const OwnedBlock> /*storages*/) {
  fail_absent("peer memory of devices");
}

std::vector<std::uint64_t> device_identities(std::span<const OwnedBlock> /*storages*/) {
  fail_absent("memory of devices");
}

std::string cuda_version() { return {}; }

std::string prepare_nccl(Control& /*members*/) { fail_absent("NCCL"); }

std::unique_ptr<Communicator> make_nccl_communicator(Control& /*members*/, int /*lanes*/, double /*timeout_seconds*/) {
  fail_absent("NCCL");
}

std::string nccl_version() { return {}; }

}  // namespace refit::transport
