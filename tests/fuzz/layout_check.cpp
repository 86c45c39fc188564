#include "fuzz/layout_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "layout/joined_layout.hpp"
#include "plan/plan.hpp"
#include "plan/stream.hpp"
#include "support/engine_oracle.hpp"

namespace refit::fuzz {
namespace {

using layout::Layout;
using layout::LocalLayout;
using layout::Place;
using layout::Storage;
using plan::Copy;
using plan::Planner;
using test_support::Parameters;

using Numbers = std::vector<std::uint64_t>;
constexpr std::uint64_t kUnwritten = ~std::uint64_t{0};
constexpr std::uint64_t kRest = kUnwritten - 1;  // in the misc stream, every byte of an element but its first

template <typename... Args>
[[noreturn]] void differs(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::data, fmt::format(format, std::forward<Args>(args)...));
}

/// Calls visit(a, b) for every index below `extent`: its offsets by two sets of strides, from two beginnings.
template <typename Visit>
void walk(const Extents& extent, std::int64_t a, const Extents& strides_a, std::int64_t b, const Extents& strides_b,
          const Visit& visit) {
  Extents index = Extents::filled(extent.size(), 0);
  for (std::int64_t left = product(extent); left > 0; --left) {
    visit(a + offset_of(index, strides_a), b + offset_of(index, strides_b));
    for (int d = extent.size() - 1; d >= 0 && ++index[d] == extent[d]; --d) index[d] = 0;
  }
}

/// The storages of a rank of one side.
struct RankStorages {
  LocalLayout local;
  std::vector<Numbers> values;
  bool by_byte = false;  ///< a number for each byte: the misc stream, whose buffers hold several dtypes

  std::uint64_t& at(std::int32_t storage, std::int64_t offset) {
    Numbers& numbers = values.at(static_cast<std::size_t>(storage));
    if (offset < 0 || offset >= static_cast<std::int64_t>(numbers.size())) {
      differs("{}: a place is beyond the end, at {} of {}", name(storage), offset, numbers.size());
    }
    return numbers[static_cast<std::size_t>(offset)];
  }
  std::string name(std::int32_t storage) const { return local.storages.at(static_cast<std::size_t>(storage)).title(); }
  std::uint64_t read(std::int32_t storage, std::int64_t offset, DType dtype) {
    return at(storage, offset * scale(dtype));
  }
  void write(std::int32_t storage, std::int64_t offset, DType dtype, std::uint64_t number) {
    for (std::int64_t i = 0; i < scale(dtype); ++i) {
      std::uint64_t& target = at(storage, offset * scale(dtype) + i);
      if (target != kUnwritten) differs("{}: element {} is written twice", name(storage), offset);
      target = i == 0 ? number : kRest;
    }
  }
  std::int64_t scale(DType dtype) const { return by_byte ? byte_size(dtype) : 1; }
};
using Ranks = std::vector<RankStorages>;

/// Allocates all storages of a side, unwritten.
Ranks allocate(const Layout& layout, const std::vector<model::Tensor>& tensors) {
  Ranks side;
  for (std::int32_t rank = 0; rank < layout.ranks(); ++rank) {
    RankStorages storages{materialise(layout, tensors, Rank{rank}), {}};
    for (const Storage& storage : storages.local.storages) {
      storages.values.emplace_back(static_cast<std::size_t>(storage.elements()), kUnwritten);
    }
    side.push_back(std::move(storages));
  }
  return side;
}

std::uint64_t tag(Conversion conversion) {
  switch (conversion) {
    case Conversion::none: return 0;
    case Conversion::minus_one: return test_support::kMinusOneTag;
    case Conversion::negative_exp: return test_support::kNegativeExpTag;
    case Conversion::block_scaled: break;  // no case is quantised
  }
  return 0;
}

std::uint64_t apply(Transform transform, std::uint64_t number) {
  switch (transform) {
    case Transform::none: return number;
    case Transform::add_one: return number - test_support::kMinusOneTag;
    case Transform::subtract_one: return number + test_support::kMinusOneTag;
    case Transform::negative_exp: return number + test_support::kNegativeExpTag;
    case Transform::quantise: break;
  }
  return number;
}

/// Returns the number of a tensor's first element; the others follow. Tied tensors have the same values.
std::uint64_t first_number(const model::Model& model, const model::Tensor& tensor) {
  return (static_cast<std::uint64_t>(model.canonical(tensor).index) + 1) << 32;
}

test_support::Checkpoint checkpoint_of(const model::Model& model) {
  test_support::Checkpoint result;
  for (const model::Tensor& tensor : model.tensors) {
    test_support::Array& array = result[tensor.name];
    for (std::int64_t size : tensor.file_shape()) array.shape.push_back(size);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) {
      array.values.push_back(first_number(model, tensor) + static_cast<std::uint64_t>(i));
    }
  }
  return result;
}

void write_fills(RankStorages& rank) {
  for (const LocalLayout::LocalFill& fill : rank.local.fills) {
    if (fill.fill.value != 0.0)
      differs("{}: a fill of {}, engines fill with 0", rank.name(fill.storage), fill.fill.value);
    const Place& place = fill.fill.place;
    walk(fill.fill.extent, place.offset, place.strides, 0, place.strides,
         [&](std::int64_t offset, std::int64_t) { rank.write(fill.storage, offset, DType::u8, 0); });
  }
}

/// Writes a piece's true values.
void write_piece(const model::Model& model, const layout::LocalPiece& local, RankStorages& rank) {
  const model::Tensor& tensor = model.tensors.at(static_cast<std::size_t>(local.tensor));
  const layout::Piece& piece = local.piece;
  if (piece.format.dtype != rank.local.storages.at(static_cast<std::size_t>(local.storage)).dtype) {
    differs("{}: a piece of {} has another dtype", rank.name(local.storage), tensor.name);
  }
  const Extents strides = row_major_strides(tensor.shape);
  walk(piece.box.extent, piece.place.offset, piece.place.strides, offset_of(piece.box.lower, strides), strides,
       [&](std::int64_t offset, std::int64_t element) {
         const std::uint64_t number =
             first_number(model, tensor) + static_cast<std::uint64_t>(element) + tag(piece.format.conversion);
         // A tied lm_head may be a name for the embedding's storage.
         const bool alias = model.canonical(tensor).index != tensor.index;
         if (!alias || rank.at(local.storage, offset) != number) {
           rank.write(local.storage, offset, piece.format.dtype, number);
         }
       });
}

void compare(const std::string& side, const Layout& layout, const Ranks& ranks,
             const std::function<Parameters(std::int64_t)>& wanted_of) {
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const std::string where =
        fmt::format("{} rank {} ({})", side, r, layout.coordinates(Rank{static_cast<std::int32_t>(r)}));
    Parameters wanted = wanted_of(static_cast<std::int64_t>(r));
    const RankStorages& rank = ranks[r];
    for (std::size_t i = 0; i < rank.values.size(); ++i) {
      const Storage& storage = rank.local.storages[i];
      const std::string title = storage.title();
      const auto found = wanted.find(title);
      if (found == wanted.end()) differs("{}: the engine has no {}, or only one", where, title);
      const test_support::Parameter& parameter = found->second;
      if (!std::equal(storage.shape.begin(), storage.shape.end(), parameter.array.shape.begin(),
                      parameter.array.shape.end())) {
        differs("{}: {} has shape {}, not [{}]", where, title, to_string(storage.shape),
                fmt::join(parameter.array.shape, ", "));
      }
      if (storage.dtype != parameter.dtype) {
        differs("{}: {} is {}, not {}", where, title, name(storage.dtype), name(parameter.dtype));
      }
      const auto [mine, right] = std::mismatch(rank.values[i].begin(), rank.values[i].end(),
                                               parameter.array.values.begin(), parameter.array.values.end());
      if (mine != rank.values[i].end()) {
        differs("{}: {} {} element {} is {}, not {}", where, title, to_string(storage.shape),
                mine - rank.values[i].begin(), *mine, *right);
      }
      wanted.erase(found);
    }
    if (!wanted.empty()) differs("{}: {} is missing", where, wanted.begin()->first);
  }
}

bool equal(const Copy& a, const Copy& b) {
  return a.tensor == b.tensor && a.box == b.box && a.source == b.source && a.destination == b.destination;
}

/// Compares two copies without places, which the walk over all copies does not have.
bool same_copy(const Copy& planned, const Copy& walked) {
  return planned.tensor == walked.tensor && planned.box == walked.box && planned.source.rank == walked.source.rank &&
         planned.destination.rank == walked.destination.rank && planned.source.format == walked.source.format &&
         planned.destination.format == walked.destination.format;
}

std::vector<plan::RankPlan> plans_of(const Planner& planner, Side side, std::int32_t ranks) {
  std::vector<plan::RankPlan> plans;
  plans.reserve(static_cast<std::size_t>(ranks));
  for (std::int32_t rank = 0; rank < ranks; ++rank) plans.push_back(planner.rank_plan(side, Rank{rank}));
  return plans;
}

/// Checks that both ends' plans hold the same copies in the same order.
void check_mirror(const Planner& planner, const std::vector<plan::RankPlan>& sources,
                  const std::vector<plan::RankPlan>& destinations) {
  std::vector<std::size_t> sent(sources.size()), received(destinations.size());
  planner.for_each_copy([&](const Copy& copy) {
    const auto from = static_cast<std::size_t>(to_int(copy.source.rank));
    const auto to = static_cast<std::size_t>(to_int(copy.destination.rank));
    if (sent.at(from) == sources[from].copies.size() || received.at(to) == destinations[to].copies.size()) {
      differs("a copy from rank {} to rank {} is missing in one of their plans", from, to);
    }
    const Copy& out = sources[from].copies[sent[from]++];
    const Copy& in = destinations[to].copies[received[to]++];
    if (!equal(out, in) || !same_copy(in, copy)) {
      differs("tensor {}: rank {} does not send what rank {} expects", copy.tensor, from, to);
    }
  });
  for (std::size_t r = 0; r < sent.size(); ++r) {
    if (sent[r] != sources[r].copies.size()) differs("source rank {} has copies that nobody else has", r);
  }
  for (std::size_t r = 0; r < received.size(); ++r) {
    if (received[r] != destinations[r].copies.size()) differs("destination rank {} has copies that nobody else has", r);
  }
}

/// Checks that every rank receives as many bytes as its pieces have in the source's dtype.
void check_bytes(const Planner& planner, const std::vector<model::Tensor>& tensors,
                 const std::vector<plan::RankPlan>& destinations) {
  std::vector<layout::Piece> pieces;
  for (std::size_t r = 0; r < destinations.size(); ++r) {
    std::int64_t received = 0;
    for (const Copy& copy : destinations[r].copies) received += copy.wire_bytes();
    for (const model::Tensor& tensor : tensors) {
      pieces.clear();
      planner.destination().pieces(tensor, Rank{static_cast<std::int32_t>(r)}, pieces);
      const std::int64_t size = byte_size(planner.source().format(tensor).value().dtype);
      for (const layout::Piece& piece : pieces) received -= piece.box.volume() * size;
    }
    if (received != 0) differs("destination rank {} receives {} bytes more than its pieces have", r, received);
  }
}

/// Checks that colocated ranks take from themselves what they hold, and only that.
void check_to_self(const Planner& planner, const std::vector<model::Tensor>& tensors) {
  std::map<std::int32_t, const model::Tensor*> by_index;
  for (const model::Tensor& tensor : tensors) by_index[tensor.index] = &tensor;
  std::vector<layout::Piece> held;
  planner.for_each_copy([&](const Copy& copy) {
    held.clear();
    if (to_int(copy.destination.rank) < planner.source().ranks())
      planner.source().pieces(*by_index.at(copy.tensor), copy.destination.rank, held);
    const bool holds = std::any_of(held.begin(), held.end(), [&](const layout::Piece& piece) {
      return intersect(piece.box, copy.box) == copy.box;
    });
    if (holds != copy.to_self || copy.to_self != (copy.source.rank == copy.destination.rank))
      differs("tensor {}: rank {} gets what it holds from another, or what it lacks from itself", copy.tensor,
              to_int(copy.destination.rank));
  });
}

/// Returns whether the copy is less than its two ranks' boxes have in common.
bool is_stripe(const Planner& planner, const model::Tensor& tensor, const Copy& copy) {
  std::vector<layout::Piece> held, wanted;
  planner.source().pieces(tensor, copy.source.rank, held);
  planner.destination().pieces(tensor, copy.destination.rank, wanted);
  for (const layout::Piece& from : held) {
    for (const layout::Piece& to : wanted) {
      if (intersect(from.box, to.box) == copy.box) return false;
    }
  }
  return true;
}

void execute(const Copy& copy, Ranks& sources, Ranks& destinations) {
  RankStorages& from = sources.at(static_cast<std::size_t>(to_int(copy.source.rank)));
  RankStorages& to = destinations.at(static_cast<std::size_t>(to_int(copy.destination.rank)));
  const std::int32_t source = from.local.find(copy.source.place.storage);
  const std::int32_t destination = to.local.find(copy.destination.place.storage);
  const Transform how = transform(copy.source.format.conversion, copy.destination.format.conversion);
  walk(copy.box.extent, copy.source.place.offset, copy.source.place.strides, copy.destination.place.offset,
       copy.destination.place.strides, [&](std::int64_t a, std::int64_t b) {
         to.write(destination, b, copy.destination.format.dtype,
                  apply(how, from.read(source, a, copy.source.format.dtype)));
       });
}

/// A layout and its ranks' storages.
struct Stored {
  const Layout& layout;
  Ranks ranks;
};

/// One case while it runs.
class Refit {
 public:
  Refit(const Case& of, const model::Model& what, Distortion how, Outcome& result)
      : case_(of), model_(what), distortion_(how), outcome_(result), checkpoint_(checkpoint_of(what)) {}

  void run(const Layout& train, const Layout& gen) {
    Stored source{train, allocate(train, model_.tensors)};
    for (RankStorages& rank : source.ranks) {
      write_fills(rank);
      for (const layout::LocalPiece& piece : rank.local.pieces) write_piece(model_, piece, rank);
    }
    compare("train", train, source.ranks, [&](std::int64_t rank) {
      return case_.fsdp ? test_support::fsdp_parameters(checkpoint_, model_.config, *case_.fsdp, rank)
                        : test_support::megatron_parameters(checkpoint_, model_.config, case_.train, rank);
    });

    const plan::Split split = plan::split(model_, case_.policy, train, gen,
                                          (case_.fsdp ? case_.fsdp->sizes : case_.train.sizes).tp, gen_tp());
    Stored destination{gen, allocate(gen, model_.tensors)};
    for (RankStorages& rank : destination.ranks) {
      write_fills(rank);
      load(split.from_checkpoint, rank);
    }
    move(split.bulk, source, destination, distortion_, case_.colocated);
    move_through_stream(split.misc, source, destination);
    compare("gen", gen, destination.ranks, [&](std::int64_t rank) { return engine_parameters(gen, rank); });
    for (const RankStorages& rank : destination.ranks) {
      for (const Numbers& numbers : rank.values) outcome_.elements += static_cast<std::int64_t>(numbers.size());
    }
  }

 private:
  std::int64_t gen_tp() const {
    std::int64_t most = 1;
    for (const Engine& engine : case_.engines()) most = std::max(most, engine.tp());
    return most;
  }

  /// Returns what a gen rank's engine would hold there, alone.
  Parameters engine_parameters(const Layout& gen, std::int64_t rank) const {
    std::int32_t first = static_cast<std::int32_t>(rank);
    const std::int32_t number = gen.engine(Rank{first});
    while (first > 0 && gen.engine(Rank{first - 1}) == number) --first;
    const Engine engine = case_.engines().at(static_cast<std::size_t>(number));
    if (engine.sglang) return test_support::sglang_parameters(checkpoint_, model_.config, *engine.sglang, rank - first);
    return test_support::vllm_parameters(checkpoint_, model_.config, engine.vllm, rank - first);
  }

  void load(const std::vector<model::Tensor>& tensors, RankStorages& rank) const {
    for (const layout::LocalPiece& piece : rank.local.pieces) {
      const auto is_this = [&](const model::Tensor& tensor) { return tensor.index == piece.tensor; };
      if (std::any_of(tensors.begin(), tensors.end(), is_this)) write_piece(model_, piece, rank);
    }
  }

  /// Plans `tensors` from one side to the other and makes the copies.
  void move(const std::vector<model::Tensor>& tensors, Stored& source, Stored& destination, Distortion distortion,
            bool colocated = false) {
    const Planner planner(tensors, source.layout, destination.layout, {.colocated = colocated});
    const auto outgoing = plans_of(planner, Side::source, source.layout.ranks());
    auto incoming = plans_of(planner, Side::destination, destination.layout.ranks());
    check_mirror(planner, outgoing, incoming);
    check_bytes(planner, tensors, incoming);
    if (colocated) check_to_self(planner, tensors);
    for (plan::RankPlan& rank : incoming) {
      distort(rank.copies, distortion);
      for (const Copy& copy : rank.copies) {
        execute(copy, source.ranks, destination.ranks);
        const model::Tensor& tensor = model_.tensors.at(static_cast<std::size_t>(copy.tensor));
        if (case_.wide && is_stripe(planner, tensor, copy)) ++outcome_.stripes;
      }
      outcome_.copies += static_cast<std::int64_t>(rank.copies.size());
    }
  }

  void distort(std::vector<Copy>& copies, Distortion distortion) const {
    if (copies.empty() || distortion < Distortion::lost_copy) return;
    outcome_.distorted = true;
    if (distortion == Distortion::lost_copy) return copies.pop_back();
    copies.push_back(Copy(copies.back()));
  }

  /// Moves tensors on the misc path: all of a tensor, unchanged, through one stream that is cut into buffers.
  void move_through_stream(const std::vector<model::Tensor>& tensors, Stored& source, Stored& destination) {
    const plan::StreamLayout layout(tensors, source.layout, case_.buffer_bytes);
    for (const model::Tensor& tensor : tensors) {
      if (layout.format(tensor) != source.layout.format(tensor)) differs("{} is rounded on the misc path", tensor.name);
    }
    Stored stream{layout, allocate(layout, tensors)};
    stream.ranks.front().by_byte = true;
    move(tensors, source, stream, Distortion::none);
    move(tensors, stream, destination, distortion_);
  }

  const Case& case_;
  const model::Model& model_;
  Distortion distortion_;
  Outcome& outcome_;
  test_support::Checkpoint checkpoint_;
};

/// Returns the layout of all engines.
std::unique_ptr<Layout> gen_layout(const Case& c, const model::Model& model) {
  if (c.more.empty()) return engine_layout(c.engines().front(), model);
  std::vector<layout::JoinedLayout::Engine> engines;
  for (const Engine& engine : c.engines()) {
    std::unique_ptr<Layout> layout = engine_layout(engine, model);
    const std::int32_t ranks = layout->ranks();
    engines.push_back({std::move(layout), ranks});
  }
  return std::make_unique<layout::JoinedLayout>(std::move(engines));
}

}  // namespace

Outcome check(const Case& c, const model::Model& model, Distortion distortion) {
  Outcome outcome;
  try {
    const auto train = train_layout(c, model);
    const auto gen = gen_layout(c, model);
    const DistortedLayout train_or_not(
        *train, model, distortion == Distortion::lost_conversion ? distortion : Distortion::none, outcome.distorted);
    const DistortedLayout gen_or_not(*gen, model, distortion, outcome.distorted);
    Refit(c, model, distortion, outcome).run(train_or_not, gen_or_not);
  } catch (const std::exception& error) {
    outcome.difference = error.what();
  }
  return outcome;
}

}  // namespace refit::fuzz
