#include "core/error.hpp"

namespace refit {

const char* name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::data: return "data";
    case ErrorKind::usage: return "usage";
    case ErrorKind::runtime: return "runtime";
    case ErrorKind::unavailable: return "unavailable";
  }
  return "unknown";
}

void fail_invariant(const char* condition, SourceLocation where) {
  fail_runtime("internal error: {} does not hold ({}:{})", condition, where.file, where.line);
}

}  // namespace refit
