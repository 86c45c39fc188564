#pragma once
// What results say, as people read it.

#include <optional>
#include <string>
#include <vector>

#include "core/text.hpp"
#include "report/result.hpp"

namespace refit::report {

using refit::counted;
using refit::format_bytes;
using refit::format_seconds;

/// Describes the wrong elements of a tensor: "3 elements, first at [0,7]", "at least 3 elements, one at [0,7]", "not
/// counted".
std::string wrong_text(const WrongTensor& wrong);

/// Returns the engine of a gen rank.
std::size_t engine_of(const std::vector<Engine>& engines, std::int64_t gen_rank);
/// Returns "gen rank 5"; of several engines "gen rank 5 (engine 1, DP4)".
std::string gen_rank_text(const std::vector<Engine>& engines, std::int64_t gen_rank);

/// Returns "true", "10", "0.5" or the string itself.
std::string format_setting(const SettingValue& value);

/// Returns the payload in the field's own form: `[xferd-payload] qkv_to_misc=False nccl_xfer=54.00GiB
/// bcast_misc=2.87GiB total=56.87GiB xfer_frac=95.0%`.
std::string payload_line(const Payload& payload);

/// Returns one line of the summary: "# weight_sync    first 1.2 s ...", continued below the value where it passes 120
/// columns.
std::string labelled(const std::string& label, const std::string& text);

/// Returns the time that each term of the bound takes or, without rates, its bytes: "0.153 s by ingress (ingress ...,
/// ...)".
std::string format_bound(const Bound& bound);

/// Returns a model and its parts: "6.72 s by schedule (wire 3.62 s at device in, ...)".
std::string format_model(const ModelSeconds& model);

/// Returns ", 10.92 GB forwarded by gen ranks" where there is fan-out, and ", besides 1.00 GB from ranks to themselves"
/// where ranks are colocated; else "".
std::string beside_text(const Wire& wire);

/// Returns the line labelled "hosts": the bytes between hosts and within them; "" where nothing goes between hosts.
std::string hosts_text(const Wire& wire);

/// Returns the lines labelled "m2n": the tensors that go by NCCL M2N's operation and those that go by p2p, with the
/// reasons.
std::string m2n_text(const M2n& m2n);

/// Returns a text for an element or attribute of XML, which has no way to write control characters: they become U+FFFD.
std::string xml_escape(const std::string& text);

/// Returns "OK", "FAILED: why" or "WAIVED: why".
std::string verdict(const Result& result);

/// Returns a line of the summary for each of several engines: what it has, and its own proof. One engine has none.
std::string engines_text(const std::vector<Engine>& engines);

}  // namespace refit::report
