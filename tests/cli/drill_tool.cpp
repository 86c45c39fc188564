// A drill: what befalls one rank at a place that is named. A tool of Kokkos' (KOKKOS_PROFILE_LIBRARY, or
// KOKKOS_TOOLS_LIBS), whose regions are refit's phases; preloaded (LD_PRELOAD) it knows four places more, outside of
// Kokkos' life: "process" (before main), "MPI_Init" and "MPI_Finalize" (before MPI's own), "finalized" (behind it).
//
//     REFIT_DRILL=RANK:PLACE:N:ACTION[:SECONDS]    at the N-th begin of PLACE (1 = the first)
//     ACTION: kill, stop, term (signals), delay (SECONDS)
//
// The rank that strikes says so on stderr: "drill: rank RANK pid PID: ACTION at PLACE, TIME", in seconds since 1970.

#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Drill {
  Drill() {
    const char* text = std::getenv("REFIT_DRILL");
    const char* rank = nullptr;
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
      rank = rank == nullptr ? std::getenv(name) : rank;
    if (text == nullptr || rank == nullptr) return;
    std::vector<std::string> words;
    std::istringstream all(text);
    for (std::string word; std::getline(all, word, ':');) words.push_back(word);
    if (words.size() < 4 || words[0] != rank) return;
    place = words[1];
    left = std::atoi(words[2].c_str());
    action = words[3];
    if (words.size() > 4) seconds = std::atof(words[4].c_str());
    this->rank = rank;
  }

  std::string rank, place, action;
  int left = 0;
  double seconds = 0;
};

void reach(const char* place) {
  static Drill drill;
  if (drill.place != place || --drill.left != 0) return;
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::fprintf(stderr, "drill: rank %s pid %d: %s at %s, %.3f\n", drill.rank.c_str(), getpid(), drill.action.c_str(),
               place, now.count());
  std::fflush(stderr);
  if (drill.action == "kill") kill(getpid(), SIGKILL);
  if (drill.action == "stop") kill(getpid(), SIGSTOP);
  if (drill.action == "term") kill(getpid(), SIGTERM);
  if (drill.action == "delay") std::this_thread::sleep_for(std::chrono::duration<double>(drill.seconds));
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

__attribute__((constructor)) static void at_start() { reach("process"); }

extern "C" void kokkosp_push_profile_region(const char* name) { reach(name); }

extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  reach("MPI_Init");
  return next<int (*)(int*, char***, int, int*)>("MPI_Init_thread")(argc, argv, required, provided);
}

extern "C" int MPI_Finalize() {
  reach("MPI_Finalize");
  const int code = next<int (*)()>("MPI_Finalize")();
  reach("finalized");
  return code;
}
