#pragma once
// A value of some class that derives from T: owned, and copied with its owner.

#include <memory>
#include <utility>

namespace refit {

/// Owner of a T, which has `std::unique_ptr<T> clone() const`. Never empty, unless it was moved from.
template <typename T>
class Cloned {
 public:
  Cloned(std::unique_ptr<T> value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor): owns it
  Cloned(const Cloned& other) : value_(other.value_->clone()) {}
  Cloned(Cloned&&) noexcept = default;
  Cloned& operator=(const Cloned& other) {
    if (this != &other) value_ = other.value_->clone();
    return *this;
  }
  Cloned& operator=(Cloned&&) noexcept = default;
  ~Cloned() = default;

  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return value_.get(); }
  const T* operator->() const { return value_.get(); }

 private:
  std::unique_ptr<T> value_;
};

}  // namespace refit
