#include "engine/derived.hpp"

#include <fmt/format.h>

#include <set>

#include "transport/together.hpp"

namespace refit::engine {
namespace {

using layout::LocalPiece;
using model::Tensor;

/// One side's layout, of some tensors only: those of which `derived` has anything.
class Sources final : public layout::Layout {
 public:
  Sources(const layout::Layout& side, const layout::Layout& derived) : side_(side), derived_(derived) {}

  std::int32_t ranks() const override { return side_.ranks(); }
  std::int32_t stage(Rank rank) const override { return side_.stage(rank); }
  std::int32_t stages() const override { return side_.stages(); }
  std::uint64_t placement_class(const Tensor& tensor) const override { return side_.placement_class(tensor); }
  std::optional<Format> format(const Tensor& tensor) const override {
    return is_source(tensor) ? side_.format(tensor) : std::nullopt;
  }
  void pieces(const Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override {
    if (is_source(tensor)) side_.pieces(tensor, rank, out);
  }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override { return side_.storage(key, rank); }
  /// The constants of these storages are judged with all weights.
  void fills(const layout::StorageKey& /*key*/, Rank /*rank*/, std::vector<layout::Fill>& /*out*/) const override {}
  std::string coordinates(Rank rank) const override { return side_.coordinates(rank); }

 private:
  bool is_source(const Tensor& tensor) const { return derived_.format(tensor).has_value(); }

  const layout::Layout& side_;
  const layout::Layout& derived_;
};

/// Adds what derived storages add to a verdict on weights, beside names.
void add(const verify::Verdict& derived, verify::Verdict& all) {
  all.tensors_not_counted += derived.tensors_not_counted;
  all.elements += derived.elements;
  all.elements_wrong += derived.elements_wrong;
}

/// Makes the copies from the pieces of `local` to those of `derived` that have elements in common with them.
std::vector<kernels::Tile> tiles_of(const layout::LocalLayout& local, const transport::LocalMemory& memory,
                                    const layout::LocalLayout& derived, const transport::LocalMemory& to) {
  std::vector<kernels::Tile> tiles;
  auto from = local.pieces.begin();
  for (const LocalPiece& made : derived.pieces) {  // both in order of tensor
    while (from != local.pieces.end() && from->tensor < made.tensor) ++from;
    for (auto piece = from; piece != local.pieces.end() && piece->tensor == made.tensor; ++piece) {
      const auto common = intersect(piece->piece.box, made.piece.box);
      if (!common) continue;
      const layout::Place source = place_of(piece->piece, *common);
      const layout::Place destination = place_of(made.piece, *common);
      const Format& as = piece->piece.format;
      tiles.push_back({memory.address(source, as.dtype), to.address(destination, made.piece.format.dtype),
                       common->extent, source.strides, destination.strides, as.dtype, made.piece.format.dtype,
                       transform(as.conversion, made.piece.format.conversion)});
    }
  }
  return tiles;
}

}  // namespace

Derived::Derived(const kernels::ExecutionSpace& space, const Setup& setup, transport::Control& world,
                 transport::Links& links, Group group, Rank rank, const layout::LocalLayout& local,
                 const transport::LocalMemory& memory)
    : space_(space), setup_(setup), sources_(std::make_unique<Sources>(*setup.train, *setup.derived)) {
  transport::together(world, [&] {
    const std::vector<Tensor>& tensors = setup.model.tensors;
    if (group == Group::train) {
      local_ = layout::materialise(*sources_, tensors, rank);
      for (const layout::Storage& storage : local_.storages)
        storages_.push_back(memory.storages()[static_cast<std::size_t>(local.find(storage.key))]);
      return;
    }
    local_ = layout::materialise(*setup.derived, tensors, rank);
    arena_ = links.memory(transport::ArenaMap(local_).bytes);
    const transport::LocalMemory made(local_, arena_->span().data());
    kernels::poison(space, arena_->span().data(), std::ssize(arena_->span()));
    storages_ = made.storages();
    copies_ = kernels::CopyTable(space, tiles_of(local, memory, local_, made));
  });
  verifier_ = std::make_unique<verify::Verifier>(setup.model, *sources_, *setup.derived,
                                                 verify::RankView{group, rank, &local_, storages_}, world, space,
                                                 static_cast<std::uint64_t>(setup.c.run.seed));
}

std::int64_t Derived::bytes(const Setup& setup, Rank rank) {
  return transport::ArenaMap(layout::materialise(*setup.derived, setup.model.tensors, rank)).bytes;
}

void Derived::finalise() const {
  copies_.run(space_);
  space_.fence();
}

std::vector<checkpoint::DumpTensor> Derived::dumped() const {
  std::vector<checkpoint::DumpTensor> result;
  for (std::size_t i = 0; i < local_.storages.size(); ++i) {
    const layout::Storage& storage = local_.storages[i];
    result.push_back({{storage.name, storage.shape, storage.dtype}, storages_[i]});
  }
  return result;
}

std::string Derived::describe() const {
  std::int32_t rank = 0;  // the first that derives anything: not all engines do
  layout::LocalLayout first = layout::materialise(*setup_.derived, setup_.model.tensors, Rank{rank});
  while (first.storages.empty() && ++rank < setup_.derived->ranks())
    first = layout::materialise(*setup_.derived, setup_.model.tensors, Rank{rank});
  return fmt::format(
      "gen derives {} storages of its weights at the end of every refit ({} bytes on gen rank {}: {}, ...)",
      first.storages.size(), transport::ArenaMap(first).bytes, rank,
      first.storages.empty() ? "none" : first.storages.front().name);
}

void Derived::verify(verify::StepResult& result) {
  const verify::StepResult found = verifier_->verify(result.step);
  std::set<std::string> names;
  for (verify::WrongTensor wrong : found.wrong) {
    wrong.tensor = derived_name(wrong.tensor);
    names.insert(wrong.tensor);
    result.wrong.push_back(std::move(wrong));
  }
  result.tensors_wrong += std::ssize(names);
  add(found, result);
  for (std::size_t e = 0; e < result.engines.size(); ++e) {
    result.engines[e].tensors_wrong += found.engines[e].tensors_wrong;
    add(found.engines[e], result.engines[e]);
  }
}

}  // namespace refit::engine
