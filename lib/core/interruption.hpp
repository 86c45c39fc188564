#pragma once
// SIGINT, SIGTERM and SIGHUP (Ctrl-C, scancel, time limits, a closed terminal) end a process in good order.

namespace refit {

/// From now on these signals, but those that are ignored already (nohup), remove this process's temporary files, are
/// named on stderr (`speaks`: not by the ranks of a job), and end it with exit code 3. Where all threads block them, a
/// thread that waits for them gets them instead.
void end_on_interruption(bool speaks);

/// In a forked child that is no process of its own to the user: as if end_on_interruption had not been called.
void forget_interruption();

}  // namespace refit
