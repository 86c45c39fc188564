#include "report/result.hpp"

namespace refit::report {

const char* name(Status status) {
  switch (status) {
    case Status::passed: return "passed";
    case Status::failed: return "failed";
    case Status::error: return "error";
    case Status::interrupted: return "interrupted";
    case Status::waived: return "waived";
  }
  return "unknown";
}

double Payload::bulk_fraction() const {
  if (total_bytes() == 0) return 0;
  return static_cast<double>(bulk_bytes) / static_cast<double>(total_bytes());
}

}  // namespace refit::report
