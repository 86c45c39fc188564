#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "kernels/kernels.hpp"
#include "model/model.hpp"

namespace refit::app {

int synth(const SynthOptions& options) {
  const kernels::Runtime runtime;
  const std::string config = config_path(options.config, options.inputs);
  model::Config parsed = model::read_config(config, options.family, options.layers);
  if (options.weight_format != StoredFormat::unquantised) parsed.quantisation = options.weight_format;
  if (options.tied_lm_head && !parsed.tied) fail_usage("--tied-lm-head: {} is not tied", config);
  model::Model model = model::build_model(parsed, options.tied_lm_head);
  if (options.experts) model = model::with_experts(model, *options.experts);
  checkpoint::synthesise(model, config, options.output, options.format, static_cast<std::uint64_t>(options.seed),
                         options.max_shard_bytes, options.force);
  print("{}: {} {} tensors, {} parameters, {} bytes\n", options.output, grouped(std::ssize(model.tensors)),
        parsed.family, grouped(model.parameters()), grouped(model.bytes()));
  return 0;
}

}  // namespace refit::app
