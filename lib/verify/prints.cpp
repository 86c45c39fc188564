#include "verify/prints.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "verify/halves.hpp"

namespace refit::verify {
namespace {

constexpr int kRoot = 0;
constexpr std::int32_t kTruth = -1;

/// The fingerprint of a part on a rank: the truth (piece kTruth), or that of its piece.
struct PartPrint {
  std::int32_t suspect = 0;
  std::int32_t part = 0;
  std::int32_t piece = kTruth;
  Sum128 sum;
};

/// The prints that this rank is asked for, without their sums, and the places of the parts.
struct Asked {
  std::vector<PartPrint> prints;
  std::vector<PiecePart> parts;
};

void ask(const LocalMemory& local, const Suspect& suspect, std::int32_t number, Asked& asked) {
  const std::vector<Part> parts = parts_of(suspect);
  const auto [first, last] = local.pieces_of(suspect.tensor);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const Holder& truth = suspect.sources[static_cast<std::size_t>(part.source)].holder;
    if (truth.world_rank == local.world.rank()) {
      asked.prints.push_back({number, static_cast<std::int32_t>(i), kTruth, {}});
      asked.parts.push_back({local.piece_of(local.owner(suspect.tensor), truth.piece), part.box});
    }
    for (std::int32_t p = first; p < last; ++p) {
      if (!local.is_gen(p) || local.piece(p).piece.box != suspect.targets[static_cast<std::size_t>(part.target)])
        continue;
      asked.prints.push_back(
          {number, static_cast<std::int32_t>(i), local.numbered.numbers[static_cast<std::size_t>(p)], {}});
      asked.parts.push_back({p, part.box});
    }
  }
}

/// Returns the wrong parts among those that all ranks sent to an owner.
std::vector<WrongPart> compare(const std::vector<Bytes>& from) {
  std::map<std::pair<std::int32_t, std::int32_t>, Sum128> truth;
  std::vector<std::vector<PartPrint>> prints;
  for (const Bytes& bytes : from) {
    prints.push_back(Reader(bytes).get_all<PartPrint>());
    for (const PartPrint& print : prints.back()) {
      if (print.piece == kTruth) truth[{print.suspect, print.part}] = print.sum;
    }
  }
  std::vector<WrongPart> wrong;
  for (std::size_t rank = 0; rank < prints.size(); ++rank) {
    for (const PartPrint& print : prints[rank]) {
      if (print.piece == kTruth || truth.at({print.suspect, print.part}) == print.sum) continue;
      wrong.push_back({print.suspect, print.part, static_cast<std::int32_t>(rank), print.piece});
    }
  }
  return wrong;
}

}  // namespace

std::vector<Sum128> fingerprints_of(const LocalMemory& local, const std::vector<PiecePart>& parts, Bits bits) {
  std::vector<kernels::Fingerprint> of;
  std::vector<std::size_t> part_of;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const layout::LocalPiece& piece = local.piece(parts[i].piece);
    const model::Tensor& tensor = local.tensor(piece.tensor);
    const kernels::Region region = local.region(parts[i].piece, parts[i].box);
    const DType as = bits == Bits::stored ? region.dtype : local.as(tensor.index).dtype;
    const Transform transform = bits == Bits::stored ? Transform::none : local.transform_of(piece);
    const std::uint64_t name = hash_name(local.model.canonical(tensor).name);
    for (const Half& half : halves(region)) {
      of.push_back({half.region, as, transform, name + half.number});
      part_of.push_back(i);
    }
  }
  std::vector<Sum128> sums(of.size());
  kernels::fingerprints(local.space, of, sums);
  std::vector<Sum128> result(parts.size());
  for (std::size_t i = 0; i < sums.size(); ++i) result[part_of[i]] += sums[i];
  return result;
}

Fingerprints exchange_prints(const LocalMemory& local, Bits bits) {
  std::vector<PiecePart> all;
  for (const layout::LocalPiece& piece : local.view.layout().pieces) {
    all.push_back({static_cast<std::int32_t>(all.size()), piece.piece.box});
  }
  const std::vector<Sum128> sums = fingerprints_of(local, all, bits);
  std::vector<Bytes> to;
  for (const std::vector<std::int32_t>& pieces : local.numbered.by_owner) {
    std::vector<Sum128> mine;
    for (const std::int32_t piece : pieces) mine.push_back(sums[static_cast<std::size_t>(piece)]);
    Writer out;
    out.put_all(std::span<const Sum128>(mine));
    to.push_back(out.take());
  }
  Fingerprints prints;
  for (const Bytes& bytes : local.world.exchange(to)) prints.push_back(Reader(bytes).get_all<Sum128>());
  return prints;
}

std::vector<Part> parts_of(const Suspect& suspect) {
  std::vector<Part> parts;
  for (std::size_t s = 0; s < suspect.sources.size(); ++s) {
    for (std::size_t t = 0; t < suspect.targets.size(); ++t) {
      const auto common = intersect(suspect.sources[s].box, suspect.targets[t]);
      if (common) parts.push_back({static_cast<std::int32_t>(s), static_cast<std::int32_t>(t), *common});
    }
  }
  return parts;
}

std::vector<WrongPart> find_wrong_parts(const LocalMemory& local, const std::vector<Suspect>& suspects) {
  Asked asked;
  for (std::size_t i = 0; i < suspects.size(); ++i) ask(local, suspects[i], static_cast<std::int32_t>(i), asked);
  const std::vector<Sum128> sums = fingerprints_of(local, asked.parts, Bits::compared);
  std::vector<std::vector<PartPrint>> by_owner(static_cast<std::size_t>(local.world.size()));
  for (std::size_t i = 0; i < sums.size(); ++i) {
    PartPrint print = asked.prints[i];
    print.sum = sums[i];
    const std::int32_t tensor = suspects[static_cast<std::size_t>(print.suspect)].tensor;
    by_owner[static_cast<std::size_t>(local.owner(tensor))].push_back(print);
  }
  std::vector<Bytes> to;
  for (const std::vector<PartPrint>& prints : by_owner) {
    Writer out;
    out.put_all(std::span<const PartPrint>(prints));
    to.push_back(out.take());
  }
  Writer mine;
  mine.put_all(std::span<const WrongPart>(compare(local.world.exchange(to))));
  std::vector<WrongPart> all;
  for (const Bytes& bytes : local.world.gather(mine.take(), kRoot)) {
    const auto part = Reader(bytes).get_all<WrongPart>();
    all.insert(all.end(), part.begin(), part.end());
  }
  std::sort(all.begin(), all.end(), [](const WrongPart& a, const WrongPart& b) {
    return std::tie(a.suspect, a.part, a.world_rank, a.piece) < std::tie(b.suspect, b.part, b.world_rank, b.piece);
  });
  Writer out;
  out.put_all(std::span<const WrongPart>(all));
  return Reader(local.world.broadcast(out.take(), kRoot)).get_all<WrongPart>();
}

}  // namespace refit::verify
