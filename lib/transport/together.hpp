#pragma once
// Errors that some ranks see and others do not, turned into errors that all ranks see.

#include <exception>
#include <functional>
#include <new>
#include <string>

#include "core/error.hpp"
#include "transport/bytes.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// An error that every rank throws, in step: no rank waits for another, so the job can end in good order.
class CollectiveError : public Error {
 public:
  CollectiveError(ErrorKind kind, const std::string& message, int rank = -1) : Error(kind, message), rank_(rank) {}
  /// Returns the world rank that failed; -1: all ranks did.
  int rank() const { return rank_; }

 private:
  int rank_;
};

/// Runs `work`, then compares the outcomes: if any rank failed, all ranks throw the same CollectiveError, that of the
/// lowest failing rank (its text carries the rank unless every rank failed alike). Collective over `world`; `work` must
/// not leave another collective of `world` half done when it throws.
inline void together(Control& world, const std::function<void()>& work) {
  Control::Bytes mine;
  const auto note = [&mine](ErrorKind kind, const std::string& text) {
    mine.push_back(static_cast<std::byte>(kind));
    for (char c : text) mine.push_back(static_cast<std::byte>(c));
  };
  try {
    work();
  } catch (const Error& error) {
    note(error.kind(), error.what());
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
    std::string text;
    for (std::size_t i = 1; i < all[rank].size(); ++i) text.push_back(static_cast<char>(all[rank][i]));
    const auto kind = static_cast<ErrorKind>(all[rank].front());
    if (alike) throw CollectiveError(kind, text);
    throw CollectiveError(kind, fmt::format("rank {}: {}", rank, text), static_cast<int>(rank));
  }
}

}  // namespace refit::transport
