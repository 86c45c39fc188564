#pragma once
// Whole experts in other experts' slots and whole layers in other layers' places: many tensors that moved for one
// cause, reported in one sentence.

#include "diagnose/regions.hpp"

namespace refit::diagnose {

/// Returns "model.layers.*.mlp.experts.*.up_proj.weight" for "model.layers.3.mlp.experts.7.up_proj.weight"; a layer or
/// an expert that is to be kept stays.
std::string pattern(const model::Tensor& tensor, bool keep_layer = false, bool keep_expert = false);

/// Takes from `regions` those in which several experts (layers) hold other experts (layers) in the same way on all
/// ranks and tensors concerned, and returns a finding for each such exchange, e.g. "all 2 gen ranks: experts hold other
/// experts' weights: 0 <- 2, ...".
std::vector<Finding> take_relocations(const cases::Setup& setup, std::vector<Region>& regions);

}  // namespace refit::diagnose
