#include "verify/facts.hpp"

namespace refit::verify {
namespace {

/// True where the side stores values: numbers, or bytes that are multiplied by scales.
bool has_values(const Ledger& side, std::int32_t tensor) {
  const auto boxes = side.boxes(tensor);
  if (boxes.empty()) return false;
  return is_castable(boxes[0].format.dtype) || boxes[0].format.conversion == Conversion::block_scaled;
}

}  // namespace

Facts facts_of(const std::vector<model::Tensor>& tensors, const Ledger& train, const Ledger& gen,
               const Ledger* originals) {
  Facts facts;
  for (const model::Tensor& tensor : tensors) {
    const auto in_gen = gen.boxes(tensor.index);
    const auto in_train = train.boxes(tensor.index);
    const Format elsewhere = in_train.empty() ? Format(tensor.dtype) : in_train[0].format;
    facts.compared_as.push_back(in_gen.empty() ? elsewhere : in_gen[0].format);
    if (tensor.shape.size() < 2 || tensor.elements() == 0 || tensor.scale_of >= 0) continue;
    const Ledger& source = originals != nullptr && tensor.scales >= 0 ? *originals : train;
    if (has_values(source, tensor.index) && has_values(gen, tensor.index)) facts.measured.push_back(tensor.index);
  }
  return facts;
}

std::vector<std::vector<std::int32_t>> first_holders(const std::vector<std::int32_t>& measured,
                                                     std::span<const Ledger* const> sides, std::int32_t world_size) {
  std::vector<std::vector<std::int32_t>> pieces(static_cast<std::size_t>(world_size));
  for (std::int32_t tensor : measured) {
    for (const Ledger* side : sides) {
      for (const HeldBox& held : side->boxes(tensor)) {
        const Holder& first = side->holders(held)[0];
        pieces[static_cast<std::size_t>(first.world_rank)].push_back(first.piece);
      }
    }
  }
  return pieces;
}

}  // namespace refit::verify
