#pragma once
// Gen ranks that hold the right weights of a small model, to be spoilt and dumped.

#include <string>
#include <vector>

#include "diagnose/diagnose.hpp"
#include "engine/setup.hpp"

namespace refit::diagnose {

/// A complete case of `settings` ("key=value") on a model of inputs/models: train TP1, gen TP1 where they do not say.
cases::Case case_of(const std::string& model, const std::vector<std::string>& settings);

class World {
 public:
  explicit World(const cases::Case& c);

  const engine::Setup& setup() const { return setup_; }
  const model::Tensor& tensor(const std::string& name) const;
  std::int32_t ranks() const { return setup_.gen->ranks(); }
  /// Element (row, column) of a bf16 matrix, whose piece on that rank has it.
  std::uint16_t& at(std::int32_t rank, const std::string& name, std::int64_t row, std::int64_t column);
  /// That of a vector.
  std::uint16_t& at(std::int32_t rank, const std::string& name, std::int64_t index);
  /// The only piece of a tensor on a rank.
  const layout::Piece& piece(std::int32_t rank, const std::string& name) const;
  /// Replaces what the ranks hold by what `layout` would bring there; what it leaves out stays poison.
  void bring(const layout::Layout& layout);

  void dump(const std::string& folder) const;

 private:
  std::uint16_t& at(std::int32_t rank, const std::string& name, const Box& element);

  engine::Setup setup_;
  std::vector<layout::LocalLayout> locals_;
  std::vector<std::vector<kernels::SharedBuffer>> storages_;  ///< by rank
};

}  // namespace refit::diagnose
