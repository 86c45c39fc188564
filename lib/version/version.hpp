#pragma once
// Which refit this is. The release stands in the project's CMakeLists.txt, and everything else takes it from there; the
// commit is looked up at every build, and only this library is compiled anew where it changes.

#include <string>

namespace refit {

/// Returns the release, e.g. "0.2.0".
std::string release();

/// Returns the first 12 digits of the commit of git that was built, "-dirty" behind them where a tracked file differed
/// from it, e.g. "15a3c14e0b2d-dirty"; of an archive that git made, the commit it was made of; "unknown" of other
/// copies.
std::string commit();

}  // namespace refit
