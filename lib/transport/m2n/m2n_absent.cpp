// NCCL M2N's functions for builds without it, so that callers need no #if.

#include "core/error.hpp"
#include "transport/m2n/m2n.hpp"

namespace refit::transport {
namespace {

[[noreturn]] void fail_absent() {
  fail_unavailable(
      "NCCL M2N: this build has none; configure it with preset cuda, -DREFIT_ENABLE_M2N=ON and the M2N_ROOT that "
      "scripts/setup --m2n prints");
}

}  // namespace

bool has_nccl_m2n() { return false; }
void prepare_nccl_m2n(Control& /*members*/) { fail_absent(); }
std::unique_ptr<Resharder> make_nccl_resharder(const Routes& /*routes*/, std::int64_t /*streams*/) { fail_absent(); }

}  // namespace refit::transport
