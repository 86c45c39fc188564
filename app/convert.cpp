#include "app/commands.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "kernels/kernels.hpp"

namespace refit::app {

int convert(const ConvertOptions& options) {
  if (options.experts) {
    const kernels::Runtime runtime;
    checkpoint::convert_experts(options.input, options.output, *options.experts, options.family,
                                options.max_shard_bytes, options.force);
  } else {
    if (!options.family.empty()) fail_usage("--family means nothing without --experts");
    checkpoint::convert(options.input, options.output, options.max_shard_bytes, options.force);
  }
  const checkpoint::Checkpoint written = checkpoint::open(options.output);
  print("{}: {} with {} tensors in {} files\n", options.output,
        written.format == checkpoint::Format::hdf5 ? "HDF5" : "safetensors", grouped(std::ssize(written.entries)),
        written.files.size());
  return 0;
}

}  // namespace refit::app
