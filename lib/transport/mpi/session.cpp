#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "transport/mpi/error.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

/// True while MPI_Abort may be called.
std::atomic<bool> running = false;

/// Disables hwloc's GL component, which looks for an X server; where "localhost" does not resolve that costs each rank
/// many seconds.
void prepare_hwloc() { setenv("HWLOC_COMPONENTS", "-gl", 0); }

}  // namespace

void check_mpi(int code, SourceLocation where) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail_runtime("MPI: {} ({}:{})", std::string(text, static_cast<std::size_t>(length)), where.file, where.line);
}

MpiSession::MpiSession(Progress* progress) : progress_(progress) {
  const Waiting waiting(progress_);
  prepare_hwloc();
  int provided = 0;
  // The supervisor's thread may call MPI_Abort while the main thread is inside MPI; nothing else is called from it.
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided));
  running = true;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node));
  check_mpi(MPI_Comm_size(node, &node_size_));
  check_mpi(MPI_Comm_rank(node, &node_rank_));
  check_mpi(MPI_Comm_free(&node));
}

void MpiSession::prepare_environment(std::int64_t lanes) {
  prepare_hwloc();
  // A GPU's streams share this many queues, 8 by default and 1 in environments made for Megatron. In a shared queue,
  // packing on this rank waits behind a message that waits for a peer, which may be waiting for this rank. Each lane
  // has a stream on up to three communicators, and a few streams are beside them. More queues than these only make
  // processes start slower: 8 on two H200 took 18 s with 32 queues, 13 s with 16 and 11 s with 8.
  constexpr std::int64_t kMostQueues = 32;
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", std::to_string(std::min(kMostQueues, 3 * lanes + 4)).c_str(), 1);
}

MpiSession::~MpiSession() {
  const Waiting waiting(progress_);
  running = false;
  MPI_Finalize();
}

std::string MpiSession::version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  check_mpi(MPI_Get_library_version(text, &length));
  const std::string all(text, static_cast<std::size_t>(length));
  return all.substr(0, all.find_first_of(",\n"));
}

void MpiSession::abort(int exit_code) {
  if (running) {
    // MPI_Abort may wait for a launcher that is out of reach, e.g. for PMIx' server on a host that is cut off.
    std::thread([exit_code] {
      std::this_thread::sleep_for(std::chrono::seconds(1));
      std::_Exit(exit_code);
    }).detach();
    MPI_Abort(MPI_COMM_WORLD, exit_code);
  }
  std::_Exit(exit_code);
}

}  // namespace refit::transport
