#include "report/format.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>

namespace refit::report {
namespace {

constexpr std::size_t kColumns = 80;
constexpr std::size_t kLabelColumns = 15;

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); }

}  // namespace

std::string wrong_text(const WrongTensor& wrong) {
  if (wrong.first_index.empty()) return "not counted";
  return fmt::format("{}{}, {} at [{}]", wrong.counted ? "" : "at least ", counted(wrong.elements_wrong, "element"),
                     wrong.counted ? "first" : "one", fmt::join(wrong.first_index, ","));
}

std::size_t engine_of(const std::vector<Engine>& engines, std::int64_t gen_rank) {
  std::size_t engine = 0;
  while (engine + 1 < engines.size() && engines[engine + 1].first_rank <= gen_rank) ++engine;
  return engine;
}

std::string gen_rank_text(const std::vector<Engine>& engines, std::int64_t gen_rank) {
  if (engines.size() < 2) return fmt::format("gen rank {}", gen_rank);
  const std::size_t engine = engine_of(engines, gen_rank);
  return fmt::format("gen rank {} (engine {}, {})", gen_rank, engine, engines[engine].group.layout);
}

std::string format_setting(const SettingValue& value) {
  return std::visit([](const auto& held) { return fmt::format("{}", held); }, value);
}

std::string payload_line(const Payload& payload) {
  return fmt::format(
      "[xferd-payload] qkv_to_misc={} nccl_xfer={:.2f}GiB bcast_misc={:.2f}GiB total={:.2f}GiB xfer_frac={:.1f}%",
      payload.qkv_to_misc ? "True" : "False", gib(payload.bulk_bytes), gib(payload.misc_bytes),
      gib(payload.total_bytes()), 100 * payload.bulk_fraction());
}

std::string labelled(const std::string& label, const std::string& text) {
  std::string out = fmt::format("# {:<{}}", label, kLabelColumns);
  std::size_t column = out.size();
  std::istringstream words(text);
  bool first = true;
  for (std::string word; words >> word; first = false) {
    if (!first && column + 1 + word.size() > kColumns) {
      out += fmt::format("\n# {:<{}}", "", kLabelColumns);
      column = 2 + kLabelColumns;
    } else if (!first) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out + '\n';
}

std::string format_bound(const Bound& bound) {
  if (!bound.seconds || !bound.terms) {
    return fmt::format("no rates; bytes of the busiest device: ingress {}, egress {}, fanout {}, memory {}",
                       format_bytes(bound.bytes.ingress), format_bytes(bound.bytes.egress),
                       format_bytes(bound.bytes.fanout), format_bytes(bound.bytes.memory));
  }
  return fmt::format("{} by {} (ingress {}, egress {}, fanout {}, memory {})", format_seconds(*bound.seconds),
                     bound.term, format_seconds(bound.terms->ingress), format_seconds(bound.terms->egress),
                     format_seconds(bound.terms->fanout), format_seconds(bound.terms->memory));
}

std::string format_model(const ModelSeconds& model) {
  return fmt::format("{} by {} (wire {} at {}, schedule {}, staging {}, latency {}, misc {})",
                     format_seconds(model.total), model.term, format_seconds(model.wire), model.port,
                     format_seconds(model.schedule), format_seconds(model.staging), format_seconds(model.latency),
                     format_seconds(model.misc));
}

std::string beside_text(const Wire& wire) {
  std::string text;
  if (wire.forwarded_bytes > 0) text += fmt::format(", {} forwarded by gen ranks", format_bytes(wire.forwarded_bytes));
  if (wire.self_bytes > 0) text += fmt::format(", besides {} from ranks to themselves", format_bytes(wire.self_bytes));
  return text;
}

std::string hosts_text(const Wire& wire) {
  if (wire.between_hosts_bytes.value_or(0) == 0) return "";
  return labelled("hosts", fmt::format("{} between hosts, {} within them", format_bytes(*wire.between_hosts_bytes),
                                       format_bytes(wire.within_hosts_bytes.value_or(0))));
}

std::string m2n_text(const M2n& m2n) {
  std::int64_t tensors = 0;
  for (const M2n::Leftover& leftover : m2n.leftovers) tensors += std::ssize(leftover.tensors);
  std::string text =
      fmt::format("{} by {}; {} of {} by p2p", format_bytes(m2n.bytes), counted(m2n.operations, "operation"),
                  format_bytes(m2n.p2p_bytes), counted(tensors, "tensor"));
  if (m2n.library_bytes_max > 0)
    text += fmt::format("; the library took {} per rank at most", format_bytes(m2n.library_bytes_max));
  text = labelled("m2n", text);
  for (const M2n::Leftover& leftover : m2n.leftovers) {
    const auto count = std::ssize(leftover.tensors);
    text += labelled("", fmt::format("p2p: {}{}: {}", leftover.tensors.front(),
                                     count > 1 ? fmt::format(" and {} more", count - 1) : "", leftover.reason));
  }
  return text;
}

std::string xml_escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\n': out += "&#10;"; break;
      case '\t': out += "&#9;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? std::string("\xEF\xBF\xBD") : std::string(1, c);
    }
  }
  return out;
}

std::string verdict(const Result& result) {
  std::string why = result.status == Status::passed ? "" : "no reason was recorded";
  if (result.error) {
    why = result.error->message;
  } else if (result.verification && result.verification->elements_wrong > 0) {
    why = fmt::format("{}{} wrong in {}", result.verification->tensors_not_counted > 0 ? "at least " : "",
                      counted(result.verification->elements_wrong, "element"),
                      counted(result.verification->tensors_wrong, "tensor"));
  }
  if (result.status == Status::passed) return why.empty() ? "OK" : fmt::format("OK, as expected: {}", why);
  return fmt::format("{}: {}", result.status == Status::waived ? "WAIVED" : "FAILED", why);
}

std::string engines_text(const std::vector<Engine>& engines) {
  std::string lines;
  for (std::size_t e = 0; engines.size() > 1 && e < engines.size(); ++e) {
    const Engine& engine = engines[e];
    std::string text = fmt::format("{} {}", engine.group.made_by, engine.group.layout);
    if (engine.payload_bytes) text += fmt::format(", payload {}", format_bytes(*engine.payload_bytes));
    if (engine.bytes) text += fmt::format(", {} stored", format_bytes(*engine.bytes));
    if (engine.proof) {
      const EngineProof& proof = *engine.proof;
      text += fmt::format("; {}, {}: {} wrong in {}, KL max {:.4g}", counted(proof.tensors, "tensor"),
                          counted(proof.elements, "element"), grouped(proof.elements_wrong),
                          counted(proof.tensors_wrong, "tensor"), proof.kl.max);
    }
    lines += labelled(fmt::format("engine {}", e), text);
  }
  return lines;
}

}  // namespace refit::report
