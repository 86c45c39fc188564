#include "version/version.hpp"

#include <fmt/core.h>
#include <spdlog/version.h>
#include <toml++/impl/version.h>
#include <xxhash.h>

#include <CLI/Version.hpp>
#include <nlohmann/detail/abi_macros.hpp>

#include "app/commands.hpp"
#include "core/console.hpp"
#include "kernels/kernels.hpp"
#include "report/environment.hpp"
#include "transport/cuda.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/nccl.hpp"

namespace refit::app {
namespace {

/// Returns a version coded as decimal digits, e.g. 90100 for 9.1.0.
std::string decimal_version(unsigned code) {
  return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

}  // namespace

int version() {
  print("refit {}\n", release());
  print("commit {}\n", commit());
  print("compiler {}\n", report::compiler_version());
  print("mpi {}\n", transport::MpiSession::version());
  for (const auto& [what, one] : {std::pair("nccl", transport::nccl_version()), {"cuda", transport::cuda_version()}})
    if (!one.empty()) print("{} {}\n", what, one);
  print("kokkos {}\n", kernels::Runtime::version());
  print("hdf5 {}\n", report::hdf5_version());
  print("fmt {}\n", decimal_version(FMT_VERSION));
  print("spdlog {}.{}.{}\n", SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH);
  print("cli11 {}\n", CLI11_VERSION);
  print("toml++ {}.{}.{}\n", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH);
  print("nlohmann_json {}.{}.{}\n", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
        NLOHMANN_JSON_VERSION_PATCH);
  print("xxhash {}\n", decimal_version(XXH_versionNumber()));
  return 0;
}

}  // namespace refit::app
