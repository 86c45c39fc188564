#pragma once
// torch's FSDP2 as a trainer that cases can choose: its keys, and what is wrong with their values.

#include "layout/side.hpp"
#include "train/fsdp/layout.hpp"

namespace refit::train::fsdp {

/// Its row of the table of trainers.
const layout::SideRow& trainer();

/// FSDP2 keeps weights unquantised.
enum class KeptAs : std::uint8_t { bf16, fp16, fp32 };
Choices choices(KeptAs);

class Side final : public layout::SideSpec {
 public:
  Side() : SideSpec(trainer()) {}
  std::unique_ptr<layout::SideSpec> clone() const override { return std::make_unique<Side>(*this); }

  void complete() override {}
  void check(Complaints& complaints, const layout::SideSpec& other) const override;
  void check_model(Complaints& complaints, const model::Model& model) const override;
  std::vector<std::string> violations(const model::Model& model) const override;
  std::vector<std::int64_t> legal_tp(const model::Model& model) const override;

  layout::Parallelism sizes() const override { return written.sizes; }
  std::optional<layout::Precision> precision() const override;
  layout::SideSettings settings(bool quantises) const override;
  bool keeps_adapters() const override { return true; }
  std::unique_ptr<layout::Layout> make_layout(const model::Model& model) const override;

  /// What layouts are made of.
  Options options() const;

  Options written;  ///< by the keys, but for the precision
  KeptAs kept_as = KeptAs::bf16;
};

}  // namespace refit::train::fsdp
