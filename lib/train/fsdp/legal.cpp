#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "layout/parameter.hpp"
#include "train/fsdp/mesh.hpp"

namespace refit::train::fsdp {
namespace {

using model::Config;
using model::Role;

void check_axes(const Options& options, std::vector<std::string>& out) {
  const RecipeRow& recipe = row_of(options.recipe);
  const layout::Parallelism& sizes = options.sizes;
  for (const auto& [axis, size] : {std::pair{"HSDP", sizes.hsdp},
                                   {"TP", sizes.tp},
                                   {"CP", sizes.cp},
                                   {"EP", sizes.ep},
                                   {"ETP", sizes.etp},
                                   {"PP", sizes.pp}}) {
    if (size == 1 || std::ranges::find(recipe.axes, axis) != recipe.axes.end()) continue;
    out.push_back(fmt::format("train: {}{} with train.recipe = {}, whose axes are {}", axis, size, recipe.name,
                              fmt::join(recipe.axes, ", ")));
  }
  if (options.pipeline_style == PipelineStyle::v && options.virtual_stages != 2)
    out.push_back(fmt::format("train: pipeline_style v has two stages on a rank; set train.virtual_stages = 2, not {}",
                              options.virtual_stages));
}

void check_experts(const model::Model& model, const Options& options, std::vector<std::string>& out) {
  const Config& config = model.config;
  const layout::Parallelism& sizes = options.sizes;
  if (config.experts == 0 && sizes.ep > 1) {
    out.push_back(fmt::format("train: EP{} on a model without experts; legal: EP1", sizes.ep));
    return;
  }
  if (sizes.etp > 1 && (sizes.etp != sizes.tp || sizes.ep == 1)) {
    out.push_back(fmt::format("train: ETP{} with TP{} and EP{}; ETP is 1, or TP where EP is more than 1", sizes.etp,
                              sizes.tp, sizes.ep));
    return;
  }
  const std::int64_t shared = expert_shards(options) * sizes.ep;
  const std::int64_t ranks = sizes.fsdp * sizes.cp * sizes.tp / sizes.etp *
                             (row_of(options.recipe).mesh == ExpertMesh::stage ? sizes.hsdp : 1);
  if (sizes.ep > 1 && shared != ranks)
    out.push_back(fmt::format("train: EP{} does not divide the {} ranks that share experts [L1]", sizes.ep, ranks));
  const std::string problem = experts_problem(model, options);
  if (!problem.empty()) out.push_back(problem);
}

void check_tensor_parallel(const model::Model& model, const Options& options, std::vector<std::string>& out) {
  if (options.sizes.tp == 1) return;
  std::set<std::string_view> unknown;
  for (const model::Tensor& tensor : model.tensors) {
    const bool is_ours = tensor.layer < model.config.layers && !is_scale(tensor.role) && tensor.role != Role::unknown;
    if (is_ours && !tensor_parallel_dim(tensor.role)) unknown.insert(name(tensor.role));
  }
  if (unknown.empty()) return;
  out.push_back(
      fmt::format("train: no plan of tensor parallelism is known for {}; legal: TP1", fmt::join(unknown, ", ")));
}

/// Whether a model has two places for its one vocabulary matrix on one rank, which no framework does.
void check_tied(const Config& config, const Options& options, std::vector<std::string>& out) {
  const std::int64_t last = options.sizes.pp * options.virtual_stages - 1;
  if (!config.tied || last == 0 || home_of_stage(options, last) != home_of_stage(options, 0)) return;
  out.emplace_back(
      "train: a tied model whose first and last stages are on the same ranks; use train.pipeline_style loop");
}

/// Every rule of train.shard_dim is for some parameter.
void check_rules(const Options& options, const Parameters& parameters, std::vector<std::string>& out) {
  for (const std::string& text : options.shard_dim) {
    const ShardRule rule = parse_shard_rule(text).value();
    if (std::ranges::none_of(parameters.all, [&](const Parameter& parameter) { return fits(rule, parameter); }))
      out.push_back(fmt::format("train: shard_dim \"{}\" is for no parameter; leave it out", text));
  }
}

/// torch cuts only dimension 0 unevenly.
void check_even(const Options& options, const Parameters& parameters, std::vector<std::string>& out) {
  std::set<std::string> found;
  const std::int64_t ranks = options.sizes.ranks() / options.sizes.pp;
  std::set<std::pair<Shape, std::pair<int, int>>> seen;
  for (const Parameter& parameter : parameters.all) {
    const int kind = parameter.is_stacked ? parameter.shard_dim + kMaxDimensions : parameter.shard_dim;
    if (parameter.shard_dim == 0 || parameter.is_first_divisible || parameter.is_whole) continue;
    if (!seen.insert({parameter.shape, {kind, parameter.tp_dim}}).second) continue;
    for (std::int32_t rank = 0; rank < ranks; ++rank) {
      const Cuts cuts = cuts_of(options, parameter, coordinates(options, Rank{rank}));
      const Box box = unsharded_box(cuts, parameter);
      const int dim = shard_dim(options, parameter, box);
      if (!cuts.is_sharded || dim == 0 || box.extent[dim] % cuts.sharded.parts == 0) continue;
      found.insert(
          fmt::format("train: FSDP over {} ranks does not divide dimension {} of {} {}; only dimension 0 may be "
                      "uneven (train.shard_dim)",
                      cuts.sharded.parts, dim, parameter.name, to_string(box.extent)));
      break;
    }
  }
  out.insert(out.end(), found.begin(), found.end());
}

}  // namespace

std::vector<std::string> violations(const model::Model& model, const Options& options) {
  if (model.config.vision.depth > 0) {
    return {
        "train: what FSDP2 stores of vision-language models is not known here; use train.trainer = \"megatron\", or a "
        "checkpoint of the language model alone"};
  }
  std::vector<std::string> out;
  check_axes(options, out);
  check_experts(model, options, out);
  check_tensor_parallel(model, options, out);
  check_tied(model.config, options, out);
  const std::vector<std::int64_t> stages = split_stages(model.config.layers, options, out);
  if (!out.empty()) return out;
  const Parameters parameters = parameters_of(model, options, stages);
  check_rules(options, parameters, out);
  check_even(options, parameters, out);
  return out;
}

}  // namespace refit::train::fsdp
