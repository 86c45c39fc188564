// The functions of CUDA's driver that Kokkos calls by name. If refit were linked to libcuda.so.1, which only machines
// with a driver have, it would not even start without one to report that. So they are defined here, and looked up in
// that library when they are called, as the CUDA runtime and NCCL do with theirs.

#include <cuda.h>
#include <dlfcn.h>

namespace {

/// Returns a function of the driver; null where there is no driver.
void* find(const char* name) {
  static void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  return driver == nullptr ? nullptr : dlsym(driver, name);
}

template <typename... Arguments>
CUresult call(const char* name, Arguments... arguments) {
  using Function = CUresult(CUDAAPI*)(Arguments...);
  const auto function = reinterpret_cast<Function>(find(name));
  return function == nullptr ? CUDA_ERROR_NOT_INITIALIZED : function(arguments...);
}

}  // namespace

// Hidden, so that no library that is linked to the driver itself finds them here.
#pragma GCC visibility push(hidden)
extern "C" {

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) { return call("cuCtxGetDevice", device); }

CUresult CUDAAPI cuCtxPushCurrent_v2(CUcontext context) { return call("cuCtxPushCurrent_v2", context); }

CUresult CUDAAPI cuStreamGetCtx(CUstream stream, CUcontext* context) { return call("cuStreamGetCtx", stream, context); }
}
#pragma GCC visibility pop
