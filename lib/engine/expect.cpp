#include "engine/expect.hpp"

#include <algorithm>
#include <cmath>

#include "core/text.hpp"
#include "engine/cache_scales.hpp"
#include "engine/derived.hpp"
#include "engine/processing.hpp"
#include "report/figures.hpp"
#include "report/format.hpp"
#include "report/statistics.hpp"

namespace refit::engine {
namespace {

/// The interface's tolerances: of a payload fraction, and of a fraction of wrong elements.
constexpr double kFractionTolerance = 0.0005;

/// Returns the elements that all gen ranks store of the tensors matching a glob, of buffers and derived storages.
std::int64_t stored_elements(const Setup& setup, const std::string& glob) {
  std::int64_t elements = 0;
  const auto add = [&](const layout::Layout& side, const model::Tensor& tensor) {
    for (const plan::Holding& holding : plan::holdings(side, tensor))
      elements += holding.box.volume() * static_cast<std::int64_t>(holding.ranks.size());
  };
  for (const model::Tensor& tensor : setup.model.tensors) {
    if (matches_glob(glob, tensor.name)) add(*setup.gen, tensor);
    if (setup.derived && matches_glob(glob, derived_name(tensor.name))) add(*setup.derived, tensor);
  }
  for (std::int32_t rank = 0; processes(setup) && rank < setup.gen->ranks(); ++rank) {
    for (const layout::Processed& storage : processed_on(setup, Rank{rank}))
      if (matches_glob(glob, derived_name(storage.name))) elements += product(storage.shape);
  }
  for (const std::string& buffer : cache_buffers(setup)) {
    if (matches_glob(glob, buffer)) elements += setup.gen->ranks();
  }
  return elements;
}

/// Names the engines of which nothing is wrong: "; engine 0 (TP4) is right".
std::string right_engines(const std::vector<report::Engine>& engines) {
  std::string text;
  for (std::size_t e = 0; e < engines.size(); ++e) {
    if (engines[e].proof && engines[e].proof->tensors_wrong == 0)
      text += fmt::format("; engine {} ({}) is right", e, engines[e].group.layout);
  }
  return text;
}

/// Describes how the wrong tensors differ from the expected ones; empty if they do not.
std::string missed_mismatch(const Setup& setup, const report::Result& result) {
  const report::Verification& found = *result.verification;
  if (found.tensors_wrong == 0 && found.wrong_replicas.empty()) {
    return "wrong data was expected, but everything is right";
  }
  const auto& wanted = setup.c.expect.mismatch;
  if (!wanted.empty() && found.tensors_not_counted > 0) {
    return fmt::format(
        "{} wrong tensors were not counted to the end in run.count_seconds = {}: what part of them is "
        "wrong is not known",
        found.tensors_not_counted, setup.c.run.count_seconds);
  }
  for (const cases::ExpectedMismatch& mismatch : wanted) {
    std::int64_t wrong = 0;
    for (const report::WrongTensor& tensor : found.wrong)
      wrong += matches_glob(mismatch.tensors, tensor.tensor) ? tensor.elements_wrong : 0;
    const std::int64_t stored = stored_elements(setup, mismatch.tensors);
    const double fraction = stored == 0 ? 0.0 : static_cast<double>(wrong) / static_cast<double>(stored);
    if (std::abs(fraction - mismatch.fraction) > kFractionTolerance) {
      return fmt::format("{}: {:.4f} of the elements are wrong, {:.4f} were expected", mismatch.tensors, fraction,
                         mismatch.fraction);
    }
  }
  for (const report::WrongTensor& tensor : found.wrong) {
    bool named = wanted.empty();
    for (const cases::ExpectedMismatch& mismatch : wanted) named |= matches_glob(mismatch.tensors, tensor.tensor);
    if (!named)
      return fmt::format("{} is wrong on {}, which was not expected", tensor.tensor,
                         report::gen_rank_text(result.engines, tensor.gen_rank));
  }
  return "";
}

std::string missed_fraction(const cases::ExpectSection& expect, const report::Result& result) {
  const double found = result.payload->bulk_fraction();
  if (!expect.bulk_fraction || std::abs(found - *expect.bulk_fraction) <= kFractionTolerance) return "";
  return fmt::format("expect.bulk_fraction: {:.4f} expected, {:.4f} found", *expect.bulk_fraction, found);
}

std::string missed_note(const cases::ExpectSection& expect, const report::Result& result) {
  const auto tells = [&](const std::string& note) { return note.find(expect.note) != std::string::npos; };
  if (expect.note.empty() || std::any_of(result.notes.begin(), result.notes.end(), tells)) return "";
  return fmt::format("expect.note: no note says \"{}\"", expect.note);
}

/// Names the engines that are there at the end, and hold older weights than those of the last refit; empty: none.
std::string stale_engines(const report::Result& result) {
  std::string text;
  const std::vector<report::EngineLives> all = report::lives(result);
  for (std::size_t e = 0; e < all.size(); ++e) {
    if (all[e].dead_since || all[e].version == result.refits.back().version.number) continue;
    text += fmt::format("{}engine {} ({}) holds version {} and would serve it: the last refit was {}",
                        text.empty() ? "" : "; ", e, result.engines[e].group.layout, all[e].version,
                        result.refits.back().version.number);
  }
  return text;
}

std::string missed(const Setup& setup, const report::Result& result) {
  const cases::ExpectSection& expect = setup.c.expect;
  if (std::string fraction = missed_fraction(expect, result); !fraction.empty()) return fraction;
  if (expect.outcome == cases::ExpectedOutcome::error) return "an error was expected, but the run came to its end";
  if (expect.outcome == cases::ExpectedOutcome::timeout) return "a timeout was expected, but the run came to its end";
  for (const std::string& figure : expect.figures) {
    if (std::string reason = missed_figure(figure, result); !reason.empty()) return reason;
  }
  if (std::string note = missed_note(expect, result); !note.empty()) return note;
  if (std::string stale = stale_engines(result); !stale.empty()) return stale;
  if (!result.verification) return "";
  if (expect.outcome == cases::ExpectedOutcome::mismatch) return missed_mismatch(setup, result);
  if (result.verification->tensors_wrong > 0) {
    const report::WrongTensor& first = result.verification->wrong.front();
    return fmt::format("{} wrong on {}: {}{} elements ({} tensors wrong in all{})", first.tensor,
                       report::gen_rank_text(result.engines, first.gen_rank), first.counted ? "" : "at least ",
                       first.elements_wrong, result.verification->tensors_wrong, right_engines(result.engines));
  }
  if (!result.verification->wrong_replicas.empty()) {
    const report::WrongReplica& odd = result.verification->wrong_replicas.front();
    return fmt::format("refit {}: train rank {} holds other bits of {} than its replicas", odd.refit, odd.train_rank,
                       odd.tensor);
  }
  if (expect.kl_max && result.verification->kl && result.verification->kl->max > *expect.kl_max) {
    return fmt::format("expect.kl_max: {} expected at most, {} found in {}", *expect.kl_max,
                       result.verification->kl->max, result.verification->kl->tensor);
  }
  return "";
}

/// Sets the status: passed if there is no reason against it.
void conclude(const std::string& reason, const std::string& phase, report::Result& result) {
  result.status = reason.empty() ? report::Status::passed : report::Status::failed;
  result.exit_code = reason.empty() ? 0 : static_cast<int>(ErrorKind::data);
  if (!reason.empty()) result.error = report::Failure{name(ErrorKind::data), reason, std::nullopt, phase};
}

}  // namespace

void judge(const Setup& setup, report::Result& result) { conclude(missed(setup, result), "verify", result); }

void judge_plan(const Setup& setup, report::Result& result) {
  conclude(missed_fraction(setup.c.expect, result), "plan", result);
}

int judge_failure(const Case& c, const Failure& failure, report::Result& result) {
  const bool timeout = failure.ending == Ending::timeout;
  const bool interrupted = failure.ending == Ending::interruption;
  const bool as_expected =
      !interrupted && c.expect.outcome == (timeout ? cases::ExpectedOutcome::timeout : cases::ExpectedOutcome::error) &&
      failure.message.find(c.expect.message) != std::string::npos;
  result.error = report::Failure{timeout       ? "timeout"
                                 : interrupted ? "interrupted"
                                               : name(failure.kind),
                                 failure.message, std::nullopt, failure.phase};
  if (failure.rank >= 0) result.error->rank = failure.rank;
  result.exit_code = as_expected ? 0 : static_cast<int>(failure.kind);
  result.status = as_expected                              ? report::Status::passed
                  : interrupted                            ? report::Status::interrupted
                  : failure.kind == ErrorKind::data        ? report::Status::failed
                  : failure.kind == ErrorKind::unavailable ? report::Status::waived
                                                           : report::Status::error;
  return result.exit_code;
}

}  // namespace refit::engine
