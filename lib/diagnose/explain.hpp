#pragma once
// Explains each wrong element of a part by its content, as far as that tells.

#include <compare>
#include <span>
#include <vector>

#include "diagnose/closeness.hpp"

namespace refit::diagnose {

enum class Kind : std::uint8_t {
  moved,        ///< elements of another place
  transposed,   ///< elements of another place whose rows are these columns
  stale,        ///< another source's elements of the same place
  updated,      ///< the expected values after another number of refit's own updates
  rounded,      ///< the expected values, cast to a smaller type and back
  requantised,  ///< close to the expected values, on a grid of few values
  near,         ///< close to the expected values everywhere, for a reason that cannot be told
  poison,       ///< the pattern with which gen memory is filled before the first refit
  zero,         ///< nothing but zeros
  constant,     ///< nothing but one other value
  flipped,      ///< one bit is wrong
  factor,       ///< the expected values times one factor
  permuted,     ///< the tensor's own elements, singly, in another order
  unknown
};

/// Why elements are wrong. `moved`: element (row, column) of the tensor's matrix holds element (row + row_shift, column
/// + column_shift) of `tensor` of source number `source`; `transposed`: it holds element (column + row_shift, row +
/// column_shift).
struct Explanation {
  Kind kind = Kind::unknown;
  std::int32_t source = 0;
  std::int32_t tensor = -1;
  std::int64_t row_shift = 0, column_shift = 0;
  double value = 0;    ///< the constant, or the factor
  Steps steps{};       ///< of `updated`
  std::string what{};  ///< of `rounded`: the type; of `requantised`: the grid
  bool unique = true;  ///< false where the same content stands in other places too

  auto key() const { return std::tuple(kind, source, tensor, row_shift, column_shift, steps.first, steps.last, what); }
};

/// A tensor that a part may hold elements of: its rows in any order, at one distance of columns.
struct Candidate {
  enum class Along : std::uint8_t {
    rows,        ///< rows hold rows
    transposed,  ///< columns hold rows
    columns      ///< columns hold columns
  };
  std::int32_t source = 0;
  std::int32_t tensor = -1;
  Along along = Along::rows;
  std::int64_t shift = 0;  ///< along the run: from the part's place in its tensor to the place in the other
  bool unique = true;
  friend bool operator==(const Candidate& a, const Candidate& b) {
    return a.source == b.source && a.tensor == b.tensor && a.along == b.along && a.shift == b.shift;
  }
};

inline constexpr std::int32_t kRight = -2;        ///< the label of an element that is right
inline constexpr std::int32_t kUnexplained = -1;  ///< of an element of which nothing is known yet

/// Labels of all elements of a part, row-major: kRight, kUnexplained, or a number of `explanations`.
struct Explained {
  std::vector<std::int32_t> labels;
  std::vector<Explanation> explanations;
  std::int64_t unexplained = 0;
};

/// Returns whether `found` differs from `expected` by at most one sixteenth of it, or of `scale` where that is larger.
bool is_near(Bits found, Bits expected, DType dtype, double scale);

/// Marks wrong elements, and explains those whose content is found in the candidates' tensors or shows its cause by
/// itself: flipped bits, refit's updates, casts, factors and poison. `canonical` is the tensor whose value the part's
/// tensor has. The first of `sources` is the truth.
Explained explain(const Part& part, const model::Tensor& canonical, std::span<const Candidate> candidates,
                  std::span<Source* const> sources);

/// Explains all elements that are left by comparison with the same place in the truth and in other sources: constants,
/// factors, other steps, or `unknown`.
void explain_rest(const Part& part, std::span<Source* const> sources, Explained& explained);

}  // namespace refit::diagnose
