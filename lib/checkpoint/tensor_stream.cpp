#include "checkpoint/tensor_stream.hpp"

#include <algorithm>

#include "checkpoint/chunks.hpp"
#include "checkpoint/contents.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {

TensorStream::TensorStream(const Checkpoint& checkpoint)
    : checkpoint_(checkpoint), buffer_(static_cast<std::size_t>(kBufferBytes)) {}

void TensorStream::start(const Entry& entry) {
  entry_ = &entry;
  done_ = 0;
  if (entry.file == file_index_) return;
  file_index_ = entry.file;
  file_ = File::open_for_reading(checkpoint_.files[static_cast<std::size_t>(entry.file)]);
  file_.require(checkpoint_.identities[static_cast<std::size_t>(entry.file)]);
  file_.advise_sequential();
}

std::span<const std::byte> TensorStream::next() {
  const std::int64_t bytes = std::min(kBufferBytes, entry_->bytes() - done_);
  const std::int64_t offset = entry_->offset + done_;
  const std::span<std::byte> chunk(buffer_.data(), static_cast<std::size_t>(bytes));
  if (file_.read_at(offset, chunk) != bytes) {
    fail_usage("{}: tensor {} at offset {}: the file ends early (truncated since it was opened?)", file_.path(),
               in_quotes(entry_->info.name), offset);
  }
  done_ += bytes;
  if (done_ == entry_->bytes()) file_.require(checkpoint_.identities[static_cast<std::size_t>(entry_->file)]);
  return chunk;
}

}  // namespace refit::checkpoint
