#pragma once
// The right contents of gen: whole tensors as gen stores their elements, from a checkpoint or from dumps of either
// side.

#include <list>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "case/setup.hpp"
#include "diagnose/dumps.hpp"
#include "diagnose/matrix.hpp"

namespace refit::diagnose {

/// A tensor, contiguous in its layout shape, in the dtype and conversion of gen's storages.
struct Whole {
  const model::Tensor* tensor = nullptr;
  DType dtype = DType::bf16;
  kernels::SharedBuffer data;

  Matrix matrix() const { return matrix_of(data.data(), byte_size(dtype), tensor->shape); }
};

class Source {
 public:
  static constexpr std::int64_t kKeptBytes = std::int64_t{512} << 20;

  /// Makes a source of setup.checkpoint, or of the synthetic weights of a model that has none. Keeps a reference to
  /// `setup`. `kept_bytes`: of the last tensors, how much stays in memory beside the last one.
  explicit Source(const cases::Setup& setup, std::int64_t kept_bytes = kKeptBytes);
  /// Makes a source of dumps, laid out by `layout`: setup.train or setup.gen. Keeps references.
  Source(const cases::Setup& setup, const layout::Layout& layout, const Dumps& dumps);

  /// Returns "the checkpoint", "the train dump" or "the expected dump".
  const char* name() const;
  /// Returns the tensor of that index; nullptr where gen stores none of it or the source does not have all of it.
  /// Errors (usage): files that end early.
  std::shared_ptr<const Whole> get(std::int32_t tensor);
  /// Returns the replicas in the dumps that were seen to differ from another rank's, e.g. "train rank 1: NAME [0:576]".
  const std::set<std::string>& wrong_replicas() const { return wrong_replicas_; }

 private:
  bool is_made(const model::Tensor& tensor) const;
  std::shared_ptr<Whole> make(const model::Tensor& tensor);
  /// Returns the whole tensor as `format`, or nullptr.
  std::shared_ptr<Whole> load(const model::Tensor& tensor, Format format);
  std::shared_ptr<Whole> read_checkpoint(const model::Tensor& tensor, Format format) const;
  std::shared_ptr<Whole> assemble(const model::Tensor& tensor, Format format);
  /// Returns the bytes of a weight that is quantised on the way, and its scales.
  std::pair<std::shared_ptr<Whole>, std::shared_ptr<Whole>> quantise(const model::Tensor& weight);
  /// Returns one part of such a weight, or its bytes, in formats other than blocks of 8 bits; nullptr as `load`.
  std::shared_ptr<Whole> quantised_part(const model::Tensor& tensor);

  const cases::Setup& setup_;
  const layout::Layout* layout_ = nullptr;
  const Dumps* dumps_ = nullptr;
  std::int64_t limit_ = kKeptBytes;
  kernels::ExecutionSpace space_;
  std::list<std::pair<std::int32_t, std::shared_ptr<const Whole>>> kept_;  ///< the last one first
  std::int64_t kept_bytes_ = 0;
  std::set<std::string> wrong_replicas_;
};

}  // namespace refit::diagnose
