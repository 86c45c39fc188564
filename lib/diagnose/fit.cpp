#include "diagnose/fit.hpp"

#include <set>

#include "case/case.hpp"
#include "core/error.hpp"

namespace refit::diagnose {

Fit fit_of(const cases::Setup& setup, const Dumps& gen) {
  Fit fit;
  for (std::int32_t r = 0; r < gen.ranks(); ++r) {
    for (const layout::Storage& storage : layout::materialise(*setup.gen, setup.model.tensors, Rank{r}).storages) {
      fit.elements += storage.elements();
      const Dumps::Problem problem = gen.problem(Rank{r}, storage);
      if (!problem) continue;
      const bool missing = problem.kind == Dumps::Misfit::missing;
      (missing ? fit.missing : fit.misshaped) += storage.elements();
      fit.all_shapes = fit.all_shapes && problem.kind != Dumps::Misfit::dtype;
      std::string& example = missing ? fit.missing_example : fit.misshaped_example;
      if (example.empty())
        example = missing ? storage.name : fmt::format("gen rank {}: {} {}", r, storage.name, problem.text);
    }
  }
  return fit;
}

std::string fitting_layout(const cases::Setup& setup, const Dumps& gen) {
  const layout::SideKey* key = setup.c.engine().find_key("gen.layout");
  if (key == nullptr || setup.c.gen.size() > 1) return "";
  const std::int64_t ranks = gen.ranks();
  for (std::int64_t tp = ranks; tp >= 1; --tp) {
    if (ranks % tp != 0) continue;
    for (const std::int64_t ep : std::set<std::int64_t>{1, tp, ranks}) {  // experts are cut, or of an engine's ranks
      cases::Case c = setup.c;
      try {
        layout::SideSpec& spec = *c.gen.front();
        if (!key->set(spec, fmt::format("TP{}xDP{}xEP{}", tp, ranks / tp, ep)).empty()) continue;
        spec.complete();
        const cases::Setup other(c);
        const Fit fit = fit_of(other, gen);
        if (fit.missing == 0 && fit.misshaped == 0) return layout::to_string(spec.sizes());
      } catch (const Error&) {
        continue;  // no legal layout of this model
      }
    }
  }
  return "";
}

}  // namespace refit::diagnose
