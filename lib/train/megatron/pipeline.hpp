#pragma once
// Megatron-Core's pipelines: what each section has. Section i of PP x VP is model chunk i / PP (a virtual stage) of
// pipeline rank i mod PP; without virtual stages a section is a stage.
//
// Example: "Et|t|t|mL" over PP2 are the sections {E t}, {t}, {t}, {m L}: rank 0 has embedding and layer 0 in chunk 0,
// layer 2 and the final norm in chunk 1; rank 1 has layer 1 in chunk 0, in chunk 1 the layer of multi-token prediction
// with a copy of the embedding, and the output layer.

#include <string>
#include <string_view>
#include <vector>

#include "train/megatron/layout.hpp"

namespace refit::train::megatron {

/// A pipeline_model_parallel_layout, written out.
struct LayoutString {
  std::vector<std::string> sections;  ///< letters: E embedding, t decoder layer, m multi-token prediction, L loss
  std::string error;                  ///< with the position; empty if there is none
};

/// Parses Megatron-Core's own words: `|` separates sections, `x*n` and `(..)*n` repeat, commas mean nothing. At most
/// 65536 letters and bars.
LayoutString parse_pipeline_layout(std::string_view text);

/// The sections of a legal pipeline.
struct Pipeline {
  std::vector<std::int64_t> layers;  ///< decoder layers, by section
  std::int64_t chunks = 1;           ///< of a rank
  std::int64_t prediction = 0;       ///< the section of multi-token prediction, if there is any
  std::int64_t final_norm = 0;       ///< its section
};
Pipeline pipeline_of(const model::Config& config, const Options& options);

/// Appends the rules that the pipeline breaks, except those of split_stages.
void check_pipeline(const model::Config& config, const Options& options, std::vector<std::string>& violations);

}  // namespace refit::train::megatron
