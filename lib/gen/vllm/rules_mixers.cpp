#include "gen/vllm/rules.hpp"
#include "layout/mixers.hpp"

namespace refit::gen::vllm {

using model::Role;

void add_mamba(Rules& rules) { layout::add_mamba(rules.table, rules.config.mamba, rules.tp()); }

void add_gated_delta_net(Rules& rules) {
  layout::add_gated_delta_net(rules.table, rules.config.gdn, rules.tp());
  rules.table.whole("", Role::gdn_out_norm);
}

}  // namespace refit::gen::vllm
