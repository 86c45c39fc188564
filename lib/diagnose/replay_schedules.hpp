#pragma once
// What bugs of schedules leave on gen ranks: elements that were taken from a buffer before they had arrived there.

#include "diagnose/replay.hpp"

namespace refit::diagnose {

/// Whether that bug of the catalogue is one whose late bytes are replayed here, and predicts all that gen ranks hold.
/// At least one region. Dumps do not say which executor there was, nor what the misc stream carried in buffers of which
/// length: where these were not given, all that fit are tried.
bool leaves_late_bytes(const Evidence& evidence, const std::string& bug);

}  // namespace refit::diagnose
