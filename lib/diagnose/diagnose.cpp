#include "diagnose/diagnose.hpp"

#include <algorithm>

#include "core/console.hpp"
#include "diagnose/fit.hpp"
#include "diagnose/search.hpp"
#include "layout/joined_layout.hpp"

namespace refit::diagnose {
namespace {

using layout::Piece;
using layout::Storage;
using model::Tensor;

constexpr int kRounds = 4;

/// A piece of a gen rank that differs from the expected one.
struct WrongPart {
  std::int32_t tensor = -1;
  Rank rank{0};
  Storage storage;
  Piece piece;
  std::vector<Candidate> candidates;  ///< the possible origins of its content
  bool is_hopeless = false;           ///< the last search found nothing new
};

class Examination {
 public:
  explicit Examination(const Request& request) : request_(request), setup_(request.c), gen_(request.gen_dump, "gen") {
    if (gen_.ranks() != setup_.gen->ranks()) {
      const std::string other = fitting_layout(setup_, gen_);
      fail_usage("{}: {} gen ranks were dumped, but gen.layout {} has {}; give the layout of the run (--gen{})",
                 request.gen_dump, gen_.ranks(), setup_.c.gen_layout(), setup_.gen->ranks(),
                 other.empty() ? "" : fmt::format("; {} fits", other));
    }
    if (const auto unlike = layout::find_unlike_form(*setup_.gen, setup_.model.tensors)) {
      const Tensor& tensor = setup_.model[unlike->tensor];
      fail_usage(
          "{}: engine {} stores {} as {}, and the first engine that has it as {}: dumps of engines that differ so are "
          "diagnosed one engine at a time; give the files of one engine, counted from 0, and its layout (--gen)",
          request.gen_dump, unlike->engine, tensor.name, name(unlike->form.dtype),
          name(setup_.gen->format(tensor)->dtype));
    }
    open_sources();
    require_fit();
  }

  Diagnosis run() {
    result_.gen_ranks = gen_.ranks();
    result_.truth = sources_.front()->name();
    compare();
    compare_constants();
    add_problems();
    const CacheBuffers cache_buffers = compare_cache();
    note_extras();
    for (int round = 0; round < kRounds && look_for_candidates(); ++round) {
    }
    std::vector<Region> regions;
    Meter meter("explaining", bytes_of_wrong());
    for (const WrongPart& wrong : wrong_) {
      meter.add(bytes_of(wrong));
      const Part part = read(wrong);
      Explained explained = explain(part, canonical(wrong), wrong.candidates, sources_);
      explain_rest(part, sources_, explained);
      const std::vector<Region> more = regions_of(part, wrong.rank, explained);
      regions.insert(regions.end(), more.begin(), more.end());
    }
    if ((!regions.empty() || cache_buffers.finding) && result_.findings.empty())
      result_.bugs = name_bugs({setup_, request_.knows_train, gen_, sources_, regions, cache_buffers});
    if (result_.findings.empty() && !cache_buffers.finding) result_.cause = cause_of(regions);
    if (cache_buffers.finding) result_.findings.push_back(*cache_buffers.finding);
    const std::vector<Finding> findings = merge(setup_, request_.knows_train, sources_, regions);
    result_.findings.insert(result_.findings.end(), findings.begin(), findings.end());
    for (Source* source : sources_) {
      for (const std::string& replica : source->wrong_replicas())
        result_.notes.push_back(fmt::format("replicas differ: {} is not what the first rank with it has", replica));
    }
    return std::move(result_);
  }

 private:
  /// Refuses dumps of another layout, model or precision than the user says: everything compared would be wrong.
  void require_fit() const {
    const Fit fit = fit_of(setup_, gen_);
    if (2 * fit.missing > fit.elements) {
      const std::string whose = looks_like(gen_.names(Rank{0}));
      fail_usage(
          "{}: this is no dump of {} for gen.layout {}: e.g. {} is not in it, but {} is{}; is the model the run's?",
          gen_.folder(), setup_.model.config.family, setup_.c.gen_layout(), fit.missing_example,
          gen_.names(Rank{0}).empty() ? "nothing" : gen_.names(Rank{0}).front(),
          whose.empty() ? ""
                        : fmt::format(", which looks like {} (--gen-dump takes an engine's, --train-dump a trainer's, "
                                      "--expected a checkpoint's)",
                                      whose));
    }
    if (fit.misshaped == 0) return;
    const std::string other = fit.all_shapes ? fitting_layout(setup_, gen_) : "";
    if (!other.empty()) {
      fail_usage("{}: {}: this is no dump for gen.layout {}, but fits {}: give --gen {}", gen_.folder(),
                 fit.misshaped_example, setup_.c.gen_layout(), other, other);
    }
    if (2 * fit.misshaped > fit.elements) {
      fail_usage(
          "{}: {}, and so with {} of {} elements; is the model, the layout (--gen) or the precision (--precision) "
          "the run's?",
          gen_.folder(), fit.misshaped_example, fit.misshaped, fit.elements);
    }
  }

  /// Opens the sources, the truth first: train's dump, else the dump or checkpoint that is expected.
  void open_sources() {
    if (setup_.adapted)
      fail_usage(
          "adapters.send, adapters.alpha: what train ranks make of adapters is in no dump, and is not diagnosed");
    if (!request_.train_dump.empty()) {
      dumps_.push_back(std::make_unique<Dumps>(request_.train_dump, "train"));
      if (dumps_.back()->ranks() != setup_.train->ranks()) {
        fail_usage("{}: {} train ranks were dumped, but train.layout {} has {}; give the layout of the run (--train)",
                   request_.train_dump, dumps_.back()->ranks(), layout::to_string(setup_.c.train->sizes()),
                   setup_.train->ranks());
      }
      owned_.push_back(std::make_unique<Source>(setup_, *setup_.train, *dumps_.back()));
    }
    if (!request_.expected_dump.empty()) {
      dumps_.push_back(std::make_unique<Dumps>(request_.expected_dump, "gen"));
      if (dumps_.back()->ranks() != gen_.ranks()) {
        fail_usage("{} has {} gen ranks, {} has {}: dumps of one layout are needed", request_.expected_dump,
                   dumps_.back()->ranks(), request_.gen_dump, gen_.ranks());
      }
      owned_.push_back(std::make_unique<Source>(setup_, *setup_.gen, *dumps_.back()));
    }
    if (setup_.checkpoint) owned_.push_back(std::make_unique<Source>(setup_));
    if (owned_.empty()) fail_usage("nothing to compare with: give --expected CHECKPOINT|DUMP or --train-dump DIR");
    for (const auto& source : owned_) sources_.push_back(source.get());
  }

  /// Returns a tensor from the first source that has it: tensors that only gen stores are in no train dump.
  std::shared_ptr<const Whole> truth(std::int32_t tensor) {
    for (Source* source : sources_) {
      if (auto whole = source->get(tensor)) return whole;
    }
    return nullptr;
  }

  Part read(const WrongPart& wrong) {
    return read_part(gen_, wrong.rank, wrong.storage, wrong.piece, truth(wrong.tensor));
  }

  const Tensor& canonical(const WrongPart& wrong) const { return setup_.model.canonical(setup_.model[wrong.tensor]); }

  void compare() {
    std::vector<std::string> unknown;
    Meter meter("comparing", setup_.model.bytes());
    for (const Tensor& tensor : setup_.model.tensors) {
      meter.add(tensor.bytes());
      if (!setup_.gen->format(tensor)) continue;
      const auto whole = truth(tensor.index);
      if (!whole) {
        unknown.push_back(tensor.name);
        for (std::int32_t r = 0; r < gen_.ranks(); ++r) add_names(tensor, Rank{r});
        continue;
      }
      ++result_.tensors;
      const std::int64_t before = result_.elements_wrong;
      for (std::int32_t r = 0; r < gen_.ranks(); ++r) compare(tensor, whole, Rank{r});
      result_.tensors_wrong += result_.elements_wrong > before ? 1 : 0;
      if (tensor.scales >= 0 || tensor.scale_of >= 0) add_part(tensor, result_.elements_wrong > before);
    }
    note_parts();
    if (!unknown.empty())
      result_.notes.push_back(fmt::format("{} tensors are not compared, since nothing given has them, e.g. {}",
                                          unknown.size(), unknown.front()));
  }

  /// What quantised weights consist of, in words.
  std::string_view part_word(const Tensor& tensor) const {
    const StoredFormat format = setup_.model.quantisation.format;
    switch (tensor.role) {
      case model::Role::packed_values: return "packed values";
      case model::Role::block_scale: return format == StoredFormat::fp8_channel ? "scales of rows" : "block scales";
      case model::Role::tensor_scale: return format == StoredFormat::nvfp4 ? "global scales" : "scales of tensors";
      case model::Role::input_scale: return "scales of inputs";
      case model::Role::zero_point: return "zero points";
      case model::Role::weight_shape: return "shapes";
      case model::Role::group_index: return "indices of groups";
      default: return "values";
    }
  }

  struct Count {
    std::int64_t wrong = 0, all = 0;
  };

  void add_part(const Tensor& tensor, bool is_wrong) {
    Count& count = parts_[part_word(tensor)];
    ++count.all;
    count.wrong += is_wrong ? 1 : 0;
  }

  /// Says which parts of quantised weights are wrong, and which are right.
  void note_parts() {
    std::string text;
    for (const auto& [word, count] : parts_) {
      if (count.wrong > 0)
        text += fmt::format("{}{} of {} weights are wrong", text.empty() ? "" : ", ", word,
                            count.wrong == count.all ? fmt::format("all {}", count.all)
                                                     : fmt::format("{} of {}", count.wrong, count.all));
    }
    if (text.empty()) return;
    for (const auto& [word, count] : parts_)
      if (count.wrong == 0) text += fmt::format(", {} are right", word);
    result_.notes.push_back(fmt::format("quantised weights, {}: {}", described(setup_.model.quantisation), text));
  }

  void add_names(const Tensor& tensor, Rank rank) {
    std::vector<Piece> pieces;
    setup_.gen->pieces(tensor, rank, pieces);
    for (const Piece& piece : pieces) names_.insert(gen_.name_of(rank, setup_.gen->storage(piece.place.storage, rank)));
  }

  void compare(const Tensor& tensor, const std::shared_ptr<const Whole>& whole, Rank rank) {
    std::vector<Piece> pieces;
    setup_.gen->pieces(tensor, rank, pieces);
    compared_[rank] += pieces.empty() ? 0 : 1;
    for (const Piece& piece : pieces) {
      result_.elements += piece.box.volume();
      const Storage storage = setup_.gen->storage(piece.place.storage, rank);
      if (!is_there(rank, storage)) {
        result_.elements_wrong += piece.box.volume();
        continue;
      }
      const std::int64_t wrong = count_wrong(read_part(gen_, rank, storage, piece, whole));
      result_.elements_wrong += gen_.is_transposed(rank, storage) ? piece.box.volume() : wrong;
      if (wrong > 0) wrong_.push_back({tensor.index, rank, storage, piece, local_candidates(tensor), false});
    }
  }

  /// Returns rows and columns of the tensor itself, and the same tensor in the other sources.
  std::vector<Candidate> local_candidates(const Tensor& tensor) const {
    std::vector<Candidate> result;
    for (std::size_t s = 1; s < sources_.size(); ++s)
      result.push_back({static_cast<std::int32_t>(s), tensor.index, Candidate::Along::rows, 0});
    result.push_back({0, tensor.index, Candidate::Along::rows, 0});
    result.push_back({0, tensor.index, Candidate::Along::columns, 0});
    return result;
  }

  /// Returns whether a parameter can be compared. Notes once that it cannot.
  bool is_there(Rank rank, const Storage& storage) {
    const auto [entry, is_new] = is_there_.try_emplace({rank, storage.key});
    if (!is_new) return entry->second;
    const Dumps::Problem problem = gen_.problem(rank, storage);
    entry->second = !problem;
    names_.insert(gen_.name_of(rank, storage));
    if (gen_.is_transposed(rank, storage)) note_parameter("transposed", rank, storage, "");
    if (problem)
      note_parameter(problem.kind == Dumps::Misfit::missing ? "missing" : "shape", rank, storage, " " + problem.text);
    return entry->second;
  }

  void note_parameter(const std::string& kind, Rank rank, const Storage& storage, const std::string& text) {
    Finding& finding = problems_of_[kind];
    finding.kind = kind;
    if (finding.tensors.empty()) finding.text = storage.name + text;
    finding.gen_ranks.insert(to_int(rank));
    finding.tensors.insert(storage.name);
    finding.elements += storage.elements();
  }

  void add_problems() {
    for (auto& [kind, finding] : problems_of_) {
      const char* what = kind == "missing"      ? "missing"
                         : kind == "transposed" ? "stored transposed, their last two dimensions exchanged"
                                                : "of another shape or dtype";
      finding.text = fmt::format("{}: {} parameters are {}, e.g. {}", gen_ranks_text(finding.gen_ranks, gen_.ranks()),
                                 finding.tensors.size(), what, finding.text);
      finding.text += kind == "transposed" ? "; what else is wrong with them is said as if they were not"
                                           : "; is the layout (--gen, --precision) the run's?";
      result_.findings.push_back(finding);
    }
  }

  /// Compares the parts of storages that belong to no tensor.
  void compare_constants() {
    for (std::int32_t r = 0; r < gen_.ranks(); ++r) {
      const layout::LocalLayout local = layout::materialise(*setup_.gen, setup_.model.tensors, Rank{r});
      for (const auto& [number, fill] : local.fills) {
        const Storage& storage = local.storages[static_cast<std::size_t>(number)];
        if (is_there(Rank{r}, storage)) compare(Rank{r}, storage, fill);
      }
    }
  }

  void compare(Rank rank, const Storage& storage, const layout::Fill& fill) {
    const kernels::ExecutionSpace space;
    const kernels::SharedBuffer stored =
        gen_.read(rank, storage, fill.place.offset, span_of(fill.extent, fill.place.strides));
    const kernels::SharedBuffer right(product(fill.extent) * byte_size(storage.dtype));
    kernels::fill(space, right.data(), storage.dtype, fill.extent, row_major_strides(fill.extent), fill.value);
    space.fence();
    const kernels::Region region{stored.data(), storage.dtype, Box::whole(fill.extent), fill.extent,
                                 fill.place.strides};
    const kernels::Difference different = kernels::count_differences(space, region, right.data());
    if (different.count == 0) return;
    Finding finding;
    finding.kind = "padding";
    finding.gen_ranks = {to_int(rank)};
    finding.tensors = {storage.name};
    finding.elements = different.count;
    finding.text = fmt::format("gen rank {}: {}: {} of {} elements of its padding are not {}", to_int(rank),
                               storage.name, different.count, product(fill.extent), fill.value);
    result_.findings.push_back(finding);
  }

  /// Compares the buffers that attention uses instead of the KV cache's scales.
  CacheBuffers compare_cache() {
    CacheBuffers buffers = compare_cache_buffers(setup_, gen_, [this](std::int32_t tensor) { return truth(tensor); });
    names_.insert(buffers.names.begin(), buffers.names.end());
    result_.tensors += std::ssize(buffers.names);
    result_.elements += buffers.compared;
    if (buffers.finding) {
      result_.tensors_wrong += std::ssize(buffers.finding->tensors);
      result_.elements_wrong += buffers.finding->elements;
    }
    return buffers;
  }

  /// Names a plain cause of everything: some ranks hold values of another step in all of their tensors, or nearly all,
  /// while no other rank has anything wrong. Empty where that is not so.
  std::string cause_of(const std::vector<Region>& regions) const {
    if (regions.empty()) return "";
    const Kind kind = regions.front().why.kind;
    if (kind != Kind::updated && kind != Kind::stale && kind != Kind::near) return "";
    std::map<Rank, std::set<std::int32_t>> tensors;
    for (const Region& region : regions) {
      if (!region.why.what.empty() || region.why.kind != kind || region.why.source != regions.front().why.source)
        return "";
      tensors[region.rank].insert(region.tensor);
    }
    std::set<std::int32_t> ranks;
    for (const auto& [rank, wrong] : tensors) {
      if (std::ssize(wrong) * 10 < compared_.at(rank) * 9) return "";
      ranks.insert(to_int(rank));
    }
    const std::string who = gen_ranks_text(ranks, gen_.ranks());
    const bool all = std::ssize(ranks) == gen_.ranks();
    const std::string count =
        fmt::format("{} of {} gen ranks, and nothing is wrong on the others", ranks.size(), gen_.ranks());
    if (kind == Kind::near) {
      if (all)
        return "gen and expectation may be of different steps: all differs a little; so it does by noise or rounding";
      return fmt::format(
          "{} may not have been refitted ({}): all of it differs a little; so it does by noise or rounding", who,
          count);
    }
    const char* was = ranks.size() == 1 ? "was" : "were";
    if (!all && kind == Kind::stale) return fmt::format("{} {} not refitted ({})", who, was, count);
    if (!all)
      return fmt::format("{} {} not refitted, or once more than the others: another step's values ({})", who, was,
                         count);
    return fmt::format("gen and expectation are of different steps, on {}: the dumps are, or no rank was refitted",
                       who);
  }

  void note_extras() {
    std::set<std::string> extras;
    for (std::int32_t r = 0; r < gen_.ranks(); ++r) {
      for (const checkpoint::Entry& entry : gen_.file(Rank{r}).entries) {
        if (!names_.contains(entry.info.name)) extras.insert(entry.info.name);
      }
    }
    if (!extras.empty())
      result_.notes.push_back(
          fmt::format("{} parameters of the dump hold no tensor of the model and are not compared, "
                      "e.g. {}",
                      extras.size(), *extras.begin()));
  }

  static std::int64_t bytes_of(const WrongPart& wrong) {
    return wrong.piece.box.volume() * byte_size(wrong.storage.dtype);
  }
  std::int64_t bytes_of_wrong() const {
    std::int64_t bytes = 0;
    for (const WrongPart& wrong : wrong_) bytes += bytes_of(wrong);
    return bytes;
  }

  /// Searches once for all elements that are unexplained so far; returns false where nothing new was found.
  bool look_for_candidates() {
    std::vector<Probe> probes;
    Meter meter("looking at what is wrong", bytes_of_wrong());
    for (std::size_t i = 0; i < wrong_.size(); ++i) {
      meter.add(bytes_of(wrong_[i]));
      if (wrong_[i].is_hopeless) continue;
      const Part part = read(wrong_[i]);
      const std::size_t before = probes.size();
      append_probes(part, explain(part, canonical(wrong_[i]), wrong_[i].candidates, sources_),
                    static_cast<std::int32_t>(i), probes);
      wrong_[i].is_hopeless = probes.size() == before;
    }
    if (probes.empty()) return false;
    std::vector<std::vector<Hit>> hits(probes.size());
    for (const Hit& hit : search(setup_.model, *sources_.front(), probes))
      hits[static_cast<std::size_t>(hit.probe)].push_back(hit);
    std::set<std::int32_t> searched, found;
    for (std::size_t i = 0; i < probes.size(); ++i) {
      searched.insert(probes[i].part);
      if (!hits[i].empty() && add_candidate(probes[i], hits[i])) found.insert(probes[i].part);
    }
    for (const std::int32_t part : searched) wrong_[static_cast<std::size_t>(part)].is_hopeless = !found.contains(part);
    return !found.empty();
  }

  /// Makes the nearest of the places of a probe's run a candidate; returns false where it is one already.
  bool add_candidate(const Probe& probe, const std::vector<Hit>& hits) {
    WrongPart& wrong = wrong_[static_cast<std::size_t>(probe.part)];
    const Tensor& own = setup_.model[wrong.tensor];
    const auto distance = [&](const Hit& hit) {
      const Tensor& other = setup_.model[hit.tensor];
      return std::tuple(hit.tensor != own.index, other.layer != own.layer, other.expert != own.expert, hit.tensor);
    };
    const Hit& best = *std::min_element(hits.begin(), hits.end(),
                                        [&](const Hit& a, const Hit& b) { return distance(a) < distance(b); });
    const Candidate candidate{0, best.tensor, probe.along, best.column - probe.begin, hits.size() == 1};
    if (std::find(wrong.candidates.begin(), wrong.candidates.end(), candidate) != wrong.candidates.end()) return false;
    wrong.candidates.push_back(candidate);
    return true;
  }

  const Request& request_;
  cases::Setup setup_;
  Dumps gen_;
  std::vector<std::unique_ptr<Dumps>> dumps_;
  std::vector<std::unique_ptr<Source>> owned_;
  std::vector<Source*> sources_;
  std::vector<WrongPart> wrong_;
  std::map<std::pair<Rank, layout::StorageKey>, bool> is_there_;
  std::map<std::string, Finding> problems_of_;  ///< by kind
  std::map<Rank, std::int64_t> compared_;       ///< tensors
  std::map<std::string_view, Count> parts_;     ///< of quantised weights, by the word for them
  std::set<std::string> names_;                 ///< of the parameters that the layout has
  Diagnosis result_;
};

}  // namespace

Diagnosis diagnose(const Request& request) { return Examination(request).run(); }

}  // namespace refit::diagnose
