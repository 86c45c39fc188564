#include "inject/lies.hpp"

#include <algorithm>

#include "plan/stream.hpp"

namespace refit::inject {
namespace {

using transport::Links;

/// Links whose communicators and memory are distorted.
class DistortedLinks final : public Links {
 public:
  DistortedLinks(std::unique_ptr<Links> truth, const Faults& faults, bool is_gen, int world_rank,
                 const std::span<std::byte>& weights, std::int64_t broadcasts)
      : truth_(std::move(truth)),
        faults_(faults),
        is_gen_(is_gen),
        world_rank_(world_rank),
        weights_(weights),
        broadcasts_(broadcasts) {}

  std::string prepare() override { return truth_->prepare(); }
  std::unique_ptr<transport::Communicator> communicator(transport::Purpose purpose, const std::vector<int>& members,
                                                        std::int64_t lanes) override {
    std::unique_ptr<transport::Communicator> communicator = truth_->communicator(purpose, members, lanes);
    if (!is_gen_) return communicator;
    if (purpose == transport::Purpose::bulk) return faults_.distort_bulk(std::move(communicator), weights_);
    if (purpose == transport::Purpose::stream) return faults_.distort_stream(std::move(communicator), broadcasts_);
    return communicator;
  }
  std::unique_ptr<transport::PeerMemory> peer_memory(std::int64_t bytes) override {
    return faults_.distort_peers(truth_->peer_memory(bytes), world_rank_);
  }
  std::unique_ptr<transport::Arena> memory(std::int64_t bytes) override { return truth_->memory(bytes); }
  void require_room(int host, std::int64_t bytes, const std::string& advice) override {
    truth_->require_room(host, bytes, advice);
  }
  bool maps_always() const override { return truth_->maps_always(); }
  bool probes_messages() const override { return truth_->probes_messages(); }
  transport::ProbedRates probe(const transport::Probed& probed, double seconds) override {
    return truth_->probe(probed, seconds);
  }
  plan::Rates rates(const transport::ProbedRates& probed, const transport::Places& places) const override {
    return truth_->rates(probed, places);
  }
  bool rates_change() const override { return truth_->rates_change(); }

 private:
  std::unique_ptr<Links> truth_;
  const Faults& faults_;
  bool is_gen_;
  int world_rank_;
  const std::span<std::byte>& weights_;
  std::int64_t broadcasts_;
};

/// A path that some refits leave out.
class Skipping final : public transport::Executor {
 public:
  Skipping(std::unique_ptr<transport::Executor> truth, const Faults& faults, const OwnRanks& own,
           const std::int64_t& refit)
      : truth_(std::move(truth)), faults_(faults), own_(own), refit_(refit) {}

  void execute() override {
    const bool skips = (own_.source && faults_.skips_bulk(Group::train, *own_.source, refit_)) ||
                       (own_.destination && faults_.skips_bulk(Group::gen, *own_.destination, refit_));
    if (!skips) truth_->execute();
  }
  void restart() override { truth_->restart(); }
  void connect() override { truth_->connect(); }
  transport::MemoryList staging() const override { return truth_->staging(); }
  transport::Schedule schedule() const override { return truth_->schedule(); }
  std::vector<transport::Statistic> statistics() const override { return truth_->statistics(); }

 private:
  std::unique_ptr<transport::Executor> truth_;
  const Faults& faults_;
  OwnRanks own_;
  const std::int64_t& refit_;
};

/// Returns the side on which a process plans: faults that set one side against the other are refused where a process is
/// on both.
Group group_of(const OwnRanks& own) { return own.source ? Group::train : Group::gen; }

std::vector<model::Tensor> without_dropped(const Faults& faults, const model::Model& model,
                                           const std::vector<model::Tensor>& tensors) {
  std::vector<model::Tensor> result;
  for (const model::Tensor& tensor : tensors) {
    if (!faults.drops(model, tensor)) result.push_back(tensor);
  }
  return result;
}

}  // namespace

Lies::Lies(const Faults& faults, const session::Exchange& truth, const OwnRanks& own)
    : faults_(faults),
      truth_(truth),
      own_(own),
      source_(faults.distort_train(truth.paths.source, truth.model)),
      destination_(faults.distort_gen(truth.paths.destination, truth.model)),
      bulk_(without_dropped(faults, truth.model, truth.paths.bulk)),
      misc_(without_dropped(faults, truth.model,
                            faults.misc_stream(truth.model, group_of(own), bulk_, truth.paths.misc))),
      exchange_{truth.model,
                {bulk_, misc_, source_ ? *source_ : truth.paths.source,
                 destination_ ? *destination_ : truth.paths.destination, truth.paths.colocated},
                truth.quantised} {}

/// Keeps the copies of bytes and of scales apart, since lies are told about both.
session::How Lies::how(session::How truth) const {
  truth.quantises_as_it_sends = truth.quantises_as_it_sends && !faults_.any();
  return truth;
}

std::unique_ptr<Links> Lies::links(std::unique_ptr<Links> truth, transport::Control& world,
                                   const std::span<std::byte>& weights, std::int64_t misc_buffer_bytes) const {
  if (!faults_.any()) return truth;
  const plan::StreamLayout stream(misc_, exchange_.paths.source, misc_buffer_bytes);
  return std::make_unique<DistortedLinks>(std::move(truth), faults_, own_.destination.has_value(), world.rank(),
                                          weights, stream.buffers());
}

session::Decorators Lies::decorators() const {
  if (!faults_.any()) return {};
  const Group group = group_of(own_);
  return {[this, group](const plan::Planner& planner, std::vector<plan::Copy>& copies) {
            const Side side = group == Group::train ? Side::source : Side::destination;
            const Rank rank = *own_.of(side);
            const Rank as = faults_.plans_as(group, rank);
            if (as != rank) copies = planner.rank_plan(side, as).copies;
            faults_.distort_copies(truth_.model, group, copies);
          },
          [this, group](std::vector<session::Path>& paths) {
            for (session::Path& path : paths)
              if (std::string_view(path.name) == "bulk")
                path.executor = std::make_unique<Skipping>(std::move(path.executor), faults_, own_, refit_);
            if (faults_.misc_first(group)) std::ranges::reverse(paths);
          },
          [this] { return faults_.keeps_magnitudes(refit_); }};
}

bool Lies::corrupts(const model::Tensor& tensor) const {
  return own_.source && faults_.corrupts(truth_.model, tensor, *own_.source);
}

bool Lies::loses_update(const model::Tensor& tensor, std::int64_t step) const {
  return own_.source && faults_.loses_update(truth_.model, tensor, *own_.source, step);
}

}  // namespace refit::inject
