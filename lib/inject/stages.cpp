// Faults in which pipeline stages mistake layers.

#include <algorithm>

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

/// Sends pieces of the first stage alone: those of other stages reach nobody.
void first_stage_only(const Setting& /*setting*/, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                      std::vector<Piece>& out) {
  if (truth.stage(rank) == 0) truth.pieces(tensor, rank, out);
}

/// Makes ranks of the first stage send the pieces of the ranks of their place in any stage.
void all_in_first_stage(const Setting& /*setting*/, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                        std::vector<Piece>& out) {
  if (truth.stage(rank) != 0) return;
  const std::int32_t of_stage = truth.ranks() / truth.stages();
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  const bool is_own = out.size() > first;
  for (std::int32_t stage = 1; stage < truth.stages() && out.size() == first; ++stage) {
    truth.pieces(tensor, Rank{to_int(rank) + stage * of_stage}, out);
  }
  for (std::size_t i = first; i < out.size(); ++i) {
    if (out[i].place.storage.layer < 0) {  // named as in the model: a first stage has its own layers' only
      if (!is_own) out.resize(first);
      return;
    }
    out[i].place.storage.layer = tensor.layer;
  }
}

/// Appends what ranks of `stage` store of their n-th layer, as if it were the tensor's layer.
void take_layer(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                std::int64_t stage, std::int64_t n, std::vector<Piece>& out) {
  const StageLayers& all = *setting.stage_layers;
  if (stage != truth.stage(rank) || stage >= std::ssize(all)) return;
  const auto& layers = all[static_cast<std::size_t>(stage)];
  if (n >= std::ssize(layers)) return;  // no name that the planner looks up
  const Tensor* other = twin(setting.model, tensor, layers[static_cast<std::size_t>(n)], tensor.expert);
  if (other != nullptr) truth.pieces(*other, rank, out);
}

/// Takes layers for those of an even split, where stages have different numbers of them.
void even_split(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                std::vector<Piece>& out) {
  const StageLayers& all = *setting.stage_layers;
  const auto is_even = [&](const auto& layers) { return layers.size() == all.front().size(); };
  if (std::ranges::all_of(all, is_even)) return truth.pieces(tensor, rank, out);
  const std::int64_t each = std::max<std::int64_t>(1, setting.model.config.layers / truth.stages());
  const std::int64_t stage = std::min<std::int64_t>(tensor.layer / each, truth.stages() - 1);
  take_layer(setting, truth, tensor, rank, stage, tensor.layer - stage * each, out);
}

/// Takes a stage's layers, chunk behind chunk, for layers that follow each other.
void chunks_without_offset(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                           std::vector<Piece>& out) {
  std::int64_t stage = 0;
  std::int64_t n = tensor.layer;
  for (const auto& layers : *setting.stage_layers) {
    if (n < std::ssize(layers)) return take_layer(setting, truth, tensor, rank, stage, n, out);
    n -= std::ssize(layers);
    ++stage;
  }
}

bool is_of_stages(const Setting& setting, const Tensor& tensor) {
  return setting.train.pp > 1 && tensor.layer >= 0 && tensor.layer < setting.model.config.layers && tensor.unit < 0;
}

}  // namespace

std::vector<Fault> stage_faults() {
  return {{{"B7-default-stage", "layers whose names do not begin with \"model.\" are in stage 0 of the stage map"},
           "train PP > 1, and another prefix than \"model.\"",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             return setting.train.pp > 1 && tensor.layer >= 0 && setting.model.config.prefix != "model.";
           },
           all_in_first_stage},
          {{"B29-local-layers", "all stages name their layers from 0; those of the first are what arrives"},
           "train PP > 1",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) { return setting.train.pp > 1 && tensor.layer >= 0; },
           first_stage_only},
          {{"B42-scales-by-local-names", "block scales are looked up by the names of a stage's own layers"},
           "quantised weights, train PP > 1",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) { return setting.train.pp > 1 && tensor.scale_of >= 0; },
           first_stage_only},
          {{"B60-lost-pipeline-layout", "layers are looked for where an even split over the stages would have them"},
           "train stages of unequal numbers of layers",
           Act::train_layout,
           is_of_stages,
           even_split},
          {{"B61-offset-without-chunk", "the layers of a stage's model chunks are numbered one after the other"},
           "virtual stages of train",
           Act::train_layout,
           is_of_stages,
           chunks_without_offset}};
}

}  // namespace refit::inject
