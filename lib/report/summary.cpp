#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "report/format.hpp"
#include "report/statistics.hpp"
#include "report/table.hpp"

namespace refit::report {
namespace {

constexpr std::size_t kWrongShown = 10;

void print_prepare(std::ostream& out, const Result& result) {
  std::string text;
  for (const auto& [phase, seconds] : result.prepare) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", phase, format_seconds(seconds));
  }
  if (!text.empty()) out << labelled("prepare", text);
}

/// Returns the summary of a phase of the refits; nothing where they have none of that name.
std::optional<Summary> of_phase(const Result& result, std::string_view name) {
  for (const auto& [phase, samples] : phase_samples(result))
    if (phase == name) return summarise(samples);
  return std::nullopt;
}

void print_times(std::ostream& out, const Result& result) {
  if (!result.refits.empty()) {
    std::string text = "first " + format_seconds(result.refits.front().weight_sync);
    const auto samples = weight_sync_samples(result);
    if (const auto summary = summarise(samples)) {
      text += fmt::format("; min {}, median {}, p95 {}, p99 {}, max {} of {}", format_seconds(summary->min),
                          format_seconds(summary->median), format_seconds(summary->p95), format_seconds(summary->p99),
                          format_seconds(summary->max), counted(std::ssize(samples), "refit"));
    }
    out << labelled("weight_sync", text);
  }
  if (const auto pause = of_phase(result, "pause")) {
    const auto background = of_phase(result, "background");
    out << labelled("pause", background ? fmt::format("median {}, max {}, while gen may not generate; {} before it, "
                                                      "beside gen",
                                                      format_seconds(pause->median), format_seconds(pause->max),
                                                      format_seconds(background->median))
                                        : fmt::format("median {}, max {}, of the longest layer",
                                                      format_seconds(pause->median), format_seconds(pause->max)));
  }
  if (const auto summary = summarise(host_samples(result))) {
    out << labelled("host", fmt::format("median {}, max {} until all copies are enqueued",
                                        format_seconds(summary->median), format_seconds(summary->max)));
  }
  if (const auto summary = of_phase(result, "quantise")) {
    const auto reduce = of_phase(result, "quantise.reduce");
    out << labelled("quantise",
                    fmt::format("median {}, before anything is sent{}", format_seconds(summary->median),
                                reduce ? fmt::format("; of it {} to join the largest magnitudes of all train ranks",
                                                     format_seconds(reduce->median))
                                       : ""));
  }
  if (result.bound) out << labelled("bound", format_bound(*result.bound));
  if (result.model_seconds) out << labelled("model", format_model(*result.model_seconds));
  if (result.efficiency) {
    out << labelled("efficiency", fmt::format("{:.3f} = bound / median weight_sync", *result.efficiency));
  }
}

void print_delta(std::ostream& out, const Result& result) {
  const Delta& delta = *result.delta;
  std::string text = delta.form;
  if (const auto bytes = summarise(delta_bytes_samples(result))) {
    const auto median = static_cast<std::int64_t>(bytes->median);
    text += fmt::format(": {} of {} sent", format_bytes(median), format_bytes(delta.dense_bytes));
    if (delta.dense_bytes > 0)
      text += fmt::format(" ({:.2f} %)", 100 * bytes->median / static_cast<double>(delta.dense_bytes));
  }
  if (const auto changed = summarise(changed_samples(result)))
    text += fmt::format(", {:.3g} % of the elements have changed", 100 * changed->median);
  text += fmt::format("; kept at most {} per rank", format_bytes(delta.kept_bytes_max));
  out << labelled("delta", text);
}

void print_sizes(std::ostream& out, const Result& result) {
  if (result.wire) {
    const Wire& wire = *result.wire;
    out << labelled("wire", fmt::format("{} in {} copies, {} local{}; busiest sender {}, busiest receiver {}",
                                        format_bytes(wire.bytes), grouped(wire.copies), format_bytes(wire.local_bytes),
                                        beside_text(wire), format_bytes(wire.egress_bytes_max),
                                        format_bytes(wire.ingress_bytes_max)));
    out << hosts_text(wire);
  }
  if (result.memory) {
    const Memory& memory = *result.memory;
    out << labelled(
        "memory", fmt::format("at most per rank: train {}, gen {}, {}staging {}", format_bytes(memory.train_bytes_max),
                              format_bytes(memory.gen_bytes_max),
                              memory.staged_bytes_max > 0
                                  ? fmt::format("its second place {}, ", format_bytes(memory.staged_bytes_max))
                                  : "",
                              format_bytes(memory.staging_bytes_max)));
  }
  if (result.schedule && result.schedule->groups_max > 0) {
    const Schedule& schedule = *result.schedule;
    out << labelled("schedule", fmt::format("at most per rank: {} groups, {} one after the other, {} operations in one",
                                            grouped(schedule.groups_max), grouped(schedule.serial_groups_max),
                                            grouped(schedule.group_operations_max)));
  }
  if (result.delta) print_delta(out, result);
  if (result.m2n) out << m2n_text(*result.m2n);
  if (result.load) {
    out << labelled("load", fmt::format("{} read, {} needed", format_bytes(result.load->bytes_read),
                                        format_bytes(result.load->bytes_needed)));
  }
}

/// Prints which weights engines have.
void print_versions(std::ostream& out, const Result& result) {
  const std::string held = versions_text(result);
  if (held.empty()) return;
  const std::string weights = proved_weights(result);
  out << labelled("version", fmt::format("{}{}; weights {}", held,
                                         result.plan_hash.empty() ? "" : fmt::format("; plan {}", result.plan_hash),
                                         weights.empty() ? "not proved" : weights));
}

void print_wrong(std::ostream& out, const std::vector<WrongTensor>& wrong, const std::vector<Engine>& engines) {
  for (std::size_t i = 0; i < std::min(wrong.size(), kWrongShown); ++i) {
    out << labelled("wrong", fmt::format("{} on {}: {}", wrong[i].tensor, gen_rank_text(engines, wrong[i].gen_rank),
                                         wrong_text(wrong[i])));
  }
  if (wrong.size() > kWrongShown) out << labelled("", fmt::format("... and {} more", wrong.size() - kWrongShown));
}

void print_overflows(std::ostream& out, const std::vector<Overflow>& overflows) {
  for (std::size_t i = 0; i < std::min(overflows.size(), kWrongShown); ++i) {
    const Overflow& one = overflows[i];
    out << labelled("overflow", fmt::format("{} of {} became infinite as {} in refit {}, first at [{}]",
                                            counted(one.elements, "element"), one.tensor, one.dtype, one.refit,
                                            fmt::join(one.first_index, ",")));
  }
  if (overflows.size() > kWrongShown)
    out << labelled("", fmt::format("... and of {} more tensors", overflows.size() - kWrongShown));
}

void print_verification(std::ostream& out, const Verification& verification, const std::vector<Engine>& engines) {
  const std::int64_t not_counted = verification.tensors_not_counted;
  out << labelled("verification",
                  fmt::format("{}, {}, {}: {}{} wrong in {}{}", counted(verification.refits, "refit"),
                              counted(verification.tensors, "tensor"), counted(verification.elements, "element"),
                              not_counted > 0 ? "at least " : "", grouped(verification.elements_wrong),
                              counted(verification.tensors_wrong, "tensor"),
                              not_counted > 0 ? fmt::format("; {} not counted to the end (run.count_seconds)",
                                                            counted(not_counted, "tensor"))
                                              : ""));
  if (!verification.fingerprint_train.empty()) {
    out << labelled("fingerprint",
                    fmt::format("train {} gen {}", verification.fingerprint_train, verification.fingerprint_gen));
  }
  print_wrong(out, verification.wrong, engines);
  print_overflows(out, verification.overflows);
  if (verification.kl) {
    const Kl& kl = *verification.kl;
    std::string text = fmt::format("max {:.4g}, mean {:.4g}", kl.max, kl.mean);
    if (kl.max > 0) text += ", largest in " + kl.tensor;
    if (kl.not_finite > 0) {
      text += fmt::format("; it says nothing of {} with NaN, Inf or values of thousands",
                          kl.not_finite == 1 ? "1 matrix" : fmt::format("{} matrices", kl.not_finite));
    }
    out << labelled("KL", text);
  }
}

}  // namespace

void print_summary(std::ostream& out, const Result& result) {
  out << "#\n";
  if (result.payload) {
    out << payload_line(*result.payload) << '\n';
    if (result.payload->from_checkpoint_bytes > 0) {
      out << labelled("payload", fmt::format("besides, {} that no train rank has came from the checkpoint",
                                             format_bytes(result.payload->from_checkpoint_bytes)));
    }
  }
  print_prepare(out, result);
  print_times(out, result);
  print_sizes(out, result);
  out << engines_text(result.engines);
  print_versions(out, result);
  if (result.verification) print_verification(out, *result.verification, result.engines);
  for (const std::string& note : result.notes) out << labelled("note", note);
  if (result.elapsed_seconds)
    out << labelled("elapsed", format_seconds(*result.elapsed_seconds) + " from start to end");
  out << verdict(result) << '\n' << std::flush;
}

}  // namespace refit::report
