// Faults of schedules: ranks that send, wait or count otherwise than their peers believe.

#include <algorithm>

#include "inject/fault.hpp"
#include "inject/late.hpp"

namespace refit::inject {
namespace {

/// The misc stream's buffers that nothing waits for before a refit returns: as many as rotate.
constexpr std::int64_t kUndrained = 2;

bool is_router(const Setting& /*setting*/, const Tensor& tensor) { return tensor.role == Role::router; }

bool is_first_expert_layer(const Setting& setting, const Tensor& tensor) {
  const auto first = std::find_if(setting.model.tensors.begin(), setting.model.tensors.end(),
                                  [](const Tensor& other) { return other.expert >= 0; });
  return tensor.expert >= 0 && tensor.layer == first->layer;
}

bool is_head(const Setting& /*setting*/, const Tensor& tensor) { return tensor.role == Role::lm_head; }

/// Returns whether Megatron calls the tensor's parameter linear_qkv, linear_proj or linear_fc1.
bool is_compound(const Setting& /*setting*/, const Tensor& tensor) {
  switch (tensor.role) {
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj:
    case Role::o_proj:
    case Role::gate_proj:
    case Role::up_proj: return true;
    default: return false;
  }
}

bool has_halves(const Setting& setting, const Tensor& /*tensor*/) { return setting.gen_ranks % 2 == 0; }

}  // namespace

std::vector<Fault> schedule_faults() {
  return {{{"B4-router-bytes", "gen ranks expect one byte for each element of the routers, train ranks send two"},
           "experts",
           Act::narrow,
           is_router},
          {{"B9-megatron-names", "train ranks put attention and dense MLP into the misc stream too, gen ranks do not"},
           "attention or a dense MLP",
           Act::longer_stream,
           is_compound},
          {{"B13b-silent-skip", "train ranks send nothing of the first layer with experts, and say nothing"},
           "a tensor for each expert",
           Act::unsent,
           is_first_expert_layer},
          {{"B14-tied-head", "train ranks put lm_head into the misc stream, gen ranks do not wait for it"},
           "an lm_head of its own",
           Act::shorter_stream,
           is_head},
          {{"B63-flip-before-proof", "gen generates from staged weights before they are proved (beside another fault)"},
           "refit.commit = \"stage\" with room for all layers, and run.verify = \"every\"",
           Act::flip_early,
           nullptr},
          {{"B15-copy-race", "gen ranks unpack what is staged before it has arrived (p2p)"},
           "executor p2p",
           Act::late_receives,
           nullptr},
          {{"B16-misc-first", "gen ranks begin with the misc path, train ranks with the bulk path"},
           "executor golden or p2p, and tensors that take the misc path",
           Act::misc_first,
           nullptr},
          {{"B17-undrained-stream", "gen ranks place the misc stream's last two buffers before they have arrived"},
           "tensors that take the misc path",
           Act::late_broadcasts,
           nullptr},
          {{"B20-swallowed-error", "gen rank 0 fails in refit 2 and tells nobody: it leaves out the bulk path"},
           "executor golden or p2p",
           Act::skip_gen,
           nullptr},
          {{"B34-silent-fallback", "no rank can map another's memory"}, "executor direct", Act::unmapped, nullptr},
          {{"B36-rank-per-node", "the second half of the gen ranks counts from 0 again, as a second node's would"},
           "an even number of gen ranks",
           Act::half_ranks,
           has_halves}};
}

bool Faults::misc_first(Group group) const { return group == Group::gen && acting(Act::misc_first) != nullptr; }

std::vector<Tensor> Faults::misc_stream(const model::Model& model, Group group, const std::vector<Tensor>& bulk,
                                        const std::vector<Tensor>& misc) const {
  std::vector<Tensor> stream;
  for (const Tensor& tensor : misc) {
    if (group == Group::train || !concerned(Act::shorter_stream, model, tensor)) stream.push_back(tensor);
  }
  if (group == Group::gen || acting(Act::longer_stream) == nullptr) return stream;
  for (const Tensor& tensor : bulk) {
    if (concerned(Act::longer_stream, model, tensor)) stream.push_back(tensor);
  }
  std::sort(stream.begin(), stream.end(), [](const Tensor& a, const Tensor& b) { return a.index < b.index; });
  return stream;
}

Rank Faults::plans_as(Group group, Rank rank) const {
  if (group == Group::train || acting(Act::half_ranks) == nullptr) return rank;
  return Rank{to_int(rank) % static_cast<std::int32_t>(gen_ranks() / 2)};
}

void Faults::distort_copies(const model::Model& model, Group group, std::vector<plan::Copy>& copies) const {
  const Act act = group == Group::train ? Act::unsent : Act::narrow;
  const auto is_concerned = [&](const plan::Copy& copy) { return concerned(act, model, model[copy.tensor]); };
  if (group == Group::train) std::erase_if(copies, is_concerned);
  for (plan::Copy& copy : copies) {
    if (group == Group::gen && is_concerned(copy))
      copy.source.format.dtype = copy.destination.format.dtype = DType::f8_e4m3;
  }
}

Faults::Communicator Faults::distort_bulk(Communicator truth, std::span<const std::byte> weights) const {
  if (truth == nullptr || acting(Act::late_receives) == nullptr) return truth;
  return std::make_unique<LateReceives>(std::move(truth), weights);
}

Faults::Communicator Faults::distort_stream(Communicator truth, std::int64_t broadcasts) const {
  if (truth == nullptr || acting(Act::late_broadcasts) == nullptr) return truth;
  return std::make_unique<LateBroadcasts>(std::move(truth), broadcasts, kUndrained);
}

std::unique_ptr<transport::PeerMemory> Faults::distort_peers(std::unique_ptr<transport::PeerMemory> truth,
                                                             int rank) const {
  if (acting(Act::unmapped) == nullptr) return truth;
  return std::make_unique<UnmappedMemory>(std::move(truth), rank);
}

}  // namespace refit::inject
