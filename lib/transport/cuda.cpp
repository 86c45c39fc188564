#include "transport/cuda.hpp"

#include "transport/cuda_handles.hpp"

namespace refit::transport {
namespace {

/// CUDA's 1000 x major + 10 x minor.
std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

void check_cuda(cudaError_t error, const char* what, SourceLocation where) {
  if (error == cudaSuccess) return;
  fail_runtime("CUDA: {}: {} ({}:{})", what, cudaGetErrorString(error), where.file, where.line);
}

std::string cuda_version() {
  int runtime = 0;
  int driver = 0;
  check_cuda(cudaRuntimeGetVersion(&runtime), "the runtime's version");
  check_cuda(cudaDriverGetVersion(&driver), "the driver's version");
  return fmt::format("{} (driver {})", version_text(runtime), version_text(driver));
}

}  // namespace refit::transport
