#pragma once
// A small result with every part set, shared by the tests of the printers.

#include <string>

#include "report/result.hpp"

namespace refit::report {

/// A failed run with one warm-up and two measured refits, two ranks and one wrong tensor.
Result sample_result();

/// The same of two engines, with the wrong tensor on the last rank of the second.
Result sample_engines();

/// The same with a drill: both engines are dead in refit 2, and the first one is made anew before refit 3.
Result sample_drill();

/// The plan of the same case: no refits, no verification, no rates.
Result sample_plan();

/// A new empty folder, removed with its content at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// The whole of a file; "" where there is none.
std::string read_text(const std::string& path);

}  // namespace refit::report
