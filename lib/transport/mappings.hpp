#pragma once
// The memory mappings of this process, as the kernel lists them in /proc/self/maps (proc(5)).

#include <sys/types.h>

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

namespace refit::transport {

/// Memory that is mapped in one way: a line of the list, or several lines of one shared file whose bytes follow each
/// other in memory as they do in the file.
struct Mapping {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool readable = false;
  bool writable = false;
  bool shared = false;      ///< stores reach the file, and every process that maps it
  std::int64_t offset = 0;  ///< of `begin` in the file, in bytes
  dev_t device = 0;
  ino_t inode = 0;   ///< 0: no file
  std::string path;  ///< of the file when it was mapped; may end in " (deleted)"
  std::string line;  ///< "begin-end" of the first line: its name in /proc/PID/map_files
};

/// Reads a list of the form of /proc/PID/maps, in order of addresses.
std::vector<Mapping> read_mappings(std::istream& list);

/// Returns the mappings of this process. Errors (runtime): there is no /proc.
std::vector<Mapping> own_mappings();

/// Returns the last mapping that begins at or below `address`, whether or not it reaches so far; nullptr if there is
/// none. `mappings`: in order of addresses.
const Mapping* mapping_below(const std::vector<Mapping>& mappings, std::uintptr_t address);

}  // namespace refit::transport
