#include "kernels/device_scope.hpp"

#include "kernels/backend.hpp"

namespace refit::kernels {

DeviceScope::DeviceScope() : before_(backend::enter_device()) {}
DeviceScope::~DeviceScope() { backend::leave_device(before_); }

}  // namespace refit::kernels
