#pragma once
// Mamba2 mixers and Gated DeltaNet as vLLM and SGLang keep them.
//
// Source: what vLLM 0.33.0 and SGLang 0.5.23 stored.

#include <cstdint>

#include "layout/parameter.hpp"

namespace refit::layout {

/// Adds the parameters of Mamba2 mixers, cut into `parts`. in_proj holds the rank's part of each of z, x, B, C and dt,
/// the convolution of each of x, B and C; a single group is whole on every rank. A = -exp(A_log) is kept, in float32.
void add_mamba(ParameterTable& table, const model::Mamba& sizes, std::int64_t parts);

/// Adds the parameters of Gated DeltaNet but its norm, cut into `parts`. in_proj_qkvz is the rank's part of each of q,
/// k, v and z, in_proj_ba of b and a. Where the checkpoint groups them by key head (Qwen3-Next), the rank has its rows
/// of that grouping. A_log is stored as it is, in float32.
void add_gated_delta_net(ParameterTable& table, const model::GatedDeltaNet& sizes, std::int64_t parts);

}  // namespace refit::layout
