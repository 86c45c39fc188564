#pragma once
// The KL proxy of one matrix: how much a difference in its elements would matter for products with it.
//
// y = the rows' signed sums (kernels::signed_row_sums), logits = kLogitScale * y / rms(y_train), result = KL(softmax of
// train's logits || softmax of gen's).

#include <cstdint>
#include <span>

namespace refit::verify {

/// The factor s. Rounding to E4M3 changes y by 2.6 % of its rms, whatever the blocks, which is a KL of about 3.5e-4 s^2
/// while no row outweighs the others. With 5 the mean over a model's matrices is 0.004 to 0.008 for both kinds of
/// blocks and 64 to 150,000 rows, where training runs with FP8 and MXFP8 generation report theirs (single matrices: up
/// to 0.06), and unrelated rows have a KL of 10 to 20.
inline constexpr double kLogitScale = 5.0;

/// Returns KL(train || gen) in double, of two vectors of row sums in units of 2^-24. Exactly 0 for equal sums. Where
/// train's are all 0 and gen's are not, rms(y_train) counts as 1.
double kl_of_row_sums(std::span<const std::int64_t> train, std::span<const std::int64_t> gen);

/// Returns true where a row's sum is one that only NaN, infinities or values of thousands make: these are as large as a
/// value can be in the sums, and a KL of them measures nothing else.
bool is_beyond_numbers(std::span<const std::int64_t> sums);

}  // namespace refit::verify
