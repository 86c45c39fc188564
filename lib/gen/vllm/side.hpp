#pragma once
// vLLM as an engine that cases can choose: its keys, and the checks of their values.

#include "gen/vllm/layout.hpp"
#include "layout/side.hpp"

namespace refit::gen::vllm {

/// The kind of data parallelism: replicas are engines of their own, or ranks of one engine, which splits experts.
enum class DataParallel : std::uint8_t { engines, internal };
Choices choices(DataParallel);

enum class KvCacheDtype : std::uint8_t { automatic, fp8 };
Choices choices(KvCacheDtype);

/// Returns vLLM's row of the table of engines.
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

  std::map<std::int32_t, float> extend(model::Model& model, const std::string& source) const override;
  void refine(model::Model& model) const override { refine_scales(model, options()); }
  bool keeps_adapters() const override { return true; }
  std::unique_ptr<layout::Layout> make_layout(const model::Model& model) const override;

  std::unique_ptr<layout::Layout> make_derived(const model::Model& model, const layout::Layout& loaded) const override;
  std::vector<layout::Processed> processed(const model::Model& model, const layout::LocalLayout& loaded) const override;
  bool joins_scales() const override { return true; }
  bool processes() const override { return derived && is_quantised(kept_as); }
  std::optional<Library> quantiser() const override;
  bool has_cache_scales() const override { return kv_cache_dtype == KvCacheDtype::fp8; }
  model::CacheScales finalise(const model::CacheScales& loaded) const override;

  /// Returns the options of which layouts are made.
  Options options() const;

  Options written;  ///< by the keys, except precision and the kind of data parallelism
  /// ExpertPlacement's word, or the file of a map.
  std::string expert_placement = std::string(name(ExpertPlacement::linear));
  DataParallel data_parallel = DataParallel::engines;
  layout::Precision kept_as = layout::Precision::bf16;
  bool derived = false;        ///< weights that are computed from loaded ones are stored too
  std::string quantiser_name;  ///< of a library; empty = the precision's default
  KvCacheDtype kv_cache_dtype = KvCacheDtype::automatic;
  std::string kv_scales;  ///< calibration of the FP8 KV cache (model::calibrate_cache); empty = none
};

}  // namespace refit::gen::vllm
