// Faults in which pipeline stages mistake layers.

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
           first_stage_only}};
}

}  // namespace refit::inject
