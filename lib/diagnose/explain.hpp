#pragma once
// What the wrong elements of a part really hold, each of them, as far as its content tells.

#include <compare>
#include <span>
#include <vector>

#include "diagnose/closeness.hpp"

namespace refit::diagnose {

enum class Kind : std::uint8_t {
  moved,        ///< elements of another place
  transposed,   ///< elements of another place whose rows are these columns
  stale,        ///< what another source has in the same place
  updated,      ///< what is expected with another number of refit's own updates
  rounded,      ///< what is expected, cast to a smaller type and back
  requantised,  ///< close to what is expected, on a grid of few values
  near,         ///< close to what is expected everywhere, for a reason that cannot be told
  poison,       ///< the pattern with which gen memory is filled before the first refit
  zero,         ///< nothing but zeros
  constant,     ///< nothing but one other value
  flipped,      ///< one bit is wrong
  factor,       ///< what is expected times one factor
  permuted,     ///< the tensor's own elements in another order, single ones
  unknown
};

/// Why elements are wrong. Of `moved` and `transposed`: element (row, column) of the tensor's matrix holds element
/// (row + row_shift, column + column_shift), of transposed ones (column + row_shift, row + column_shift), of `tensor`
/// of source number `source`.
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

/// A tensor of which a part may hold elements: its rows in any order, at one distance of columns.
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
inline constexpr std::int32_t kUnexplained = -1;  ///< of one of which nothing is known yet

/// Labels of all elements of a part, row-major: kRight, kUnexplained, or a number of `explanations`.
struct Explained {
  std::vector<std::int32_t> labels;
  std::vector<Explanation> explanations;
  std::int64_t unexplained = 0;
};

/// Whether `found` is close to `expected`: to its sixteenth part, or to that of `scale`.
bool is_near(Bits found, Bits expected, DType dtype, double scale);

/// Marks wrong elements, and explains those whose content is found in the candidates' tensors or shows what it is by
/// itself: flipped bits, refit's updates, casts, factors and poison. `canonical`: whose value the part's tensor has.
/// `sources`: the first is the truth.
Explained explain(const Part& part, const model::Tensor& canonical, std::span<const Candidate> candidates,
                  std::span<Source* const> sources);

/// Explains all that is left by comparison with what stands in the same place elsewhere, or should: constants, factors,
/// other steps, or nothing known.
void explain_rest(const Part& part, std::span<Source* const> sources, Explained& explained);

}  // namespace refit::diagnose
