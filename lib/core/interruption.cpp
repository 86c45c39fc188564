#include "core/interruption.hpp"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

#include "core/console.hpp"
#include "core/files.hpp"

namespace refit {
namespace {

constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};

std::atomic<bool> is_speaker{true};

const char* said(int signal) {
  switch (signal) {
    case SIGINT: return "refit: error: interrupted by SIGINT\n";
    case SIGTERM: return "refit: error: interrupted by SIGTERM\n";
    default: return "refit: error: interrupted by SIGHUP\n";
  }
}

extern "C" void end_process(int signal) {
  remove_temporaries();
  if (is_speaker) write_error(said(signal));
  ::_exit(static_cast<int>(ErrorKind::runtime));
}

}  // namespace

void end_on_interruption(bool speaks) {
  is_speaker = speaks;
  struct sigaction action {};
  action.sa_handler = end_process;
  for (const int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (const int signal : kSignals) {
    struct sigaction before {};
    if (::sigaction(signal, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
      ::sigaction(signal, &action, nullptr);
  }
}

void forget_interruption() {
  for (const int signal : kSignals) {
    struct sigaction now {};
    if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == end_process) std::signal(signal, SIG_DFL);
  }
}

}  // namespace refit
