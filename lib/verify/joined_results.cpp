#include "verify/joined_results.hpp"

#include <algorithm>
#include <set>

#include "verify/overflows.hpp"

namespace refit::verify {
namespace {

/// Returns the number of names in `wrong`, of entries that `is_meant`.
template <typename Meant>
std::int64_t count_names(const std::vector<WrongTensor>& wrong, const Meant& is_meant) {
  std::set<std::string> names;
  for (const WrongTensor& entry : wrong)
    if (is_meant(entry)) names.insert(entry.tensor);
  return std::ssize(names);
}

/// Returns the KL of two engines as that of one.
KlSummary join(const KlSummary& a, const KlSummary& b) {
  KlSummary both = a.max >= b.max ? a : b;
  both.mean = std::max(a.mean, b.mean);
  both.not_finite = std::max(a.not_finite, b.not_finite);
  return both;
}

}  // namespace

StepResult join_engines(const std::vector<StepResult>& engines, std::int64_t tensors) {
  StepResult all = engines.front();
  all.engines = {engines.begin(), engines.end()};
  if (engines.size() == 1) return all;
  all.tensors = tensors;
  for (std::size_t e = 1; e < engines.size(); ++e) {
    const StepResult& more = engines[e];
    all.elements += more.elements;
    all.elements_wrong += more.elements_wrong;
    all.fingerprint_train += more.fingerprint_train;
    all.fingerprint_gen += more.fingerprint_gen;
    all.kl = join(all.kl, more.kl);
    all.wrong.insert(all.wrong.end(), more.wrong.begin(), more.wrong.end());
    all.overflows.insert(all.overflows.end(), more.overflows.begin(), more.overflows.end());
    for (const TrainDisagreement& odd : more.train_disagreements)
      if (std::ranges::find(all.train_disagreements, odd) == all.train_disagreements.end())
        all.train_disagreements.push_back(odd);
  }
  all.overflows = join_overflows(all.overflows);
  all.tensors_wrong = count_names(all.wrong, [](const WrongTensor&) { return true; });
  all.tensors_not_counted = count_names(all.wrong, [](const WrongTensor& entry) { return !entry.counted; });
  return all;
}

}  // namespace refit::verify
