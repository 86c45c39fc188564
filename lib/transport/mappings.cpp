#include "transport/mappings.hpp"

#include <sys/sysmacros.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "core/error.hpp"

namespace refit::transport {
namespace {

Mapping read_line(const std::string& text) {
  Mapping mapping;
  char flags[5] = {};
  std::uint64_t inode = 0;
  unsigned int major_number = 0, minor_number = 0;
  int path_at = 0;
  const int read =
      std::sscanf(text.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &mapping.begin,
                  &mapping.end, flags, &mapping.offset, &major_number, &minor_number, &inode, &path_at);
  if (read != 7) fail_runtime("/proc/self/maps has a line of an unknown form: {}", text);
  mapping.readable = flags[0] == 'r';
  mapping.writable = flags[1] == 'w';
  mapping.shared = flags[3] == 's';
  mapping.device = makedev(major_number, minor_number);
  mapping.inode = inode;
  mapping.path = text.substr(static_cast<std::size_t>(path_at));
  mapping.line = text.substr(0, text.find(' '));
  return mapping;
}

/// Returns whether `next` goes on with the file where `mapping` ends.
bool continues(const Mapping& mapping, const Mapping& next) {
  const auto bytes = static_cast<std::int64_t>(mapping.end - mapping.begin);
  return mapping.shared && next.shared && mapping.end == next.begin && mapping.device == next.device &&
         mapping.inode == next.inode && mapping.offset + bytes == next.offset && mapping.readable == next.readable &&
         mapping.writable == next.writable;
}

}  // namespace

std::vector<Mapping> read_mappings(std::istream& list) {
  std::vector<Mapping> mappings;
  for (std::string text; std::getline(list, text);) {
    Mapping next = read_line(text);
    if (!mappings.empty() && continues(mappings.back(), next)) {
      mappings.back().end = next.end;
    } else {
      mappings.push_back(std::move(next));
    }
  }
  return mappings;
}

std::vector<Mapping> own_mappings() {
  std::ifstream list("/proc/self/maps");
  std::vector<Mapping> mappings = read_mappings(list);
  if (mappings.empty()) fail_runtime("/proc/self/maps cannot be read: mount /proc");
  return mappings;
}

const Mapping* mapping_below(const std::vector<Mapping>& mappings, std::uintptr_t address) {
  const auto above = std::ranges::upper_bound(mappings, address, {}, &Mapping::begin);
  return above == mappings.begin() ? nullptr : &*std::prev(above);
}

}  // namespace refit::transport
