#include "engine/setup.hpp"

#include <fmt/ranges.h>

#include "gen/vllm.hpp"
#include "train/megatron.hpp"

namespace refit::engine {
namespace {

model::Model load_model(const Case& c, const std::optional<checkpoint::Checkpoint>& checkpoint) {
  const model::Config config = model::read_config(c.model.config_path(), c.model.family, c.model.layers);
  if (checkpoint) return model::build_model(config, checkpoint->tensor_infos(), checkpoint->folder);
  return model::build_model(config, c.model.tied_lm_head == TiedLmHead::present);
}

train::Options train_options(const Case& c) {
  return {c.train.layout,       c.train.first_stage_layers,           c.train.last_stage_layers,
          c.train.stage_layers, c.train.make_vocab_size_divisible_by, dtype_of(c.train.precision)};
}

gen::Options gen_options(const Case& c) {
  return {c.gen.layout, c.gen.data_parallel == DataParallel::internal, dtype_of(c.gen.precision), c.gen.mtp,
          c.gen.moe_backend};
}

void require_legal(const model::Model& model, const train::Options& train, const gen::Options& gen) {
  std::vector<std::string> broken = train::violations(model, train);
  for (std::string& text : gen::violations(model, gen)) broken.push_back(std::move(text));
  if (!broken.empty()) fail_usage("this layout is impossible:\n  {}", fmt::join(broken, "\n  "));
}

}  // namespace

DType dtype_of(Precision precision) {
  switch (precision) {
    case Precision::bf16: return DType::bf16;
    case Precision::fp32: return DType::f32;
    case Precision::fp8:
    case Precision::mxfp8: break;
  }
  fail_usage("precision {} is not supported by this build; use bf16 or fp32", name(precision));
}

Setup::Setup(const Case& given) : c(given), faults(c.run.inject) {
  if (!c.model.checkpoint.empty()) checkpoint = checkpoint::open(c.model.checkpoint);
  model = load_model(c, checkpoint);
  validate_for_model(c, model.config.experts > 0);
  require_legal(model, train_options(c), gen_options(c));
  train = train::make_layout(model, train_options(c));
  gen = gen::make_layout(model, gen_options(c));
  split = plan::split(model, c.refit.bulk, *train, *gen, c.train.layout.tp, c.gen.layout.tp);
}

}  // namespace refit::engine
