#include "verify/judge.hpp"

#include <algorithm>

namespace refit::verify {
namespace {

const Sum128& print_of(const Fingerprints& prints, const Holder& holder) {
  return prints[static_cast<std::size_t>(holder.world_rank)][static_cast<std::size_t>(holder.piece)];
}

/// The statement of one side about one tensor.
struct Statement {
  Sum128 sum;
  std::vector<Source> sources;
  std::vector<OddHolder> odd;
};

Statement statement(const Ledger& side, std::int32_t tensor, const Fingerprints& prints) {
  Statement result;
  for (const HeldBox& held : side.boxes(tensor)) {
    const Holder truth = most_agreed(side.holders(held), prints);
    result.sum += print_of(prints, truth);
    result.sources.push_back({held.box, truth});
    find_odd(side, tensor, held, prints, result.odd);
  }
  return result;
}

}  // namespace

Holder most_agreed(std::span<const Holder> holders, const Fingerprints& prints) {
  const auto agreeing = [&](const Holder& one) {
    return std::count_if(holders.begin(), holders.end(),
                         [&](const Holder& other) { return print_of(prints, one) == print_of(prints, other); });
  };
  if (agreeing(holders[0]) == std::ssize(holders)) return holders[0];
  return *std::max_element(holders.begin(), holders.end(),
                           [&](const Holder& a, const Holder& b) { return agreeing(a) < agreeing(b); });
}

void find_odd(const Ledger& side, std::int32_t tensor, const HeldBox& box, const Fingerprints& prints,
              std::vector<OddHolder>& out) {
  const Holder truth = most_agreed(side.holders(box), prints);
  for (const Holder& holder : side.holders(box)) {
    if (print_of(prints, holder) != print_of(prints, truth)) out.push_back({tensor, box.box, holder, truth});
  }
}

Judgement judge(const std::vector<model::Tensor>& tensors, const Ledger& train, const Ledger& gen,
                const Fingerprints& prints, const std::vector<Constant>& constants) {
  Judgement result;
  for (const model::Tensor& tensor : tensors) {
    const std::int32_t t = tensor.index;
    if (gen.boxes(t).empty()) continue;
    ++result.tensors;
    Statement from_gen = statement(gen, t, prints);
    const bool in_train = !train.boxes(t).empty();
    bool wrong = !from_gen.odd.empty();
    Statement from_train;
    if (in_train) {
      from_train = statement(train, t, prints);
      result.odd_train.insert(result.odd_train.end(), from_train.odd.begin(), from_train.odd.end());
      result.train += from_train.sum;
      result.gen += from_gen.sum;
      wrong = wrong || from_train.sum != from_gen.sum;
    }
    if (!wrong) continue;
    Suspect& suspect = result.suspects.emplace_back(Suspect{t, in_train ? from_train.sources : from_gen.sources, {}});
    for (const HeldBox& held : gen.boxes(t)) suspect.targets.push_back(held.box);
  }
  for (const Constant& constant : constants) {
    if (statement(gen, constant.tensor, prints).sum != constant.fingerprint) result.changed.push_back(constant.tensor);
  }
  return result;
}

}  // namespace refit::verify
