#include "app/probe_options.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/text.hpp"
#include "kernels/kernels.hpp"

namespace refit::app {
namespace {

constexpr std::int64_t kMostBytes = std::int64_t{16} << 30;
constexpr std::int64_t kFactor = 4;
constexpr std::size_t kMostSizes = 64;

std::int64_t bytes_of(const std::string& option, const std::string& text) {
  const std::optional<std::int64_t> bytes = parse_bytes(text);
  if (!bytes || *bytes < 1 || *bytes > kMostBytes)
    fail_usage("{}: '{}' is no size from 1 B to {}, e.g. 64MiB", option, text, bytes_text(kMostBytes));
  return *bytes;
}

std::vector<std::int64_t> sizes_of(const std::string& text) {
  std::vector<std::int64_t> sizes;
  if (text == "none") return sizes;
  if (text.find(':') == std::string::npos) {
    for (const std::string& one : split_list(text)) sizes.push_back(bytes_of("--sizes", one));
    std::ranges::sort(sizes);
    const auto repeated = std::ranges::unique(sizes);
    sizes.erase(repeated.begin(), repeated.end());
  } else {
    const std::size_t first = text.find(':'), second = text.find(':', first + 1);
    const std::int64_t least = bytes_of("--sizes", text.substr(0, first));
    const std::int64_t most = bytes_of("--sizes", text.substr(first + 1, second - first - 1));
    const std::int64_t factor =
        second == std::string::npos ? kFactor : parse_bytes(text.substr(second + 1)).value_or(0);
    if (factor < 2) fail_usage("--sizes {}: the factor from size to size is an integer from 2 on", text);
    for (std::int64_t size = least; size <= most; size = size > most / factor ? most + 1 : size * factor)
      sizes.push_back(size);
  }
  if (sizes.empty() || sizes.size() > kMostSizes)
    fail_usage(
        "--sizes {}: needs 1 to {} sizes, e.g. 4KiB:1GiB (each {} times the one before), 4KiB:1GiB:16, "
        "4KiB,1MiB or none",
        text, kMostSizes, kFactor);
  return sizes;
}

}  // namespace

engine::ProbeOptions checked(const ProbeArguments& arguments) {
  engine::ProbeOptions options = arguments.options;
  const bool has_device = kernels::Runtime::has_device();
  if (arguments.device == "cuda" && !has_device) fail_unavailable("--device: this build has no CUDA; use cpu");
  if (arguments.device == "cpu" && has_device)
    fail_unavailable("--device: the kernels of this build run on GPUs; use cuda, or a build with preset cpu");
  if (!arguments.bytes.empty()) options.bytes = bytes_of("--bytes", arguments.bytes);
  options.sizes = sizes_of(arguments.sizes);
  options.pairs = arguments.pairs == "alone"    ? engine::PairsAtOnce::one
                  : arguments.pairs == "rounds" ? engine::PairsAtOnce::round
                                                : engine::PairsAtOnce::automatic;
  return options;
}

}  // namespace refit::app
