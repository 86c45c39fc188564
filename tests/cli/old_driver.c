/* A libcuda.so.1 of CUDA 11's time, as far as the CUDA runtime looks before it refuses it. */
#include <string.h>

int cuDriverGetVersion(int* version) {
  *version = 11000;
  return 0;
}

int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long flags, void* status) {
  (void)version, (void)flags, (void)status;
  *function = NULL;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void*)cuDriverGetVersion;
  if (strcmp(name, "cuGetProcAddress") == 0) *function = (void*)cuGetProcAddress_v2;
  return *function == NULL ? 500 : 0; /* CUDA_ERROR_NOT_FOUND */
}
