// Parameters made of components: boxes, places, shapes and fills, each written out.

#include <gtest/gtest.h>

#include "layout/parameter.hpp"

namespace refit::layout {
namespace {

using model::Role;

constexpr StorageKey kKey{7, 3, -1};
constexpr Slice kAlone{0, 1, {}};

Tensor tensor(Role role, const Shape& shape, std::int32_t expert = -1) {
  return {0, "t", shape, DType::bf16, role, 0, expert};
}

/// A piece of storage {7, 3, expert} in f32, zero-centred: both must come through.
struct Expected {
  Box box;
  std::int64_t offset;
  Extents strides;
  std::int32_t expert = -1;
};
const Format kFormat{DType::f32, Conversion::minus_one};

void expect_pieces(const Parameter& parameter, const Tensor& tensor, const Slice& slice,
                   const std::vector<Expected>& expected) {
  std::vector<Piece> pieces;
  append_pieces(parameter, tensor, tensor.role, slice, kKey, kFormat, pieces);
  ASSERT_EQ(pieces.size(), expected.size()) << "rank " << slice.index << " of " << slice.size;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    SCOPED_TRACE(fmt::format("rank {} of {}, piece {}", slice.index, slice.size, i));
    EXPECT_EQ(to_string(pieces[i].box), to_string(expected[i].box));
    EXPECT_EQ(pieces[i].place.offset, expected[i].offset);
    EXPECT_EQ(to_string(pieces[i].place.strides), to_string(expected[i].strides));
    EXPECT_EQ(pieces[i].place.storage, (StorageKey{7, 3, expected[i].expert}));
    EXPECT_EQ(pieces[i].format, kFormat);
  }
}

/// Zeros of a storage: offset, extent and strides.
struct Zeros {
  std::int64_t offset;
  Extents extent;
  Extents strides;
};

void expect_fills(const Parameter& parameter, const Tensor& tensor, const Slice& slice,
                  const std::vector<Zeros>& expected) {
  std::vector<Fill> fills;
  append_fills(parameter, tensor, slice, kKey, fills);
  ASSERT_EQ(fills.size(), expected.size()) << "rank " << slice.index << " of " << slice.size;
  for (std::size_t i = 0; i < fills.size(); ++i) {
    EXPECT_EQ(fills[i].place.offset, expected[i].offset);
    EXPECT_EQ(to_string(fills[i].extent), to_string(expected[i].extent));
    EXPECT_EQ(to_string(fills[i].place.strides), to_string(expected[i].strides));
    EXPECT_EQ(fills[i].place.storage, kKey);
    EXPECT_EQ(fills[i].value, 0.0);
  }
}

std::string shape_of(const Parameter& parameter, const Tensor& tensor, const Slice& slice) {
  return to_string(storage_shape(parameter, tensor, slice));
}

Component ranges(Role role, Range first, std::int64_t parts, std::int64_t count, std::int64_t distance) {
  Component component{role, first, parts};
  component.ranges = count;
  component.distance = distance;
  return component;
}

TEST(Components, AreCutByThemselvesAndStacked) {
  const Parameter gate_up{"", {{Role::gate_proj, {0, 4}, 2}, {Role::up_proj, {0, 4}, 2}}};
  const Tensor gate = tensor(Role::gate_proj, {4, 3});
  const Tensor up = tensor(Role::up_proj, {4, 3});
  expect_pieces(gate_up, gate, {0, 2, {}}, {{{{0, 0}, {2, 3}}, 0, {3, 1}}});
  expect_pieces(gate_up, up, {0, 2, {}}, {{{{0, 0}, {2, 3}}, 6, {3, 1}}});
  expect_pieces(gate_up, gate, {1, 2, {}}, {{{{2, 0}, {2, 3}}, 0, {3, 1}}});
  expect_pieces(gate_up, up, {1, 2, {}}, {{{{2, 0}, {2, 3}}, 6, {3, 1}}});
  EXPECT_EQ(shape_of(gate_up, gate, {1, 2, {}}), "[4, 3]");
  expect_fills(gate_up, gate, {1, 2, {}}, {});
  EXPECT_FALSE(is_constant(gate_up, gate, {1, 2, {}}));
}

/// Fewer parts than ranks: neighbours store the same part.
TEST(Components, WithFewerPartsAreReplicated) {
  const Parameter kv{"", {{Role::q_proj, {0, 4}, 4}, {Role::k_proj, {0, 4}, 2}, {Role::v_proj, {0, 4}, 1}}};
  const Tensor k = tensor(Role::k_proj, {4, 5});
  for (const std::int64_t rank : {0, 1}) expect_pieces(kv, k, {rank, 4, {}}, {{{{0, 0}, {2, 5}}, 5, {5, 1}}});
  for (const std::int64_t rank : {2, 3}) expect_pieces(kv, k, {rank, 4, {}}, {{{{2, 0}, {2, 5}}, 5, {5, 1}}});
  expect_pieces(kv, tensor(Role::v_proj, {4, 5}), {3, 4, {}}, {{{{0, 0}, {4, 5}}, 15, {5, 1}}});
  EXPECT_EQ(shape_of(kv, k, {3, 4, {}}), "[7, 5]");
}

TEST(Components, OfOneTensorAreInAscendingOrderWhateverTheirPlace) {
  const Parameter swapped{
      "", {{Role::packed_gate_up, {2, 2}, 1}, {Role::packed_gate_up, {0, 2}, 1}}, {}, Experts::each};
  expect_pieces(swapped, tensor(Role::packed_gate_up, {1, 4, 3}), {0, 1, {0, 1}},
                {{{{0, 0, 0}, {1, 2, 3}}, 6, {12, 3, 1}, 0}, {{{0, 2, 0}, {1, 2, 3}}, 0, {12, 3, 1}, 0}});
}

TEST(Components, OfOneDimensionAndOfThree) {
  const Parameter bias{"", {{Role::q_proj_bias, {0, 6}, 3}}};
  expect_pieces(bias, tensor(Role::q_proj_bias, {6}), {2, 3, {}}, {{{{4}, {2}}, 0, {1}}});
  EXPECT_EQ(shape_of(bias, tensor(Role::q_proj_bias, {6}), {2, 3, {}}), "[2]");
  const Parameter convolution{"", {{Role::gdn_conv, {0, 4}, 2}, {Role::gdn_conv, {4, 2}, 2}}};
  const Tensor conv = tensor(Role::gdn_conv, {6, 1, 4});
  expect_pieces(convolution, conv, {1, 2, {}},
                {{{{2, 0, 0}, {2, 1, 4}}, 0, {4, 4, 1}}, {{{5, 0, 0}, {1, 1, 4}}, 8, {4, 4, 1}}});
  EXPECT_EQ(shape_of(convolution, conv, {1, 2, {}}), "[3, 1, 4]");
}

/// Rows 1, 2 | 5, 6 | 9, 10 of twelve.
TEST(Ranges, FollowAtADistanceAndCanBeCutThrough) {
  const Tensor of = tensor(Role::gdn_qkvz_proj, {12, 2});
  const Parameter whole{"", {ranges(Role::gdn_qkvz_proj, {1, 2}, 1, 3, 4)}};
  expect_pieces(whole, of, kAlone,
                {{{{1, 0}, {2, 2}}, 0, {2, 1}}, {{{5, 0}, {2, 2}}, 4, {2, 1}}, {{{9, 0}, {2, 2}}, 8, {2, 1}}});
  EXPECT_EQ(shape_of(whole, of, kAlone), "[6, 2]");
  const Parameter halves{"", {ranges(Role::gdn_qkvz_proj, {1, 2}, 2, 3, 4)}};
  expect_pieces(halves, of, {0, 2, {}}, {{{{1, 0}, {2, 2}}, 0, {2, 1}}, {{{5, 0}, {1, 2}}, 4, {2, 1}}});
  expect_pieces(halves, of, {1, 2, {}}, {{{{6, 0}, {1, 2}}, 0, {2, 1}}, {{{9, 0}, {2, 2}}, 2, {2, 1}}});
  const Parameter thirds{"", {ranges(Role::gdn_qkvz_proj, {1, 2}, 3, 3, 4)}};
  expect_pieces(thirds, of, {1, 3, {}}, {{{{5, 0}, {2, 2}}, 0, {2, 1}}});
}

/// q of 4 rows above k of 2, cut evenly wherever that falls.
TEST(Stack, IsCutThroughItsComponents) {
  const Parameter stack{"", {{Role::q_proj, {0, 4}}, {Role::k_proj, {0, 2}}}, Cut::stack};
  const Tensor q = tensor(Role::q_proj, {4, 3});
  const Tensor k = tensor(Role::k_proj, {2, 3});
  expect_pieces(stack, q, {0, 2, {}}, {{{{0, 0}, {3, 3}}, 0, {3, 1}}});
  expect_pieces(stack, k, {0, 2, {}}, {});
  expect_pieces(stack, q, {1, 2, {}}, {{{{3, 0}, {1, 3}}, 0, {3, 1}}});
  expect_pieces(stack, k, {1, 2, {}}, {{{{0, 0}, {2, 3}}, 3, {3, 1}}});
  expect_pieces(stack, q, {2, 3, {}}, {});
  expect_pieces(stack, k, {2, 3, {}}, {{{{0, 0}, {2, 3}}, 0, {3, 1}}});
  EXPECT_EQ(shape_of(stack, k, {2, 3, {}}), "[2, 3]");
  expect_fills(stack, k, {2, 3, {}}, {});
}

/// Two heads of 2 rows (Q0 and gate of each), as Megatron orders them: both Q, then both gates; cut in the middle of a
/// range of ranges.
TEST(Stack, IsCutThroughRanges) {
  const Parameter stack{
      "", {ranges(Role::q_gate_proj, {0, 2}, 1, 2, 4), ranges(Role::q_gate_proj, {2, 2}, 1, 2, 4)}, Cut::stack};
  const Tensor q = tensor(Role::q_gate_proj, {8, 3});
  expect_pieces(stack, q, {0, 4, {}}, {{{{0, 0}, {2, 3}}, 0, {3, 1}}});
  expect_pieces(stack, q, {1, 4, {}}, {{{{4, 0}, {2, 3}}, 0, {3, 1}}});
  expect_pieces(stack, q, {0, 8, {}}, {{{{0, 0}, {1, 3}}, 0, {3, 1}}});
  expect_pieces(stack, q, {6, 8, {}}, {{{{6, 0}, {1, 3}}, 0, {3, 1}}});
  expect_pieces(stack, q, {1, 2, {}}, {{{{2, 0}, {2, 3}}, 0, {3, 1}}, {{{6, 0}, {2, 3}}, 6, {3, 1}}});
}

TEST(Columns, AreOnePartForEachRank) {
  const Parameter down{"", {{Role::down_proj, {0, 2}}}, Cut::columns};
  const Tensor of = tensor(Role::down_proj, {2, 6});
  expect_pieces(down, of, {2, 3, {}}, {{{{0, 4}, {2, 2}}, 0, {2, 1}}});
  EXPECT_EQ(shape_of(down, of, {2, 3, {}}), "[2, 2]");
  expect_fills(down, of, {2, 3, {}}, {});
}

TEST(Vocabulary, IsPaddedAtTheEndThenCut) {
  Parameter vocabulary{"", {{Role::embedding, {0, 5}}}};
  vocabulary.padded_rows = 8;
  const Tensor of = tensor(Role::embedding, {5, 3});
  EXPECT_EQ(shape_of(vocabulary, of, {2, 4, {}}), "[2, 3]");
  expect_pieces(vocabulary, of, {1, 4, {}}, {{{{2, 0}, {2, 3}}, 0, {3, 1}}});
  expect_fills(vocabulary, of, {1, 4, {}}, {});
  expect_pieces(vocabulary, of, {2, 4, {}}, {{{{4, 0}, {1, 3}}, 0, {3, 1}}});
  expect_fills(vocabulary, of, {2, 4, {}}, {{3, {1, 3}, {3, 1}}});
  expect_pieces(vocabulary, of, {3, 4, {}}, {});
  expect_fills(vocabulary, of, {3, 4, {}}, {{0, {2, 3}, {3, 1}}});
  EXPECT_FALSE(is_constant(vocabulary, of, {2, 4, {}}));
  EXPECT_TRUE(is_constant(vocabulary, of, {3, 4, {}}));
}

TEST(PartMultiple, RoundsEachComponentUpWithZeros) {
  Parameter gate_up{"", {{Role::gate_proj, {0, 6}, 2}, {Role::up_proj, {0, 6}, 2}}};
  gate_up.part_multiple = 4;
  const Tensor gate = tensor(Role::gate_proj, {6, 2});
  EXPECT_EQ(shape_of(gate_up, gate, {1, 2, {}}), "[8, 2]");
  expect_pieces(gate_up, gate, {1, 2, {}}, {{{{3, 0}, {3, 2}}, 0, {2, 1}}});
  expect_pieces(gate_up, tensor(Role::up_proj, {6, 2}), {1, 2, {}}, {{{{3, 0}, {3, 2}}, 8, {2, 1}}});
  expect_fills(gate_up, gate, {1, 2, {}}, {{6, {1, 2}, {2, 1}}, {14, {1, 2}, {2, 1}}});

  Parameter down{"", {{Role::expert_down, {0, 2}}}, Cut::columns, Experts::stacked};
  down.part_multiple = 4;
  const Tensor of = tensor(Role::expert_down, {2, 6}, 1);
  const Slice second{1, 2, {0, 3}};
  EXPECT_EQ(shape_of(down, of, second), "[3, 2, 4]");
  expect_pieces(down, of, second, {{{{0, 3}, {2, 3}}, 8, {4, 1}}});
  expect_fills(down, of, second, {{3, {3, 2, 1}, {8, 4, 1}}});
}

/// Zeros of stacked experts are behind the part of each expert.
TEST(PartMultiple, RoundsEachExpertUp) {
  Parameter gate_up{
      "", {{Role::expert_gate, {0, 3}, 1}, {Role::expert_up, {0, 3}, 1}}, Cut::components, Experts::stacked};
  gate_up.part_multiple = 4;
  const Slice two{0, 1, {4, 2}};
  EXPECT_EQ(shape_of(gate_up, tensor(Role::expert_gate, {3, 5}, 4), two), "[2, 8, 5]");
  expect_pieces(gate_up, tensor(Role::expert_up, {3, 5}, 5), two, {{{{0, 0}, {3, 5}}, 40 + 20, {5, 1}}});
  expect_fills(gate_up, tensor(Role::expert_gate, {3, 5}, 4), two,
               {{15, {2, 1, 5}, {40, 5, 1}}, {35, {2, 1, 5}, {40, 5, 1}}});
}

TEST(PartMultiple, CountsTheStoragesRowsWhereGateAndUpAlternate) {
  Parameter fused{"", {{Role::interleaved_gate_up_bias, {0, 3}, 1}}, Cut::components, Experts::stacked};
  fused.part_multiple = 4;
  const Tensor bias = tensor(Role::interleaved_gate_up_bias, {2, 3, 2});
  EXPECT_EQ(shape_of(fused, bias, {0, 1, {0, 2}}), "[2, 8]");  // 6 rows, rounded up
  expect_fills(fused, bias, {0, 1, {0, 2}}, {{6, {2, 2}, {8, 1}}});
}

TEST(FirstRankOnly, LeavesTheOthersZeros) {
  Parameter bias{"", {{Role::packed_down_bias, {0, 3}}}, Cut::components, Experts::stacked};
  bias.first_rank_only = true;
  const Tensor of = tensor(Role::packed_down_bias, {4, 3});
  expect_pieces(bias, of, {0, 2, {0, 4}}, {{{{0, 0}, {4, 3}}, 0, {3, 1}}});
  expect_fills(bias, of, {0, 2, {0, 4}}, {});
  expect_pieces(bias, of, {1, 2, {0, 4}}, {});
  expect_fills(bias, of, {1, 2, {0, 4}}, {{0, {4, 3}, {3, 1}}});
  EXPECT_FALSE(is_constant(bias, of, {0, 2, {0, 4}}));
  EXPECT_TRUE(is_constant(bias, of, {1, 2, {0, 4}}));
  EXPECT_EQ(shape_of(bias, of, {1, 2, {0, 4}}), "[4, 3]");
}

/// Experts 2 and 3 are local.
constexpr Slice kTwoExperts{1, 2, {2, 2}};

TEST(ExpertStorages, OfATensorForEachExpert) {
  const Parameter each{
      "", {{Role::expert_gate, {0, 4}, 2}, {Role::expert_up, {0, 4}, 2}}, Cut::components, Experts::each};
  expect_pieces(each, tensor(Role::expert_up, {4, 3}, 3), kTwoExperts, {{{{2, 0}, {2, 3}}, 6, {3, 1}, 1}});
  expect_pieces(each, tensor(Role::expert_up, {4, 3}, 2), kTwoExperts, {{{{2, 0}, {2, 3}}, 6, {3, 1}, 0}});
  expect_pieces(each, tensor(Role::expert_up, {4, 3}, 1), kTwoExperts, {});
  expect_pieces(each, tensor(Role::expert_up, {4, 3}, 4), kTwoExperts, {});
  EXPECT_EQ(shape_of(each, tensor(Role::expert_up, {4, 3}, 3), kTwoExperts), "[4, 3]");

  Parameter stacked = each;
  stacked.experts = Experts::stacked;
  expect_pieces(stacked, tensor(Role::expert_up, {4, 3}, 3), kTwoExperts, {{{{2, 0}, {2, 3}}, 12 + 6, {3, 1}}});
  expect_pieces(stacked, tensor(Role::expert_gate, {4, 3}, 2), kTwoExperts, {{{{2, 0}, {2, 3}}, 0, {3, 1}}});
  expect_pieces(stacked, tensor(Role::expert_gate, {4, 3}, 4), kTwoExperts, {});
  EXPECT_EQ(shape_of(stacked, tensor(Role::expert_up, {4, 3}, 3), kTwoExperts), "[2, 4, 3]");
}

TEST(ExpertStorages, OfPackedTensors) {
  const Tensor gate_up = tensor(Role::packed_gate_up, {5, 8, 3});  // 4 gate rows, then 4 up rows
  const Parameter each{
      "", {{Role::packed_gate_up, {0, 4}, 2}, {Role::packed_gate_up, {4, 4}, 2}}, Cut::components, Experts::each};
  expect_pieces(each, gate_up, kTwoExperts,
                {{{{2, 2, 0}, {1, 2, 3}}, 0, {12, 3, 1}, 0},
                 {{{2, 6, 0}, {1, 2, 3}}, 6, {12, 3, 1}, 0},
                 {{{3, 2, 0}, {1, 2, 3}}, 0, {12, 3, 1}, 1},
                 {{{3, 6, 0}, {1, 2, 3}}, 6, {12, 3, 1}, 1}});
  EXPECT_EQ(shape_of(each, gate_up, kTwoExperts), "[4, 3]");

  Parameter stacked = each;
  stacked.experts = Experts::stacked;
  expect_pieces(stacked, gate_up, kTwoExperts,
                {{{{2, 2, 0}, {2, 2, 3}}, 0, {12, 3, 1}}, {{{2, 6, 0}, {2, 2, 3}}, 6, {12, 3, 1}}});
  EXPECT_EQ(shape_of(stacked, gate_up, kTwoExperts), "[2, 4, 3]");

  const Parameter down{"", {{Role::packed_down, {0, 3}}}, Cut::columns, Experts::stacked};
  expect_pieces(down, tensor(Role::packed_down, {5, 3, 4}), kTwoExperts, {{{{2, 0, 2}, {2, 3, 2}}, 0, {6, 2, 1}}});
  EXPECT_EQ(shape_of(down, tensor(Role::packed_down, {5, 3, 4}), kTwoExperts), "[2, 3, 2]");
}

/// [E 5, H 3, I 4, gate or up]: a row of the storage is a column of the file.
TEST(ExpertStorages, OfInterleavedTensors) {
  const Tensor gate_up = tensor(Role::interleaved_gate_up, {5, 3, 4, 2});
  const Parameter fused{"", {{Role::interleaved_gate_up, {0, 4}, 2}}, Cut::components, Experts::stacked};
  expect_pieces(fused, gate_up, kTwoExperts, {{{{2, 0, 2, 0}, {2, 3, 2, 2}}, 0, {12, 1, 6, 3}}});
  EXPECT_EQ(shape_of(fused, gate_up, kTwoExperts), "[2, 4, 3]");

  Component gate{Role::interleaved_gate_up, {0, 4}, 2, 0};
  Component up{Role::interleaved_gate_up, {0, 4}, 2, 1};
  const Parameter apart{"", {gate, up}, Cut::components, Experts::each};
  expect_pieces(apart, gate_up, kTwoExperts,
                {{{{2, 0, 2, 0}, {1, 3, 2, 1}}, 0, {12, 1, 3, 3}, 0},
                 {{{2, 0, 2, 1}, {1, 3, 2, 1}}, 6, {12, 1, 3, 3}, 0},
                 {{{3, 0, 2, 0}, {1, 3, 2, 1}}, 0, {12, 1, 3, 3}, 1},
                 {{{3, 0, 2, 1}, {1, 3, 2, 1}}, 6, {12, 1, 3, 3}, 1}});
  EXPECT_EQ(shape_of(apart, gate_up, kTwoExperts), "[4, 3]");

  const Tensor bias = tensor(Role::interleaved_gate_up_bias, {5, 4, 2});
  const Parameter fused_bias{"", {{Role::interleaved_gate_up_bias, {0, 4}, 2}}, Cut::components, Experts::stacked};
  expect_pieces(fused_bias, bias, kTwoExperts, {{{{2, 2, 0}, {2, 2, 2}}, 0, {4, 2, 1}}});
  EXPECT_EQ(shape_of(fused_bias, bias, kTwoExperts), "[2, 4]");
}

/// [E 5, I 4, H 3]: stored [experts, H, part of I].
TEST(ExpertStorages, OfTransposedTensors) {
  const Tensor down = tensor(Role::transposed_down, {5, 4, 3});
  const Parameter columns{"", {{Role::transposed_down, {0, 3}}}, Cut::columns, Experts::stacked};
  expect_pieces(columns, down, kTwoExperts, {{{{2, 2, 0}, {2, 2, 3}}, 0, {6, 1, 2}}});
  EXPECT_EQ(shape_of(columns, down, kTwoExperts), "[2, 3, 2]");
  Parameter each = columns;
  each.experts = Experts::each;
  expect_pieces(each, down, {0, 2, {4, 1}}, {{{{4, 0, 0}, {1, 2, 3}}, 0, {6, 1, 2}, 0}});
  EXPECT_EQ(shape_of(each, down, {0, 2, {4, 1}}), "[3, 2]");
}

TEST(Indivisible, NamesWhatCannotBeCut) {
  const Tensor gate = tensor(Role::gate_proj, {6, 10});
  const Parameter rows{"gate_up", {{Role::gate_proj, {0, 6}, 4}}};
  EXPECT_EQ(indivisible(rows, gate, 4), "gate_proj's 6 rows");
  EXPECT_EQ(indivisible({"", {{Role::gate_proj, {0, 6}, 3}}}, gate, 3), "");
  const Parameter columns{"", {{Role::gate_proj, {0, 6}}}, Cut::columns};
  EXPECT_EQ(indivisible(columns, gate, 4), "gate_proj's 10 columns");
  EXPECT_EQ(indivisible(columns, gate, 5), "");
  const Parameter stack{"fused", {{Role::gate_proj, {0, 6}}, {Role::up_proj, {0, 1}}}, Cut::stack};
  EXPECT_EQ(indivisible(stack, gate, 2), "fused's 7 rows");
  EXPECT_EQ(indivisible(stack, gate, 7), "");
  Parameter vocabulary{"", {{Role::embedding, {0, 6}}}};
  vocabulary.padded_rows = 9;
  EXPECT_EQ(indivisible(vocabulary, tensor(Role::embedding, {6, 2}), 2), "embedding's 9 (padded) rows");
  EXPECT_EQ(indivisible(vocabulary, tensor(Role::embedding, {6, 2}), 3), "");
}

/// A rule for a role that the model lacks adds nothing; rows come from the first tensor of a role.
TEST(Table, LeavesOutAbsentRoles) {
  model::Model model;
  model.tensors = {tensor(Role::up_proj, {6, 4}), tensor(Role::down_proj, {4, 6}),
                   tensor(Role::transposed_down, {2, 5, 3})};
  ParameterTable table(model);
  EXPECT_TRUE(table.has(Role::up_proj));
  EXPECT_FALSE(table.has(Role::gate_proj));
  EXPECT_EQ(table.rows(Role::transposed_down), 3);
  EXPECT_EQ(table.rows(Role::gate_proj), 0);
  table.whole("absent", Role::gate_proj);
  table.stack("fc1", {table.all(Role::gate_proj, 2), table.all(Role::up_proj, 2)});
  table.columns("fc2", Role::down_proj);
  const std::vector<Parameter> parameters = table.take();
  ASSERT_EQ(parameters.size(), 2u);
  EXPECT_EQ(parameters[0].name, "fc1");
  ASSERT_EQ(parameters[0].components.size(), 1u);
  EXPECT_EQ(parameters[0].components[0].role, Role::up_proj);
  EXPECT_EQ(parameters[0].components[0].rows, (Range{0, 6}));
  EXPECT_EQ(parameters[1].cut, Cut::columns);
}

}  // namespace
}  // namespace refit::layout
