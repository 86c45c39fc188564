#include "layout/parameter.hpp"

#include <algorithm>

namespace refit::layout {
namespace {

using model::Role;

/// The dimensions of a tensor that are experts, rows and halves; -1 for one that it lacks. All others are columns.
struct Axes {
  int expert = -1;
  int row = 0;
  int half = -1;
};

Axes axes(Role role) {
  switch (role) {
    case Role::packed_gate_up:
    case Role::packed_up:
    case Role::stacked_gate:
    case Role::stacked_up:
    case Role::packed_down:
    case Role::packed_down_bias: return {0, 1, -1};
    case Role::interleaved_gate_up: return {0, 2, 3};
    case Role::interleaved_gate_up_bias: return {0, 1, 2};
    case Role::transposed_gate_up:
    case Role::transposed_down: return {0, 2, -1};
    default: return {};
  }
}

/// Returns the axes of a parameter's tensors, and of their block scales.
Axes axes(const Parameter& parameter) {
  if (parameter.transposed) return {-1, 1, -1};
  const Axes of_weight = axes(parameter.components.front().role);
  if (!parameter.matrices || of_weight.expert < 0) return of_weight;
  return {0, 1, of_weight.half < 0 ? -1 : 2};
}

bool is_column(const Axes& axes, int d) { return d != axes.expert && d != axes.row && d != axes.half; }

/// Returns the rows of the storage: two for each row of the tensor where gate and up alternate.
std::int64_t storage_rows(const Component& component, std::int64_t rows) {
  return axes(component.role).half >= 0 && component.half < 0 ? 2 * rows : rows;
}

/// The part of a component's rows (counted from 0) that the rank stores, and the storage's row of the first.
struct LocalRows {
  Range rows;
  std::int64_t at = 0;
  std::int64_t room = 0;  ///< rows of the storage, rounded up
};

/// Returns the most that one of `parts` has.
std::int64_t largest_part(const Parameter& parameter, std::int64_t size, std::int64_t parts) {
  return round_up(ceil_div(size, parts), std::max<std::int64_t>(parameter.cut_multiple, 1));
}

/// Returns part `index` of `parts`.
Range cut_part(const Parameter& parameter, std::int64_t size, std::int64_t parts, std::int64_t index) {
  if (parameter.cut_multiple == 0) return even_part(size, parts, index);
  const std::int64_t part = largest_part(parameter, size, parts);
  return clip({index * part, part}, size);
}

LocalRows local_part(const Parameter& parameter, const Component& component, const Slice& slice, std::int64_t at) {
  const std::int64_t count = component.count();
  if (parameter.cut != Cut::components) return {{0, count}, at, storage_rows(component, count)};
  REFIT_ASSERT(slice.size % component.parts == 0);
  const std::int64_t room =
      round_up(storage_rows(component, largest_part(parameter, count, component.parts)), parameter.part_multiple);
  const std::int64_t index = slice.index * component.parts / slice.size;
  return {cut_part(parameter, count, component.parts, index), at, room};
}

/// Calls visit(component, local rows) for every component of which the rank stores rows.
template <typename Visit>
void for_each_component(const Parameter& parameter, const Slice& slice, const Visit& visit) {
  if (parameter.first_rank_only && slice.index > 0) return;
  if (parameter.padded_rows > 0) {
    const Component& vocabulary = parameter.components.front();
    const Range rows = even_part(parameter.padded_rows, slice.size, slice.index);
    const Range real = clip(rows, vocabulary.count());
    if (real.count > 0) visit(vocabulary, LocalRows{real, 0, rows.count});
    return;
  }
  if (parameter.cut != Cut::stack) {
    std::int64_t at = 0;
    for (const Component& component : parameter.components) {
      const LocalRows local = local_part(parameter, component, slice, at);
      visit(component, local);
      at += local.room;
    }
    return;
  }
  const Range mine = even_part(local_rows(parameter, {0, 1, {}}), slice.size, slice.index);
  std::int64_t at = 0;  // in the whole stack
  for (const Component& component : parameter.components) {
    const std::int64_t begin = std::max(at, mine.begin);
    const std::int64_t end = std::min(at + component.count(), mine.begin + mine.count);
    if (begin < end) visit(component, LocalRows{{begin - at, end - begin}, begin - mine.begin, end - begin});
    at += component.count();
  }
}

/// Calls visit(rows of the tensor, storage row) for the ranges that a part of a component consists of.
template <typename Visit>
void for_each_range(const Component& component, const LocalRows& local, const Visit& visit) {
  const std::int64_t size = component.rows.count;
  const std::int64_t end = local.rows.begin + local.rows.count;
  for (std::int64_t at = local.rows.begin; at < end;) {
    const std::int64_t number = at / size;
    const std::int64_t within = at - number * size;
    const std::int64_t count = std::min(size - within, end - at);
    visit(Range{component.rows.begin + number * component.distance + within, count},
          local.at + storage_rows(component, at - local.rows.begin));
    at += count;
  }
}

/// The columns of a dimension that the rank stores, and the number of columns in its storage.
struct LocalColumns {
  Range columns;
  std::int64_t room = 0;
};

LocalColumns local_columns(const Parameter& parameter, std::int64_t columns, const Slice& slice) {
  if (parameter.cut != Cut::columns) return {{0, columns}, round_up(columns, parameter.column_multiple)};
  const std::int64_t room = round_up(largest_part(parameter, columns, slice.size), parameter.part_multiple);
  return {cut_part(parameter, columns, slice.size, slice.index), round_up(room, parameter.column_multiple)};
}

/// Returns the shape in which the parameter's rows and columns are counted: for repeated block scales and rotary pairs
/// that of a matrix.
Shape counted_shape(const Parameter& parameter, const Tensor& tensor) {
  if (is_paired(tensor.role)) return tensor.file_shape();
  if (tensor.repeats == 1) return tensor.shape;
  return {tensor.shape[0] * parameter.repeats, tensor.shape[2] * parameter.repeats};
}

template <typename Visit>
void for_each_columns(const Parameter& parameter, const Tensor& tensor, const Slice& slice, const Visit& visit) {
  const Shape shape = counted_shape(parameter, tensor);
  const Axes which = axes(parameter);
  for (int d = 0; d < shape.size(); ++d) {
    if (is_column(which, d)) visit(local_columns(parameter, shape[d], slice));
  }
}

/// Indices of one dimension as boxes of two: [whole blocks, indices of a block].
struct Split {
  Range blocks, within;
  std::int64_t at = 0;  ///< the first one's place in the range
};

/// Splits a range into at most three parts: the rest of a block, whole blocks, the begin of a block.
std::vector<Split> split_blocks(const Range& range, std::int64_t size) {
  std::vector<Split> parts;
  const std::int64_t end = range.begin + range.count;
  for (std::int64_t at = range.begin; at < end;) {
    const std::int64_t within = at % size;
    const std::int64_t blocks = within == 0 ? std::max<std::int64_t>((end - at) / size, 1) : 1;
    const std::int64_t count = std::min(blocks * size - within, end - at);
    parts.push_back({{at / size, blocks}, {within, count / blocks}, at - range.begin});
    at += count;
  }
  return parts;
}

/// Appends `matrix`, a piece of repeated block scales in the dimensions of `counted_shape`, in those of the tensor.
void append_repeated(const Parameter& parameter, const Tensor& tensor, const Piece& matrix, std::vector<Piece>& out) {
  const Extents& lower = matrix.box.lower;
  const Extents& extent = matrix.box.extent;
  const Extents& strides = matrix.place.strides;
  Piece piece = matrix;
  if (parameter.repeats == 1) {
    piece.box = {{lower[0], 0, lower[1], 0}, {extent[0], tensor.repeats, extent[1], tensor.repeats}};
    piece.place.strides = {strides[0], 0, strides[1], 0};
    return out.push_back(piece);
  }
  REFIT_ASSERT(parameter.repeats == tensor.repeats);
  piece.place.strides = {strides[0] * tensor.repeats, strides[0], strides[1] * tensor.repeats, strides[1]};
  for (const Split& rows : split_blocks({lower[0], extent[0]}, tensor.repeats)) {
    for (const Split& columns : split_blocks({lower[1], extent[1]}, tensor.repeats)) {
      piece.box = {{rows.blocks.begin, rows.within.begin, columns.blocks.begin, columns.within.begin},
                   {rows.blocks.count, rows.within.count, columns.blocks.count, columns.within.count}};
      piece.place.offset = matrix.place.offset + rows.at * strides[0] + columns.at * strides[1];
      out.push_back(piece);
    }
  }
}

/// Appends `matrix`, a piece of rotary pairs in the dimensions of `counted_shape`, in those of the tensor: [heads,
/// pairs, 2, columns].
void append_paired(const Parameter& parameter, const Tensor& tensor, const Piece& matrix, std::vector<Piece>& out) {
  const std::int64_t pairs = tensor.shape[1];
  const Extents& lower = matrix.box.lower;
  const Extents& extent = matrix.box.extent;
  const std::int64_t row = matrix.place.strides[0];
  const std::int64_t column = matrix.place.strides[1];
  Piece piece = matrix;
  for (const Split& heads : split_blocks({lower[0], extent[0]}, 2 * pairs)) {
    REFIT_ASSERT(!parameter.sorts_pairs || heads.within.count == 2 * pairs);
    for (const Split& rows : split_blocks(heads.within, 2)) {
      piece.box = {{heads.blocks.begin, rows.blocks.begin, rows.within.begin, lower[1]},
                   {heads.blocks.count, rows.blocks.count, rows.within.count, extent[1]}};
      piece.place.offset = matrix.place.offset + (heads.at + rows.at) * row;
      piece.place.strides = parameter.sorts_pairs ? Extents{2 * pairs * row, row, pairs * row, column}
                                                  : Extents{2 * pairs * row, 2 * row, row, column};
      out.push_back(piece);
    }
  }
}

/// Gives a piece its rows: `row_size` apart, or twice that where gate and up alternate.
void set_rows(const Axes& which, const Component& component, const Range& rows, std::int64_t row_size, Piece& piece) {
  piece.box.lower[which.row] = rows.begin;
  piece.box.extent[which.row] = rows.count;
  piece.place.strides[which.row] = row_size;
  if (which.half < 0) return;
  piece.place.strides[which.half] = row_size;
  if (component.half < 0) {
    piece.place.strides[which.row] = 2 * row_size;
  } else {
    piece.box.lower[which.half] = component.half;
    piece.box.extent[which.half] = 1;
  }
}

/// Appends the piece for the slot of its expert, or, with all experts in one tensor, for every slot: other ranks may
/// hold the same experts among others, so that boxes of several would overlap.
void append_slots(int dimension, const Tensor& tensor, std::span<const std::int64_t> slots, std::int64_t expert_size,
                  Piece& piece, std::vector<Piece>& out) {
  const std::int64_t offset = piece.place.offset;
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (dimension < 0 && slots[slot] != tensor.expert) continue;
    piece.place.offset = offset + static_cast<std::int64_t>(slot) * expert_size;
    if (dimension >= 0) {
      piece.place.strides[dimension] = expert_size;
      piece.box.lower[dimension] = slots[slot];
      piece.box.extent[dimension] = 1;
    }
    out.push_back(piece);
  }
}

/// Appends the piece once for every local expert, or with all of them, or nothing where its expert is not local.
void append_experts(const Parameter& parameter, const Tensor& tensor, const Slice& slice, std::int64_t expert_size,
                    const Piece& one, std::vector<Piece>& out) {
  if (parameter.experts == Experts::none) return out.push_back(one);
  const int dimension = axes(parameter).expert;
  const bool stacked = parameter.experts == Experts::stacked;
  Piece piece = one;
  if (!slice.slots.empty()) return append_slots(dimension, tensor, slice.slots, expert_size, piece, out);
  if (dimension < 0) {  // a tensor of its own for each expert
    const std::int64_t local = tensor.expert - slice.experts.begin;
    if (local < 0 || local >= slice.experts.count) return;
    if (stacked) piece.place.offset += local * expert_size;
    if (!stacked) piece.place.storage.expert = static_cast<std::int32_t>(local);
    return out.push_back(piece);
  }
  piece.place.strides[dimension] = expert_size;
  const std::int64_t step = stacked ? slice.experts.count : 1;
  for (std::int64_t local = 0; local < slice.experts.count; local += step) {
    piece.box.lower[dimension] = slice.experts.begin + local;
    piece.box.extent[dimension] = step;
    if (!stacked) piece.place.storage.expert = static_cast<std::int32_t>(local);
    out.push_back(piece);
  }
}

}  // namespace

std::int64_t local_rows(const Parameter& parameter, const Slice& slice) {
  if (parameter.padded_rows > 0) return parameter.padded_rows / slice.size;
  std::int64_t total = 0;
  for (const Component& component : parameter.components) {
    total += parameter.cut == Cut::stack ? component.count() : local_part(parameter, component, slice, 0).room;
  }
  return parameter.cut == Cut::stack ? total / slice.size : total;
}

Shape storage_shape(const Parameter& parameter, const Tensor& tensor, const Slice& slice) {
  Shape shape;
  if (parameter.scalar) return shape;
  if (parameter.experts == Experts::stacked) shape.push_back(slice.expert_count());
  if (!parameter.drops_single_row) shape.push_back(round_up(local_rows(parameter, slice), parameter.row_multiple));
  for_each_columns(parameter, tensor, slice, [&](const LocalColumns& local) { shape.push_back(local.room); });
  if (parameter.transposed_storage) std::swap(shape[shape.size() - 2], shape[shape.size() - 1]);
  return shape;
}

void append_pieces(const Parameter& parameter, const Tensor& tensor, Role as, const Slice& slice, StorageKey key,
                   const Format& format, std::vector<Piece>& out) {
  const Axes which = axes(parameter);
  const Shape shape = counted_shape(parameter, tensor);
  Piece piece{Box::whole(shape), {key, 0, Extents::filled(shape.size(), 0)}, format};
  if (parameter.scalar) return out.push_back(piece);
  std::int64_t row_size = 1;
  for (int d = shape.size() - 1; d >= 0; --d) {
    if (!is_column(which, d)) continue;
    const LocalColumns local = local_columns(parameter, shape[d], slice);
    if (local.columns.count == 0) return;
    piece.box.lower[d] = local.columns.begin;
    piece.box.extent[d] = local.columns.count;
    piece.place.strides[d] = row_size;
    row_size *= local.room;
  }
  const std::int64_t all_rows = round_up(local_rows(parameter, slice), parameter.row_multiple);
  const std::int64_t expert_size = all_rows * row_size;
  if (parameter.transposed_storage) {
    for (int d = 0; d < shape.size(); ++d) piece.place.strides[d] *= all_rows;  // those of rows and experts follow
    row_size = 1;
  }
  const std::size_t first = out.size();
  for_each_component(parameter, slice, [&](const Component& component, const LocalRows& local) {
    if (component.role != as) return;
    for_each_range(component, local, [&](const Range& rows, std::int64_t at) {
      Piece part = piece;
      const std::int64_t step = parameter.interleaved ? std::ssize(parameter.components) : 1;
      const std::int64_t row = parameter.interleaved ? (at - local.at) * step + local.at / local.room : at;
      part.place.offset = row * row_size;
      set_rows(which, component, rows, step * row_size, part);
      append_experts(parameter, tensor, slice, expert_size, part, out);
    });
  });
  if (tensor.repeats > 1 || is_paired(tensor.role)) {
    const auto append = tensor.repeats > 1 ? append_repeated : append_paired;
    const std::vector<Piece> matrices(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
    out.resize(first);
    for (const Piece& matrix : matrices) append(parameter, tensor, matrix, out);
  }
  std::sort(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
            [](const Piece& a, const Piece& b) { return a.box < b.box; });
}

void append_fills(const Parameter& parameter, const Tensor& tensor, const Slice& slice, const StorageKey& key,
                  std::vector<Fill>& out) {
  if (parameter.constant) return out.push_back({{key, 0, {1}}, {1}, *parameter.constant});
  if (parameter.scalar || parameter.drops_single_row || parameter.transposed_storage) return;
  Shape shape = storage_shape(parameter, tensor, slice);
  const Extents strides = row_major_strides(shape);
  const int row = parameter.experts == Experts::stacked ? 1 : 0;
  const auto fill = [&](Range rows, std::int64_t column, std::int64_t columns) {
    if (rows.count == 0 || columns == 0) return;
    Extents extent = shape;
    extent[row] = rows.count;
    std::int64_t offset = rows.begin * strides[row];
    if (column > 0) {
      extent[row + 1] = columns;
      offset += column * strides[row + 1];
    }
    out.push_back({{key, offset, strides}, extent, parameter.fill});
  };
  const auto fill_rows = [&](std::int64_t begin, std::int64_t count) { fill({begin, count}, 0, 1); };
  if (is_constant(parameter, tensor, slice)) return fill_rows(0, shape[row]);
  for_each_component(parameter, slice, [&](const Component& component, const LocalRows& local) {
    const std::int64_t used = storage_rows(component, local.rows.count);
    for_each_columns(parameter, tensor, slice, [&](const LocalColumns& columns) {
      fill({local.at, used}, columns.columns.count, columns.room - columns.columns.count);
    });
    fill_rows(local.at + used, local.room - used);
  });
  const std::int64_t rows = local_rows(parameter, slice);
  fill_rows(rows, shape[row] - rows);
}

bool is_constant(const Parameter& parameter, const Tensor& tensor, const Slice& slice) {
  if (parameter.constant) return true;
  bool empty = true;
  for_each_component(parameter, slice,
                     [&](const Component&, const LocalRows& local) { empty = empty && local.rows.count == 0; });
  for_each_columns(parameter, tensor, slice,
                   [&](const LocalColumns& local) { empty = empty || local.columns.count == 0; });
  return empty;
}

std::string indivisible(const Parameter& parameter, const Tensor& tensor, std::int64_t size) {
  if (parameter.padded_rows > 0) {
    if (parameter.padded_rows % size == 0) return "";
    return fmt::format("{}'s {} (padded) rows", name(tensor.role), parameter.padded_rows);
  }
  if (parameter.cut == Cut::stack) {
    const std::int64_t rows = local_rows(parameter, {0, 1, {}});
    return rows % size == 0 ? "" : fmt::format("{}'s {} rows", parameter.name, rows);
  }
  if (parameter.cut == Cut::columns) {
    const Axes which = axes(parameter);
    for (int d = 0; d < tensor.shape.size(); ++d) {
      if (is_column(which, d) && tensor.shape[d] % size != 0) {
        return fmt::format("{}'s {} columns", name(tensor.role), tensor.shape[d]);
      }
    }
    return "";
  }
  for (const Component& component : parameter.components) {
    if (component.count() % component.parts == 0) continue;
    return fmt::format("{}'s {} rows", name(component.role), component.count());
  }
  return "";
}

ParameterTable::ParameterTable(const model::Model& model) {
  for (const Tensor& tensor : model.tensors) {
    auto& known = firsts_[static_cast<std::size_t>(tensor.role)];
    const auto has_its_rows = [&](const Tensor* other) { return other->shape[0] == tensor.shape[0]; };
    const bool is_new = tensor.unit < 0 ? known.empty() : std::none_of(known.begin(), known.end(), has_its_rows);
    if (is_new) known.push_back(&tensor);
  }
}

const Tensor& ParameterTable::tensor_of(const Parameter& parameter) const {
  const Component& component = parameter.components.front();
  const auto& known = firsts(component.role);
  REFIT_ASSERT(!known.empty());
  const auto found = std::find_if(known.begin(), known.end(), [&](const Tensor* tensor) {
    return tensor->unit >= 0 && tensor->shape[0] == component.count();
  });
  return found == known.end() ? *known.front() : **found;
}

std::int64_t ParameterTable::rows(Role role) const {
  const Tensor* tensor = first(role);
  if (tensor == nullptr) return 0;
  return is_paired(role) ? tensor->file_shape()[0] : tensor->shape[axes(role).row];
}

void ParameterTable::whole(std::string name, Role role) { rows(std::move(name), role, 1); }

void ParameterTable::rows(std::string name, Role role, std::int64_t parts) {
  stack(std::move(name), {all(role, parts)});
}

void ParameterTable::columns(std::string name, Role role) {
  Parameter parameter{std::move(name), {all(role)}};
  parameter.cut = Cut::columns;
  add(std::move(parameter));
}

void ParameterTable::stack(std::string name, std::vector<Component> components) {
  add({std::move(name), std::move(components)});
}

void ParameterTable::each(model::Role role, std::int64_t parts, Cut cut) {
  for (const Tensor* tensor : firsts(role)) add({"", {{role, {0, tensor->shape[0]}, parts}}, cut});
}

void ParameterTable::add(Parameter parameter) {
  std::erase_if(parameter.components, [this](const Component& component) { return !has(component.role); });
  if (parameter.components.empty()) return;
  parameter.group = group_;
  parameters_.push_back(std::move(parameter));
}

}  // namespace refit::layout
