#pragma once
// Several engines as one side: their ranks follow each other, and each engine has a layout of its own.
//
// Example: an engine TP4 for prefill and two replicas TP1 for decode: ranks 0..3 have a quarter of q_proj each, ranks 4
// and 5 all of it. Planner and executors see six ranks of one side; proofs look at each engine by itself.

#include <memory>
#include <vector>

#include "layout/layout.hpp"

namespace refit::layout {

/// The layouts of several engines, side by side. A rank's stage is that within its engine.
class JoinedLayout final : public Layout {
 public:
  struct Engine {
    std::unique_ptr<Layout> layout;  ///< nullptr: its ranks store nothing
    std::int32_t ranks = 0;
  };
  explicit JoinedLayout(std::vector<Engine> engines);

  std::int32_t ranks() const override { return first_.back(); }
  std::int32_t stage(Rank rank) const override;
  std::int32_t stages() const override;
  std::int32_t engines() const override { return static_cast<std::int32_t>(engines_.size()); }
  std::int32_t engine(Rank rank) const override;
  std::uint64_t placement_class(const Tensor& tensor) const override;
  std::optional<Format> format(const Tensor& tensor) const override;
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override;
  Storage storage(const StorageKey& key, Rank rank) const override;
  void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const override;
  std::vector<StorageKey> constant_storages(Rank rank) const override;
  /// Returns coordinates with the engine in front: "engine=1 tp=0 dp=1".
  std::string coordinates(Rank rank) const override;

 private:
  /// Returns the rank's engine's layout, or nullptr, and the rank's number there.
  std::pair<const Layout*, Rank> own(Rank rank) const;

  std::vector<Engine> engines_;
  std::vector<std::int32_t> first_;  ///< ranks, by engine, and one past the last
};

/// One engine of a side, as a side by itself. Keeps a reference to the side's layout.
class EngineLayout final : public Layout {
 public:
  EngineLayout(const Layout& side, std::int32_t engine);

  /// Returns the engine's first rank on the side.
  std::int32_t first() const { return first_; }

  std::int32_t ranks() const override { return ranks_; }
  std::int32_t stage(Rank rank) const override { return side_.stage(on_side(rank)); }
  std::int32_t stages() const override { return side_.stages(); }
  std::int32_t chunks() const override { return side_.chunks(); }
  std::uint64_t placement_class(const Tensor& tensor) const override { return side_.placement_class(tensor); }
  std::optional<Format> format(const Tensor& tensor) const override;
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    side_.pieces(tensor, on_side(rank), out);
  }
  Storage storage(const StorageKey& key, Rank rank) const override { return side_.storage(key, on_side(rank)); }
  void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const override {
    side_.fills(key, on_side(rank), out);
  }
  std::vector<StorageKey> constant_storages(Rank rank) const override { return side_.constant_storages(on_side(rank)); }
  std::string coordinates(Rank rank) const override { return side_.coordinates(on_side(rank)); }

 private:
  Rank on_side(Rank rank) const { return Rank{first_ + to_int(rank)}; }

  const Layout& side_;
  std::int32_t first_ = 0;
  std::int32_t ranks_ = 0;
};

/// Returns a side's engines.
std::vector<EngineLayout> engines_of(const Layout& side);

/// A tensor that an engine stores in another form than the first one that stores it.
struct UnlikeForm {
  std::int32_t tensor = 0;
  std::int32_t engine = 0;
  Format form;
};
/// Returns the first such of `tensors`, if there is any.
std::optional<UnlikeForm> find_unlike_form(const Layout& side, const std::vector<Tensor>& tensors);

}  // namespace refit::layout
