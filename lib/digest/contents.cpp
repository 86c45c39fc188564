#include "digest/contents.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <set>
#include <tuple>

#include "core/error.hpp"
#include "diagnose/dumps.hpp"
#include "engine/processing.hpp"
#include "kernels/processed.hpp"
#include "verify/chunks.hpp"

namespace refit::digest {
namespace {

using model::Tensor;

constexpr std::array<std::string_view, 4> kKinds{"loaded", "source", "processed", "derived"};

void copy(const kernels::ExecutionSpace& space, const kernels::Tile& tile) {
  kernels::CopyTable(space, {&tile, 1}).run(space);
  space.fence();
}

std::int64_t floor_div(std::int64_t value, std::int64_t by) {
  return value >= 0 ? value / by : -((-value + by - 1) / by);
}

}  // namespace

Choices choices(Kind) { return kKinds; }

std::vector<std::pair<std::int64_t, std::int64_t>> ranges(const Shape& shape, std::int64_t max_elements) {
  const std::int64_t elements = product(shape);
  if (elements == 0) return {};
  const std::int64_t columns = shape.size() == 0 ? 1 : shape[shape.size() - 1];
  std::vector<std::pair<std::int64_t, std::int64_t>> result;
  for (const Box& box :
       verify::chunks(Box::whole({elements / columns, columns}), std::max<std::int64_t>(1, max_elements)))
    result.emplace_back(box.lower[0] * columns + box.lower[1], box.volume());
  return result;
}

void for_each_within(const Box& box, std::int64_t offset, const Extents& strides, std::int64_t first, std::int64_t end,
                     const std::function<void(const Box&)>& visit) {
  if (box.empty()) return;
  const std::int64_t span = diagnose::span_of(box.extent, strides);
  if (offset >= end || offset + span <= first) return;
  if (offset >= first && offset + span <= end) return visit(box);
  int cut = -1;
  for (int d = 0; d < box.extent.size(); ++d) {
    if (box.extent[d] > 1 && (cut < 0 || strides[d] > strides[cut])) cut = d;
  }
  REFIT_ASSERT(cut >= 0 && strides[cut] > 0);
  const std::int64_t stride = strides[cut];
  const std::int64_t extent = box.extent[cut];
  Box slab = box;
  slab.extent[cut] = 1;
  const std::int64_t inner = diagnose::span_of(slab.extent, strides);
  // Slab i spans [offset + i stride, ... + inner): those in [inside, outside) lie within, [touched, past) in part.
  const std::int64_t touched = std::clamp<std::int64_t>(floor_div(first - inner - offset, stride) + 1, 0, extent);
  const std::int64_t past = std::clamp<std::int64_t>(floor_div(end - 1 - offset, stride) + 1, touched, extent);
  const std::int64_t inside = std::clamp(-floor_div(offset - first, stride), touched, past);
  const std::int64_t outside = std::clamp(floor_div(end - inner - offset, stride) + 1, inside, past);
  const auto part = [&](std::int64_t i) {
    slab.lower[cut] = box.lower[cut] + i;
    for_each_within(slab, offset + i * stride, strides, first, end, visit);
  };
  for (std::int64_t i = touched; i < inside; ++i) part(i);
  if (outside > inside) {
    Box middle = box;
    middle.lower[cut] += inside;
    middle.extent[cut] = outside - inside;
    visit(middle);
  }
  for (std::int64_t i = outside; i < past; ++i) part(i);
}

Values::Values(const cases::Setup& setup, std::int64_t kept_bytes)
    : setup_(setup), source_(setup, kept_bytes), synthetic_(setup.model, setup.c.run.seed) {}

bool Values::is_whole(const Tensor& tensor) const {
  const bool is_made = setup_.quantised && (tensor.scales >= 0 || tensor.scale_of >= 0);
  return is_made || tensor.repeats > 1;
}

bool Values::is_shape_made(const Tensor& tensor) const {
  if (tensor.role != model::Role::weight_shape || !setup_.checkpoint) return false;
  const checkpoint::Entry* entry = setup_.checkpoint->find(tensor.name);
  return entry == nullptr || entry->info.dtype != tensor.dtype;
}

std::optional<Format> Values::staged(const Tensor& tensor, Format format) const {
  const std::optional<Format> train = setup_.train->format(tensor);
  if (!train || *train == format || (setup_.checkpoint && *train == Format(tensor.dtype))) return std::nullopt;
  if (!is_castable(train->dtype) || !is_castable(format.dtype)) return std::nullopt;
  return train;
}

checkpoint::ModelRead Values::read_for(const Part& part) const {
  checkpoint::ModelRead read = checkpoint::read_of(*setup_.checkpoint, setup_.model, *part.tensor);
  if (read.entry == nullptr && facts_of(part.tensor->role).is_cache_scale) {
    fail_usage(
        "{}: {} is missing, a scale of the FP8 KV cache; give those of a calibration (gen.kv_scales), or leave "
        "gen.kv_cache_dtype out",
        setup_.checkpoint->folder, part.tensor->name);
  }
  if (read.entry == nullptr)
    fail_usage("{}: {} is missing, which gen stores", setup_.checkpoint->folder, part.tensor->name);
  read.box = part.box;
  read.data = part.data;
  read.format = part.format;
  read.strides = part.strides;
  return read;
}

void Values::write_whole(const Part& part) {
  const std::shared_ptr<const diagnose::Whole> whole = source_.get(part.tensor->index);
  const std::optional<Format> as = setup_.gen->format(*part.tensor);
  if (!whole || !as) fail_usage("{}: {} cannot be made of it, which gen stores", setup_.source(), part.tensor->name);
  const Extents strides = row_major_strides(part.tensor->shape);
  if (as->dtype != part.format.dtype && !(is_castable(as->dtype) && is_castable(part.format.dtype)))
    fail_usage("{}: engines store it as {} and as {}; give one engine at a time (--gen)", part.tensor->name,
               name(as->dtype), name(part.format.dtype));
  copy(space_,
       {whole->data.data() + offset_of(part.box.lower, strides) * byte_size(whole->dtype), part.data, part.box.extent,
        strides, part.strides, whole->dtype, part.format.dtype, transform(as->conversion, part.format.conversion)});
}

void Values::write_staged(const Part& part, Format stage) {
  const kernels::SharedBuffer buffer(part.box.volume() * byte_size(stage.dtype));
  const Extents strides = row_major_strides(part.box.extent);
  load({part.tensor, part.box, buffer.data(), stage, strides});
  copy(space_, {buffer.data(), part.data, part.box.extent, strides, part.strides, stage.dtype, part.format.dtype,
                transform(stage.conversion, part.format.conversion)});
}

void Values::load(const Part& part) const {
  if (setup_.checkpoint) {
    const checkpoint::ModelRead read = read_for(part);
    checkpoint::read(space_, *setup_.checkpoint, {&read, 1});
    return;
  }
  synthetic_.write_as(space_, *part.tensor, {part.data, part.format.dtype, part.box, part.tensor->shape, part.strides},
                      part.format.conversion);
  space_.fence();
}

void Values::write(const std::vector<Part>& parts) {
  std::vector<checkpoint::ModelRead> reads;
  for (const Part& part : parts) {
    const Tensor& tensor = *part.tensor;
    if (const auto calibrated = setup_.kv_scales.find(tensor.index); calibrated != setup_.kv_scales.end()) {
      kernels::fill(space_, part.data, part.format.dtype, part.box.extent, part.strides, calibrated->second);
    } else if (is_whole(tensor)) {
      write_whole(part);
    } else if (is_shape_made(tensor)) {
      synthetic_.write(space_, tensor, {part.data, part.format.dtype, part.box, tensor.shape, part.strides});
    } else if (const auto stage = staged(tensor, part.format)) {
      write_staged(part, *stage);
    } else if (setup_.checkpoint) {
      reads.push_back(read_for(part));
    } else {
      load(part);
    }
  }
  if (setup_.checkpoint) checkpoint::read(space_, *setup_.checkpoint, reads);
  space_.fence();
}

kernels::SharedBuffer Values::chunk(std::int64_t bytes) {
  if (chunk_.bytes() < bytes) {
    chunk_ = {};  // before the larger one is there
    chunk_ = kernels::SharedBuffer(bytes);
  }
  return chunk_;
}

void Values::require_tied_heads(std::int64_t chunk_bytes) const {
  if (!setup_.checkpoint) return;
  const checkpoint::Checkpoint& files = *setup_.checkpoint;
  for (const Tensor& tensor : setup_.model.tensors) {
    const Tensor& canonical = setup_.model.canonical(tensor);
    if (canonical.index == tensor.index || files.find(tensor.name) == nullptr) continue;
    const std::int64_t size = byte_size(tensor.dtype);
    for (const Box& box : verify::chunks(Box::whole(tensor.shape), std::max<std::int64_t>(1, chunk_bytes / size))) {
      const Extents strides = row_major_strides(box.extent);
      const kernels::SharedBuffer head(box.volume() * size), embedding(box.volume() * size);
      const std::array<checkpoint::ModelRead, 2> reads{
          read_for({&tensor, box, head.data(), tensor.dtype, strides}),
          read_for({&canonical, box, embedding.data(), tensor.dtype, strides})};
      checkpoint::read(space_, files, reads);
      if (std::ranges::equal(head.span(), embedding.span())) continue;
      fail_usage(
          "{}: tie_word_embeddings is true, but {} differs from {} (in rows {} .. {}); set tie_word_embeddings to "
          "false in config.json",
          files.folder, tensor.name, canonical.name, box.lower[0], box.lower[0] + box.extent[0] - 1);
    }
  }
}

RankContents::Local::Local(layout::LocalLayout of)
    : layout(std::move(of)), pieces(layout.storages.size()), fills(layout.storages.size()) {
  for (std::size_t i = 0; i < layout.pieces.size(); ++i)
    pieces[static_cast<std::size_t>(layout.pieces[i].storage)].push_back(static_cast<std::int32_t>(i));
  for (std::size_t i = 0; i < layout.fills.size(); ++i)
    fills[static_cast<std::size_t>(layout.fills[i].storage)].push_back(static_cast<std::int32_t>(i));
}

RankContents::RankContents(const cases::Setup& setup, Values& values, Rank rank)
    : setup_(setup), values_(values), loaded_(layout::materialise(*setup.gen, setup.model.tensors, rank)) {
  const auto engine = static_cast<std::size_t>(setup.gen->engine(rank));
  processed_ = setup.c.gen[engine]->processed(setup.model, loaded_.layout);
  if (setup.derived) derived_.emplace(layout::materialise(*setup.derived, setup.model.tensors, rank));
  std::set<std::string> replaced;
  std::set<std::int32_t> sources;
  for (const layout::Processed& made : processed_) {
    replaced.insert(made.name);
    sources.insert({made.source, made.other});
  }
  const auto add = [&](const Local& local, std::size_t index, Kind kind) {
    parameters_.push_back({local.layout.storages[index], kind});
    origins_.push_back({&local, index});
  };
  for (std::size_t i = 0; i < loaded_.layout.storages.size(); ++i) {
    if (replaced.contains(loaded_.layout.storages[i].name)) continue;
    add(loaded_, i, sources.contains(static_cast<std::int32_t>(i)) ? Kind::source : Kind::loaded);
  }
  for (std::size_t i = 0; i < processed_.size(); ++i) {
    parameters_.push_back({{{}, processed_[i].name, processed_[i].shape, processed_[i].dtype}, Kind::processed});
    origins_.push_back({nullptr, i});
  }
  for (std::size_t i = 0; derived_ && i < derived_->layout.storages.size(); ++i) add(*derived_, i, Kind::derived);
}

std::int32_t RankContents::first_tensor(std::size_t parameter) const {
  const Origin& origin = origins_[parameter];
  const Local& local = origin.local == nullptr ? loaded_ : *origin.local;
  const std::size_t storage =
      origin.local == nullptr ? static_cast<std::size_t>(processed_[origin.index].source) : origin.index;
  const auto& pieces = local.pieces[storage];
  return pieces.empty() ? -1 : local.layout.pieces[static_cast<std::size_t>(pieces.front())].tensor;
}

std::string RankContents::describe(const Local& local, std::size_t storage) const {
  const layout::Storage& of = local.layout.storages[storage];
  std::string text = fmt::format("{} {} {}\n", of.name, to_string(of.shape), name(of.dtype));
  for (const std::int32_t i : local.pieces[storage]) {
    const layout::LocalPiece& piece = local.layout.pieces[static_cast<std::size_t>(i)];
    text += fmt::format("{} {} {} {} {} {}\n", piece.tensor, to_string(piece.piece.box), piece.piece.place.offset,
                        to_string(piece.piece.place.strides), name(piece.piece.format.dtype),
                        static_cast<int>(piece.piece.format.conversion));
  }
  for (const std::int32_t i : local.fills[storage]) {
    const layout::Fill& fill = local.layout.fills[static_cast<std::size_t>(i)].fill;
    text += fmt::format("{} {} {} {}\n", fill.value, fill.place.offset, to_string(fill.extent),
                        to_string(fill.place.strides));
  }
  return text;
}

std::string RankContents::description(std::size_t parameter) const {
  const Origin& origin = origins_[parameter];
  if (origin.local != nullptr) return describe(*origin.local, origin.index);
  const layout::Processed& made = processed_[origin.index];
  std::string text = fmt::format("{} {} of {}", made.name, to_string(made.shape),
                                 describe(loaded_, static_cast<std::size_t>(made.source)));
  if (made.other >= 0) text += describe(loaded_, static_cast<std::size_t>(made.other));
  return text;
}

void RankContents::write(const Local& local, std::size_t storage, std::int64_t first, std::int64_t count,
                         std::byte* out) {
  const std::int64_t size = byte_size(local.layout.storages[storage].dtype);
  std::int64_t covered = 0;
  std::vector<Values::Part> parts;
  std::set<std::tuple<std::int64_t, Extents, Extents>> seen;  // a tied pair's pieces are one
  for (const std::int32_t i : local.pieces[storage]) {
    const layout::LocalPiece& local_piece = local.layout.pieces[static_cast<std::size_t>(i)];
    const layout::Piece& piece = local_piece.piece;
    if (!seen.emplace(piece.place.offset, piece.place.strides, piece.box.extent).second) continue;
    const Tensor& tensor = setup_.model.canonical(setup_.model[local_piece.tensor]);
    for_each_within(piece.box, piece.place.offset, piece.place.strides, first, first + count, [&](const Box& box) {
      const std::int64_t at = layout::place_of(piece, box).offset;
      parts.push_back({&tensor, box, out + (at - first) * size, piece.format, piece.place.strides});
      covered += box.volume();
    });
  }
  values_.write(parts);
  for (const std::int32_t i : local.fills[storage]) {
    const layout::Fill& fill = local.layout.fills[static_cast<std::size_t>(i)].fill;
    const Extents& strides = fill.place.strides;
    const DType dtype = local.layout.storages[storage].dtype;
    for_each_within(Box::whole(fill.extent), fill.place.offset, strides, first, first + count, [&](const Box& box) {
      const std::int64_t at = fill.place.offset + offset_of(box.lower, strides);
      kernels::fill(space_, out + (at - first) * size, dtype, box.extent, strides, fill.value);
      covered += box.volume();
    });
  }
  space_.fence();
  REFIT_ASSERT(covered == count);
}

void RankContents::stream_storage(const Local& local, std::size_t storage, std::int64_t chunk_bytes,
                                  const Visit& visit) {
  const layout::Storage& of = local.layout.storages[storage];
  const std::int64_t size = byte_size(of.dtype);
  const auto parts = ranges(of.shape, chunk_bytes / size);
  std::int64_t largest = 0;
  for (const auto& [first, count] : parts) largest = std::max(largest, count);
  const kernels::SharedBuffer buffer = values_.chunk(largest * size);
  for (const auto& [first, count] : parts) {
    write(local, storage, first, count, buffer.data());
    visit(buffer.span().first(static_cast<std::size_t>(count * size)));
  }
}

kernels::SharedBuffer RankContents::whole_storage(std::size_t storage) {
  const layout::Storage& of = loaded_.layout.storages[storage];
  kernels::SharedBuffer result(of.bytes());
  write(loaded_, storage, 0, of.elements(), result.data());
  return result;
}

void RankContents::stream_processed(const layout::Processed& made, std::int64_t chunk_bytes, const Visit& visit) {
  const auto source = static_cast<std::size_t>(made.source);
  const kernels::SharedBuffer other =
      made.other < 0 ? kernels::SharedBuffer() : whole_storage(static_cast<std::size_t>(made.other));
  const std::int64_t elements = product(made.shape);
  if (const auto* numbers = std::get_if<NumberRule>(&made.rule)) {
    const kernels::SharedBuffer scales = whole_storage(source);
    const kernels::SharedBuffer out(elements * byte_size(made.dtype));
    kernels::process(space_, *numbers, scales.data(), other.data(), out.data(), elements, made.repeats);
    space_.fence();
    return visit(out.span());
  }
  ByteRule rule = std::get<ByteRule>(made.rule);
  const std::int64_t matrices = rule.matrices;
  const std::int64_t from = rule.rows * rule.columns;
  const std::int64_t to = rule.padded_rows() * rule.padded_columns();
  const std::int64_t step = std::clamp<std::int64_t>(chunk_bytes / std::max(from, to), 1, matrices);
  const kernels::SharedBuffer in(step * from);
  const kernels::SharedBuffer out(step * to);
  for (std::int64_t m = 0; m < matrices; m += step) {
    rule.matrices = std::min(step, matrices - m);
    write(loaded_, source, m * from, rule.matrices * from, in.data());
    const std::byte* scales = other.data() == nullptr ? nullptr : other.data() + m * rule.components * 4;
    kernels::process(space_, rule, in.data(), scales, out.data());
    space_.fence();
    visit(out.span().first(static_cast<std::size_t>(rule.matrices * to)));
  }
}

void RankContents::stream(std::size_t parameter, std::int64_t chunk_bytes, const Visit& visit) {
  const Origin& origin = origins_[parameter];
  if (origin.local == nullptr) return stream_processed(processed_[origin.index], chunk_bytes, visit);
  stream_storage(*origin.local, origin.index, chunk_bytes, visit);
}

kernels::SharedBuffer RankContents::whole(std::size_t parameter) {
  const layout::Storage& of = parameters_[parameter].storage;
  kernels::SharedBuffer result(of.bytes());
  std::int64_t done = 0;
  stream(parameter, of.bytes(), [&](std::span<std::byte> bytes) {
    std::ranges::copy(bytes, result.data() + done);
    done += std::ssize(bytes);
  });
  return result;
}

}  // namespace refit::digest
