// Reports about the weights that a rank makes and moves: while it works, and in results.

#include <gmock/gmock.h>

#include "app/case_reader.hpp"
#include "engine/describe.hpp"
#include "engine/weights.hpp"
#include "kernels/memory.hpp"

namespace refit::engine {
namespace {

cases::Case small_case(std::vector<app::Option> options) {
  options.push_back({"model.config", REFIT_SOURCE_DIR "/inputs/models/qwen3-8b-small/config.json", ""});
  options.push_back({"model.layers", "1", ""});
  options.push_back({"train.layout", "TP2", ""});
  options.push_back({"gen.layout", "TP1", ""});
  return app::read_case("", options);
}

TEST(Weights, SyntheticOnesSayHowFarTheyAre) {
  const kernels::Runtime runtime;
  const kernels::ExecutionSpace space;
  const cases::Setup setup(small_case({}));
  const layout::LocalLayout local = layout::materialise(*setup.train, setup.model.tensors, Rank{0});
  const kernels::SharedBuffer arena(transport::ArenaMap(local).bytes);
  const Weights weights(setup, local, Group::train, Rank{0}, transport::LocalMemory(local, arena.data()));
  std::vector<std::int64_t> done;
  std::int64_t all = 0;
  weights.load(space, [&](std::int64_t now_done, std::int64_t now_all) {
    done.push_back(now_done);
    all = now_all;
  });
  ASSERT_GT(done.size(), 5U);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), all);
  EXPECT_GT(all, 0);
}

TEST(Describe, ListsAllTensorsOfThePayload) {
  for (const char* precision : {"bf16", "fp8"}) {
    const cases::Setup setup(small_case({{"refit.bulk", "ffn", ""}, {"gen.precision", precision, ""}}));
    const report::Result result = describe(setup, {});
    std::map<std::string, std::int64_t> bytes;
    std::int64_t scales = 0;
    for (const report::MovedTensor& tensor : result.tensors) {
      const bool is_made = setup.model.find(tensor.name)->scale_of >= 0;
      (is_made ? scales : bytes[tensor.path]) += tensor.bytes;
    }
    EXPECT_EQ(bytes["bulk"], result.payload->bulk_bytes);
    EXPECT_EQ(bytes["misc"], result.payload->misc_bytes);
    EXPECT_EQ(scales > 0, std::string(precision) == "fp8");
  }
}

}  // namespace
}  // namespace refit::engine
