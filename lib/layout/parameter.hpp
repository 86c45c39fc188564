#pragma once
// A parameter as an engine builds it: rows of one or more tensors, stacked and cut over ranks.
//
// Every rule of train and gen is a value of this type, and everything else follows from it: the boxes that a rank
// stores and their places, the shape of the storage, its padding, and the sizes that must divide.
//
// Example: vLLM's gate_up_proj over T ranks is the components {gate_proj, rows 0..I-1, T parts} and {up_proj, rows
// 0..I-1, T parts}: rank t stores part t of each, one below the other.

#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "layout/layout.hpp"
#include "layout/partition.hpp"

namespace refit::layout {

/// Rows of one tensor: a range, or equally long ranges at equal distances, one after the other. A tensor's rows are its
/// first dimension. The rows of packed experts are an expert's output features, whichever dimension these are; the rows
/// of rotary pairs are those of all heads.
struct Component {
  model::Role role = model::Role::unknown;
  Range rows;              ///< the (first) range
  std::int64_t parts = 1;  ///< the number of equal parts; the t-th of T ranks stores number t x parts / T
  int half = -1;           ///< for interleaved experts: 0 = the gate's rows, 1 = up's; -1 = all, alternating
  std::int64_t ranges = 1;
  std::int64_t distance = 0;  ///< rows from the begin of one range to the begin of the next

  std::int64_t count() const { return ranges * rows.count; }
};

/// The way in which a parameter is cut over ranks.
enum class Cut : std::uint8_t {
  components,  ///< each component by itself, into its own number of parts
  stack,       ///< the stacked rows into one part for each rank, across components
  columns      ///< the columns into one part for each rank
};

/// A shared expert's tensors among those of experts.
struct FusedRole {
  model::Role shared = model::Role::unknown;
  model::Role expert = model::Role::unknown;
};

/// The storages that hold experts.
enum class Experts : std::uint8_t {
  none,    ///< not an expert's parameter
  each,    ///< one storage for each local expert
  stacked  ///< one storage with the local experts as its first dimension
};

/// One rule. A rank's storage is [local experts if stacked, rows, the tensor's other dimensions].
struct Parameter {
  std::string name;  ///< the engine's own, without the part that differs between layers
  std::vector<Component> components;
  Cut cut = Cut::components;
  Experts experts = Experts::none;
  std::int64_t padded_rows = 0;    ///< vocabularies: rows are padded with zeros to so many, then cut; 0 = not
  std::int64_t part_multiple = 1;  ///< a rank's part is rounded up to a multiple
  std::int64_t cut_multiple = 0;  ///< parts begin at multiples, so that the last ranks may have less; 0: they are equal
  bool first_rank_only = false;   ///< nothing on all ranks but the first
  bool sorts_pairs = false;       ///< for rotary pairs: per head the first rows of all pairs, then the second rows
  bool keeps_float32 = false;     ///< whatever the model's precision
  std::optional<DType> own_dtype{};  ///< likewise, of any other dtype
  Conversion conversion = Conversion::none;
  bool scalar = false;               ///< a storage without dimensions, for tensors of one element
  std::optional<double> constant{};  ///< a scalar that no tensor has: an engine's own number
  bool all_experts = false;          ///< every rank has those of all experts
  bool drops_single_row = false;     ///< one number of each of stacked experts: a storage without rows
  bool matrices = false;             ///< parts of quantised experts, which are not transposed as their weights may be
  bool transposed = false;           ///< of a matrix: its columns are the rows here
  std::string suffix{};              ///< of the name, behind an expert's number
  std::int64_t row_multiple = 1;     ///< a storage's rows are rounded up to a multiple
  std::int64_t column_multiple = 1;  ///< and its columns
  std::int64_t repeats = 1;          ///< for block scales: stored as often as Tensor::repeats says, in both directions
  double fill = 0.0;                 ///< the value of the rows and columns added by rounding up
  int group = 0;                     ///< the engine's number for the ranks over which it is cut
  bool transposed_storage = false;   ///< a storage (of one expert) is [columns, rows]; nothing may be rounded up
  bool interleaved = false;          ///< rows of the components, which have equally many, take turns
  /// Of stacked experts: roles whose tensors lie in the shared expert's slot (kSharedExpert), each like an expert's
  /// tensor of another role.
  std::vector<FusedRole> fused_roles{};
};

/// The place of a rank among those over which a parameter is cut, and the experts that it stores.
struct Slice {
  std::int64_t index = 0;
  std::int64_t size = 1;
  Range experts;
  /// The expert in each slot of a stacked storage, where these are not `experts`. An expert has one slot at most.
  std::span<const std::int64_t> slots{};

  std::int64_t expert_count() const { return slots.empty() ? experts.count : std::ssize(slots); }
};

/// In Slice::slots: the shared expert, of whose tensors Tensor::expert says so.
inline constexpr std::int64_t kSharedExpert = -1;

/// Returns the rows that the rank's storage (of one expert) has for its components.
std::int64_t local_rows(const Parameter& parameter, const Slice& slice);

/// Returns the shape of the rank's storage; `tensor`: one of the parameter's.
Shape storage_shape(const Parameter& parameter, const Tensor& tensor, const Slice& slice);

/// Appends the pieces of `tensor`, which stands for the components with role `as`, in ascending order of their boxes.
/// The local expert is added to `key` if each expert has a storage.
void append_pieces(const Parameter& parameter, const Tensor& tensor, model::Role as, const Slice& slice, StorageKey key,
                   const Format& format, std::vector<Piece>& out);

/// Appends the constant parts of the rank's storage; `tensor`: one of the parameter's.
void append_fills(const Parameter& parameter, const Tensor& tensor, const Slice& slice, const StorageKey& key,
                  std::vector<Fill>& out);

/// Returns true where the rank stores no element of a tensor; `tensor`: one of the parameter's.
bool is_constant(const Parameter& parameter, const Tensor& tensor, const Slice& slice);

/// Returns the part that cannot be cut over `size` ranks, as "gate_proj's 100 rows"; empty where everything divides.
/// `tensor`: one of the parameter's.
std::string indivisible(const Parameter& parameter, const Tensor& tensor, std::int64_t size);

/// The parameters of a model, while an engine's rules are written down. A rule for a role that the model does not have
/// adds nothing, so that one set of rules serves all families.
class ParameterTable {
 public:
  explicit ParameterTable(const model::Model& model);

  bool has(model::Role role) const { return first(role) != nullptr; }
  /// Returns the first tensor of that role, or nullptr.
  const Tensor* first(model::Role role) const { return firsts(role).empty() ? nullptr : firsts(role).front(); }
  /// Returns the rows of the tensors of that role; 0 where there is none.
  std::int64_t rows(model::Role role) const;
  /// Returns the first tensor of that role for each number of rows. Only roles of a vision tower have several such
  /// numbers, with a rule for each.
  const std::vector<const Tensor*>& firsts(model::Role role) const { return firsts_[static_cast<std::size_t>(role)]; }
  /// Returns a tensor of that parameter.
  const Tensor& tensor_of(const Parameter& parameter) const;
  /// Returns all rows of that role, in `parts` parts.
  Component all(model::Role role, std::int64_t parts = 1) const { return {role, {0, rows(role)}, parts}; }

  /// Adds a parameter that is whole on every rank.
  void whole(std::string name, model::Role role);
  /// Adds a parameter that is cut by rows into `parts`.
  void rows(std::string name, model::Role role, std::int64_t parts);
  /// Adds a parameter that is cut by columns, one part for each rank.
  void columns(std::string name, model::Role role);
  /// Adds several components, one below the other.
  void stack(std::string name, std::vector<Component> components);
  /// Adds a parameter for each number of rows that tensors of the role have, by the name of its tensor.
  void each(model::Role role, std::int64_t parts, Cut cut = Cut::components);
  /// Adds any other parameter. Components of absent roles are left out.
  void add(Parameter parameter);
  /// Gives the parameters that are added from now on that Parameter::group.
  void cut_over(int group) { group_ = group; }

  std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  std::array<std::vector<const Tensor*>, model::kRoles> firsts_{};
  std::vector<Parameter> parameters_;
  int group_ = 0;
};

}  // namespace refit::layout
