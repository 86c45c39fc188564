// Case files and options: precedence, paths, and every mistake with its place.

#include "app/case_reader.hpp"

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "case/keys.hpp"
#include "core/error.hpp"
#include "train/megatron/side.hpp"

namespace refit::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kPath = ::testing::TempDir() + "refit_case_" + std::to_string(getpid()) + ".toml";
constexpr const char* kLayouts = "[train]\nlayout = \"TP2\"\n[gen]\nlayout = \"TP2\"\n";

cases::Case read(const std::string& text, const std::vector<Option>& options = {}) {
  std::ofstream(kPath) << text;
  return read_case(kPath, options);
}

std::string error_of(const std::string& text, const std::vector<Option>& options = {}) {
  try {
    read(text, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "nothing was refused";
}

TEST(CaseReader, OptionsOverrideTheFileAndTheFileOverridesDefaults) {
  const cases::Case c = read(std::string(kLayouts) + "[run]\nsteps = 7\nwarmup = 3\n", {{"run.steps", "2", "--steps"}});
  EXPECT_EQ(c.run.steps, 2);
  EXPECT_EQ(c.run.warmup, 3);
  EXPECT_EQ(c.run.seed, 1);
  EXPECT_EQ(c.given.at("run.steps"), "--steps");
  EXPECT_EQ(c.given.at("run.warmup"), kPath + ":7:1");
  EXPECT_EQ(c.name, std::filesystem::path(kPath).stem());
}

TEST(CaseReader, InputsAreRelativeToTheFileAndOutputsAreNot) {
  const cases::Case c =
      read("[model]\nconfig = \"../m/config.json\"\n" + std::string(kLayouts) + "[output]\njson = \"r.json\"\n");
  const auto folder = std::filesystem::path(kPath).parent_path();
  EXPECT_EQ(c.model.config, (folder / "../m/config.json").lexically_normal().string());
  EXPECT_EQ(c.output.json, "r.json");
}

TEST(CaseReader, AModelGivenByAnOptionReplacesTheFiles) {
  const cases::Case c = read("[model]\nconfig = \"/m/config.json\"\n" + std::string(kLayouts),
                             {{"model.checkpoint", "/data", "--checkpoint"}});
  EXPECT_EQ(c.model.config, "");
  EXPECT_EQ(c.model.checkpoint, "/data");
  const cases::Case both =
      read(kLayouts, {{"model.checkpoint", "/d", "--checkpoint"}, {"model.config", "/c", "--model"}});
  EXPECT_EQ(both.model.config, "/c");
  EXPECT_EQ(both.model.checkpoint, "/d");
}

TEST(CaseReader, CompletesDataParallel) {
  const cases::Case c = read("[train]\nlayout = \"TP2xEP8\"\n[gen]\nlayout = \"TP4\"\n");
  EXPECT_EQ(c.train->sizes().dp, 4);
  EXPECT_EQ(c.engine().sizes().dp, 1);
  EXPECT_EQ(c.train_ranks(), 8);
  EXPECT_EQ(c.gen_ranks(), 4);
}

TEST(CaseReader, OptionsAreTypedLikeToml) {
  const cases::Case c = read(kLayouts, {{"refit.chunk_bytes", "64KiB", "--set"},
                                        {"run.inject", "a,b", "--inject"},
                                        {"run.timeout_seconds", "3", "--timeout"},
                                        {"train.stage_layers", "[1, 2]", "--set"},
                                        {"name", "true", "--set"},
                                        {"description", "\"in quotes\"", "--set"}});
  EXPECT_EQ(c.refit.chunk_bytes, 64 << 10);
  EXPECT_THAT(c.run.inject, ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(c.run.timeout_seconds, 3);
  EXPECT_THAT(dynamic_cast<const train::megatron::Side&>(*c.train).written.stage_layers, ::testing::ElementsAre(1, 2));
  EXPECT_EQ(c.name, "true");
  EXPECT_EQ(c.description, "in quotes");
}

struct Bad {
  const char* text;  // after the layouts: line 5 and on
  const char* place;
  const char* message;
};

constexpr Bad kBad[] = {
    {"[refit]\nbulc = \"ffn\"\n", ":6:1: ", "unknown key refit.bulc; did you mean refit.bulk?"},
    {"[refti]\nbulk = \"ffn\"\n", ":5:2: ", "unknown section refti; did you mean refit?"},
    {"[refit]\nbulk = \"fnn\"\n",
     ":6:1: ", "refit.bulk needs one of all, whitelist, blacklist, ffn, not \"fnn\"; did you mean ffn?"},
    {"[refit]\nbulk = 3\n", ":6:1: ", "refit.bulk needs one of"},
    {"[refit]\nstreams = \"2\"\n", ":6:1: ", "refit.streams needs an integer in 1..8"},
    {"[refit]\nstreams = 0\n", ":6:1: ", "refit.streams needs an integer"},
    {"[refit]\nstreams = 9\n", ":6:1: ", "refit.streams needs an integer in 1..8: kernels of different streams wait"},
    {"[refit]\nstreams = 2.0\n", ":6:1: ", "refit.streams needs an integer"},
    {"[refit]\nchunk_bytes = \"8XB\"\n", ":6:1: ", "refit.chunk_bytes needs bytes"},
    {"[refit]\nchunk_bytes = \"9999999TiB\"\n", ":6:1: ", "refit.chunk_bytes needs bytes"},
    {"[refit]\ncheck_agreement = 1\n", ":6:1: ", "refit.check_agreement needs true or false"},
    {"[refit]\nbulk = \"all\"\nbulk = \"ffn\"\n", ":7:", "bulk"},
    {"[run]\nsteps = -1\n", ":6:1: ", "run.steps needs an integer"},
    {"[run]\nsteps = 99999999999999999999\n", ":6:", "99999999999999999999"},
    {"[run]\ntimeout_seconds = nan\n", ":6:1: ", "run.timeout_seconds needs a number"},
    {"[run]\ninject = \"one\"\n", ":6:1: ", "run.inject needs a list"},
    {"[run]\ninject = [1]\n", ":6:1: ", "run.inject has a value of a wrong type"},
    {"[run]\nupdate = 2024-01-01\n", ":6:1: ", "run.update has a value of a wrong type"},
    {"[run.steps]\nx = 1\n", ":5:6: ", "run.steps has a value of a wrong type"},
    {"[model]\nconfig = \"\"\n", ":6:1: ", "model.config is empty"},
    {"[expect]\nbulk_fraction = 95.0\n", ":6:1: ", "expect.bulk_fraction needs a number from 0 to 1"},
    {"[[expect.mismatch]]\ntensors = \"*\"\nfraktion = 1.0\n",
     ":5:", "expect.mismatch has an unknown or ill-typed fraktion"},
    {"[[expect.mismatch]]\ntensors = \"*\"\nfraction = 0.0\n", ":5:", "expect.mismatch needs a fraction"},
    {"engine = \"vlm\"\n", ":5:1: ", "gen.engine needs one of vllm, sglang, not \"vlm\"; did you mean vllm?"},
    {"engine = 3\n", ":5:1: ", "gen.engine needs one of vllm, sglang"},
    {"[[refit]]\nbulk = \"all\"\n", ":5:3: ", "unknown key refit"},
    {"[refit\n", ":5:", "expected ']'"},
    {"layout = \n", ":5:", "expected value"},
};

TEST(CaseReader, RefusesWithFileLineAndColumn) {
  for (const Bad& bad : kBad) {
    const std::string error = error_of(std::string(kLayouts) + bad.text);
    EXPECT_THAT(error, HasSubstr(kPath + bad.place)) << bad.text;
    EXPECT_THAT(error, HasSubstr(bad.message)) << bad.text;
    EXPECT_THAT(error, Not(HasSubstr("\n"))) << bad.text;
  }
}

TEST(CaseReader, ReportsAllMistakesTogether) {
  const std::string error = error_of("nam = \"x\"\n[train]\nlayout = \"TP0\"\n[run]\nstep = 3\nwarmup = -2\n",
                                     {{"refit.bulc", "ffn", "--set refit.bulc"}});
  EXPECT_THAT(error, HasSubstr("unknown key nam; did you mean name?"));
  EXPECT_THAT(error, HasSubstr("train.layout \"TP0\""));
  EXPECT_THAT(error, HasSubstr("unknown key run.step; did you mean run.steps?"));
  EXPECT_THAT(error, HasSubstr("run.warmup needs"));
  EXPECT_THAT(error, HasSubstr("--set refit.bulc: unknown key refit.bulc; did you mean refit.bulk?"));
}

TEST(CaseReader, DumpsRecordAbsolutePathsAndWords) {
  const std::string file = REFIT_SOURCE_DIR "/inputs/cases/small/qwen3-30b-expert-location.json";
  const std::string map = std::filesystem::relative(file).string();
  const std::string layouts = "[train]\nlayout = \"EP4\"\n[gen]\nlayout = \"TP4xEP4\"\n";
  const cases::Case by_file = read(layouts, {{"gen.expert_placement", map, "--set gen.expert_placement"}});
  EXPECT_EQ(by_file.facts.at("gen.expert_placement"), "\"" + file + "\"");
  const cases::Case by_word = read(layouts, {{"gen.expert_placement", "linear", "--set gen.expert_placement"}});
  EXPECT_EQ(by_word.facts.at("gen.expert_placement"), "\"linear\"");
}

TEST(CaseReader, KnowsTrainersAndEngines) {
  const cases::Case c =
      read("[train]\nlayout = \"TP2\"\ntrainer = \"megatron\"\n[[gen]]\nengine = \"vllm\"\nlayout = \"TP4\"\n");
  EXPECT_EQ(c.train->row().name, "megatron");
  EXPECT_EQ(c.train->sizes().tp, 2);
  EXPECT_EQ(c.engine().row().name, "vllm");
  EXPECT_EQ(c.gen_ranks(), 4);
  EXPECT_EQ(c.facts.at("gen.engine"), "\"vllm\"");
  EXPECT_THAT(
      error_of(kLayouts, {{"train.trainer", "megatrom", "--set train.trainer"}}),
      HasSubstr("--set train.trainer: train.trainer needs one of megatron, fsdp, not \"megatrom\"; did you mean"));
}

/// Returns the engines' layouts, "vllm TP4, sglang TP2".
std::string engines_of(const cases::Case& c) {
  std::vector<std::string> engines;
  for (const layout::Side& engine : c.gen)
    engines.push_back(fmt::format("{} {}", engine->row().name, layout::to_string(engine->sizes())));
  return fmt::format("{}", fmt::join(engines, ", "));
}

std::string value_of(const cases::Case& c, const std::string& key, std::size_t engine) {
  return cases::find_key(key)->get_of(c, engine);
}

constexpr const char* kTwoEngines =
    "[train]\nlayout = \"TP2\"\n[[gen]]\nlayout = \"TP4\"\n[[gen]]\nengine = \"sglang\"\nlayout = \"TP2xDP2\"\n"
    "attn_dp_size = 2\n";

TEST(CaseReader, ReadsSeveralEngines) {
  const cases::Case c = read(kTwoEngines, {{"model.config", "/m/config.json", "--model"}});
  EXPECT_EQ(engines_of(c), "vllm TP4, sglang TP2xDP2");
  EXPECT_EQ(c.gen_ranks(), 8);
  EXPECT_EQ(c.gen_layout(), "TP4+TP2xDP2");
  EXPECT_EQ(value_of(c, "gen.attn_dp_size", 1), "2");
  EXPECT_EQ(c.given.at("gen.1.attn_dp_size").substr(c.given.at("gen.1.attn_dp_size").find(':')), ":8:1");
  EXPECT_EQ(c.facts.at("gen.layout"), "\"TP4+TP2xDP2\"");
  EXPECT_EQ(c.facts.at("gen.1.engine"), "\"sglang\"");
  EXPECT_FALSE(c.facts.contains("gen.1.layout"));
  EXPECT_THAT(cases::violations(c), ::testing::IsEmpty());
}

TEST(CaseReader, LayoutsWithAPlusAreEngines) {
  EXPECT_EQ(engines_of(read(kLayouts, {{"gen.layout", "TP4+TP1xDP4", "--gen"}})), "vllm TP4, vllm DP4");
  EXPECT_EQ(engines_of(read("[train]\nlayout = \"TP2\"\n[gen]\nlayout = \"TP4+TP2+TP1\"\nengine = \"sglang\"\n")),
            "sglang TP4, sglang TP2, sglang TP1");
  EXPECT_EQ(engines_of(read(kTwoEngines, {{"gen.layout", "TP8", "--gen"}})), "vllm TP8, sglang TP8");
  EXPECT_EQ(engines_of(read(kTwoEngines, {{"gen.layout", "TP8+TP4", "--gen"}})), "vllm TP8, sglang TP4");
}

/// gen.KEY is meant for all engines that read it, gen.1.KEY for one, whichever is given first.
TEST(CaseReader, KeysAreOfAllEnginesOrOfOne) {
  const std::vector<Option> layouts = {{"gen.1.engine", "sglang", "--set gen.1.engine"},
                                       {"gen.layout", "TP4+TP4+TP2", "--gen"},
                                       {"gen.precision", "fp32", "--set gen.precision"},
                                       {"gen.moe_backend", "flashinfer_cutlass", "--set gen.moe_backend"}};
  const cases::Case c = read(kLayouts, layouts);
  EXPECT_EQ(engines_of(c), "vllm TP4, sglang TP4, vllm TP2");
  for (std::size_t e = 0; e < 3; ++e) EXPECT_EQ(value_of(c, "gen.precision", e), "\"fp32\"") << e;
  EXPECT_EQ(value_of(c, "gen.moe_backend", 2), "\"flashinfer_cutlass\"");
  EXPECT_FALSE(c.given.contains("gen.1.moe_backend"));
  std::vector<Option> more = layouts;
  more.push_back({"gen.2.precision", "bf16", "--set gen.2.precision"});
  EXPECT_EQ(value_of(read(kLayouts, more), "gen.precision", 1), "\"fp32\"");
  EXPECT_EQ(value_of(read(kLayouts, more), "gen.precision", 2), "\"bf16\"");
  // Of one engine too.
  EXPECT_EQ(engines_of(read(kLayouts, {{"gen.0.layout", "TP8", "--set gen.0.layout"}})), "vllm TP8");
}

TEST(CaseReader, RefusesEnginesInWords) {
  const std::string three = std::string(kTwoEngines) + "[[gen]]\n";
  struct Row {
    std::string text;
    std::vector<Option> options;
    const char* message;
  };
  const std::vector<Row> rows = {
      {three, {}, "engine 2: gen.layout is required"},
      {kTwoEngines, {{"gen.layout", "TP4+TP2+TP1", "--gen"}}, "gen.layout lists 3 layouts, but "},
      {kLayouts, {{"gen.layout", "TP4+", "--gen"}}, "--gen: gen.layout \"TP4+\" has no layout on one side of a +"},
      {kLayouts, {{"gen.layout", "+TP4", "--gen"}}, "--gen: gen.layout \"+TP4\" has no layout on one side of a +"},
      {kLayouts, {{"gen.layout", "TP4+XX2", "--gen"}}, "gen.layout \"XX2\": \"XX2\" is none of TP, EP, DP, PP with"},
      {"[train]\nlayout = \"TP2\"\n[gen.1]\nlayout = \"TP2\"\n",
       {},
       "gen.1 is no section; write [[gen]] for each engine"},
      {kLayouts, {{"gen.layout", "TP4+TPx", "--gen"}}, "--gen: engine 1: gen.layout \"TPx\""},
      {kLayouts,
       {{"gen.layout", "TP4+TP2", "--gen"}, {"gen.2.engine", "vllm", "--set gen.2.engine"}},
       "--set gen.2.engine: there is no gen.2: the engines are gen.0 to gen.1"},
      {kLayouts, {{"gen.1.engine", "vllm", "--set gen.1.engine"}}, "there is no gen.1: the case has one engine, gen.0"},
      {kLayouts, {{"gen.0.egnine", "vllm", "--set gen.0.egnine"}}, "unknown key gen.0.egnine"},
      {kLayouts, {{"gen.99999999999999999999.engine", "vllm", "--set"}}, "unknown key gen.99999999999999999999.engine"},
      {kTwoEngines, {{"gen.0.engine", "vlm", "--set gen.0.engine"}}, "engine 0: gen.engine needs one of vllm, sglang"},
      {"[train]\nlayout = \"TP2\"\n[[gen]]\n[[gen]]\nlayuot = \"TP4\"\n", {}, ":5:1: unknown key gen.layuot; did you"},
      {"[train]\nlayout = \"TP2\"\n[[train]]\n", {}, ":3:"},
      {"gen = [1, 2]\n[train]\nlayout = \"TP2\"\n", {}, ":1:1: "},
      {"gen = []\n[train]\nlayout = \"TP2\"\n", {}, ":1:1: "},
  };
  for (const Row& row : rows) EXPECT_THAT(error_of(row.text, row.options), HasSubstr(row.message)) << row.text;
}

TEST(CaseReader, ListedSidesReadNoKeys) {
  const cases::Case c =
      read(kLayouts, {{"m2n.model", "m.json", "--m2n-model"},
                      {"m2n.system", REFIT_SOURCE_DIR "/inputs/m2n/small.system.json", "--m2n-system"}});
  EXPECT_EQ(c.train->row().name, "listed");
  EXPECT_EQ(layout::to_string(c.train->sizes()), "EP2xDP2xPP2");
  const std::vector<std::string> found = cases::violations(c);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_THAT(found[0], HasSubstr(":2:1: train.layout: means nothing with m2n.model and m2n.system; leave it out"));
  EXPECT_THAT(found[1], HasSubstr(":4:1: gen.layout: means nothing with m2n.model and m2n.system; leave it out"));
}

TEST(CaseReader, RequiresBothLayouts) {
  const std::string error = error_of("name = \"x\"\n");
  EXPECT_THAT(error, HasSubstr("train.layout is required"));
  EXPECT_THAT(error, HasSubstr("gen.layout is required"));
}

TEST(CaseReader, RefusesAnOptionGivenTwice) {
  EXPECT_THAT(error_of(kLayouts, {{"run.steps", "1", "--steps"}, {"run.steps", "2", "--set run.steps"}}),
              HasSubstr("--set run.steps: run.steps is given twice"));
}

TEST(CaseReader, NamesAMissingFile) {
  try {
    read_case("/nowhere/case.toml", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_STREQ(error.what(), "/nowhere/case.toml: no such file");
  }
}

constexpr const char* kBug =
    "[bug]\nid = \"B0\"\ntitle = \"Title\"\nsymptom = \"s\"\ncause = \"c\"\nreference = \"#1\"\nkind = \"hang\"\n"
    "[bug.fixed]\ngen.layout = \"TP4\"\nexpect.kl_max = 0.5\n"
    "[model]\nconfig = \"m.json\"\n"
    "[run]\ninject = [\"swap-gate-up\"]\n[expect]\noutcome = \"mismatch\"\nmismatch = [{tensors = \"*\", fraction = "
    "1}]\n";

TEST(Bugs, AreReadAsTheyAre) {
  const cases::Case c = read(std::string(kLayouts) + kBug);
  EXPECT_EQ(c.bug.id, "B0");
  EXPECT_EQ(c.bug.kind, cases::BugKind::hang);
  EXPECT_EQ(c.description, "Title");
  EXPECT_EQ(c.engine().sizes().tp, 2);
  EXPECT_THAT(c.run.inject, ::testing::ElementsAre("swap-gate-up"));
  EXPECT_EQ(c.expect.outcome, cases::ExpectedOutcome::mismatch);
  EXPECT_EQ(read_bug(kPath).title, "Title");
  EXPECT_THAT(cases::violations(c), ::testing::IsEmpty());
}

TEST(Bugs, AreNotInTheFixedTwin) {
  read(std::string(kLayouts) + kBug);
  const cases::Case c = read_case(kPath, {{"run.steps", "3", "--steps"}}, Twin::fixed);
  EXPECT_EQ(c.engine().sizes().tp, 4);
  EXPECT_EQ(c.expect.kl_max, 0.5);
  EXPECT_THAT(c.run.inject, ::testing::IsEmpty());
  EXPECT_EQ(c.expect.outcome, cases::ExpectedOutcome::pass);
  EXPECT_THAT(c.expect.mismatch, ::testing::IsEmpty());
  EXPECT_FALSE(c.given.contains("run.inject"));
  EXPECT_FALSE(c.given.contains("expect.outcome"));
  EXPECT_EQ(c.run.steps, 3);
  EXPECT_THAT(cases::violations(c), ::testing::IsEmpty());
}

TEST(Bugs, MistakesAreNamed) {
  const std::string mistaken = std::string(kLayouts) + "[bug]\nid = \"B0\"\n[bug.fixed]\ngen.lay = \"TP4\"\n";
  EXPECT_THAT(error_of(mistaken), HasSubstr(":8:5: unknown key gen.lay; did you mean gen.layout?"));
  const cases::Case c = read(std::string(kLayouts) + "[bug]\nid = \"B0\"\n");
  EXPECT_THAT(cases::violations(c), ::testing::Contains(::testing::AllOf(HasSubstr("bug.title: is missing in "),
                                                                         HasSubstr("[bug] needs all its keys"))));
  for (const std::string& file : {kPath, std::string()}) {
    read(kLayouts);
    try {
      read_case(file, {}, Twin::fixed);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr("--fixed needs a case"));
    }
  }
}

TEST(Hardware, ReadsTheCommittedFiles) {
  const std::string folder = std::string(REFIT_SOURCE_DIR) + "/inputs/hardware/";
  const explain::Hardware h100 = read_hardware(folder + "h100-50gbps.toml");
  EXPECT_EQ(h100.devices_per_domain, 8);
  EXPECT_EQ(h100.domain_in, 400.0);
  const explain::Hardware h200 = read_hardware(folder + "h200-nvlink.toml");
  EXPECT_EQ(h200.memory, 4200.0);
  EXPECT_EQ(h200.domain_in, 0.0);
}

TEST(Hardware, ListsTheDeviceOfEveryRank) {
  const std::string rates = "devices_per_domain = 2\ndevice_in = 1\ndevice_out = 1\nmemory = 1\nlaunch_seconds = 0\n";
  std::ofstream(kPath) << "devices = [0, 1, 0, 1]\n" << rates;
  EXPECT_THAT(read_hardware(kPath).devices, ::testing::ElementsAre(0, 1, 0, 1));
  for (const auto& [text, mistake] : {std::pair("devices = [0, -1]\n", "devices must be a list of numbers"),
                                      {"devices = [0, \"a\"]\n", "devices must be a list of numbers"},
                                      {"devices = 2\n", "devices must be a list of numbers"},
                                      {"devices = []\n", "devices must be a list of numbers"},
                                      {"devices = [0, 1048576]\n", "below 1048576"},
                                      {"devices = [0]\nranks_per_device = 1\n", "give one of them"}}) {
    std::ofstream(kPath) << text << rates;
    EXPECT_THAT([] { read_hardware(kPath); }, ::testing::ThrowsMessage<Error>(HasSubstr(mistake))) << text;
  }
}

TEST(Hardware, NamesEveryMistake) {
  std::ofstream(kPath) << "ranks_per_device = 0\ndevices_per_domain = 1\ndevice_in = 1\ndevice_out = 1.5\n"
                          "domain_in = 0\ndomain_uot = 1\nmemory = -3\nlaunch_seconds = 1e-5\n";
  try {
    read_hardware(kPath);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("ranks_per_device must be an integer"));
    EXPECT_THAT(error.what(), HasSubstr("domain_in must be a number above 0"));
    EXPECT_THAT(error.what(), HasSubstr("memory must be a number"));
    EXPECT_THAT(error.what(), HasSubstr(":6:1: unknown key domain_uot; did you mean domain_out?"));
  }
}

TEST(CommittedCases, AllReadAndContradictNothing) {
  const std::filesystem::path folder = std::string(REFIT_SOURCE_DIR) + "/inputs/cases";
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".toml") continue;
    const cases::Case c = read_case(entry.path().string(), {});
    EXPECT_THAT(cases::violations(c), ::testing::IsEmpty()) << entry.path();
    EXPECT_EQ(read_description(entry.path().string()), c.description);
    EXPECT_FALSE(c.description.empty()) << entry.path();
    EXPECT_TRUE(c.model.config.empty() || std::filesystem::exists(c.model.config)) << entry.path();
    ++files;
  }
  EXPECT_GE(files, 45);
}

/// Some bugs are cases that are refused; no fixed twin is.
TEST(CommittedBugs, AllReadAndTheirFixedTwinsContradictNothing) {
  const std::filesystem::path folder = std::string(REFIT_SOURCE_DIR) + "/inputs/bugs";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".toml") continue;
    const std::string stem = entry.path().stem();
    const cases::Case bug = read_case(entry.path().string(), {});
    EXPECT_TRUE(stem.starts_with(bug.bug.id + "-")) << stem;
    for (const std::string& violation : cases::violations(bug))
      EXPECT_THAT(violation, Not(HasSubstr(": bug."))) << stem;
    EXPECT_TRUE(std::any_of(bug.given.begin(), bug.given.end(), [](const auto& key) {
      return key.first.starts_with("expect.");
    })) << stem;
    const cases::Case fixed = read_case(entry.path().string(), {}, Twin::fixed);
    EXPECT_THAT(cases::violations(fixed), ::testing::IsEmpty()) << stem;
    EXPECT_TRUE(std::filesystem::exists(fixed.model.config)) << stem;
    ++files;
  }
  EXPECT_GE(files, 20);
}

}  // namespace
}  // namespace refit::app
