#pragma once
// Small models of every family, and the storages of one rank written out element by element.

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "layout/layout.hpp"

namespace refit::layout {

/// V 250, H 12, L 4, I 16, nh 8, nkv 2, hd 4; with experts E 6 of I 8, shared experts of I 8. Cases: every family, and
/// "llama_tied", "llama_tied_lm_head" (the checkpoint has its own lm_head), "qwen3_moe_dense" (layer 1 is dense and as
/// wide as an expert) and "nemotron_h_latent" (one Mamba group, latent experts of width 6).
/// DeepSeek's and GLM's: layer 0 is dense, layer 4 is multi-token prediction; queries of DeepSeek-V2 have one matrix.
/// Nemotron-H: L 6, one of each block and two more of Mamba (8 heads of 2, 4 groups of 2) and experts. Qwen3-Next and
/// Qwen3.5: three Gated DeltaNet layers (4 key heads of 2, 8 value heads of 3), then attention; experts of Qwen3.5 are
/// packed, or it has none. Llama 4: layers 1 and 3 have experts.
/// "FAMILY_vl": the family is the language model beside a vision tower of 2 blocks (D 16, 8 heads, I 24, merge size 2).
model::Config small_config(const std::string& name);
model::Model small_model(const std::string& name);
std::vector<std::string> small_models();

/// Origin of a stored element: element `element` of tensor `tensor` (by its canonical name), or a fill.
struct Origin {
  static constexpr std::int32_t kNothing = -1;
  static constexpr std::int32_t kFill = -2;
  std::int32_t tensor = kNothing;
  std::int64_t element = -1;
  double value = 0;  ///< of a fill
  friend bool operator==(const Origin&, const Origin&) = default;
};

/// One storage of one rank, element by element.
struct Contents {
  Storage storage;
  std::vector<Origin> elements;
};

/// Returns the storages of `rank`. Reports (as test failures) elements that are covered twice or by two values, and
/// places beyond a storage's end; elements that nothing covers stay Origin::kNothing.
std::vector<Contents> contents(const Layout& layout, const model::Model& model, Rank rank);

/// Returns the names of a rank's storages.
std::set<std::string> names(const Layout& layout, const model::Model& model, Rank rank = Rank{0});

/// Returns the storage of that name; a test failure and an empty one where there is none.
Contents find(const std::vector<Contents>& all, const std::string& name);

/// Returns the storage of that name as rows: "q3" is row 3 of the tensor whose name contains ".q_proj.", "0" a row of
/// zeros. Rows must be whole (first to last column) or all cut at the same columns. Joined with blanks.
std::string rows(const Layout& layout, const model::Model& model, Rank rank, const std::string& name);

/// A name for rows `first` and following of the tensor called `of`.
struct Section {
  std::string of;
  std::int64_t first;
  std::string name;
};

/// Returns the result of `rows` in the names of the sections: with {"i", 0, "z"}, {"i", 4, "x"}, "i3 i4" is "z3 x0".
std::string renamed(const std::string& rows, const std::vector<Section>& sections);

/// Returns likewise the columns of the storage's first row, e.g. "4 5 6 7".
std::string columns(const Layout& layout, const model::Model& model, Rank rank, const std::string& name);

/// Returns the boxes that `rank` stores of the tensor called `name`, as "[0:2, 0:12] [4:6, 0:12]"; empty where it
/// stores none of it.
std::string boxes(const Layout& layout, const model::Model& model, Rank rank, const std::string& name);

}  // namespace refit::layout
