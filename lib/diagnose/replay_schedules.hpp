#pragma once
// Replay of schedule bugs, whose elements are taken from a buffer before they have arrived there.

#include "diagnose/replay.hpp"

namespace refit::diagnose {

/// Returns whether `bug` is one whose late bytes are replayed here, and predicts everything that gen ranks hold. There
/// is at least one region. Dumps do not name the executor, the tensors of the misc stream or the length of its buffers:
/// where these were not given, all that fit are tried.
bool leaves_late_bytes(const Evidence& evidence, const std::string& bug);

}  // namespace refit::diagnose
