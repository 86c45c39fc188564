#include "digest/digest.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include "core/console.hpp"
#include "digest/answer.hpp"
#include "digest/expected.hpp"
#include "engine/cache_scales.hpp"
#include "engine/describe.hpp"
#include "engine/weights.hpp"
#include "layout/absorbed.hpp"
#include "model/json_file.hpp"

namespace refit::digest {
namespace {

/// One rank's parameters on both sides of the comparison.
struct Held {
  Held(const cases::Setup& setup, Values& values, Rank of)
      : rank(of), contents(setup, values, of), pairs(contents.parameters()) {}
  Rank rank;
  RankContents contents;
  SglangPairs pairs;
};

class Digestion {
 public:
  explicit Digestion(const Request& request)
      : request_(request), setup_(request.c), values_(setup_, request.chunk_bytes), expected_(space_, request) {
    if (!request.answer.empty()) read_answer();
    if (request.dump.empty()) return;
    dumps_ = std::make_unique<diagnose::Dumps>(request.dump, "gen");
    check_.what = "the dump " + request.dump;
    if (dumps_->ranks() != setup_.gen->ranks())
      fail_usage("{}: {} gen ranks were dumped, but gen.layout {} has {}; give the layout of the run (--gen)",
                 request.dump, dumps_->ranks(), setup_.c.gen_layout(), setup_.gen->ranks());
  }

  Result run() {
    describe();
    values_.require_tied_heads(request_.chunk_bytes);
    // What is quantised on the way is made of whole tensors: all ranks take their parts of one before the next is made.
    const bool together = setup_.quantised != nullptr;
    const std::int32_t ranks = setup_.gen->ranks();
    for (std::int32_t first = 0; first < ranks;) {
      std::int32_t end = first + 1;
      while (together && end < ranks && setup_.gen->engine(Rank{end}) == setup_.gen->engine(Rank{first})) ++end;
      digest_ranks(first, end);
      first = end;
    }
    if (dumps_) {
      note_update();
      result_.checks.push_back(std::move(check_));
    }
    if (answer_) result_.checks.push_back(answer_->compare(result_));
    return std::move(result_);
  }

 private:
  void read_answer() {
    if (setup_.c.gen.size() != 1)
      fail_usage("--from-engine {}: is one engine's answer, but --gen has {}; give that engine alone", request_.answer,
                 setup_.c.gen.size());
    std::vector<std::string> coordinates;
    for (std::int32_t r = 0; r < setup_.gen->ranks(); ++r) coordinates.push_back(setup_.gen->coordinates(Rank{r}));
    answer_.emplace(request_.answer, request_.forms, coordinates, setup_.c.gen_layout());
  }

  void describe() {
    result_.source = setup_.source();
    result_.family = setup_.model.config.family;
    result_.forms = request_.forms;
    result_.notes = setup_.model.notes;
    if (const std::string unknown = setup_.unknown_tensors(); !unknown.empty()) result_.notes.push_back(unknown);
    note_undigested();
    for (const layout::Side& engine : setup_.c.gen) {
      const auto precision = engine->precision();
      result_.engines.push_back({std::string(engine->row().name), to_string(engine->sizes()),
                                 precision ? std::string(name(*precision)) : "", engine->sizes().ranks()});
    }
  }

  /// Notes what engines have beside parameters, and what has no rule.
  void note_undigested() {
    if (const std::vector<std::string> buffers = engine::cache_buffers(setup_); !buffers.empty()) {
      result_.notes.push_back(
          fmt::format("{} buffers of gen that attention makes of the scales of the FP8 KV cache, e.g. {}, are no "
                      "parameters and are not digested; refit diagnose compares them in dumps",
                      buffers.size(), buffers.front()));
    }
    if (setup_.model.quantisation.format != StoredFormat::unquantised && layout::has_absorbed(setup_.model)) {
      result_.notes.push_back(
          fmt::format("what engines make of kv_b_proj in {} after loading (W_UK_T and W_UV of vLLM, w_kc and w_vc of "
                      "SGLang) has no rule and is not digested",
                      name(setup_.model.quantisation.format)));
    }
  }

  void digest_ranks(std::int32_t first, std::int32_t end) {
    std::vector<std::unique_ptr<Held>> held;
    struct Unit {
      std::size_t held, parameter;
      std::int32_t tensor;
    };
    std::vector<Unit> units;
    std::int64_t bytes = 0;
    const std::size_t first_result = result_.ranks.size();
    for (std::int32_t r = first; r < end; ++r) {
      held.push_back(std::make_unique<Held>(setup_, values_, Rank{r}));
      RankDigests& rank = result_.ranks.emplace_back();
      rank.rank = r;
      rank.engine = setup_.gen->engine(Rank{r});
      rank.coordinates = setup_.gen->coordinates(Rank{r});
      rank.vllm_prefix = vllm_prefix(rank.coordinates);
      const std::vector<Parameter>& parameters = held.back()->contents.parameters();
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        rank.rows.push_back({parameters[i], {}});
        bytes += parameters[i].storage.bytes();
        units.push_back({held.size() - 1, i, held.back()->contents.first_tensor(i)});
      }
      note_refused(*held.back());
    }
    std::ranges::stable_sort(units, {}, &Unit::tensor);
    Meter meter(end - first == 1 ? fmt::format("digesting gen rank {} of {}", first, setup_.gen->ranks())
                                 : fmt::format("digesting gen ranks {} .. {}", first, end - 1),
                bytes);
    for (const Unit& unit : units) {
      Held& mine = *held[unit.held];
      Row& row = result_.ranks[first_result + unit.held].rows[unit.parameter];
      row.digests = expected_.of(mine.contents, mine.pairs, unit.parameter);
      if (dumps_) compare(mine, unit.parameter, row);
      meter.add(row.parameter.storage.bytes());
    }
    if (dumps_) {
      for (const auto& mine : held) note_extras(*mine);
    }
  }

  void note_refused(const Held& held) {
    const bool asked = request_.forms.has(Form::sglang) || request_.forms.has(Form::sglang_cpu);
    if (!asked || held.pairs.refused().empty() || is_refusal_noted_) return;
    is_refusal_noted_ = true;
    result_.notes.push_back(
        fmt::format("SGLang's weight checker takes blocks of scales to be square and as wide as columns / columns of "
                    "scales, and fails for {} weights of gen rank {}, e.g. {}: they have no digest in its form",
                    held.pairs.refused().size(), to_int(held.rank), held.pairs.refused().front()));
  }

  void compare(Held& held, std::size_t parameter, const Row& row) {
    const layout::Storage& storage = row.parameter.storage;
    const auto wrong = [&](std::string problem) {
      check_.wrong.push_back({to_int(held.rank), storage.title(), std::move(problem)});
    };
    if (row.parameter.kind == Kind::source && dumps_->find(held.rank, storage) == nullptr) return;
    ++check_.parameters;
    if (const auto problem = dumps_->problem(held.rank, storage)) return wrong(problem.text + dumps_->hint(problem));
    if (dumps_->is_transposed(held.rank, storage))
      return wrong("is stored transposed, its last two dimensions exchanged");
    const Digests found =
        of_dump(space_, request_, *dumps_, held.rank, held.contents.parameters(), held.pairs, parameter);
    for (int i = 0; i < kForms; ++i) {
      const auto form = static_cast<Form>(i);
      if (digest_of(found, form) == digest_of(row.digests, form)) continue;
      return wrong(
          fmt::format("{}: {} instead of {}", name(form), digest_of(found, form), digest_of(row.digests, form)));
    }
  }

  /// Says why a dump of changed weights differs, where its metadata have it.
  void note_update() {
    const auto update = dumps_->metadata().find(engine::kUpdateFact);
    if (check_.wrong.empty() || update == dumps_->metadata().end() ||
        update->second == cases::to_string({cases::Update::Kind::none, 0}))
      return;
    check_.notes.push_back(fmt::format(
        "{} is of a run with run.update = \"{}\", which changed the weights in each of its refits: they are "
        "not the checkpoint's any more; dump a run with --set run.update=none",
        request_.dump, model::quotable(update->second)));
  }

  void note_extras(const Held& held) {
    std::set<std::string> known;
    for (const Parameter& parameter : held.contents.parameters())
      known.insert(dumps_->name_of(held.rank, parameter.storage));
    std::vector<std::string> extras;
    for (const std::string& name : dumps_->names(held.rank)) {
      if (!known.contains(name)) extras.push_back(name);
    }
    if (extras.empty()) return;
    check_.notes.push_back(
        fmt::format("gen rank {}: {} parameters of the dump are not in the layout and not compared, "
                    "e.g. {}",
                    to_int(held.rank), extras.size(), model::quotable(extras.front())));
  }

  const Request& request_;
  cases::Setup setup_;
  kernels::ExecutionSpace space_;
  Values values_;
  Expected expected_;
  std::unique_ptr<diagnose::Dumps> dumps_;
  std::optional<Answer> answer_;
  bool is_refusal_noted_ = false;
  Check check_;
  Result result_;
};

}  // namespace

std::int64_t coordinate(const std::string& coordinates, std::string_view axis) {
  for (const auto& [name, number] : engine::parse_coordinates(coordinates)) {
    if (name == axis) return number;
  }
  return 0;
}

std::int64_t RankDigests::bytes() const {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0},
                         [](std::int64_t sum, const Row& row) { return sum + row.parameter.storage.bytes(); });
}

std::string RankDigests::sglang_overall(Form form) const {
  std::map<std::string, std::string> checksums;
  for (const Row& row : rows) {
    if (const std::string& digest = digest_of(row.digests, form); !digest.empty())
      checksums.emplace(row.parameter.storage.name, digest);
  }
  return checksums.empty() ? "" : digest::sglang_overall(checksums);
}

bool Result::equal() const {
  return std::ranges::all_of(checks, [](const Check& check) { return check.wrong.empty(); });
}

std::string vllm_prefix(const std::string& coordinates) {
  return fmt::format("dp{}:pp{}:pcp0:tp{}:", coordinate(coordinates, "dp"), coordinate(coordinates, "pp"),
                     coordinate(coordinates, "tp"));
}

Result digest(const Request& request) { return Digestion(request).run(); }

}  // namespace refit::digest
