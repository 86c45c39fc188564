#include "support/random_transport.hpp"

#include <cstdio>
#include <cstdlib>

#include "core/hash.hpp"

namespace refit::test_support {
namespace {

using layout::Piece;
using model::Tensor;

std::int64_t one_of(std::mt19937_64& random, std::initializer_list<std::int64_t> values) {
  return values.begin()[random() % values.size()];
}

/// A trainer's layout, which knows nothing of block scales.
class WithoutScales final : public layout::Layout {
 public:
  explicit WithoutScales(MeshLayout mesh) : mesh_(std::move(mesh)) {}
  std::int32_t ranks() const override { return mesh_.ranks(); }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const Tensor& tensor) const override { return mesh_.placement_class(tensor); }
  std::optional<Format> format(const Tensor& tensor) const override {
    return tensor.scale_of >= 0 ? std::nullopt : mesh_.format(tensor);
  }
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    if (tensor.scale_of < 0) mesh_.pieces(tensor, rank, out);
  }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override { return mesh_.storage(key, rank); }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank rank) const override { return mesh_.coordinates(rank); }

 private:
  MeshLayout mesh_;
};

/// An engine's layout: weights, and their scales with them, are cut between blocks. All tensors have storages of their
/// own, with a gap behind every row.
class CutBetweenBlocks final : public layout::Layout {
 public:
  CutBetweenBlocks(const model::Model& model, MeshLayout mesh, Quantiser quantiser)
      : model_(model), mesh_(std::move(mesh)), quantiser_(quantiser) {}
  std::int32_t ranks() const override { return mesh_.ranks(); }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const Tensor& tensor) const override {
    const auto of = static_cast<std::uint64_t>(tensor.scales >= 0 ? 1 : 0);
    return combine(mesh_.placement_class(cut_by(tensor)), of);
  }
  std::optional<Format> format(const Tensor& tensor) const override {
    if (tensor.scales >= 0) return Format{DType::f8_e4m3, Conversion::block_scaled};
    return tensor.scale_of >= 0 ? Format{scale_dtype(quantiser_)} : mesh_.format(tensor);
  }
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    const Box mine = box(tensor, rank);
    if (mine.empty()) return;
    out.push_back({mine, {{tensor.index, -1, -1}, 1, row_major_strides(padded(mine.extent))}, *format(tensor)});
  }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override {
    const Tensor& tensor = model_[key.parameter];
    return {key, tensor.name, {product(padded(box(tensor, rank).extent)) + 1}, format(tensor)->dtype};
  }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank rank) const override { return mesh_.coordinates(rank); }

 private:
  const Tensor& cut_by(const Tensor& tensor) const { return tensor.scales >= 0 ? model_[tensor.scales] : tensor; }
  Box box(const Tensor& tensor, Rank rank) const {
    Box result = mesh_.box(cut_by(tensor), rank);
    if (tensor.scales < 0 || result.empty()) return result;
    const int row = tensor.shape.size() - 2;
    for (const auto& [d, size] :
         {std::pair(row, block_size(quantiser_).rows), std::pair(row + 1, block_size(quantiser_).columns)}) {
      result.lower[d] *= size;
      result.extent[d] = std::min(result.extent[d] * size, tensor.shape[d] - result.lower[d]);
    }
    return result;
  }
  static Extents padded(Extents extent) {
    if (extent.size() > 0) ++extent[extent.size() - 1];
    return extent;
  }

  const model::Model& model_;
  MeshLayout mesh_;
  Quantiser quantiser_;
};

}  // namespace

std::vector<Precisions> all_precisions() {
  std::vector<Precisions> all;
  for (int i = 0; i <= static_cast<int>(Precisions::quantised_mxfp8); ++i) all.push_back(static_cast<Precisions>(i));
  return all;
}

bool is_quantised_on_the_way(Precisions precisions) {
  return precisions == Precisions::quantised_fp8 || precisions == Precisions::quantised_mxfp8;
}

std::string to_string(Precisions precisions) {
  constexpr const char* kNames[] = {"mixed",     "bf16:bf16", "bf16:fp32",     "fp32:bf16",
                                    "fp32:fp32", "fp8:fp8",   "quantised fp8", "quantised mxfp8"};
  return kNames[static_cast<std::size_t>(precisions)];
}

RandomTransport::RandomTransport(std::uint64_t seed, Precisions precisions, int ranks, bool colocated, Changes changes)
    : seed_(seed), precisions_(precisions) {
  std::mt19937_64 random(combine(seed, static_cast<std::uint64_t>(precisions)));
  make_model(random);
  if (precisions == Precisions::quantised_fp8) {
    base_.quantiser = static_cast<Quantiser>(random() % 6);
  } else if (precisions == Precisions::quantised_mxfp8) {
    base_.quantiser = random() % 2 == 0 ? Quantiser::mxfp8 : Quantiser::mxfp8_nemo_rl;
  }
  make_layouts(random, ranks, colocated);
  draw_sizes(random);
  constexpr std::int64_t kSparseRefits = 9;
  if (changes == Changes::sparse) base_.refits = kSparseRefits;
  truth_ = std::make_unique<Truth>(model_, changes);
  truth_->prepare(*source_, *destination_, base_.refits + 1, base_.quantiser);
  base_.model = &model_;
  base_.truth = truth_.get();
  base_.source = source_.get();
  base_.destination = destination_.get();
  base_.bulk = model_.tensors;
  base_.colocated = colocated;
  // Most worlds have several ranks on a device, in any order.
  std::mt19937_64 places(combine(seed, 0x91ACE));
  std::vector<std::int64_t> devices(static_cast<std::size_t>(base_.world().size()));
  const std::uint64_t count = 1 + places() % devices.size();
  for (std::int64_t& device : devices) device = static_cast<std::int64_t>(places() % count);
  base_.placement = plan::listed(base_.world(), devices, 1 + static_cast<std::int64_t>(places() % count));
}

void RandomTransport::make_model(std::mt19937_64& random) {
  const bool quantised = is_quantised_on_the_way(precisions_);
  model_.tensors = random_tensors(random, quantised ? 4 : 12, 7);
  for (Tensor& tensor : model_.tensors) tensor.role = model::Role::final_norm;
  for (Tensor& tensor : model_.tensors) {  // a few are longer
    if (tensor.shape.size() > 0 && random() % 10 == 0) tensor.shape[0] *= 1 + 3000 / tensor.elements();
  }
  for (Tensor& tensor : model_.tensors) {
    const bool misc = tensor.elements() < 2000 && random() % 2 == 0;
    (misc ? misc_ : bulk_).push_back(tensor);
  }
  // Sides of a few blocks, most of them ragged.
  const bool mx = precisions_ == Precisions::quantised_mxfp8;
  if (quantised) model_.quantisation = mx ? StoredFormat::mxfp8 : StoredFormat::fp8_block;
  for (int i = 0; quantised && i < 2; ++i) {
    Shape shape;
    if (random() % 3 == 0) shape.push_back(2 + static_cast<std::int64_t>(random() % 2));
    shape.push_back(1 + static_cast<std::int64_t>(random() % (mx ? 9 : 300)));
    shape.push_back(mx ? 32 * (1 + static_cast<std::int64_t>(random() % 6))
                       : 1 + static_cast<std::int64_t>(random() % 300));
    const auto index = static_cast<std::int32_t>(model_.tensors.size());
    Tensor weight{index, fmt::format("w{}", i), shape, DType::f32, model::Role::final_norm, -1, -1};
    weight.scales = index + 1;
    const int row = shape.size() - 2;
    shape[row] = mx ? shape[row] : (shape[row] + 127) / 128;
    shape[row + 1] = mx ? shape[row + 1] / 32 : (shape[row + 1] + 127) / 128;
    Tensor scales{
        index + 1, fmt::format("w{}_scale", i), shape, mx ? DType::u8 : DType::f32, model::Role::block_scale, -1, -1};
    scales.scale_of = index;
    std::vector<Tensor>& path = random() % 2 == 0 ? misc_ : bulk_;
    for (const Tensor& tensor : {weight, scales}) {
      model_.tensors.push_back(tensor);
      path.push_back(tensor);
    }
  }
}

void RandomTransport::make_layouts(std::mt19937_64& random, int ranks, bool colocated) {
  const auto up_to = [&](int most) { return 1 + static_cast<int>(random() % static_cast<std::uint64_t>(most)); };
  int sources = 0, destinations = 0;
  if (colocated && ranks > 0) {
    const bool fewer_sources = random() % 2 == 0;
    sources = fewer_sources ? up_to(ranks) : ranks;
    destinations = fewer_sources ? ranks : up_to(ranks);
  } else if (ranks > 0) {
    sources = up_to(ranks - 1);
    destinations = ranks - sources;
  }
  MeshLayout source = random_layout(random, model_.tensors, sources);
  MeshLayout destination = random_layout(random, model_.tensors, destinations);
  const auto all = [](MeshLayout& layout, DType dtype) {
    for (Format& format : layout.format_of) format = dtype;
  };
  // A source that computes as it sends is slower than the forwarding ranks, so that the copies for which they must wait
  // come late.
  const auto compute = [&](MeshLayout& layout) {
    for (Format& format : layout.format_of) {
      if (random() % 2 == 0) format.conversion = Conversion::negative_exp;
    }
  };
  switch (precisions_) {
    case Precisions::bf16_bf16: all(source, DType::bf16), all(destination, DType::bf16); break;
    case Precisions::bf16_fp32: all(source, DType::bf16), all(destination, DType::f32), compute(destination); break;
    case Precisions::fp32_bf16: all(source, DType::f32), all(destination, DType::bf16), compute(destination); break;
    case Precisions::fp32_fp32: all(source, DType::f32), all(destination, DType::f32); break;
    case Precisions::fp8_fp8: all(source, DType::f8_e4m3), all(destination, DType::f8_e4m3); break;
    case Precisions::quantised_fp8:
    case Precisions::quantised_mxfp8: break;
    case Precisions::mixed: {
      // Both sides may have zero-centred values; or the source has plain values, and the destination any form.
      const bool centred = random() % 2 == 0;
      for (Format& format : source.format_of) {
        if (centred && random() % 2 == 0) format.conversion = Conversion::minus_one;
      }
      for (Format& format : destination.format_of) {
        format.conversion = static_cast<Conversion>(random() % (centred ? 2 : 3));
      }
    }
  }
  if (is_quantised_on_the_way(precisions_)) {
    source_ = std::make_unique<WithoutScales>(std::move(source));
    destination_ = std::make_unique<CutBetweenBlocks>(model_, std::move(destination), *base_.quantiser);
  } else {
    std::mt19937_64 repeats(combine(seed_, 0x2E9EA7));
    if (repeats() % 2 == 0) repeat_some(repeats, destination);
    source_ = std::make_unique<MeshLayout>(std::move(source));
    destination_ = std::make_unique<MeshLayout>(std::move(destination));
  }
}

void RandomTransport::draw_sizes(std::mt19937_64& random) {
  transport::Tuning& t = base_.tuning;
  t.streams = one_of(random, {1, 2, 3});
  t.group_size = one_of(random, {1, 3, 1024});
  t.chunk_bytes = one_of(random, {64, 1000, 1 << 16});
  t.ring_chunks = one_of(random, {1, 2, 3});
  t.message_bytes = one_of(random, {20, 300, t.message_bytes});
  std::mt19937_64 more(combine(seed_, 0xFACC));
  const std::int64_t small[] = {0, 30, 1000, 1 << 20};
  t.small_bytes = small[more() % std::size(small)];
  t.packed_bytes = one_of(more, {1, 200, 5000, t.packed_bytes});
  t.message_cost_bytes = one_of(random, {0, 100, t.message_cost_bytes});
  t.golden_part_bytes = one_of(random, {1, 100, t.golden_part_bytes});
  t.reshard_group_bytes = one_of(random, {1, 1000, t.reshard_group_bytes});
  t.fan_out_chunk_bytes = one_of(random, {4, 30, 300, 3000, t.fan_out_chunk_bytes});
  // Each chunk of a quantised block reads all of the block.
  if (base_.quantiser) t.fan_out_chunk_bytes = one_of(random, {50, 1000, t.fan_out_chunk_bytes});
  t.table.item_bytes = one_of(random, {0, 1, 100});
  t.table.quantised_elements = one_of(random, {1, 1 << 14, t.table.quantised_elements});
  t.table.streamed_bytes = one_of(random, {1, t.table.streamed_bytes});
  t.engines.least_bytes = one_of(random, {0, 1, 20, 1000});
  t.engines.least_strided_bytes = one_of(random, {1, 100, 5000});
  t.engines.least_row_bytes = one_of(random, {1, 8, 64});
  t.engines.split_row_bytes = one_of(random, {16, 256, 1 << 20});
  t.engines.most_bytes = one_of(random, {50, 1000, 1 << 20});
  t.engines.batch = one_of(random, {1, 3, 256});
  t.engines.host_bytes = one_of(random, {0, 30, 500});
  t.handed_on.most_parts = one_of(more, {1, 2, 5, t.handed_on.most_parts});
  t.handed_on.least_bytes = one_of(more, {1, 100, t.handed_on.least_bytes});
  base_.striping.min_bytes = one_of(random, {1, 10, 1000, base_.striping.min_bytes});
  base_.striping.min_rows = one_of(random, {1, base_.striping.min_rows});
  base_.misc_buffer_bytes = one_of(random, {64, 100, 1024, 1 << 20});
}

std::vector<TransportCase> RandomTransport::jobs() const {
  std::vector<TransportCase> jobs;
  for (ExecutorKind executor : {ExecutorKind::golden, ExecutorKind::p2p, ExecutorKind::m2n, ExecutorKind::direct}) {
    if (executor == ExecutorKind::m2n && base_.colocated) continue;
    jobs.push_back(base_);
    jobs.back().executor = executor;
  }
  const TransportCase direct = jobs.back();
  for (std::int64_t domain_ranks : {2, 8}) {
    jobs.push_back(direct);
    jobs.back().domain_ranks = domain_ranks;
  }
  for (std::int64_t domain_ranks : {0, 8}) {
    jobs.push_back(direct);
    jobs.back().domain_ranks = domain_ranks;
    jobs.back().foreign = true;
  }
  if (!direct.quantiser) jobs.push_back(on_hosts(direct));
  return jobs;
}

/// Places the ranks of `direct` on a few hosts that share memory, in any order; destination ranks of a host feed each
/// other.
TransportCase RandomTransport::on_hosts(TransportCase direct) const {
  std::mt19937_64 random(combine(seed_, 0x4057));
  const std::uint64_t hosts = 2 + random() % 2;
  const WorldMap world = direct.world();
  std::vector<std::int64_t> host_of;
  for (int rank = 0; rank < world.size(); ++rank) host_of.push_back(static_cast<std::int64_t>(random() % hosts));
  std::vector<std::int64_t> devices;
  for (int rank = 0; rank < world.size(); ++rank)
    devices.push_back(host_of[static_cast<std::size_t>(rank)] * world.size() + rank);
  direct.placement = plan::listed(world, devices, world.size());
  direct.feeds_by_host = true;
  direct.passes_on = random() % 3 != 0;
  direct.near_domains = random() % 2 == 0;
  for (int a = 0; a < world.size(); ++a)
    for (int b = a + 1; b < world.size(); ++b)
      if (host_of[static_cast<std::size_t>(a)] != host_of[static_cast<std::size_t>(b)]) direct.unmapped.insert({a, b});
  return direct;
}

std::vector<TransportCase> RandomTransport::deltas() const {
  std::vector<TransportCase> jobs;
  for (const transport::Delta delta :
       {transport::Delta::automatic, transport::Delta::index, transport::Delta::bitmap}) {
    jobs.push_back(base_);
    jobs.back().executor = ExecutorKind::p2p;
    jobs.back().tuning.delta = delta;
  }
  jobs.push_back(jobs.front());
  jobs.back().restart = 1 + static_cast<std::int64_t>(seed_ % static_cast<std::uint64_t>(base_.refits - 1));
  jobs.push_back(jobs.front());
  jobs.back().bulk = bulk_;
  jobs.back().misc = misc_;
  return jobs;
}

TransportCase RandomTransport::misc() const {
  TransportCase job = base_;
  job.bulk = bulk_;
  job.misc = misc_;
  return job;
}

std::string RandomTransport::describe(const TransportCase& job) const {
  const transport::Tuning& t = job.tuning;
  const auto devices = [](const std::vector<plan::Placement::Site>& sites) {
    std::string text;
    for (const plan::Placement::Site& site : sites) text += fmt::format(" {}/{}", site.device, site.domain);
    return text;
  };
  const std::string delta =
      t.delta == transport::Delta::off ? "" : fmt::format(", delta {}, restart before {}", name(t.delta), job.restart);
  return fmt::format(
      "seed {} {} {}{} ({} + {} ranks{}{}{} on devices/domains{} ->{}), fan-out in domains of {}{}, stripes of {} B "
      "and "
      "{} "
      "rows; streams {} group {} "
      "chunk {} ring {} message {} small {} packed {} cost {} part {} reshard {} fan-out chunk {} items {} B {} "
      "elements streamed {} misc {} engines from {} B, strided {} B, rows {} to {} B, cut at {} B, batches of {}",
      seed_, to_string(precisions_), to_string(job.executor), delta, job.source->ranks(), job.destination->ranks(),
      job.colocated ? ", colocated" : "", job.quantiser ? fmt::format(", {}", name(*job.quantiser)) : "",
      job.foreign ? ", foreign memory" : "", devices(job.placement.source), devices(job.placement.destination),
      job.domain_ranks,
      job.feeds_by_host ? job.passes_on ? fmt::format(" (hosts, hand on in {})", t.handed_on.most_parts) : " (hosts)"
                        : "",
      job.striping.min_bytes, job.striping.min_rows, t.streams, t.group_size, t.chunk_bytes, t.ring_chunks,
      t.message_bytes, t.small_bytes.value_or(-1), t.packed_bytes, t.message_cost_bytes, t.golden_part_bytes,
      t.reshard_group_bytes, t.fan_out_chunk_bytes, t.table.item_bytes, t.table.quantised_elements,
      t.table.streamed_bytes, job.misc_buffer_bytes, t.engines.least_bytes, t.engines.least_strided_bytes,
      t.engines.least_row_bytes, t.engines.split_row_bytes, t.engines.most_bytes, t.engines.batch);
}

RandomCases::RandomCases(std::int64_t cases_by_default) {
  const auto setting = [](const char* name, std::int64_t otherwise) {
    const char* given = std::getenv(name);
    return given == nullptr ? otherwise : std::atoll(given);
  };
  first = static_cast<std::uint64_t>(setting("REFIT_TRANSPORT_SEED", 0));
  count = setting("REFIT_TRANSPORT_CASES", cases_by_default);
  std::printf("seeds %llu .. %llu (REFIT_TRANSPORT_SEED, REFIT_TRANSPORT_CASES)\n",
              static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(first + static_cast<std::uint64_t>(count) - 1));
}

}  // namespace refit::test_support
