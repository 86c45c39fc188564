#include "verify/facts.hpp"

namespace refit::verify {

Facts facts_of(const std::vector<model::Tensor>& tensors, const Ledger& train, const Ledger& gen) {
  Facts facts;
  for (const model::Tensor& tensor : tensors) {
    const auto in_gen = gen.boxes(tensor.index);
    const auto in_train = train.boxes(tensor.index);
    const Format elsewhere = in_train.empty() ? Format(tensor.dtype) : in_train[0].format;
    facts.compared_as.push_back(in_gen.empty() ? elsewhere : in_gen[0].format);
    if (in_gen.empty() || in_train.empty() || tensor.shape.size() < 2 || tensor.elements() == 0) continue;
    if (is_castable(in_gen[0].format.dtype) && is_castable(in_train[0].format.dtype))
      facts.measured.push_back(tensor.index);
  }
  return facts;
}

std::vector<std::vector<std::int32_t>> first_holders(const std::vector<std::int32_t>& measured, const Ledger& train,
                                                     const Ledger& gen, std::int32_t world_size) {
  std::vector<std::vector<std::int32_t>> pieces(static_cast<std::size_t>(world_size));
  for (std::int32_t tensor : measured) {
    for (const Ledger* side : {&train, &gen}) {
      for (const HeldBox& held : side->boxes(tensor)) {
        const Holder& first = side->holders(held)[0];
        pieces[static_cast<std::size_t>(first.world_rank)].push_back(first.piece);
      }
    }
  }
  return pieces;
}

}  // namespace refit::verify
