#include "engine/gen_place.hpp"

#include <algorithm>
#include <iterator>

#include "transport/together.hpp"

namespace refit::engine {

using transport::together;

GenPlace::GenPlace(const kernels::ExecutionSpace& space, const Setup& setup, const inject::Lies& lies,
                   const OwnRanks& own, const std::optional<session::SideMemory>& source,
                   const std::optional<session::SideMemory>& destination, const Weights* weights)
    : space_(space), setup_(setup), lies_(lies), own_(own), weights_(weights) {
  if (source) memory_.source.emplace(*source);
  if (!destination) return;
  memory_.destination.emplace(*destination);
  arrived_.emplace(lies_.arrived(*memory_.destination));
}

std::int64_t GenPlace::bytes(const Setup& setup, Rank rank) {
  return (setup.derived ? Derived::bytes(setup, rank) : 0) + (processes(setup) ? Processing::bytes(setup, rank) : 0);
}

std::vector<std::string> GenPlace::make(transport::Control& world, transport::Links& links) {
  std::vector<std::string> texts;
  together(world, [&] {
    if (weights_ != nullptr && setup_.c.engine().has_cache_scales())
      cache_scales_ = std::make_unique<CacheScales>(space_, setup_, memory_.destination->layout, weights_->memory());
  });
  if (setup_.derived) {
    derived_ = std::make_unique<Derived>(space_, setup_, world, links, own_, memory_);
    texts.push_back(derived_->describe());
  }
  if (processes(setup_)) {
    std::string text;
    together(world, [&] {
      processing_ = std::make_unique<Processing>(space_, setup_, links, own_, memory_);
      text = world.rank() == 0 ? processing_->describe() : "";
    });
    texts.push_back(text);
  }
  return texts;
}

void GenPlace::begin(std::int64_t refit) {
  if (arrived_) arrived_->begins(refit);
}

void GenPlace::finalise(std::int64_t refit) {
  if (weights_ == nullptr) return;
  arrived_->refitted();
  if (cache_scales_ && !lies_.skips_finalise(refit)) cache_scales_->finalise(lies_.forgets_scales());
  if (derived_ && !lies_.keeps_derived(refit)) derived_->finalise();
  if (processing_ && !lies_.keeps_derived(refit)) processing_->finalise();
}

void GenPlace::verify(const CacheScales* truth, transport::Control& world, verify::StepResult& result) {
  if (setup_.c.engine().has_cache_scales()) CacheScales::verify(truth, cache_scales_.get(), setup_, world, result);
  if (derived_) derived_->verify(result);
  if (processing_) processing_->verify(world, result);
}

void GenPlace::dump(const std::string& folder, const layout::Layout& side, Rank rank) const {
  std::vector<checkpoint::DumpTensor> buffers;
  if (cache_scales_) buffers = cache_scales_->buffers();
  if (derived_) std::ranges::move(derived_->dumped(), std::back_inserter(buffers));
  if (processing_) std::ranges::move(processing_->dumped(), std::back_inserter(buffers));
  weights_->dump(folder, side, rank, buffers);
}

}  // namespace refit::engine
