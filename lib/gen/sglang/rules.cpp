#include "gen/sglang/rules.hpp"

namespace refit::gen::sglang {

using layout::Parameter;
using model::Role;

namespace {

/// SGLang pads every vocabulary to a multiple of this (DEFAULT_VOCAB_PADDING_SIZE), and where that does not divide over
/// the ranks, to a multiple of so many times the ranks.
constexpr std::int64_t kVocabularyMultiple = 64;

void add_vocabulary_rows(Rules& rules, Role role, Group group) {
  const std::int64_t ranks = group == kAttention ? rules.options.attention_tp() : rules.tp();
  const std::int64_t padded = round_up(rules.config.vocab_size, kVocabularyMultiple);
  Parameter parameter{"", {rules.table.all(role)}};
  parameter.padded_rows = padded % ranks == 0 ? padded : round_up(rules.config.vocab_size, kVocabularyMultiple * ranks);
  rules.table.cut_over(group);
  rules.table.add(std::move(parameter));
}

}  // namespace

/// A tied model has no head: the embedding serves, and a checkpoint's own is ignored. A drafter has neither: SGLang
/// gives it the main model's.
void add_vocabulary(Rules& rules) {
  const Options& options = rules.options;
  if (rules.facts.whole_embedding && options.attn_dp_size > 1) {
    Parameter embedding{"", {rules.table.all(Role::embedding)}};
    embedding.row_multiple = kVocabularyMultiple;
    rules.table.add(std::move(embedding));
  } else {
    const bool over_tp = rules.facts.cuts_attention_over_tp && !rules.facts.cuts_embedding_over_dp;
    add_vocabulary_rows(rules, Role::embedding, over_tp ? kTensor : kAttention);
  }
  if (!rules.config.tied) add_vocabulary_rows(rules, Role::lm_head, options.enable_dp_lm_head ? kAttention : kTensor);
  for (const Role role :
       {Role::final_norm, Role::mtp_embedding_norm, Role::mtp_hidden_norm, Role::mtp_final_norm, Role::mtp_proj}) {
    rules.table.whole("", role);
  }
}

/// What padding of weights leaves in their scales is zero, too.
layout::ScaleRules scale_rules(const Options& options) { return {options.weight_format}; }

std::vector<Parameter> parameters(const model::Model& model, const Options& options) {
  Rules rules{model.config, options, facts_of(model.config).sglang.value(), layout::ParameterTable(model)};
  add_vocabulary(rules);
  rules.table.cut_over(rules.attention());
  add_attention(rules);
  add_latent_attention(rules);
  add_mixers(rules);
  rules.table.cut_over(kTensor);
  add_mlp(rules);
  add_experts(rules);
  return rules.table.take();
}

}  // namespace refit::gen::sglang
