#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "report/printers.hpp"
#include "report/statistics.hpp"
#include "report_sample.hpp"

namespace refit::report {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kExpectedResult = R"json({
  "schema": "refit.result", "schema_version": 1,
  "case": {"name": "tiny", "description": "TP1 -> TP1: \"one\" & <one>", "file": "cases/tiny.toml"},
  "command": "refit run cases/tiny.toml", "start_time": "2025-01-31T12:00:00Z", "elapsed_seconds": 4.5,
  "status": "failed", "exit_code": 1,
  "error": {"kind": "data", "message": "1 element is wrong", "rank": 1, "phase": "verify"},
  "environment": {"refit": "0.1.0", "commit": "15a3c14e0b2d", "compiler": "GNU 12.2.0", "mpi": "Open MPI 4.1.4", "ranks": [
    {"rank": 0, "group": "train", "pid": 100, "host": "alpha", "device": "cpu", "coordinates": {"tp": 0, "pp": 0}},
    {"rank": 1, "group": "gen", "pid": 101, "host": "alpha", "device": "cpu", "coordinates": {"tp": 0}}]},
  "model": {"family": "llama", "source": "models/tiny/config.json", "tensors": 3, "parameters": 1000, "bytes": 2000},
  "ranks": 2,
  "train": {"trainer": "megatron", "layout": "TP1", "ranks": 1, "precision": "bf16"},
  "gen": {"engine": "vllm", "layout": "TP1", "ranks": 1, "precision": "bf16"},
  "settings": {"bulk": "ffn", "executor": "p2p", "steps": 2, "check_agreement": true, "fraction": 0.5},
  "payload": {"bulk_bytes": 1500, "misc_bytes": 500, "total_bytes": 2000, "bulk_fraction": 0.75, "qkv_to_misc": true,
              "from_checkpoint_bytes": 64},
  "wire": {"bytes": 2000, "copies": 3, "egress_bytes_max": 2000, "ingress_bytes_max": 2000, "local_bytes": 0,
           "forwarded_bytes": 0, "between_hosts_bytes": 1500, "within_hosts_bytes": 500, "self_bytes": 0, "self_copies": 0},
  "memory": {"train_bytes_max": 2000, "gen_bytes_max": 2100, "staging_bytes_max": 0, "staged_bytes_max": 0},
  "schedule": {"groups_max": 8, "group_operations_max": 1024, "serial_groups_max": 4},
  "load": {"bytes_read": 2064, "bytes_needed": 2064},
  "bound": {"seconds": 0.25, "term": "ingress",
            "terms": {"ingress": 0.25, "egress": 0.2, "fanout": 0.0, "memory": 0.125},
            "bytes": {"ingress": 2000, "egress": 1600, "fanout": 0, "memory": 4000}},
  "model_seconds": {"total": 0.75, "term": "latency", "port": "device in", "wire": 0.125, "schedule": 0.0, "staging": 0.0625,
                    "latency": 0.5, "misc": 0.0625},
  "rates": {"device_in": 8000.0, "memory": 32000.0},
  "efficiency": 0.5,
  "versions": {"plan": "ac", "first": 11, "last": 13, "held": [], "served_wrong": 1},
  "weight_sync": {"first": 1.0, "samples": [0.5, 0.25], "min": 0.25, "median": 0.375, "mean": 0.375, "p95": 0.4875, "p99": 0.4975,
                  "max": 0.5},
  "host_seconds": {"samples": [0.0625, 0.03125], "min": 0.03125, "median": 0.046875, "mean": 0.046875,
                   "p95": 0.0609375, "p99": 0.0621875, "max": 0.0625},
  "phases": {"load": {"min": 2.0, "median": 2.0, "max": 2.0}, "plan": {"min": 0.5, "median": 0.5, "max": 0.5},
             "bulk": {"min": 0.125, "median": 0.25, "max": 0.375},
             "misc": {"min": 0.125, "median": 0.125, "max": 0.125}},
  "verification": {"refits": 2, "tensors": 3, "tensors_wrong": 1, "elements": 1000, "elements_wrong": 1,
                   "elements_overflowed": 0, "wrong": [{"tensor": "norm.weight", "gen_rank": 0, "elements_wrong": 1, "first_index": [7]}],
                   "fingerprint_train": "aa", "fingerprint_gen": "ab", "kl": {"max": 0.5, "mean": 0.25, "tensor": "w"}}
})json";

TEST(ReportJson, TheWholeDocumentInItsOrder) {
  const std::string text = to_json(sample_result());
  EXPECT_EQ(ordered_json::parse(text), ordered_json::parse(kExpectedResult)) << text;
  EXPECT_THAT(text, testing::StartsWith("{\n  \"schema\": \"refit.result\",\n  \"schema_version\": 1,\n"));
}

TEST(ReportJson, APlanComparesExecutors) {
  Result result = sample_plan();
  result.byte_matrix.clear();
  result.plan->models = {{"all", "direct", {0.5, "wire", "device out", 0.5, 0, 0, 0, 0}}};
  const auto json = ordered_json::parse(to_json(result));
  EXPECT_EQ(json["plan"]["models"], ordered_json::parse(R"([{"bulk": "all", "executor": "direct", "total": 0.5,
      "term": "wire", "port": "device out", "wire": 0.5, "schedule": 0.0, "staging": 0.0, "latency": 0.0, "misc": 0.0}])"));
  EXPECT_FALSE(json["plan"]["world"].contains("byte_matrix"));
}

TEST(ReportJson, APlanHasItsOwnSchemaAndNoMeasurements) {
  const auto json = ordered_json::parse(to_json(sample_plan()));
  EXPECT_EQ(json["schema"], "refit.plan");
  EXPECT_EQ(json["plan"], ordered_json::parse(R"({"seconds": 0.5, "peak_bytes": 1000000, "copies": 3, "hash": "cc",
      "world": {"seconds": 1.0, "copies": 3, "sent": [2000], "received": [2000], "byte_matrix": [[2000]]}})"));
  EXPECT_EQ(json["bound"],
            ordered_json::parse(R"({"bytes": {"ingress": 2000, "egress": 1600, "fanout": 0, "memory": 4000}})"));
  for (const char* key : {"weight_sync", "host_seconds", "phases", "verification", "efficiency", "rates"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
}

TEST(ReportJson, AnEarlyErrorLeavesOutWhatWasNotReached) {
  Result result;
  result.status = Status::error;
  result.exit_code = 3;
  result.error = Failure{"timeout", "no \xFF progress", {}, ""};
  const auto json = ordered_json::parse(to_json(result));
  EXPECT_EQ(json["status"], "error");
  EXPECT_EQ(json["error"]["message"], "no \xEF\xBF\xBD progress");
  for (const char* key : {"model", "payload", "wire", "bound", "weight_sync", "verification", "plan"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
}

TEST(ReportJson, AKlThatIsNotFiniteIsNull) {
  Result result = sample_result();
  result.verification->kl->max = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(ordered_json::parse(to_json(result))["verification"]["kl"]["max"].is_null());
}

TEST(ReportJson, OverflowsAreListedByTensor) {
  Result result = sample_result();
  EXPECT_FALSE(ordered_json::parse(to_json(result))["verification"].contains("overflows"));
  result.verification->elements_overflowed = 3;
  result.verification->overflows = {{"w", "F16", 3, {1, 9}, 2}};
  const ordered_json found = ordered_json::parse(to_json(result))["verification"];
  EXPECT_EQ(found["elements_overflowed"], 3);
  EXPECT_EQ(found["overflows"], ordered_json::parse(R"([{"tensor": "w", "dtype": "F16", "elements": 3,
                                                         "first_index": [1, 9], "refit": 2}])"));
}

TEST(ReportCsv, OneRowPerRefit) {
  EXPECT_EQ(
      to_csv(sample_result()),
      "case,model,executor,bulk,train,gen,train_ranks,gen_ranks,train_precision,gen_precision,refit,warmup,"
      "weight_sync_seconds,bulk_seconds,misc_seconds,payload_bytes,wire_bytes,self_bytes,algbw_gb_per_s,"
      "elements_wrong,kl_max,engine_payload_bytes,engine_bytes,engine_elements_wrong,engine_kl_max,trainer,engine,"
      "colocated,version,weights,committed,engine_weight_sync_seconds,engine_version\n"
      "tiny,llama,p2p,ffn,TP1,TP1,1,1,bf16,bf16,1,1,1,0.75,0.25,2000,2000,0,2e-06,0,0,,,,,megatron,vllm,0,11,ad,1,,\n"
      "tiny,llama,p2p,ffn,TP1,TP1,1,1,bf16,bf16,2,0,0.5,0.375,0.125,2000,2000,0,4e-06,,,,,,,megatron,vllm,0,12,,1,,\n"
      "tiny,llama,p2p,ffn,TP1,TP1,1,1,bf16,bf16,3,0,0.25,0.125,0.125,2000,2000,0,8e-06,1,0.5,,,,,megatron,vllm,0,13,,"
      "1,,\n");
}

TEST(ReportCsv, EnginesStandBesideEachOther) {
  const std::string text = to_csv(sample_engines());
  EXPECT_THAT(text, HasSubstr("tiny,llama,p2p,ffn,TP1,TP1+DP2,1,3,bf16,bf16,1,1,"));
  EXPECT_THAT(text, HasSubstr(",0,0,2000+1500,2100+3000,0+0,0+0,megatron,vllm+sglang,0,11,ad,1,,\n"));
  EXPECT_THAT(text,
              HasSubstr(",,,2000+1500,2100+3000,,,megatron,vllm+sglang,0,12,,1,,\n"));  // a refit that was not verified
  EXPECT_THAT(text, HasSubstr(",1,0.5,2000+1500,2100+3000,0+1,0+0.5,megatron,vllm+sglang,0,13,,1,,\n"));
}

TEST(ReportJson, EachEngineHasItsOwnProof) {
  const auto json = ordered_json::parse(to_json(sample_engines()));
  EXPECT_EQ(json["gen"],
            ordered_json::parse(R"({"engine": "vllm+sglang", "layout": "TP1+DP2", "ranks": 3, "precision": "bf16",
      "engines": [{"engine": "vllm", "layout": "TP1", "ranks": 1, "precision": "bf16", "first_rank": 0,
                   "payload_bytes": 2000, "bytes": 2100, "tensors": 3, "tensors_wrong": 0, "elements": 400,
                   "elements_wrong": 0, "kl": {"max": 0.0, "mean": 0.0, "tensor": ""}},
                  {"engine": "sglang", "layout": "DP2", "ranks": 2, "precision": "bf16", "first_rank": 1,
                   "payload_bytes": 1500, "bytes": 3000, "tensors": 3, "tensors_wrong": 1, "elements": 600,
                   "elements_wrong": 1, "kl": {"max": 0.5, "mean": 0.25, "tensor": "w"}}]})"));
  EXPECT_EQ(json["verification"]["wrong"][0]["gen_rank"], 2);
  EXPECT_EQ(json["verification"]["wrong"][0]["engine"], 1);
}

TEST(ReportDrill, SaysWhoTookPartAndWhoHoldsWhichVersion) {
  const Result result = sample_drill();
  EXPECT_THAT(to_csv(result),
              HasSubstr(",0,0,2000+1500,2100+3000,0+0,0+0,megatron,vllm+sglang,0,11,ad,1,0.75+0.25,1+1\n"));
  EXPECT_THAT(to_csv(result), HasSubstr(",,,2000+1500,2100+3000,,,megatron,vllm+sglang,0,12,,1,+,1+1\n"));
  EXPECT_THAT(to_csv(result), HasSubstr(",1,0.5,2000+1500,2100+3000,0+,0.5+,megatron,vllm+sglang,0,13,,1,0.25+,3+1\n"));
  const auto engines = ordered_json::parse(to_json(result))["gen"]["engines"];
  EXPECT_EQ(engines[0]["version"], 3);
  EXPECT_EQ(engines[0]["refits"], ordered_json::parse("[1, 3]"));
  EXPECT_EQ(engines[0]["weight_sync"], ordered_json::parse("[0.75, 0.25]"));
  EXPECT_EQ(engines[0]["joins"], ordered_json::parse(R"([{"before_refit": 3, "seconds": 2.0}])"));
  EXPECT_FALSE(engines[0].contains("dead_since"));
  EXPECT_EQ(engines[1]["version"], 1);
  EXPECT_EQ(engines[1]["refits"], ordered_json::parse("[1]"));
  EXPECT_EQ(engines[1]["joins"], ordered_json::array());
  EXPECT_EQ(engines[1]["dead_since"], 2);
  EXPECT_EQ(versions_text(result), "engine 0 holds version 3; engine 1 holds version 1, dead since refit 2");
  EXPECT_EQ(versions_text(sample_engines()), "gen holds no version");
  EXPECT_THAT(weight_sync_samples(result), testing::ElementsAre(0.25));  // nobody took part in refit 2
  EXPECT_FALSE(ordered_json::parse(to_json(sample_engines()))["gen"]["engines"][0].contains("version"));
}

TEST(ReportCsv, NamesAreQuotedAndUnknownIsEmpty) {
  Result result;
  result.test_case.name = "a,\"b\"";
  result.refits = {{1, false, 0.5, {}, {}, {}, {}}};
  EXPECT_EQ(to_csv(result),
            "case,model,executor,bulk,train,gen,train_ranks,gen_ranks,train_precision,gen_precision,refit,warmup,"
            "weight_sync_seconds,payload_bytes,wire_bytes,self_bytes,algbw_gb_per_s,elements_wrong,kl_max,engine_"
            "payload_bytes,engine_bytes,"
            "engine_elements_wrong,engine_kl_max,trainer,engine,colocated,version,weights,committed,engine_weight_sync_"
            "seconds,engine_version\n"
            "\"a,\"\"b\"\"\",,,,,,0,0,,,1,0,0.5,,,,,,,,,,,,,0,-1,,1,,\n");
}

/// Returns whether tags nest, attributes are quoted and `&` begins a known entity: readers of JUnit files fail on
/// these.
bool is_well_formed(std::string xml) {
  std::vector<std::string> open;
  xml = xml.substr(xml.find("?>") + 2);
  for (std::size_t at = xml.find('<'); at != std::string::npos; at = xml.find('<', at + 1)) {
    const std::size_t end = xml.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos || std::count(tag.begin(), tag.end(), '"') % 2 != 0) return false;
    if (tag.front() == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  for (std::size_t at = xml.find('&'); at != std::string::npos; at = xml.find('&', at + 1)) {
    const std::string entity = xml.substr(at, xml.find(';', at) - at);
    if (entity != "&amp" && entity != "&lt" && entity != "&gt" && entity != "&quot" && entity != "&#10") return false;
  }
  return open.empty() && xml.find('\x01') == std::string::npos;
}

TEST(ReportJunit, AFailureWithItsDetails) {
  Result result = sample_result();
  result.test_case.name = "a<b> & \"c\"";
  result.error->message = "got <1>\x01 & \"2\"";
  const std::string xml = to_junit(result);
  EXPECT_TRUE(is_well_formed(xml)) << xml;
  EXPECT_THAT(xml, HasSubstr("tests=\"1\" failures=\"1\" errors=\"0\" skipped=\"0\" time=\"4.250000\""));
  EXPECT_THAT(xml, HasSubstr("name=\"a&lt;b&gt; &amp; &quot;c&quot;\""));
  EXPECT_THAT(xml,
              HasSubstr("<failure type=\"data\" message=\"FAILED: got &lt;1&gt;\xEF\xBF\xBD &amp; &quot;2&quot;\">"));
  EXPECT_THAT(xml, HasSubstr("norm.weight on gen rank 0: 1 element, first at [7]</failure>"));
  EXPECT_THAT(to_junit(sample_engines()), HasSubstr("norm.weight on gen rank 2 (engine 1, DP2): 1 element, first at"));
}

TEST(ReportJunit, OneElementPerOutcome) {
  Result result = sample_result();
  result.error->kind = "runtime";
  result.status = Status::error;
  EXPECT_THAT(to_junit(result), HasSubstr("<error type=\"runtime\" message=\"FAILED: 1 element is wrong\">"));
  EXPECT_THAT(to_junit(result), HasSubstr("failures=\"0\" errors=\"1\" skipped=\"0\""));
  result.status = Status::interrupted;
  result.error->kind = "interrupted";
  EXPECT_THAT(to_junit(result), HasSubstr("<error type=\"interrupted\" message=\"FAILED: "));
  EXPECT_THAT(to_junit(result), HasSubstr("failures=\"0\" errors=\"1\" skipped=\"0\""));
  EXPECT_THAT(to_json(result), HasSubstr("\"status\": \"interrupted\""));
  result.status = Status::waived;
  EXPECT_THAT(to_junit(result), HasSubstr("<skipped message=\"WAIVED: 1 element is wrong\"/>"));
  EXPECT_TRUE(is_well_formed(to_junit(result)));
  result.status = Status::passed;
  for (const char* element : {"<failure", "<error", "<skipped"}) EXPECT_THAT(to_junit(result), Not(HasSubstr(element)));
  EXPECT_TRUE(is_well_formed(to_junit(result)));
}

}  // namespace
}  // namespace refit::report
