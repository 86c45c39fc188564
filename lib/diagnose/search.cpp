#include "diagnose/search.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "core/console.hpp"

namespace refit::diagnose {
namespace {

constexpr std::int64_t kLines = 8;  ///< rows and columns of a part from which probes are taken

/// Returns a run's hash with its length and dtype in it.
std::uint64_t finish(std::uint64_t hash, std::int64_t length, DType dtype) {
  const std::uint64_t tagged = hash + static_cast<std::uint64_t>(length) * 256U + static_cast<std::uint64_t>(dtype);
  return tagged ^ (tagged >> 32);
}

/// Takes probes from lines of a part: its rows, or (flipped) its columns.
class Sampler {
 public:
  Sampler(const Part& part, const Explained& explained, std::int32_t number, bool flipped, std::vector<Probe>& out)
      : part_(part),
        explained_(explained),
        number_(number),
        flipped_(flipped),
        along_(flipped ? part.rows : part.columns),
        found_(flipped ? part.found.transposed() : part.found),
        length_(found_.columns >= kRun ? kRun : kShortRun),
        out_(out) {}

  void run() {
    if (found_.columns < length_) return;
    std::vector<std::int64_t> lines;
    for (std::int64_t line = 0; line < found_.rows; ++line) {
      if (first_in(line) < found_.columns) lines.push_back(line);
    }
    const std::int64_t count = std::min(kLines, std::ssize(lines));
    for (std::int64_t i = 0; i < count; ++i) {
      sample(lines[static_cast<std::size_t>(i * (std::ssize(lines) - 1) / std::max<std::int64_t>(1, count - 1))]);
    }
  }

 private:
  bool is_unexplained(std::int64_t line, std::int64_t at) const {
    const std::int64_t element = flipped_ ? at * part_.found.columns + line : line * part_.found.columns + at;
    return explained_.labels[static_cast<std::size_t>(element)] == kUnexplained;
  }
  std::int64_t first_in(std::int64_t line) const {
    std::int64_t at = 0;
    while (at < found_.columns && !is_unexplained(line, at)) ++at;
    return at;
  }

  void sample(std::int64_t line) {
    const std::int64_t first = first_in(line);
    std::int64_t last = found_.columns - 1;
    while (!is_unexplained(line, last)) --last;
    std::vector<std::int64_t> begins{first, (first + last) / 2, last - length_ + 1};
    for (std::int64_t& begin : begins) begin = std::clamp<std::int64_t>(begin, 0, found_.columns - length_);
    begins.erase(std::unique(begins.begin(), begins.end()), begins.end());
    for (const std::int64_t begin : begins) add(line, begin);
  }

  void add(std::int64_t line, std::int64_t begin) {
    std::vector<Bits> run;
    for (std::int64_t i = 0; i < length_; ++i) run.push_back(found_(line, begin + i));
    if (!is_telling(run)) return;
    out_.push_back({finish(hash_run(run), length_, part_.truth->dtype), length_, part_.truth->dtype, number_,
                    flipped_ ? Candidate::Along::transposed : Candidate::Along::rows,
                    along_[static_cast<std::size_t>(begin)]});
  }

  const Part& part_;
  const Explained& explained_;
  std::int32_t number_;
  bool flipped_;
  const std::vector<std::int64_t>& along_;
  Matrix found_;
  std::int64_t length_;
  std::vector<Probe>& out_;
};

/// Probes by hash, with a filter in front that rejects most runs.
class Table {
 public:
  explicit Table(const std::vector<Probe>& probes) : filter_(kFilterBits / 64), hits_(probes.size()) {
    for (std::size_t i = 0; i < probes.size(); ++i) {
      filter_[filter_place(probes[i].hash) / 64] |= filter_bit(probes[i].hash);
      by_hash_.emplace_back(probes[i].hash, static_cast<std::int32_t>(i));
    }
    std::sort(by_hash_.begin(), by_hash_.end());
  }

  void look_up(std::uint64_t hash, const Hit& where, std::vector<Hit>& out) {
    if ((filter_[filter_place(hash) / 64] & filter_bit(hash)) == 0) return;
    auto found = std::lower_bound(by_hash_.begin(), by_hash_.end(), std::pair(hash, std::int32_t{0}));
    for (; found != by_hash_.end() && found->first == hash; ++found) {
      if (hits_[static_cast<std::size_t>(found->second)]++ >= kMostHits) continue;
      out.push_back(where);
      out.back().probe = found->second;
    }
  }

 private:
  static constexpr std::size_t kFilterBits = std::size_t{1} << 24;
  static std::size_t filter_place(std::uint64_t hash) { return hash % kFilterBits; }
  static std::uint64_t filter_bit(std::uint64_t hash) { return std::uint64_t{1} << (hash % 64); }

  std::vector<std::uint64_t> filter_;
  std::vector<std::pair<std::uint64_t, std::int32_t>> by_hash_;
  std::vector<int> hits_;
};

/// Looks up every run of those lengths along the rows of a tensor.
void scan(const Whole& whole, const std::set<std::int64_t>& lengths, Table& table, std::vector<Hit>& out) {
  const Matrix matrix = whole.matrix();
  std::vector<Bits> row(static_cast<std::size_t>(matrix.columns));
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.columns; ++c) row[static_cast<std::size_t>(c)] = matrix(r, c);
    for (const std::int64_t length : lengths) {
      std::int64_t column = 0;
      for (const std::uint64_t hash : run_hashes(row, length))
        table.look_up(finish(hash, length, whole.dtype), {0, whole.tensor->index, r, column++}, out);
    }
  }
}

}  // namespace

void append_probes(const Part& part, const Explained& explained, std::int32_t number, std::vector<Probe>& out) {
  Sampler(part, explained, number, false, out).run();
  if (part.found.rows >= kRun) Sampler(part, explained, number, true, out).run();
}

std::vector<Hit> search(const model::Model& model, Source& source, const std::vector<Probe>& probes) {
  Table table(probes);
  std::map<DType, std::set<std::int64_t>> lengths;
  for (const Probe& probe : probes) lengths[probe.dtype].insert(probe.length);
  std::vector<Hit> hits;
  Meter meter("looking for where contents come from", model.bytes());
  for (const model::Tensor& tensor : model.tensors) {
    meter.add(tensor.bytes());
    if (model.canonical(tensor).index != tensor.index) continue;
    const auto whole = source.get(tensor.index);
    if (whole && lengths.contains(whole->dtype)) scan(*whole, lengths[whole->dtype], table, hits);
  }
  return hits;
}

}  // namespace refit::diagnose
