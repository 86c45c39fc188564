#include "report/environment.hpp"

#include <hdf5.h>

#include <array>
#include <ctime>

#include "core/error.hpp"
#include "version/version.hpp"

namespace refit::report {

std::string compiler_version() { return REFIT_COMPILER; }

std::string hdf5_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) fail_runtime("the HDF5 library does not tell its version");
  return fmt::format("{}.{}.{}", major, minor, release);
}

Environment local_environment() {
  Environment environment;
  environment.refit = release();
  environment.commit = commit();
  environment.compiler = compiler_version();
  environment.hdf5 = hdf5_version();
  return environment;
}

std::string current_time() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

}  // namespace refit::report
