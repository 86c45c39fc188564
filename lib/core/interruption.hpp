#pragma once
// SIGINT, SIGTERM and SIGHUP (Ctrl-C, scancel, time limits, a closed terminal) end a process in good order.

namespace refit {

/// From now on these signals, but those that are ignored already (nohup), remove this process's temporary files, are
/// named on stderr, and end it with exit code 3. A thread that waits for them with all threads blocking them gets them
/// instead.
void end_on_interruption();

/// In a forked child that is no process of its own to the user: as if end_on_interruption had not been called.
void forget_interruption();

}  // namespace refit
