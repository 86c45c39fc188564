#include <exception>
#include <new>
#include <sstream>

#include "app/cli.hpp"
#include "core/console.hpp"
#include "core/error.hpp"

namespace {

/// Reports errors that reach main: one line on stderr per line of the message.
void report(const char* message) {
  std::istringstream lines(message);
  for (std::string line; std::getline(lines, line);) refit::print_error("refit: error: {}\n", line);
}

int run(int argc, char** argv) {
  try {
    return refit::app::execute({argv, argv + argc});
  } catch (const refit::Error& error) {
    report(error.what());
    return static_cast<int>(error.kind());
  } catch (const std::bad_alloc&) {
    report("out of memory");
  } catch (const std::exception& error) {
    report(error.what());
  }
  return static_cast<int>(refit::ErrorKind::runtime);
}

}  // namespace

int main(int argc, char** argv) {
  refit::Console console;
  return console.close(run(argc, argv));
}
