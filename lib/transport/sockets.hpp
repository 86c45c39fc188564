#pragma once
// Control plane, communicators and links over sockets of the kernel: for processes that find each other by one
// all-gather of bytes and have no MPI in common, as a trainer's and an engine's. Ranks of one host talk over Unix
// sockets where they can, others over TCP (IPv4 or IPv6). Everything happens in the caller's thread, while it waits.
//
// Example (tests/mpi/socket_main.cpp):
//   SocketMesh mesh(rank, size, all_gather);
//   const auto world = make_socket_control(mesh);
//   const auto links = make_socket_links(mesh, *world, {}, progress);
//
// Failures: a rank that dies is noticed at once wherever another one waits, a rank that keeps others waiting for longer
// than the mesh's timeout is named, and ranks that call different functions are told which. Whoever notices tells all
// others: all throw the same PeerError, and every later call of the mesh throws it again, at once.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "transport/communicator.hpp"
#include "transport/links.hpp"
#include "transport/progress.hpp"

namespace refit::transport {

/// A failure of the mesh, for which a rank is to blame. Its kind is runtime.
class PeerError : public Error {
 public:
  /// `rank`: the world rank to blame; -1: none in particular.
  PeerError(int rank, const std::string& message) : Error(ErrorKind::runtime, message, {"", rank}) {}
};

/// Puts `bytes` bytes of every rank, in order of rank, into `all`. Collective; what it throws goes on to the caller.
using AllGather = std::function<void(const void* mine, void* all, std::size_t bytes)>;

struct SocketOptions {
  double timeout_seconds = 60;  ///< that a rank may keep another one waiting; 0: for ever
  /// Of the network, or one of its addresses; empty: REFIT_SOCKET_IFNAME, else the first that is up, the loopback last.
  std::string interface;
  Progress* progress = nullptr;  ///< is told where this rank waits, and asked for the phase of messages
  /// Asked now and then while this rank waits; true: it gives up, and the mesh is broken.
  std::function<bool()> interrupted = {};
};

/// The processes of a world and the connections between them.
class SocketMesh {
 public:
  /// Connects every rank with every other. Collective over `size` ranks, each of which calls `all_gather` once. Errors:
  /// PeerError, with the rank, host, process and address of who cannot be reached.
  SocketMesh(int rank, int size, const AllGather& all_gather, const SocketOptions& options = {});
  /// Says goodbye; not collective, and waits for nobody. Control planes, communicators and links of the mesh may be
  /// destroyed before or after it, but not used after it.
  ~SocketMesh();
  SocketMesh(const SocketMesh&) = delete;
  SocketMesh& operator=(const SocketMesh&) = delete;

  int rank() const;
  int size() const;
  /// Returns e.g. "rank 3 (node7, pid 4711)".
  std::string describe(int rank) const;
  /// Sets how long ranks may keep others waiting from now on. Not collective.
  void set_timeout(double seconds);
  /// Sets who is told where this rank waits and asked for the phase of messages, from now on; nullptr: nobody. Not
  /// collective.
  void set_progress(Progress* progress);

  class State;
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

/// Makes a control plane of all ranks, which make all of theirs in the same order. Waits for nobody. The collectives of
/// the first are counted in the mesh's `progress`.
std::unique_ptr<Control> make_socket_control(const SocketMesh& mesh);

/// Makes a communicator of host memory between the ranks `members` (ascending; communicator rank = position), with
/// lanes 0 .. `lanes` - 1. Collective over `members`. `number` tells apart those that are made at a time.
///
/// No call blocks: messages move in `post`, `test` and `pause` of any request of the mesh, and in waits of its control
/// planes. A message is sent as soon as the kernel has taken it, whether or not its receive has been posted. Sending to
/// oneself works likewise.
std::unique_ptr<Communicator> make_socket_communicator(const SocketMesh& mesh, const std::vector<int>& members,
                                                       std::int64_t number, int lanes);

/// Makes links of hosts: communicators by sockets, peer memory in mappings that processes of a host share. They measure
/// nothing: `rates` are the machine's, as far as they are known. `world`: of all ranks of the mesh; must outlive the
/// result, as must the mesh.
std::unique_ptr<Links> make_socket_links(const SocketMesh& mesh, Control& world, const plan::Rates& rates,
                                         Progress& progress);

}  // namespace refit::transport
