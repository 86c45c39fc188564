#include "model/missing_names.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace refit::model {
namespace {

/// A way to turn the checkpoint's names into the family's.
struct Rewriting {
  std::string what;  ///< the form of the checkpoint's names: "with \"_orig_mod.\" in them"
  std::vector<std::pair<std::string, std::string>> replace;
};

std::string replaced(std::string name, const Rewriting& rewriting) {
  for (const auto& [from, to] : rewriting.replace) {
    if (const std::size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  }
  return name;
}

/// Returns the rewritings that undo frameworks' additions to names, each with its usual cause.
std::vector<Rewriting> known_rewritings() {
  const auto without = [](const std::string& text, const std::string& by) {
    return Rewriting{fmt::format("with \"{}\" in them, which {} puts there", text, by), {{text, ""}}};
  };
  return {without("_checkpoint_wrapped_module.", "activation checkpointing"),
          without("_fsdp_wrapped_module.", "FSDP"),
          without("_orig_mod.", "torch.compile"),
          without("module.", "DistributedDataParallel"),
          without("base_model.model.", "PEFT"),
          without("base_layer.", "PEFT"),
          {"with \"base_model.model.\" and \"base_layer.\" in them, which PEFT puts there: merge the adapter first",
           {{"base_model.model.", ""}, {".base_layer.", "."}}},
          without("_extra_state.", "TransformerEngine")};
}

/// Returns a line about the rewriting that turns names of the checkpoint into most of the missing ones; "" if none does
/// so for more than half of them.
std::string nearest_rewriting(const std::set<std::string>& missing, const std::vector<std::string>& others) {
  std::vector<Rewriting> candidates = known_rewritings();
  std::set<std::pair<std::string, std::string>> seen;
  const std::size_t looked_at = std::min<std::size_t>(others.size(), 64);
  for (std::size_t i = 0; i < looked_at; ++i) {  // prefixes in front of equal endings
    for (const std::string& name : missing) {
      const auto [end, other_end] = std::mismatch(name.rbegin(), name.rend(), others[i].rbegin(), others[i].rend());
      std::string from(others[i].begin(), other_end.base());
      std::string to(name.begin(), end.base());
      const auto ends_word = [](const std::string& text) { return text.empty() || text.back() == '.'; };
      if (!ends_word(from) || !ends_word(to)) {
        const std::size_t rest = name.find('.', to.size());
        if (rest == std::string::npos) continue;
        from += name.substr(to.size(), rest + 1 - to.size());
        to = name.substr(0, rest + 1);
      }
      constexpr std::size_t kLeastInCommon = 8;  // "p.weight" proves nothing
      if (name.size() - to.size() < kLeastInCommon || seen.size() > 256 || !seen.emplace(from, to).second) continue;
      candidates.push_back({to.empty()     ? fmt::format("with \"{}\" in front", from)
                            : from.empty() ? fmt::format("without \"{}\" in front", to)
                                           : fmt::format("with \"{}\" in place of \"{}\" in front", from, to),
                            {{from, to}}});
    }
  }
  std::size_t most = missing.size() / 2;
  const Rewriting* best = nullptr;
  for (const Rewriting& candidate : candidates) {
    std::set<std::string> explained;
    for (const std::string& name : others) {
      const std::string as = replaced(name, candidate);
      if (as != name && missing.contains(as)) explained.insert(as);
    }
    if (explained.size() > most) best = &candidate;
    most = std::max(most, explained.size());
  }
  if (best == nullptr) return "";
  return fmt::format("\n{} of the {} missing names are there {}.", most, missing.size(), best->what);
}

/// A form of weights that is known by a part of its names, and the advice for it.
struct KnownForm {
  std::string_view part;
  std::string_view what;
};
constexpr KnownForm kKnownForms[] = {
    {"self_attn.qkv_proj.", "q, k and v are one matrix (as Phi-3's), and three are needed: split them"},
    {"self_attn.qkv.", "q, k and v are one matrix, and three are needed: split them"},
    {"attention.query_key_value.", "q, k and v are one matrix, and three are needed: split them"},
    {"self_attention.linear_qkv.", "these are Megatron-Core's names: export to Hugging Face's first"},
    {"mlp.gate_up_proj.", "gate and up are one matrix, and two are needed: split them"},
    {"lora_A", "adapters lie beside their base: merge them first"},
    {"lora_B", "adapters lie beside their base: merge them first"},
    {"weight_scale_inv", "there are scales of FP8 in blocks (weight_scale_inv)"},
    {"weight_scale",
     "there are scales by the name weight_scale, and those of blocks of 128 x 128 are weight_scale_inv"},
    {"weight_packed", "weights are packed integers"},
    {"qweight", "weights are packed integers"},
    {"_blocks", "weights are MXFP4 in blocks"}};

bool shows(const KnownForm& form, const std::string& name) {
  // A name with "weight_scale_inv" must not match "weight_scale".
  return form.part == "weight_scale" ? name.ends_with(form.part) : name.find(form.part) != std::string::npos;
}

}  // namespace

std::string explain_missing(const std::set<std::string>& missing, const std::vector<std::string>& others) {
  std::string text = nearest_rewriting(missing, others);
  std::set<std::string_view> said;
  for (const KnownForm& form : kKnownForms) {
    const bool is_there =
        std::any_of(others.begin(), others.end(), [&](const auto& name) { return shows(form, name); });
    if (is_there && said.insert(form.what).second) text += fmt::format("\n{}.", form.what);
  }
  return text;
}

}  // namespace refit::model
