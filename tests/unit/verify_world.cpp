#include "verify_world.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "support/thread_control.hpp"

namespace refit::verify {
namespace {

constexpr std::int64_t kHidden = 32;

Box rows(const model::Tensor& tensor, std::int64_t first, std::int64_t count) {
  Box box = Box::whole(tensor.shape);
  box.lower[0] = first;
  box.extent[0] = count;
  return box;
}

Box half(const model::Tensor& tensor, int d, std::int32_t index) {
  Box box = Box::whole(tensor.shape);
  box.extent[d] /= 2;
  box.lower[d] = index * box.extent[d];
  return box;
}

model::Model make_model(const WorldOptions& options) {
  const DType dtype = options.train_dtype;
  model::Model model;
  model.config.tied = options.tied;
  const auto add = [&](const std::string& name, const Shape& shape, DType type, model::Role role) {
    model.tensors.push_back({static_cast<std::int32_t>(model.tensors.size()), name, shape, type, role, -1, -1});
  };
  add("embed", {80, kHidden}, dtype, model::Role::embedding);
  add("q", {64, kHidden}, dtype, model::Role::q_proj);
  add("k", {16, kHidden}, dtype, model::Role::k_proj);
  add("gate", {64, kHidden}, dtype, model::Role::gate_proj);
  add("up", {64, kHidden}, dtype, model::Role::up_proj);
  add("down", {kHidden, 64}, dtype, model::Role::down_proj);
  add("norm", {kHidden}, dtype, model::Role::final_norm);
  add("experts", {2, 64, kHidden}, dtype, model::Role::up_proj);
  add("misc", {options.misc_elements}, DType::i64, model::Role::unknown);
  if (options.tied) add("lm_head", {80, kHidden}, dtype, model::Role::lm_head);
  if (!options.conversions) return model;
  add("centred", {4, kHidden}, dtype, model::Role::gdn_out_norm);
  add("log", {8}, dtype, model::Role::mamba_a_log);
  add("interleaved", {2, kHidden, 8, 2}, dtype, model::Role::interleaved_gate_up);
  add("bias", {2, 8, 2}, dtype, model::Role::interleaved_gate_up_bias);
  return model;
}

}  // namespace

std::int32_t TableLayout::add_storage(std::int32_t rank, const std::string& name, const Shape& shape, DType dtype) {
  auto& storages = table[static_cast<std::size_t>(rank)].storages;
  const auto index = static_cast<std::int32_t>(storages.size());
  storages.push_back({{index, -1, -1}, name, shape, dtype});
  return index;
}

void TableLayout::place(std::int32_t rank, std::int32_t storage, std::int32_t tensor, const Box& box,
                        std::int64_t offset) {
  place(rank, storage, tensor, box, offset, row_major_strides(box.extent));
}

void TableLayout::place(std::int32_t rank, std::int32_t storage, std::int32_t tensor, const Box& box,
                        std::int64_t offset, const Extents& strides, Conversion conversion) {
  Entry& entry = table[static_cast<std::size_t>(rank)];
  const layout::Storage& target = entry.storages[static_cast<std::size_t>(storage)];
  entry.pieces[tensor].push_back({box, {target.key, offset, strides}, {target.dtype, conversion}});
}

std::optional<Format> TableLayout::format(const model::Tensor& tensor) const {
  for (const Entry& entry : table) {
    const auto found = entry.pieces.find(tensor.index);
    if (found != entry.pieces.end()) return found->second.front().format;
  }
  return std::nullopt;
}

void TableLayout::pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const {
  const auto& all = table[static_cast<std::size_t>(to_int(rank))].pieces;
  const auto found = all.find(tensor.index);
  if (found != all.end()) out.insert(out.end(), found->second.begin(), found->second.end());
}

layout::Storage TableLayout::storage(const layout::StorageKey& key, Rank rank) const {
  return table[static_cast<std::size_t>(to_int(rank))].storages[static_cast<std::size_t>(key.parameter)];
}

void TableLayout::fills(const layout::StorageKey& key, Rank rank, std::vector<layout::Fill>& out) const {
  for (const layout::Fill& fill : table[static_cast<std::size_t>(to_int(rank))].fills) {
    if (fill.place.storage == key) out.push_back(fill);
  }
}

void World::describe_train() {
  const DType dtype = options.train_dtype;
  const auto& t = model.tensors;
  for (std::int32_t rank = 0; rank < kTrainRanks; ++rank) {
    const std::int32_t part = rank == 0 ? 0 : 1;
    const auto alone = [&](std::int32_t tensor, const Box& box, DType type) {
      train.place(rank, train.add_storage(rank, t[static_cast<std::size_t>(tensor)].name, box.extent, type), tensor,
                  box, 0);
    };
    alone(kEmbed, half(t[kEmbed], 0, part), dtype);
    alone(kQ, half(t[kQ], 0, part), dtype);
    alone(kK, half(t[kK], 0, part), dtype);
    const std::int32_t fused = train.add_storage(rank, "gate_up", {64, kHidden}, dtype);
    train.place(rank, fused, kGate, half(t[kGate], 0, part), 0);
    train.place(rank, fused, kUp, half(t[kUp], 0, part), 32 * kHidden);
    alone(kDown, half(t[kDown], 1, part), dtype);
    const std::int32_t norm = train.add_storage(rank, "norm", {kHidden + 8}, dtype);
    train.place(rank, norm, kNorm, Box::whole(t[kNorm].shape), 0);
    train.table[static_cast<std::size_t>(rank)].fills.push_back({{{norm, -1, -1}, kHidden, {1}}, {8}, 1.0});
    alone(kExperts, Box::whole(t[kExperts].shape), dtype);
    if (options.misc_in_train) alone(kMisc, Box::whole(t[kMisc].shape), DType::i64);
    if (options.tied) train.place(rank, 0, kLmHead, half(t[kEmbed], 0, part), 0);
    if (options.conversions) describe_converted_train(rank);
  }
}

void World::describe_converted_train(std::int32_t rank) {
  const DType dtype = options.train_dtype;
  const auto& t = model.tensors;
  const std::int32_t part = rank == 0 ? 0 : 1;
  const Box centred = Box::whole(t[kCentred].shape);
  train.place(rank, train.add_storage(rank, "centred", centred.extent, dtype), kCentred, centred, 0,
              row_major_strides(centred.extent), Conversion::minus_one);
  train.place(rank, train.add_storage(rank, "log", {4}, dtype), kLog, half(t[kLog], 0, part), 0, {1},
              options.backwards ? Conversion::negative_exp : Conversion::none);
  const std::int32_t fc1 = train.add_storage(rank, "fc1", {16, kHidden}, dtype);
  const std::int32_t fc1_bias = train.add_storage(rank, "fc1_bias", {16}, dtype);
  for (const std::int64_t up : {0, 1}) {
    train.place(rank, fc1, kInterleaved, {{part, 0, 0, up}, {1, kHidden, 8, 1}}, up * 8 * kHidden,
                {16 * kHidden, 1, kHidden, kHidden});
    train.place(rank, fc1_bias, kBias, {{part, 0, up}, {1, 8, 1}}, up * 8, {16, 1, 1});
  }
}

void World::describe_converted_gen(std::int32_t rank) {
  const DType dtype = options.gen_dtype;
  const auto& t = model.tensors;
  const std::int32_t part = rank == 0 ? 0 : 1;
  const Box centred = Box::whole(t[kCentred].shape);
  gen.place(rank, gen.add_storage(rank, "centred", centred.extent, dtype), kCentred, centred, 0);
  gen.place(rank, gen.add_storage(rank, "A", {4}, DType::f32), kLog, half(t[kLog], 0, part), 0, {1},
            options.backwards ? Conversion::none : Conversion::negative_exp);
  gen.place(rank, gen.add_storage(rank, "w13", {2, 8, kHidden}, dtype), kInterleaved,
            {{0, 0, 4 * part, 0}, {2, kHidden, 4, 2}}, 0, {8 * kHidden, 1, 2 * kHidden, kHidden});
  gen.place(rank, gen.add_storage(rank, "w13_bias", {2, 8}, dtype), kBias, {{0, 4 * part, 0}, {2, 4, 2}}, 0, {8, 2, 1});
}

void World::describe_gen() {
  const DType dtype = options.gen_dtype;
  const auto& t = model.tensors;
  for (std::int32_t rank = 0; rank < kGenRanks; ++rank) {
    const std::int32_t part = rank == 0 ? 0 : 1;
    const std::int32_t embed = gen.add_storage(rank, "embed_padded", {48, kHidden}, dtype);
    const Box vocabulary = part == 0 ? rows(t[kEmbed], 0, 48) : rows(t[kEmbed], 48, 32);
    gen.place(rank, embed, kEmbed, vocabulary, 0);
    if (options.tied) gen.place(rank, embed, kLmHead, vocabulary, 0);
    if (part == 1) {
      gen.table[static_cast<std::size_t>(rank)].fills.push_back(
          {{{embed, -1, -1}, 32 * kHidden, {kHidden, 1}}, {16, kHidden}, 0.0});
    }
    const std::int32_t qk = gen.add_storage(rank, "qk", {48, kHidden}, dtype);
    gen.place(rank, qk, kQ, half(t[kQ], 0, part), 0);
    gen.place(rank, qk, kK, Box::whole(t[kK].shape), 32 * kHidden);
    const std::int32_t fused = gen.add_storage(rank, "gate_up", {64, kHidden}, dtype);
    gen.place(rank, fused, kGate, half(t[kGate], 0, part), 0);
    gen.place(rank, fused, kUp, half(t[kUp], 0, part), 32 * kHidden);
    gen.place(rank, gen.add_storage(rank, "down", {kHidden, 32}, dtype), kDown, half(t[kDown], 1, part), 0);
    gen.place(rank, gen.add_storage(rank, "norm", {kHidden}, dtype), kNorm, Box::whole(t[kNorm].shape), 0);
    gen.place(rank, gen.add_storage(rank, "experts", {2, 32, kHidden}, dtype), kExperts, half(t[kExperts], 1, part), 0);
    gen.place(rank, gen.add_storage(rank, "misc", t[kMisc].shape, DType::i64), kMisc, Box::whole(t[kMisc].shape), 0);
    if (options.conversions) describe_converted_gen(rank);
  }
}

World::World(const WorldOptions& wanted) : options(wanted), model(make_model(wanted)) {
  describe_train();
  describe_gen();
  make_truth();
  for (std::int32_t rank = 0; rank < kTrainRanks; ++rank) allocate(Group::train, rank);
  for (std::int32_t rank = 0; rank < kGenRanks; ++rank) allocate(Group::gen, rank);
}

void World::make_truth() {
  for (const model::Tensor& tensor : model.tensors) {
    std::vector<std::byte>& whole = truth_.emplace_back(static_cast<std::size_t>(tensor.bytes()));
    const kernels::Region region{whole.data(), tensor.dtype, Box::whole(tensor.shape), tensor.shape,
                                 row_major_strides(tensor.shape)};
    if (is_castable(tensor.dtype)) {
      kernels::synthesise(space_, region, hash_name(model.canonical(tensor).name), 0.0, 0.02);
    } else {
      kernels::perturb(space_, region, 1, 1);
    }
  }
  space_.fence();
}

void World::allocate(Group group, std::int32_t rank) {
  Memory& memory = memory_.emplace_back();
  memory.layout = layout::materialise(group == Group::train ? train : gen, model.tensors, Rank{rank});
  for (const layout::Storage& storage : memory.layout.storages) {
    memory.storages.emplace_back(static_cast<std::size_t>(storage.bytes()), std::byte{kernels::kPoison});
  }
  const RankView mine = view(static_cast<std::int32_t>(memory_.size()) - 1);
  std::vector<kernels::Tile> tiles;
  for (const layout::LocalPiece& piece : memory.layout.pieces) {
    const auto at = static_cast<std::size_t>(piece.tensor);
    const model::Tensor& tensor = model.tensors[at];
    const kernels::Region to = region_of(mine, piece, tensor, piece.piece.box);
    const Extents strides = row_major_strides(tensor.shape);
    const Conversion stored = train.format(tensor).value_or(piece.piece.format).conversion;
    const Conversion wanted = piece.piece.format.conversion;
    const Transform how = is_reachable(stored, wanted) ? transform(stored, wanted) : Transform::none;
    tiles.push_back({truth_[at].data() + offset_of(to.box.lower, strides) * byte_size(tensor.dtype), to.data,
                     to.box.extent, strides, to.strides, tensor.dtype, to.dtype, how});
  }
  kernels::CopyTable(space_, tiles).run(space_);
  for (const auto& fill : memory.layout.fills) {
    const kernels::Region region = region_of(memory.layout, mine.storages, fill);
    kernels::fill(space_, region.data, region.dtype, region.box.extent, region.strides, fill.fill.value);
  }
  space_.fence();
}

std::vector<RankView> World::views(std::int32_t world_rank) {
  if (!options.colocated) return {view(world_rank)};
  return {view(world_rank), view(kTrainRanks + world_rank)};
}

RankView World::view(std::int32_t world_rank) {
  Memory& memory = memory_[static_cast<std::size_t>(world_rank)];
  RankView view;
  view.group = world_rank < kTrainRanks ? Group::train : Group::gen;
  view.rank = Rank{world_rank < kTrainRanks ? world_rank : world_rank - kTrainRanks};
  view.layout = &memory.layout;
  for (std::vector<std::byte>& storage : memory.storages) view.storages.push_back(storage.data());
  return view;
}

std::vector<std::byte>& World::storage(Group group, std::int32_t rank, const std::string& name) {
  Memory& memory = memory_[static_cast<std::size_t>(group == Group::train ? rank : kTrainRanks + rank)];
  for (std::size_t i = 0; i < memory.storages.size(); ++i) {
    if (memory.layout.storages[i].name == name) return memory.storages[i];
  }
  throw std::runtime_error("no storage " + name);
}

std::uint16_t World::get(Group group, std::int32_t rank, const std::string& name, std::int64_t element) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, storage(group, rank, name).data() + 2 * element, 2);
  return bits;
}

void World::set(Group group, std::int32_t rank, const std::string& name, std::int64_t element, std::uint16_t bits) {
  std::memcpy(storage(group, rank, name).data() + 2 * element, &bits, 2);
}

void World::run(const std::function<void(int, Verifier&)>& body) {
  auto hub = std::make_shared<test_support::ThreadHub>(ranks());
  test_support::run_ranks(ranks(), [&](int rank) {
    test_support::ThreadControl control(hub, rank);
    const kernels::ExecutionSpace space;
    Verifier verifier(model, train, gen, views(rank), control, space, 1, constants, {}, tuning);
    body(rank, verifier);
  });
}

Sum128 World::misc_fingerprint() {
  const Shape& shape = model.tensors[kMisc].shape;
  Sum128 sum;
  kernels::fingerprint(space_, {storage(Group::gen, 0, "misc").data(), DType::i64, Box::whole(shape), shape, {1}},
                       DType::i64, Transform::none, hash_name("misc"), &sum);
  return sum;
}

StepResult World::verify() {
  std::vector<StepResult> results(static_cast<std::size_t>(ranks()));
  named.clear();
  run([&](int rank, Verifier& verifier) {
    results[static_cast<std::size_t>(rank)] = verifier.verify(3, [&](const StepResult& wrong) {
      if (rank == 0) named.push_back(wrong);
    });
  });
  for (const StepResult& other : results) {
    EXPECT_EQ(other.step, 3);
    EXPECT_EQ(other.tensors, results[0].tensors);
    EXPECT_EQ(other.tensors_wrong, results[0].tensors_wrong);
    EXPECT_EQ(other.elements, results[0].elements);
    EXPECT_EQ(other.elements_wrong, results[0].elements_wrong);
    EXPECT_EQ(other.wrong, results[0].wrong);
    EXPECT_EQ(other.tensors_not_counted, results[0].tensors_not_counted);
    EXPECT_EQ(other.train_disagreements, results[0].train_disagreements);
    EXPECT_EQ(other.overflows, results[0].overflows);
    EXPECT_EQ(other.fingerprint_train, results[0].fingerprint_train);
    EXPECT_EQ(other.fingerprint_gen, results[0].fingerprint_gen);
    EXPECT_EQ(other.kl.max, results[0].kl.max);
    EXPECT_EQ(other.kl.mean, results[0].kl.mean);
    EXPECT_EQ(other.kl.tensor, results[0].kl.tensor);
  }
  return results[0];
}

std::vector<NotFinite> World::not_finite(Group group) {
  std::vector<std::vector<NotFinite>> results(static_cast<std::size_t>(ranks()));
  run([&](int rank, Verifier& verifier) { results[static_cast<std::size_t>(rank)] = verifier.not_finite(group); });
  for (std::size_t rank = 1; rank < results.size(); ++rank) EXPECT_TRUE(results[rank].empty());
  return results[0];
}

std::vector<TrainDisagreement> World::check_train_holders() {
  std::vector<std::vector<TrainDisagreement>> results(static_cast<std::size_t>(ranks()));
  run([&](int rank, Verifier& verifier) { results[static_cast<std::size_t>(rank)] = verifier.check_train_holders(); });
  for (const auto& other : results) EXPECT_EQ(other, results[0]);
  return results[0];
}

}  // namespace refit::verify
