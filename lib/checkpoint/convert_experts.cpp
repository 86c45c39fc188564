// Writes a checkpoint with its experts in another form: packed into one tensor for each layer, or one by one.
//
// In both forms a tensor holds whole rows of matrices of experts, one matrix after the other, so that it is read in
// chunks of rows from the source's tensors and written in order.

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <tuple>

#include "checkpoint/chunks.hpp"
#include "checkpoint/config_copy.hpp"
#include "checkpoint/contents.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "kernels/memory.hpp"

namespace refit::checkpoint {
namespace {

using model::Mlp;
using model::MlpPart;
using model::Tensor;

/// Returns the format that reads a file's values bit for bit.
refit::Format bits_of(const Entry& entry) {
  switch (entry.info.dtype) {
    case DType::f8_e4m3: return {DType::f8_e4m3, Conversion::block_scaled};
    case DType::f8_e8m0: return DType::u8;
    default: return entry.info.dtype;
  }
}

std::int64_t bytes_of(const Checkpoint& checkpoint) {
  std::int64_t all = 0;
  for (const Entry& entry : checkpoint.entries) all += entry.bytes();
  return all;
}

/// A matrix of one expert in a tensor of any form: [out, in], or the blocks of [out, in] if the tensor has their
/// scales.
struct ExpertMatrix {
  const Tensor* tensor = nullptr;
  std::int64_t expert = 0;
  Mlp mlp = Mlp::none;
  std::int64_t first = 0;  ///< its first row there: up's follow gate's where they are in one tensor
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  /// Returns the read of `count` rows from `row`, one behind the other.
  Read read(const Entry& entry, std::int64_t row, std::int64_t count) const {
    const refit::Format format = bits_of(entry);
    const Shape shape = entry.info.shape;
    const std::int64_t at = first + row;
    if (mlp == Mlp::expert) return {&entry, {{at, 0}, {count, columns}}, nullptr, format, {columns, 1}, shape};
    if (mlp == Mlp::packed_experts) {
      return {&entry, {{expert, at, 0}, {1, count, columns}}, nullptr, format, {0, columns, 1}, shape};
    }
    return {&entry, {{expert, 0, at}, {1, columns, count}}, nullptr, format, {0, 1, columns}, shape};
  }
};

/// The experts of a model, with the tensor that holds each matrix.
class Experts {
 public:
  explicit Experts(const model::Model& model) : model_(model) {
    for (const Tensor& tensor : model.tensors) {
      const model::RoleFacts& facts = facts_of(weight_of(tensor).role);
      if (is_held(facts.mlp)) tensors_.emplace(key(tensor, facts.part), &tensor);
    }
  }

  /// Returns gate, up or down of an expert of a layer; `scales`: its block scales instead.
  ExpertMatrix matrix(std::int32_t layer, std::int64_t expert, MlpPart part, bool scales) const {
    const auto single = static_cast<std::int32_t>(expert);
    for (const auto& [number, held] :
         {std::tuple(single, part), std::tuple(-1, part), std::tuple(-1, MlpPart::gate_up)}) {
      const auto found = tensors_.find({layer, number, held, scales});
      if (found == tensors_.end() || (held == MlpPart::gate_up && part == MlpPart::down)) continue;
      const Tensor& tensor = *found->second;
      const Mlp mlp = facts_of(weight_of(tensor).role).mlp;
      const int last = tensor.shape.size() - 1;
      const bool is_transposed = mlp == Mlp::transposed_experts;
      const std::int64_t rows = tensor.shape[is_transposed ? last : last - 1] / (held == MlpPart::gate_up ? 2 : 1);
      return {&tensor, expert,
              mlp,     held == MlpPart::gate_up && part == MlpPart::up ? rows : 0,
              rows,    tensor.shape[is_transposed ? last - 1 : last]};
    }
    return {};
  }

  /// Returns the matrices that a tensor holds, in the order of its bytes; empty if it holds no experts.
  std::vector<ExpertMatrix> matrices(const Tensor& tensor, const Experts& in) const {
    const model::RoleFacts& facts = facts_of(weight_of(tensor).role);
    std::vector<ExpertMatrix> result;
    if (!is_held(facts.mlp)) return result;
    const bool single = tensor.expert >= 0;
    for (std::int64_t e = single ? tensor.expert : 0; e < (single ? tensor.expert + 1 : tensor.shape[0]); ++e) {
      for (const MlpPart part : {MlpPart::gate, MlpPart::up, MlpPart::down}) {
        const bool gate_up = facts.part == MlpPart::gate_up && part != MlpPart::down;
        if (gate_up || facts.part == part) result.push_back(in.matrix(tensor.layer, e, part, tensor.scale_of >= 0));
      }
    }
    return result;
  }

 private:
  using Key = std::tuple<std::int32_t, std::int32_t, MlpPart, bool>;

  static bool is_held(Mlp mlp) {
    return mlp == Mlp::expert || mlp == Mlp::packed_experts || mlp == Mlp::transposed_experts;
  }
  static Key key(const Tensor& tensor, MlpPart part) {
    return {tensor.layer, tensor.expert, part, tensor.scale_of >= 0};
  }
  const Tensor& weight_of(const Tensor& tensor) const { return tensor.scale_of < 0 ? tensor : model_[tensor.scale_of]; }

  const model::Model& model_;
  std::map<Key, const Tensor*> tensors_;
};

/// Writes a checkpoint's tensors, with its experts in the form of another model.
class ExpertConverter {
 public:
  ExpertConverter(const Checkpoint& source, const model::Model& held, const model::Model& wanted)
      : source_(source), wanted_(wanted), from_(held), to_(wanted), buffer_(kBufferBytes) {
    for (const Tensor& tensor : held.tensors) others_.emplace(std::pair(tensor.role, tensor.layer), &tensor);
  }

  /// Returns the tensors to be written. Errors (usage): experts that cannot be in one tensor.
  std::vector<model::TensorInfo> infos() const {
    std::vector<model::TensorInfo> result;
    for (const Tensor& tensor : wanted_.tensors) {
      const std::vector<ExpertMatrix> matrices = to_.matrices(tensor, from_);
      check(tensor, matrices);
      const Tensor& first = matrices.empty() ? other(tensor) : *matrices.front().tensor;
      result.push_back({tensor.name, tensor.file_shape(), entry(first).info.dtype});
    }
    return result;
  }

  void write(Writer& writer) {
    Meter meter("converting", bytes_of(source_));
    for (const Tensor& tensor : wanted_.tensors) {
      const std::vector<ExpertMatrix> matrices = to_.matrices(tensor, from_);
      const auto append = [&](const Read& read, std::int64_t bytes) {
        if (used_ + bytes > kBufferBytes) flush(writer, tensor, meter);
        reads_.push_back(read);
        reads_.back().data = buffer_.data() + used_;
        used_ += bytes;
      };
      for (const ExpertMatrix& matrix : matrices) read_matrix(matrix, append);
      if (matrices.empty()) read_whole(entry(other(tensor)), append);
      flush(writer, tensor, meter);
    }
  }

 private:
  const Entry& entry(const Tensor& tensor) const { return *source_.find(tensor.name); }

  /// Returns the source's counterpart of a tensor without experts: the router's module may have another name there.
  const Tensor& other(const Tensor& tensor) const {
    if (source_.find(tensor.name) != nullptr) return tensor;
    return *others_.at({tensor.role, tensor.layer});
  }

  void check(const Tensor& tensor, const std::vector<ExpertMatrix>& matrices) const {
    std::int64_t rows = 0;
    for (const ExpertMatrix& matrix : matrices) {
      if (matrix.tensor == nullptr) {
        fail_usage(
            "{}: the experts' form cannot be changed: {} would be quantised and what it is made of is not, or the "
            "other way round; config.json's quantization_config names the experts of one form only",
            source_.folder, tensor.name);
      }
      if (entry(*matrix.tensor).info.dtype != entry(*matrices.front().tensor).info.dtype) {
        fail_usage("{}: {} and {} have different dtypes and cannot be in one tensor", source_.folder,
                   matrices.front().tensor->name, matrix.tensor->name);
      }
      rows += matrix.rows;
    }
    const int last = tensor.shape.size() - 1;
    const std::int64_t wanted = tensor.elements() / tensor.shape[last];
    if (!matrices.empty() && rows != wanted) {
      fail_usage(
          "{}: {} would have {} rows of block scales, and what it is made of has {}: blocks of gate and up would "
          "overlap",
          source_.folder, tensor.name, wanted, rows);
    }
  }

  template <typename Append>
  void read_matrix(const ExpertMatrix& matrix, const Append& append) const {
    const Entry& entry = this->entry(*matrix.tensor);
    const std::int64_t row_bytes = matrix.columns * byte_size(entry.info.dtype);
    const std::int64_t step = std::max<std::int64_t>(1, kBufferBytes / row_bytes);
    for (std::int64_t row = 0; row < matrix.rows; row += step) {
      const std::int64_t count = std::min(step, matrix.rows - row);
      append(matrix.read(entry, row, count), count * row_bytes);
    }
  }

  /// Reads a tensor of any shape as bytes.
  template <typename Append>
  static void read_whole(const Entry& entry, const Append& append) {
    const std::int64_t size = byte_size(entry.info.dtype);
    const Shape flat{product(entry.info.shape)};
    for_each_chunk(Box::whole(flat), kBufferBytes / size, [&](const Box& part) {
      append(Read{&entry, part, nullptr, bits_of(entry), {1}, flat}, part.volume() * size);
    });
  }

  void flush(Writer& writer, const Tensor& tensor, Meter& meter) {
    read(space_, source_, reads_);
    writer.write(tensor.index, {buffer_.data(), static_cast<std::size_t>(used_)});
    meter.add(used_);
    reads_.clear();
    used_ = 0;
  }

  const Checkpoint& source_;
  const model::Model& wanted_;
  Experts from_, to_;
  std::map<std::pair<model::Role, std::int32_t>, const Tensor*> others_;
  kernels::ExecutionSpace space_;
  kernels::SharedBuffer buffer_;
  std::int64_t used_ = 0;  ///< of the buffer
  std::vector<Read> reads_;
};

}  // namespace

void convert_experts(const std::string& input, const std::string& output, model::ExpertForm form,
                     const std::string& family, std::int64_t max_shard_bytes, bool force) {
  const Checkpoint source = open(input);
  const ConfigTexts texts(source.folder, output, force);
  const std::string config = (std::filesystem::path(source.folder) / kConfigName).string();
  const model::Model held = model::build_model(model::read_config(config, family), source.tensor_infos(), input);
  const model::Model wanted = model::with_experts(held, form);
  ExpertConverter converter(source, held, wanted);
  const auto writer = Writer::create(source.format, output, converter.infos(), max_shard_bytes, force);
  converter.write(*writer);
  texts.write();
  writer->finish();
}

}  // namespace refit::checkpoint
