#include "app/commands.hpp"
#include "app/inputs.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "kernels/kernels.hpp"
#include "model/model.hpp"

namespace refit::app {
namespace {

/// Returns how a checkpoint of that model writes weights down in a format: gpt-oss in its own form, and static scales
/// of inputs where ModelOpt has them.
model::Quantisation written_as(model::Quantisation how, const model::Config& config) {
  if (how.format == StoredFormat::mxfp4 && config.family == "gpt_oss") how.naming = model::Naming::mxfp4;
  how.scale_dtype = config.dtype;
  how.has_input_scales = how.naming == model::Naming::modelopt && how.format != StoredFormat::fp8_channel;
  return how;
}

}  // namespace

int synth(const SynthOptions& options) {
  const kernels::Runtime runtime;
  const std::string config = config_path(options.config, options.inputs);
  model::Config parsed = model::read_config(config, options.family, options.layers);
  if (options.quantisation) parsed.quantisation = written_as(*options.quantisation, parsed);
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
