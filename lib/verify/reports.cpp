#include "verify/reports.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace refit::verify {
namespace {

void put(Writer& out, const Report& report) {
  out.put(report.group);
  out.put(report.rank);
  out.put(report.tensor);
  out.put(report.storage);
  out.put(report.box);
  out.put(report.shared);
  out.put(report.finding);
}

Report get_report(Reader& in) {
  Report report;
  report.group = in.get<Group>();
  report.rank = in.get<Rank>();
  report.tensor = in.get<std::int32_t>();
  report.storage = in.get_text();
  report.box = in.get<Box>();
  report.shared = in.get<bool>();
  report.finding = in.get<Finding>();
  return report;
}

/// Returns the least number of wrong elements: a piece whose fingerprint is wrong has one, seen or not.
std::int64_t least_wrong(const Finding& finding) {
  return finding.counted ? finding.elements : std::max<std::int64_t>(1, finding.elements);
}

void merge(const Finding& finding, WrongTensor& into) {
  into.elements_wrong += least_wrong(finding);
  into.counted = into.counted && finding.counted;
  if (finding.first < 0 || (into.first_index >= 0 && into.first_index <= finding.first)) return;
  into.first_index = finding.first;
  into.found_bits = finding.found;
  into.expected_bits = finding.expected;
}

}  // namespace

std::vector<std::uint8_t> shared_pieces(const layout::LocalLayout& layout) {
  std::set<std::tuple<std::int32_t, std::int64_t, Extents, Extents>> seen;
  std::vector<std::uint8_t> shared;
  for (const layout::LocalPiece& local : layout.pieces) {
    const layout::Place& place = local.piece.place;
    const bool is_new = seen.insert({local.storage, place.offset, place.strides, local.piece.box.extent}).second;
    shared.push_back(is_new ? 0 : 1);
  }
  return shared;
}

std::vector<Report> gather_reports(const LocalMemory& local, const std::vector<Finding>& pieces,
                                   const std::vector<Finding>& fills, const std::vector<std::uint8_t>& shared) {
  Writer mine;
  const OwnView& view = local.view;
  for (const Finding& finding : pieces) {
    const layout::LocalPiece& piece = local.piece(finding.index);
    const bool is_shared = shared[static_cast<std::size_t>(finding.index)] != 0;
    put(mine,
        {view.group(piece.storage), view.rank(piece.storage), piece.tensor, "", piece.piece.box, is_shared, finding});
  }
  for (const Finding& finding : fills) {
    const auto& fill = view.layout().fills[static_cast<std::size_t>(finding.index)];
    const std::string name = view.layout().storages[static_cast<std::size_t>(fill.storage)].title();
    put(mine,
        {view.group(fill.storage), view.rank(fill.storage), -1, name, Box::whole(fill.fill.extent), false, finding});
  }
  std::vector<Report> reports;
  for (const Bytes& bytes : local.world.gather(mine.take(), 0)) {
    Reader in(bytes);
    while (!in.at_end()) reports.push_back(get_report(in));
  }
  return reports;
}

void add_wrong(const std::vector<Report>& reports, const model::Model& model, StepResult& result) {
  std::map<std::tuple<bool, std::int32_t, std::string, Rank>, WrongTensor> wrong;  // fills, then by rank
  std::set<std::string> names;
  std::set<std::string> not_counted;
  for (const Report& report : reports) {
    if (report.group == Group::train) continue;
    const bool is_fill = report.tensor < 0;
    const std::string& name = is_fill ? report.storage : model[report.tensor].name;
    WrongTensor& entry = wrong[{is_fill, report.tensor, name, report.rank}];
    entry.tensor = name;
    entry.gen_rank = report.rank;
    merge(report.finding, entry);
    names.insert(name);
    if (!report.finding.counted) not_counted.insert(name);
    if (!report.shared) result.elements_wrong += least_wrong(report.finding);
  }
  for (const auto& [key, entry] : wrong) result.wrong.push_back(entry);
  result.tensors_wrong = static_cast<std::int64_t>(names.size());
  result.tensors_not_counted = static_cast<std::int64_t>(not_counted.size());
}

void add_train_fills(const std::vector<Report>& reports, std::vector<TrainDisagreement>& out) {
  for (const Report& report : reports) {
    if (report.group == Group::gen || report.tensor >= 0) continue;
    out.push_back({report.storage, report.rank, report.box});
  }
}

Bytes pack(const std::vector<TrainDisagreement>& list) {
  Writer out;
  for (const TrainDisagreement& entry : list) {
    out.put(entry.tensor);
    out.put(entry.train_rank);
    out.put(entry.box);
  }
  return out.take();
}

std::vector<TrainDisagreement> unpack_disagreements(const Bytes& bytes) {
  std::vector<TrainDisagreement> list;
  for (Reader in(bytes); !in.at_end();) {
    TrainDisagreement entry;
    entry.tensor = in.get_text();
    entry.train_rank = in.get<Rank>();
    entry.box = in.get<Box>();
    list.push_back(entry);
  }
  return list;
}

Bytes pack(const StepResult& result) {
  Writer out;
  out.put(result.step);
  out.put(result.tensors);
  out.put(result.tensors_wrong);
  out.put(result.elements);
  out.put(result.elements_wrong);
  out.put(result.tensors_not_counted);
  out.put(result.fingerprint_train);
  out.put(result.fingerprint_gen);
  out.put(result.kl.max);
  out.put(result.kl.mean);
  out.put(result.kl.tensor);
  out.put(result.kl.not_finite);
  out.put_all(std::span<const std::byte>(pack(result.train_disagreements)));
  out.put_all(std::span<const Overflow>(result.overflows));
  for (const WrongTensor& wrong : result.wrong) {
    out.put(wrong.tensor);
    out.put(wrong.gen_rank);
    out.put(wrong.elements_wrong);
    out.put(wrong.first_index);
    out.put(wrong.found_bits);
    out.put(wrong.expected_bits);
    out.put(wrong.counted);
  }
  return out.take();
}

StepResult unpack_result(const Bytes& bytes) {
  Reader in(bytes);
  StepResult result;
  result.step = in.get<std::int64_t>();
  result.tensors = in.get<std::int64_t>();
  result.tensors_wrong = in.get<std::int64_t>();
  result.elements = in.get<std::int64_t>();
  result.elements_wrong = in.get<std::int64_t>();
  result.tensors_not_counted = in.get<std::int64_t>();
  result.fingerprint_train = in.get<Sum128>();
  result.fingerprint_gen = in.get<Sum128>();
  result.kl.max = in.get<double>();
  result.kl.mean = in.get<double>();
  result.kl.tensor = in.get_text();
  result.kl.not_finite = in.get<std::int64_t>();
  result.train_disagreements = unpack_disagreements(in.get_all<std::byte>());
  result.overflows = in.get_all<Overflow>();
  while (!in.at_end()) {
    WrongTensor wrong;
    wrong.tensor = in.get_text();
    wrong.gen_rank = in.get<Rank>();
    wrong.elements_wrong = in.get<std::int64_t>();
    wrong.first_index = in.get<std::int64_t>();
    wrong.found_bits = in.get<std::uint64_t>();
    wrong.expected_bits = in.get<std::uint64_t>();
    wrong.counted = in.get<bool>();
    result.wrong.push_back(wrong);
  }
  return result;
}

}  // namespace refit::verify
