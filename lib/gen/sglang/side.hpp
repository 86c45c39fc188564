#pragma once
// SGLang as an engine that cases can choose: its keys, and what is wrong with their values.

#include "gen/sglang/layout.hpp"
#include "layout/side.hpp"

namespace refit::gen::sglang {

/// Its row of the table of engines.
const layout::SideRow& engine();

class Side final : public layout::SideSpec {
 public:
  Side() : SideSpec(engine()) {}
  std::unique_ptr<layout::SideSpec> clone() const override { return std::make_unique<Side>(*this); }

  void complete() override;
  void check(Complaints& complaints, const layout::SideSpec& other) const override;
  void check_model(Complaints& complaints, const model::Model& model) const override;
  std::vector<std::string> notes(const model::Model& model) const override;
  std::vector<std::string> violations(const model::Model& model) const override;
  std::vector<std::int64_t> legal_tp(const model::Model& model) const override;

  layout::Parallelism sizes() const override { return written.sizes; }
  std::optional<layout::Precision> precision() const override { return kept_as; }
  layout::SideSettings settings(bool quantises) const override;
  std::vector<std::pair<std::string, std::string>> inputs() const override;

  std::unique_ptr<layout::Layout> make_layout(const model::Model& model) const override;
  std::unique_ptr<layout::Layout> make_derived(const model::Model& model, const layout::Layout& loaded) const override;
  std::optional<Library> quantiser() const override;

  /// What layouts are made of.
  Options options() const;

  Options written;  ///< by the keys, but for the precision
  layout::Precision kept_as = layout::Precision::bf16;
  bool derived = false;        ///< what is computed of weights after loading is stored too
  std::string quantiser_name;  ///< of a library; empty = the precision's default
};

}  // namespace refit::gen::sglang
