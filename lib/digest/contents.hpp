#pragma once
// What every storage of a gen rank must hold after a refit of a checkpoint, written out range by range: the layout's
// pieces are read from the checkpoint into their places, and constants filled in, so that no storage need be whole in
// memory.
//
// Example: elements 4,194,304 .. 8,388,607 of w13_weight [64, 2048, 2048] are the second expert: of its pieces those
// rows of gate_proj and up_proj are read that lie there.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "case/setup.hpp"
#include "checkpoint/dequantise.hpp"
#include "checkpoint/synthetic.hpp"
#include "diagnose/source.hpp"
#include "layout/processed.hpp"

namespace refit::digest {

/// What a parameter is to its engine.
enum class Kind : std::uint8_t {
  loaded,
  source,     ///< likewise, and `processed` ones are made of it: the engine may drop it then
  processed,  ///< made of loaded ones by arithmetic (layout::Processed)
  derived     ///< loaded weights in another place or dtype, beside them (W_UK_T)
};
Choices choices(Kind);

struct Parameter {
  layout::Storage storage;  ///< of a processed one, without a key
  Kind kind = Kind::loaded;
};

/// Parts of the tensors of a checkpoint, or of a model with synthetic weights, as gen stores them. Keeps references.
class Values {
 public:
  /// `kept_bytes`: of tensors that are quantised on the way, how much may stay in memory for the next part.
  Values(const cases::Setup& setup, std::int64_t kept_bytes);

  /// A part of a piece, and where its first element goes.
  struct Part {
    const model::Tensor* tensor = nullptr;
    Box box;
    std::byte* data = nullptr;
    Format format;
    Extents strides;
  };
  /// Writes the parts. Errors (usage): the checkpoint lacks the tensor, or a file ends early.
  void write(const std::vector<Part>& parts);

  /// Returns memory of at least so many bytes, the same for all ranks and parameters: contents of before are gone.
  kernels::SharedBuffer chunk(std::int64_t bytes);

  /// Checks that a tied model's head is its embedding, where the checkpoint has both. Errors (usage): it is not.
  void require_tied_heads(std::int64_t chunk_bytes) const;

 private:
  /// Returns whether tensors are written from a whole one that is made first.
  bool is_whole(const model::Tensor& tensor) const;
  void write_whole(const Part& part);
  /// Returns the form in which train has the tensor between checkpoint and gen, if that changes anything.
  std::optional<Format> staged(const model::Tensor& tensor, Format format) const;
  void write_staged(const Part& part, Format stage);
  /// Writes a part as the checkpoint has it, or as it is made for a model without one.
  void load(const Part& part) const;
  /// Returns whether a weight_shape is made, as the checkpoint has none of its dtype.
  bool is_shape_made(const model::Tensor& tensor) const;
  checkpoint::ModelRead read_for(const Part& part) const;

  const cases::Setup& setup_;
  diagnose::Source source_;
  checkpoint::Synthetic synthetic_;
  kernels::ExecutionSpace space_;
  kernels::SharedBuffer chunk_;
};

/// One gen rank's parameters, in the order of the layout's storages. Keeps references to all arguments.
class RankContents {
 public:
  RankContents(const cases::Setup& setup, Values& values, Rank rank);
  RankContents(const RankContents&) = delete;
  RankContents& operator=(const RankContents&) = delete;

  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// Returns the number of the first tensor of a parameter's sources, by which neighbours share what is made of it.
  std::int32_t first_tensor(std::size_t parameter) const;
  /// Returns everything that the contents follow from, as text: parameters of one description hold the same.
  std::string description(std::size_t parameter) const;

  using Visit = std::function<void(std::span<std::byte>)>;
  /// Calls visit with the parameter's elements in order: whole rows of its last dimension, or parts of one, in memory
  /// that the host and kernels see, and that the next call overwrites. `chunk_bytes`: at most so many at once, but at
  /// least an element; of processed ones at least a matrix. `visit` may not stream.
  void stream(std::size_t parameter, std::int64_t chunk_bytes, const Visit& visit);
  /// Returns the parameter's elements.
  kernels::SharedBuffer whole(std::size_t parameter);

 private:
  /// A layout's storages on this rank.
  struct Local {
    explicit Local(layout::LocalLayout of);
    layout::LocalLayout layout;
    std::vector<std::vector<std::int32_t>> pieces, fills;  ///< by storage
  };
  /// Where a parameter comes from: a storage of one of both layouts, or one of processed_.
  struct Origin {
    const Local* local = nullptr;
    std::size_t index = 0;
  };

  void write(const Local& local, std::size_t storage, std::int64_t first, std::int64_t count, std::byte* out);
  void stream_storage(const Local& local, std::size_t storage, std::int64_t chunk_bytes, const Visit& visit);
  void stream_processed(const layout::Processed& processed, std::int64_t chunk_bytes, const Visit& visit);
  kernels::SharedBuffer whole_storage(std::size_t storage);
  std::string describe(const Local& local, std::size_t storage) const;

  const cases::Setup& setup_;
  Values& values_;
  kernels::ExecutionSpace space_;
  Local loaded_;
  std::optional<Local> derived_;
  std::vector<layout::Processed> processed_;
  std::vector<Parameter> parameters_;
  std::vector<Origin> origins_;
};

/// Returns the chunks of a storage in the order of its elements, each a first one and a count: whole rows of the last
/// dimension, or parts of one where a row has more than `max_elements`.
std::vector<std::pair<std::int64_t, std::int64_t>> ranges(const Shape& shape, std::int64_t max_elements);

/// Calls visit(part) for disjoint boxes inside `box` that together have those of its elements that lie in [first, end)
/// of a storage; `offset`: of the box's first element there. Few, where strides nest as those of a row-major array.
void for_each_within(const Box& box, std::int64_t offset, const Extents& strides, std::int64_t first, std::int64_t end,
                     const std::function<void(const Box&)>& visit);

}  // namespace refit::digest
