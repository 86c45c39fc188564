#pragma once
// Megatron-Core as a trainer that cases can choose: its keys, and the checks of their values.

#include "layout/side.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {

/// Returns Megatron's row of the table of trainers.
const layout::SideRow& trainer();

class Side final : public layout::SideSpec {
 public:
  Side() : SideSpec(trainer()) {}
  std::unique_ptr<layout::SideSpec> clone() const override { return std::make_unique<Side>(*this); }

  void complete() override { written.sizes = layout::with_data_parallel(written.sizes); }
  void check_model(Complaints& complaints, const model::Model& model) const override;
  void check(Complaints& complaints, const layout::SideSpec& other) const override;
  std::vector<std::string> violations(const model::Model& model) const override;
  std::vector<std::int64_t> legal_tp(const model::Model& model) const override;

  layout::Parallelism sizes() const override { return written.sizes; }
  std::optional<layout::Precision> precision() const override { return kept_as; }
  bool keeps_adapters() const override { return true; }
  void refine(model::Model& model) const override;
  std::unique_ptr<layout::Layout> make_layout(const model::Model& model) const override;

  /// Returns the options of which layouts are made.
  Options options() const;

  Options written;  ///< by the keys, except the precision
  layout::Precision kept_as = layout::Precision::bf16;
};

}  // namespace refit::train::megatron
