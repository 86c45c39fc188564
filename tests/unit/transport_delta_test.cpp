// The forms of deltas, and the bytes that they send.

#include <gtest/gtest.h>

#include "support/random_layout.hpp"
#include "transport/delta_form.hpp"
#include "transport_models.hpp"

namespace refit::test_support {
namespace {

using kernels::DeltaForm;
using transport::Delta;

TEST(DeltaForms, TakeTheFewestBytes) {
  struct Row {
    Delta delta;
    std::int64_t elements, changed, value_bytes;
    DeltaForm form;
    std::int64_t bytes;
  };
  // 65,536 elements of two bytes: dense 131,072, bitmap 8,192 + 2 c, index 4 c.
  const Row rows[] = {
      {Delta::automatic, 65536, 1, 2, DeltaForm::index, 16},
      {Delta::automatic, 65536, 1638, 2, DeltaForm::index, 6560},
      {Delta::automatic, 65536, 4090, 2, DeltaForm::index, 16368},
      {Delta::automatic, 65536, 4096, 2, DeltaForm::bitmap, 16384},  // as many bytes, and simpler
      {Delta::automatic, 65536, 61432, 2, DeltaForm::bitmap, 131056},
      {Delta::automatic, 65536, 61440, 2, DeltaForm::dense, 131072},
      {Delta::automatic, 65536, 65536, 2, DeltaForm::dense, 131072},
      {Delta::index, 65536, 32760, 2, DeltaForm::index, 131040},
      {Delta::index, 65536, 32768, 2, DeltaForm::dense, 131072},
      {Delta::bitmap, 65536, 1, 2, DeltaForm::bitmap, 8208},
      {Delta::bitmap, 65536, 61440, 2, DeltaForm::dense, 131072},
      // A byte: dense 65,536, bitmap 8,192 + c, index 3 c.
      {Delta::automatic, 65536, 4096, 1, DeltaForm::bitmap, 12288},
      {Delta::index, 65536, 21840, 1, DeltaForm::index, 65520},
      {Delta::index, 65536, 21846, 1, DeltaForm::dense, 65536},
      {Delta::bitmap, 65536, 57328, 1, DeltaForm::bitmap, 65520},
      {Delta::bitmap, 65536, 57344, 1, DeltaForm::dense, 65536},
      // Four bytes: dense 262,144, bitmap 8,192 + 4 c, index 6 c.
      {Delta::automatic, 65536, 3000, 4, DeltaForm::index, 18000},
      {Delta::automatic, 65536, 5000, 4, DeltaForm::bitmap, 28192},
      // Small ones, which are padded to 16 bytes.
      {Delta::automatic, 8, 1, 2, DeltaForm::dense, 16},
      {Delta::automatic, 16, 1, 2, DeltaForm::bitmap, 16},
      {Delta::automatic, 100, 2, 2, DeltaForm::index, 16},
      {Delta::automatic, 1, 1, 4, DeltaForm::dense, 16},
  };
  for (const Row& row : rows) {
    const DeltaForm form = form_of(row.delta, row.elements, row.changed, row.value_bytes);
    EXPECT_EQ(static_cast<int>(form), static_cast<int>(row.form)) << row.changed << " of " << row.elements;
    EXPECT_EQ(kernels::delta_bytes(form, row.elements, row.changed, row.value_bytes), row.bytes)
        << row.changed << " of " << row.elements;
  }
}

TEST(DeltaForms, BreakEven) {
  // index: v / (2 + v); bitmap: 1 - 1 / (8 v).
  EXPECT_NEAR(transport::break_even(DeltaForm::index, 1), 1.0 / 3, 3e-4);
  EXPECT_NEAR(transport::break_even(DeltaForm::index, 2), 0.5, 3e-4);
  EXPECT_NEAR(transport::break_even(DeltaForm::index, 4), 2.0 / 3, 3e-4);
  EXPECT_NEAR(transport::break_even(DeltaForm::bitmap, 1), 0.875, 3e-4);
  EXPECT_NEAR(transport::break_even(DeltaForm::bitmap, 2), 0.9375, 3e-4);
  EXPECT_NEAR(transport::break_even(DeltaForm::bitmap, 4), 0.96875, 3e-4);
}

/// One sender, `replicas` receivers: what each refit sends.
TEST(Deltas, SendWhatChangedAlone) {
  model::Model model;
  for (const Shape& shape : {Shape{600, 256}, Shape{64}, Shape{3, 70'000}}) {
    const auto index = static_cast<std::int32_t>(model.tensors.size());
    model.tensors.push_back({index, fmt::format("t{}", index), shape, DType::bf16, model::Role::final_norm, -1, -1});
  }
  MeshLayout one;
  one.tensors = model.tensors;
  one.mesh = {1};
  one.cuts.resize(model.tensors.size());
  one.format_of = {DType::bf16};
  one.storage_of.assign(model.tensors.size(), 0);
  one.reversed.assign(model.tensors.size(), false);
  Truth truth(model, Changes::sparse);
  TransportCase job;
  job.refits = 8;
  truth.prepare(one, one, job.refits + 1);
  job.model = &model;
  job.truth = &truth;
  job.source = &one;
  job.destination = &one;
  job.bulk = model.tensors;
  job.tuning.delta = Delta::automatic;
  const std::vector<RankOutcome> outcomes = expect_right(job, "one to one");
  const RankOutcome& sender = outcomes.front();
  const std::int64_t elements = 600 * 256 + 64 + 3 * 70'000;
  ASSERT_EQ(sender.dense_bytes, 2 * elements);
  ASSERT_EQ(std::ssize(sender.delta_bytes), 8);
  EXPECT_EQ(sender.delta_bytes[0], sender.dense_bytes);  // the first
  EXPECT_NEAR(static_cast<double>(sender.delta_bytes[1]), 4.0 * static_cast<double>(elements) / 40,
              0.1 * static_cast<double>(elements) / 10);
  EXPECT_EQ(sender.delta_bytes[2], 0);             // nothing has changed
  EXPECT_EQ(sender.delta_bytes[3], 3 * (8 + 16));  // one element of each tensor: a count, and a block of 16 bytes
  EXPECT_EQ(sender.delta_bytes[4], 3 * (8 + 16));
  EXPECT_LT(sender.delta_bytes[5], sender.dense_bytes / 2);
  EXPECT_GE(sender.delta_bytes[6], sender.dense_bytes);  // all: as without deltas, and the counts
  EXPECT_LT(sender.delta_bytes[6], sender.dense_bytes + sender.dense_bytes / 100);
  EXPECT_EQ(outcomes.back().dense_bytes, 0);  // it sends nothing

  job.restart = 4;
  const std::vector<RankOutcome> restarted = expect_right(job, "one to one, with a restart");
  EXPECT_EQ(restarted.front().delta_bytes[4], sender.dense_bytes);
  EXPECT_EQ(restarted.front().delta_bytes[5], sender.delta_bytes[5]);
}

}  // namespace
}  // namespace refit::test_support
