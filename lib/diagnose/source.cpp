#include "diagnose/source.hpp"

#include <algorithm>
#include <cstring>

#include "checkpoint/dequantise.hpp"
#include "checkpoint/synthetic.hpp"
#include "kernels/parts.hpp"
#include "model/part_boxes.hpp"

namespace refit::diagnose {
namespace {

using model::Tensor;

std::shared_ptr<Whole> allocate(const Tensor& tensor, DType dtype) {
  return std::make_shared<Whole>(Whole{&tensor, dtype, kernels::SharedBuffer(tensor.elements() * byte_size(dtype))});
}

void copy(const kernels::ExecutionSpace& space, const kernels::Tile& tile) {
  kernels::CopyTable(space, {&tile, 1}).run(space);
  space.fence();
}

}  // namespace

Source::Source(const cases::Setup& setup, std::int64_t kept_bytes) : setup_(setup), limit_(kept_bytes) {}

Source::Source(const cases::Setup& setup, const layout::Layout& layout, const Dumps& dumps)
    : setup_(setup), layout_(&layout), dumps_(&dumps) {
  if (dumps.chunks() == layout.chunks()) return;
  fail_usage(
      "{}: each {} rank has {} files of model chunks, the layout {}; are train.virtual_stages and "
      "train.pipeline_layout the run's?",
      dumps.folder(), dumps.side(), dumps.chunks(), layout.chunks());
}

const char* Source::name() const {
  if (dumps_ == nullptr) return setup_.checkpoint ? "the checkpoint" : "the model";
  return dumps_->side() == "train" ? "the train dump" : "the expected dump";
}

std::shared_ptr<const Whole> Source::get(std::int32_t index) {
  const Tensor& tensor = setup_.model[index];
  const auto kept = std::find_if(kept_.begin(), kept_.end(), [&](const auto& entry) { return entry.first == index; });
  if (kept != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, kept);
    return kept_.front().second;
  }
  std::shared_ptr<const Whole> whole = make(tensor);
  kept_.emplace_front(index, whole);
  kept_bytes_ += whole ? whole->data.bytes() : 0;
  while (kept_bytes_ > limit_ && kept_.size() > 1) {
    kept_bytes_ -= kept_.back().second ? kept_.back().second->data.bytes() : 0;
    kept_.pop_back();
  }
  return whole;
}

/// Returns true for bytes and scales that gen alone has: they are made from the weight as train has it.
bool Source::is_made(const Tensor& tensor) const {
  const bool from_gen = layout_ == setup_.gen.get();
  return setup_.quantised && !from_gen && (tensor.scales >= 0 || tensor.scale_of >= 0);
}

std::shared_ptr<Whole> Source::make(const Tensor& tensor) {
  const std::optional<Format> format = setup_.gen->format(tensor);
  if (!format) return nullptr;
  if (is_made(tensor)) {
    if (!quantiser_of(setup_.model.quantisation.format, *cases::quantiser_of(setup_.c))) return quantised_part(tensor);
    const bool scales = tensor.scale_of >= 0;
    const auto made = quantise(scales ? setup_.model[tensor.scale_of] : tensor);
    return scales ? made.second : made.first;
  }
  // Train has one value for both names of a tied model.
  const Tensor& valued = layout_ == setup_.gen.get() ? tensor : setup_.model.canonical(tensor);
  std::shared_ptr<Whole> whole = load(valued, *format);
  if (whole) whole->tensor = &tensor;
  return whole;
}

std::shared_ptr<Whole> Source::load(const Tensor& tensor, Format format) {
  return dumps_ == nullptr ? read_checkpoint(tensor, format) : assemble(tensor, format);
}

std::shared_ptr<Whole> Source::read_checkpoint(const Tensor& tensor, Format format) const {
  checkpoint::ModelRead read;
  const checkpoint::Checkpoint* files = setup_.checkpoint_of(tensor);
  if (files != nullptr) {
    read = read_of(*files, setup_.model, tensor);
    if (read.entry == nullptr) return nullptr;
  }
  std::shared_ptr<Whole> whole = allocate(tensor, format.dtype);
  const Shape shape = tensor.repeats == 1 ? tensor.shape : tensor.file_shape();
  kernels::SharedBuffer once;
  if (tensor.repeats > 1) once = kernels::SharedBuffer(product(shape) * byte_size(format.dtype));
  const Extents strides = row_major_strides(shape);
  read.box = Box::whole(shape);
  read.data = tensor.repeats > 1 ? once.data() : whole->data.data();
  read.format = format;
  read.strides = strides;
  read.shape = shape;
  if (files != nullptr) {
    checkpoint::read(space_, *files, {&read, 1});
  } else {
    checkpoint::Synthetic(setup_.model, setup_.c.run.seed)
        .write_as(space_, tensor, {read.data, format.dtype, read.box, shape, strides}, format.conversion);
    space_.fence();
  }
  if (tensor.repeats > 1) {
    copy(space_, {once.data(), whole->data.data(), tensor.shape, Extents{strides[0], 0, strides[1], 0},
                  row_major_strides(tensor.shape), format.dtype, format.dtype});
  }
  return whole;
}

std::shared_ptr<Whole> Source::assemble(const Tensor& tensor, Format format) {
  std::shared_ptr<Whole> whole = allocate(tensor, format.dtype);
  const std::int64_t size = byte_size(format.dtype);
  const Extents strides = row_major_strides(tensor.shape);
  std::set<Box> seen;
  std::int64_t covered = 0;
  std::vector<layout::Piece> pieces;
  std::optional<std::int32_t> engine;  // the first that has it has all of it
  for (std::int32_t r = 0; r < dumps_->ranks(); ++r) {
    pieces.clear();
    layout_->pieces(tensor, Rank{r}, pieces);
    if (pieces.empty()) continue;
    if (!engine) engine = layout_->engine(Rank{r});
    if (layout_->engine(Rank{r}) != *engine) break;
    for (const layout::Piece& piece : pieces) {
      const layout::Storage storage = layout_->storage(piece.place.storage, Rank{r});
      if (const Dumps::Problem problem = dumps_->problem(Rank{r}, storage))
        fail_usage("{}: {} rank {}: {} {}{}; is the layout (--{}) the run's?", dumps_->folder(), dumps_->side(), r,
                   storage.title(), problem.text, dumps_->hint(problem), dumps_->side());
      const kernels::SharedBuffer stored =
          dumps_->read(Rank{r}, storage, piece.place.offset, span_of(piece.box.extent, piece.place.strides));
      kernels::Tile tile{stored.data(),    whole->data.data() + offset_of(piece.box.lower, strides) * size,
                         piece.box.extent, piece.place.strides,
                         strides,          piece.format.dtype,
                         format.dtype,     transform(piece.format.conversion, format.conversion)};
      if (seen.insert(piece.box).second) {
        copy(space_, tile);
        covered += piece.box.volume();
        continue;
      }
      const kernels::Region first{tile.destination, format.dtype, piece.box, tensor.shape, strides};
      const kernels::SharedBuffer replica(piece.box.volume() * size);
      tile.destination = replica.data();
      tile.destination_strides = row_major_strides(piece.box.extent);
      copy(space_, tile);
      if (kernels::count_differences(space_, first, replica.data()).count > 0) {
        wrong_replicas_.insert(fmt::format("{} rank {}: {} {}", dumps_->side(), r, tensor.name, to_string(piece.box)));
      }
    }
  }
  return covered == tensor.elements() ? whole : nullptr;
}

std::pair<std::shared_ptr<Whole>, std::shared_ptr<Whole>> Source::quantise(const Tensor& weight) {
  const std::optional<Format> stored = setup_.train->format(weight);
  const std::shared_ptr<Whole> plain = load(weight, stored ? *stored : Format(weight.dtype));
  if (!plain) return {};
  const Tensor& scales = setup_.model[weight.scales];
  const Quantiser quantiser = *quantiser_of(setup_.model.quantisation.format, *cases::quantiser_of(setup_.c));
  std::shared_ptr<Whole> bytes = allocate(weight, DType::f8_e4m3);
  std::shared_ptr<Whole> made = allocate(scales, scale_dtype(quantiser));
  const int row = weight.shape.size() - 2;
  const std::int64_t rows = weight.shape[row];
  const std::int64_t columns = weight.shape[row + 1];
  const std::int64_t matrices = weight.elements() / (rows * columns);
  const std::int64_t grid_columns = weight.shape.size() == 2 && scales.repeats > 1
                                        ? scales.shape[2] * scales.shape[3]
                                        : scales.shape[scales.shape.size() - 1];
  for (std::int64_t m = 0; m < matrices; ++m) {
    kernels::Blocks blocks;
    blocks.quantiser = quantiser;
    blocks.rows = rows;
    blocks.columns = columns;
    blocks.scales = made->data.data() + m * (scales.elements() / matrices) * byte_size(made->dtype);
    blocks.scale_strides = {grid_columns, 1};
    blocks.repeats = scales.repeats;
    copy(space_, {plain->data.data() + m * rows * columns * byte_size(plain->dtype),
                  bytes->data.data() + m * rows * columns, Extents{rows, columns}, Extents{columns, 1},
                  Extents{columns, 1}, plain->dtype, DType::f8_e4m3, Transform::quantise, nullptr, nullptr, blocks});
  }
  return {bytes, made};
}

std::shared_ptr<Whole> Source::quantised_part(const Tensor& tensor) {
  const model::Model& model = setup_.model;
  const model::Quantisation& how = model.quantisation;
  const Tensor& weight = tensor.scale_of < 0 ? tensor : model[tensor.scale_of];
  const Shape shape = rows_and_columns(weight);
  const std::int64_t columns = shape[shape.size() - 1];
  const std::int64_t rows = weight.elements() / columns;
  const DType dtype = tensor.scale_of < 0 ? DType::f8_e4m3 : tensor.dtype;
  const std::shared_ptr<Whole> made = allocate(tensor, dtype);
  if (tensor.role == model::Role::weight_shape) {
    const std::int64_t sizes[] = {rows, columns};
    std::memcpy(made->data.data(), sizes, sizeof(sizes));
    return made;
  }
  const kernels::SharedBuffer words(std::max<std::int64_t>(1, kernels::amax_words(how.format, rows)) * 4);
  std::fill_n(words.data(), words.bytes(), std::byte{0});
  const std::vector<std::int32_t> groups = scale_groups(model);
  const auto group_of = [&](const Tensor& of) { return groups[static_cast<std::size_t>(of.index)]; };
  std::vector<kernels::SharedBuffer> kept;
  std::vector<kernels::Part> sharing;  // the weights with a common magnitude
  for (const Tensor& other : model.tensors) {
    if (other.scales < 0 || group_of(other) != group_of(weight)) continue;
    const std::shared_ptr<Whole> plain = load(other, setup_.train->format(other).value_or(Format(other.dtype)));
    if (!plain) return nullptr;
    const Shape of_other = rows_and_columns(other);
    const std::int64_t width = of_other[of_other.size() - 1];
    kernels::SharedBuffer ordered(plain->data.bytes());
    copy(space_,
         {plain->data.data(), ordered.data(), of_other, model::in_matrix_order(other, row_major_strides(other.shape)),
          row_major_strides(of_other), plain->dtype, plain->dtype});
    kernels::Part part;
    part.source = ordered.data();
    part.rows = other.elements() / width;
    part.columns = width;
    part.source_strides[0] = width;
    part.from = plain->dtype;
    part.format = how.format;
    part.library = *cases::quantiser_of(setup_.c);
    part.group = how.group;
    part.amax = reinterpret_cast<std::uint32_t*>(words.data());
    kept.push_back(std::move(ordered));
    const bool is_tensor_scale = tensor.role == model::Role::tensor_scale && how.format != StoredFormat::fp8_tensor;
    if (other.index == weight.index) {
      kept.emplace_back(other.elements());  // scales are stored with values only
      part.values = kept.back().data();
      const bool is_values = tensor.scale_of < 0 || tensor.role == model::Role::packed_values;
      (is_values ? part.values : is_tensor_scale ? part.tensor_scale : part.scales) = made->data.data();
      if (is_castable(dtype)) part.scale_dtype = dtype;
    }
    sharing.push_back(part);
  }
  const kernels::PartTable table(space_, sharing);
  table.raise_amax(space_);
  table.quantise(space_);
  space_.fence();
  return made;
}

}  // namespace refit::diagnose
