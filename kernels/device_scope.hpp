#pragma once
// The device of the kernels' runtime as the calling thread's current one, in processes whose other code uses devices
// too.

namespace refit::kernels {

/// Makes the runtime's device current for as long as it lives, and then the one that was before. Does nothing on hosts.
class DeviceScope {
 public:
  DeviceScope();
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_;
};

}  // namespace refit::kernels
