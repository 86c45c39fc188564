#pragma once
// SIGINT, SIGTERM and SIGHUP (Ctrl-C, scancel, time limits, a closed terminal) end a process in good order.

namespace refit {

/// Makes these signals, except those that are ignored already (nohup), remove this process's temporary files and end it
/// with exit code 3. They are named on stderr if `speaks`, which the ranks of a job do not set. Where all threads block
/// the signals, a thread that waits for them gets them instead.
void end_on_interruption(bool speaks);

/// Undoes end_on_interruption in a forked child that is no process of its own to the user.
void forget_interruption();

}  // namespace refit
