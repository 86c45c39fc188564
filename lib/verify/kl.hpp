#pragma once
// The KL proxy of one matrix: how much a difference in its elements would matter to somebody who multiplies with it.
//
// y = the rows' signed sums (kernels::signed_row_sums), logits = kLogitScale * y / rms(y_train), result = KL(softmax of
// train's logits || softmax of gen's).

#include <cstdint>
#include <span>

namespace refit::verify {

/// With logits of unit variance, KL is of order 1 where gen has unrelated rows: two independent unit-variance normal
/// logit vectors have KL = s^2 in the limit of many rows.
inline constexpr double kLogitScale = 1.0;

/// KL(train || gen) in double, of two vectors of row sums in units of 2^-24. Exactly 0 for equal sums. Where train's
/// are all 0 and gen's are not, rms(y_train) counts as 1.
double kl_of_row_sums(std::span<const std::int64_t> train, std::span<const std::int64_t> gen);

}  // namespace refit::verify
