// Lets a test act at a point of a job's life, on a machine of any speed. A tool of Kokkos' (KOKKOS_PROFILE_LIBRARY, or
// KOKKOS_TOOLS_LIBS), whose regions are refit's phases: whenever rank 0 begins one of the phases of REFIT_PAUSE, e.g.
// "update,verify", it makes the file REFIT_PAUSE_FOLDER/N-PHASE (N = 1, 2, ...), and goes on when that is gone.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace {

bool is_rank_0() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::string(rank) == "0";
  }
  return false;
}

bool is_listed(const std::string& name, const std::string& list) {
  return ("," + list + ",").find("," + name + ",") != std::string::npos;
}

}  // namespace

extern "C" void kokkosp_push_profile_region(const char* name) {
  static int number = 0;
  const char* list = std::getenv("REFIT_PAUSE");
  const char* folder = std::getenv("REFIT_PAUSE_FOLDER");
  if (list == nullptr || folder == nullptr || !is_rank_0() || !is_listed(name, list)) return;
  const std::filesystem::path file = std::filesystem::path(folder) / (std::to_string(++number) + "-" + name);
  std::ofstream(file).flush();
  while (std::filesystem::exists(file)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

extern "C" void kokkosp_pop_profile_region() {}
