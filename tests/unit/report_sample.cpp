#include "report_sample.hpp"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace refit::report {
namespace {

Result sample_case() {
  Result result;
  result.test_case = {"tiny", "TP1 -> TP1: \"one\" & <one>", "cases/tiny.toml"};
  result.command = "refit run cases/tiny.toml";
  result.start_time = "2025-01-31T12:00:00Z";
  result.environment.refit = "0.1.0";
  result.environment.commit = "15a3c14e0b2d";
  result.environment.compiler = "GNU 12.2.0";
  result.environment.mpi = "Open MPI 4.1.4";
  result.model = Model{"llama", "models/tiny/config.json", 3, 1000, 2000};
  result.ranks = 2;
  result.train = {"megatron", "TP1", 1, "bf16"};
  result.gen = {"vllm", "TP1", 1, "bf16"};
  result.settings = {{"bulk", "ffn"}, {"executor", "p2p"}, {"steps", 2}, {"check_agreement", true}, {"fraction", 0.5}};
  result.payload = Payload{1500, 500, true, 64};
  result.wire = Wire{2000, 3, 2000, 2000, 0, 0, 1500, 500};
  result.byte_matrix = {{2000}};
  return result;
}

}  // namespace

Result sample_result() {
  Result result = sample_case();
  result.status = Status::failed;
  result.exit_code = 1;
  result.error = Failure{"data", "1 element is wrong", 1, "verify"};
  result.environment.ranks = {{0, "train", 100, "alpha", "cpu", {{"tp", 0}, {"pp", 0}}},
                              {1, "gen", 101, "alpha", "cpu", {{"tp", 0}}}};
  result.elapsed_seconds = 4.5;
  result.tensors = {{"w", 1500, "bulk"}, {"norm.weight", 500, "misc"}};
  result.memory = Memory{2000, 2100, 0};
  result.schedule = Schedule{8, 1024, 4};
  result.load = Load{2064, 2064};
  result.bound = Bound{0.25, "ingress", BoundTerms<double>{0.25, 0.2, 0, 0.125}, {2000, 1600, 0, 4000}};
  result.model_seconds = ModelSeconds{0.75, "latency", "device in", 0.125, 0, 0.0625, 0.5, 0.0625};
  result.rates = {{"device_in", 8000}, {"memory", 32000}};
  result.efficiency = 0.5;
  result.prepare = {{"load", 2}, {"plan", 0.5}};
  result.refits = {{1, true, 1, {{"bulk", 0.75}, {"misc", 0.25}}, 0, 0.0, 0.125},
                   {2, false, 0.5, {{"bulk", 0.375}, {"misc", 0.125}}, {}, {}, 0.0625},
                   {3, false, 0.25, {{"bulk", 0.125}, {"misc", 0.125}}, 1, 0.5, 0.03125}};
  result.plan_hash = "ac";
  result.refits.back().failed_proof = true;
  for (Refit& refit : result.refits) refit.version = {refit.number + 10, refit.number == 1 ? "ad" : ""};
  result.verification =
      Verification{2, 3, 1, 1000, 1, {{"norm.weight", 0, 1, {7}}}, {}, "aa", "ab", Kl{0.5, 0.25, "w"}};
  return result;
}

Result sample_engines() {
  Result result = sample_result();
  result.gen = {"vllm+sglang", "TP1+DP2", 3, "bf16"};
  result.engines = {{{"vllm", "TP1", 1, "bf16"}, 0, 2000, 2100, EngineProof{3, 0, 400, 0, {}}},
                    {{"sglang", "DP2", 2, "bf16"}, 1, 1500, 3000, EngineProof{3, 1, 600, 1, Kl{0.5, 0.25, "w"}}}};
  result.verification->wrong.front().gen_rank = 2;
  for (Refit& refit : result.refits) {
    if (!refit.elements_wrong) continue;
    refit.engine_elements_wrong = {0, *refit.elements_wrong};
    refit.engine_kl_max = {0.0, *refit.kl_max};
  }
  return result;
}

Result sample_drill() {
  Result result = sample_engines();
  result.refits[0].engines = {{true, 0.75, {}, 1}, {true, 0.25, {}, 1}};
  result.refits[1].engines = {{false, {}, {}, 1}, {false, {}, {}, 1}};
  result.refits[2].engines = {{true, 0.25, 2.0, 3}, {false, {}, {}, 1}};
  result.engines[0].version = 3;
  result.engines[1].version = 1;
  result.refits[2].engine_elements_wrong = {0, {}};
  result.refits[2].engine_kl_max = {0.5, {}};
  return result;
}

Result sample_plan() {
  Result result = sample_case();
  result.bound = Bound{{}, "", {}, {2000, 1600, 0, 4000}};
  result.plan = Plan{0.5, 1000000, 3, "cc", PlanWorld{1, 3, {2000}, {2000}}, {}};
  return result;
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "refit-report-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_text(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

}  // namespace refit::report
