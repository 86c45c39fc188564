#pragma once
// Errors that some ranks see and others do not, turned into errors that all ranks see.

#include <exception>
#include <functional>
#include <new>
#include <string>
#include <string_view>

#include "core/error.hpp"
#include "transport/bytes.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// An error that every rank throws, in step: no rank waits for another, so the job can end in good order. Its rank is
/// the one that failed; -1: all ranks did.
class CollectiveError : public Error {
 public:
  using Error::Error;
};

/// Runs `work`, then compares the outcomes: if any rank failed, all ranks throw the same CollectiveError, that of the
/// lowest failing rank (its text carries the rank unless every rank failed alike). Collective over `world`; `work` must
/// not leave another collective of `world` half done when it throws.
inline void together(Control& world, const std::function<void()>& work) {
  Control::Bytes mine;
  const auto note = [&mine](ErrorKind kind, std::string_view text, std::string_view tensor = {}) {
    mine.push_back(static_cast<std::byte>(kind));
    append(mine, static_cast<std::uint64_t>(tensor.size()));
    for (const std::string_view part : {tensor, text})
      for (const char c : part) mine.push_back(static_cast<std::byte>(c));
  };
  try {
    work();
  } catch (const Error& error) {
    note(error.kind(), error.what(), error.tensor());
  } catch (const std::bad_alloc&) {
    note(ErrorKind::runtime, "out of memory");
  } catch (const std::exception& error) {
    note(ErrorKind::runtime, error.what());
  }
  if (world.max(static_cast<std::int64_t>(mine.empty() ? 0 : 1)) == 0) return;
  const auto all = world.gather_all(mine);
  bool alike = true;
  for (const auto& bytes : all) alike &= bytes == all.front();
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    constexpr std::size_t kBegin = 1 + sizeof(std::uint64_t);
    const auto kind = static_cast<ErrorKind>(all[rank].front());
    const Control::Bytes size(all[rank].begin() + 1, all[rank].begin() + kBegin);
    std::string text(reinterpret_cast<const char*>(all[rank].data()) + kBegin, all[rank].size() - kBegin);
    const std::string tensor = text.substr(0, read_all<std::uint64_t>(size).front());
    text.erase(0, tensor.size());
    if (alike) throw CollectiveError(kind, text, {tensor});
    throw CollectiveError(kind, fmt::format("rank {}: {}", rank, text), {tensor, static_cast<int>(rank)});
  }
}

}  // namespace refit::transport
