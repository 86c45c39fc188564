#include "verify_quantised_world.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>

#include "kernels/quantise_reference.hpp"
#include "support/thread_control.hpp"

namespace refit::verify {
namespace {

model::Model make_model() {
  model::Model model;
  const auto add = [&](const std::string& name, const Shape& shape, DType dtype) -> model::Tensor& {
    model::Tensor& tensor = model.tensors.emplace_back();
    tensor.index = static_cast<std::int32_t>(model.tensors.size()) - 1;
    tensor.name = name;
    tensor.shape = shape;
    tensor.dtype = dtype;
    tensor.role = model::Role::up_proj;
    return tensor;
  };
  const auto add_quantised = [&](const std::string& name, const Shape& shape, const Shape& scales, DType dtype) {
    model::Tensor& weight = add(name, shape, DType::f8_e4m3);
    weight.scales = weight.index + 1;
    model::Tensor& scale = add(name + "_scale", scales, dtype);
    scale.scale_of = scale.index - 1;
    scale.role = model::Role::block_scale;
  };
  add_quantised("q", {256, 384}, {2, 3}, DType::f32);
  add_quantised("down", {200, 256}, {2, 2}, DType::f32);
  add_quantised("gate", {384, 256}, {3, 2, 2, 2}, DType::f32);
  model.tensors.back().repeats = 2;
  add_quantised("experts", {2, 64, 64}, {2, 64, 2}, DType::u8);
  add("k_scale", {}, DType::f32).role = model::Role::k_scale;
  return model;
}

bool is_weight(const model::Tensor& tensor) { return tensor.scales >= 0; }

Conversion conversion(const model::Tensor& tensor) {
  return is_weight(tensor) ? Conversion::block_scaled : Conversion::none;
}

/// Returns the strides of a file's elements, by index in the tensor.
Extents file_strides(const model::Tensor& tensor) {
  return tensor.repeats > 1 ? Extents{tensor.shape[2], 0, 1, 0} : row_major_strides(tensor.shape);
}

}  // namespace

QuantisedWorld::QuantisedWorld(const QuantisedOptions& wanted) : model(make_model()), options_(wanted) {
  make_truth();
  for (std::int32_t rank = 0; rank < kTrainRanks; ++rank) {
    describe_train(rank);
    train_memory_.push_back(allocate(train, rank));
    original_memory_.push_back(allocate(originals, rank));
  }
  for (std::int32_t rank = 0; rank < kGenRanks; ++rank) {
    describe_gen(rank);
    gen_memory_.push_back(allocate(gen, rank));
  }
}

void QuantisedWorld::make_truth() {
  truth_.resize(model.tensors.size());
  original_truth_.resize(model.tensors.size());
  for (const model::Tensor& tensor : model.tensors) {
    const auto at = static_cast<std::size_t>(tensor.index);
    if (!is_weight(tensor)) continue;
    const auto elements = static_cast<std::size_t>(tensor.elements());
    std::vector<std::byte>& weights = original_truth_[at];
    weights.resize(2 * elements);
    kernels::synthesise(
        space_, {weights.data(), DType::bf16, Box::whole(tensor.shape), tensor.shape, row_major_strides(tensor.shape)},
        hash_name(tensor.name), 0.0, 0.02);
    space_.fence();
    const model::Tensor& scales = model.tensors[at + 1];
    truth_[at].resize(elements);
    truth_[at + 1].resize(static_cast<std::size_t>(product(scales.file_shape()) * byte_size(scales.dtype)));
    // Experts have as many rows as all their matrices: blocks of MX have one row.
    const std::int64_t columns = tensor.shape[tensor.shape.size() - 1];
    kernels::quantise_reference(scales.dtype == DType::u8 ? Quantiser::mxfp8 : Quantiser::nemo_rl, weights.data(),
                                DType::bf16, tensor.elements() / columns, columns, columns,
                                reinterpret_cast<std::uint8_t*>(truth_[at].data()), truth_[at + 1].data());
  }
  const float kv_scale = 0.0499F;
  truth_[kKvScale].resize(sizeof(kv_scale));
  std::memcpy(truth_[kKvScale].data(), &kv_scale, sizeof(kv_scale));
}

void QuantisedWorld::describe_train(std::int32_t rank) {
  for (const model::Tensor& tensor : model.tensors) {
    Shape shape = tensor.file_shape();
    Extents strides = file_strides(tensor);
    if (tensor.scale_of >= 0 && tensor.dtype == DType::f32) {
      shape[1] = 4;
      strides[0] = 4;
      train.table[static_cast<std::size_t>(rank)].fills.push_back(
          {{{tensor.index, -1, -1}, tensor.file_shape()[1], {4, 1}}, {shape[0], 4 - tensor.file_shape()[1]}, 0.0});
    }
    const std::int32_t storage = train.add_storage(rank, tensor.name, shape, tensor.dtype);
    train.place(rank, storage, tensor.index, Box::whole(tensor.shape), 0, strides, conversion(tensor));
    if (tensor.scale_of >= 0) continue;
    const DType plain = is_weight(tensor) ? DType::bf16 : tensor.dtype;
    originals.place(rank, originals.add_storage(rank, tensor.name, shape, plain), tensor.index,
                    Box::whole(tensor.shape), 0, strides);
  }
}

void QuantisedWorld::describe_gen(std::int32_t rank) {
  const auto add = [&](std::int32_t tensor, const std::string& name, const Box& box, DType dtype) {
    const model::Tensor& of = model[tensor];
    gen.place(rank, gen.add_storage(rank, name, box.extent, dtype), tensor, box, 0, row_major_strides(box.extent),
              conversion(of));
  };
  add(kQuantisedQ, "q", {{128 * rank, 0}, {128, 384}}, DType::f8_e4m3);
  add(kScalesOfQ, "q_scale", {{options_.swapped_scales ? 1 - rank : rank, 0}, {1, 3}}, DType::f32);
  add(kQuantisedDown, "down", {{0, 128 * rank}, {200, 128}}, DType::f8_e4m3);
  add(kScalesOfDown, "down_scale", {{0, rank}, {2, 1}}, DType::f32);
  add(kQuantisedGate, "gate", {{192 * rank, 0}, {192, 256}}, DType::f8_e4m3);
  // Rows 0 and 1 of the first scale and row 0 of the second; row 1 of the second, and the third's.
  const std::int32_t gate = gen.add_storage(rank, "gate_scale", {3, 4}, DType::f32);
  const auto part = [&](const Box& box, std::int64_t row) {
    gen.place(rank, gate, kScalesOfGate, box, 4 * row, {8, 4, 2, 1});
  };
  if (rank == 0) {
    part({{0, 0, 0, 0}, {1, 2, 2, 2}}, 0);
    part({{1, 0, 0, 0}, {1, 1, 2, 2}}, 2);
  } else {
    part({{1, 1, 0, 0}, {1, 1, 2, 2}}, 0);
    part({{2, 0, 0, 0}, {1, 2, 2, 2}}, 1);
  }
  add(kQuantisedExperts, "experts", Box::whole({2, 64, 64}), DType::f8_e4m3);
  add(kScalesOfExperts, "experts_scale", Box::whole({2, 64, 2}), DType::u8);
  add(kKvScale, "k_scale", Box::whole({}), DType::bf16);
}

QuantisedWorld::Memory QuantisedWorld::allocate(const TableLayout& layout, std::int32_t rank) {
  Memory memory{layout::materialise(layout, model.tensors, Rank{rank}), {}};
  for (const layout::Storage& storage : memory.layout.storages) {
    memory.storages.emplace_back(static_cast<std::size_t>(storage.bytes()), std::byte{0});
  }
  for (const layout::LocalPiece& piece : memory.layout.pieces) {
    const model::Tensor& tensor = model[piece.tensor];
    const bool original = is_weight(tensor) && piece.piece.format == Format(DType::bf16);
    const std::vector<std::byte>& truth = (original ? original_truth_ : truth_)[static_cast<std::size_t>(piece.tensor)];
    const DType from = original ? DType::bf16 : tensor.dtype;
    std::byte* storage = memory.storages[static_cast<std::size_t>(piece.storage)].data();
    for (std::int64_t i = 0; i < piece.piece.box.volume(); ++i) {
      Box one{piece.piece.box.lower, Extents::filled(tensor.shape.size(), 1)};
      std::int64_t rest = i;
      for (int d = tensor.shape.size() - 1; d >= 0; --d) {
        one.lower[d] += rest % piece.piece.box.extent[d];
        rest /= piece.piece.box.extent[d];
      }
      const DType to = piece.piece.format.dtype;
      std::uint32_t bits = 0;
      std::memcpy(&bits, truth.data() + offset_of(one.lower, file_strides(tensor)) * byte_size(from),
                  static_cast<std::size_t>(byte_size(from)));
      if (from != to) bits = kernels::convert_bits(bits, from, to);
      std::memcpy(storage + layout::place_of(piece.piece, one).offset * byte_size(to), &bits,
                  static_cast<std::size_t>(byte_size(to)));
    }
  }
  return memory;
}

std::vector<std::byte>& QuantisedWorld::Memory::storage(const std::string& name) {
  for (std::size_t i = 0; i < storages.size(); ++i) {
    if (layout.storages[i].name == name) return storages[i];
  }
  throw std::runtime_error("no storage " + name);
}

RankView QuantisedWorld::Memory::view(Group group, std::int32_t rank) {
  RankView view{group, Rank{rank}, &layout, {}};
  for (std::vector<std::byte>& storage : storages) view.storages.push_back(storage.data());
  return view;
}

std::vector<std::byte>& QuantisedWorld::storage(Group group, std::int32_t rank, const std::string& name) {
  return (group == Group::train ? train_memory_ : gen_memory_)[static_cast<std::size_t>(rank)].storage(name);
}

std::vector<std::byte>& QuantisedWorld::original(std::int32_t rank, const std::string& name) {
  return original_memory_[static_cast<std::size_t>(rank)].storage(name);
}

void QuantisedWorld::run(const std::function<void(int, Verifier&)>& body) {
  const WorldMap map{kTrainRanks, kGenRanks, options_.colocated};
  auto hub = std::make_shared<test_support::ThreadHub>(map.size());
  test_support::run_ranks(map.size(), [&](int rank) {
    test_support::ThreadControl control(hub, rank);
    const kernels::ExecutionSpace space;
    const OwnRanks own = map.own(rank);
    const auto at = [](const std::optional<Rank>& mine) { return static_cast<std::size_t>(to_int(*mine)); };
    std::vector<RankView> mine;
    if (own.source) mine.push_back(train_memory_[at(own.source)].view(Group::train, to_int(*own.source)));
    if (own.destination) mine.push_back(gen_memory_[at(own.destination)].view(Group::gen, to_int(*own.destination)));
    std::optional<Originals> before;
    if (options_.originals) {
      before = Originals{&originals, {}};
      if (own.source) before->mine = original_memory_[at(own.source)].view(Group::train, to_int(*own.source));
    }
    Verifier verifier(model, train, gen, std::move(mine), control, space, 1, {}, std::move(before));
    body(rank, verifier);
  });
}

StepResult QuantisedWorld::verify() {
  std::vector<StepResult> results(
      static_cast<std::size_t>(WorldMap{kTrainRanks, kGenRanks, options_.colocated}.size()));
  run([&](int rank, Verifier& verifier) { results[static_cast<std::size_t>(rank)] = verifier.verify(1); });
  for (const StepResult& other : results) {
    EXPECT_EQ(other.wrong, results[0].wrong);
    EXPECT_EQ(other.train_disagreements, results[0].train_disagreements);
    EXPECT_EQ(other.kl.max, results[0].kl.max);
  }
  return results[0];
}

std::vector<TrainDisagreement> QuantisedWorld::check_train_holders() {
  std::vector<std::vector<TrainDisagreement>> results(
      static_cast<std::size_t>(WorldMap{kTrainRanks, kGenRanks, options_.colocated}.size()));
  run([&](int rank, Verifier& verifier) { results[static_cast<std::size_t>(rank)] = verifier.check_train_holders(); });
  for (const auto& other : results) EXPECT_EQ(other, results[0]);
  return results[0];
}

}  // namespace refit::verify
