#include "transport/sockets/frames.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace refit::transport {
namespace {

/// Frames that arrive early without an allocation.
constexpr std::size_t kEarlyFrames = 32;

constexpr std::int64_t kFrameBytes = sizeof(Frame);

const char* name(Call call) {
  switch (call) {
    case Call::none: return "messages";
    case Call::barrier: return "barrier";
    case Call::exchange: return "exchange";
    case Call::gather: return "gather";
    case Call::broadcast: return "broadcast";
    case Call::reduce_sum: return "reduce_sum";
    case Call::max: return "max";
    case Call::sum: return "sum";
    case Call::messages: return "an exchange of messages";
  }
  return "?";
}

}  // namespace

std::string to_string(const Occasion& occasion) {
  std::string text = name(occasion.call);
  if (occasion.root >= 0) text += fmt::format(" of root {}", occasion.root);
  if (occasion.number > 0) text += fmt::format(" (call {})", occasion.number);
  return text;
}

OutFrame::OutFrame(const Occasion& occasion, int at_step, const void* bytes, std::int64_t size) {
  frame.call = occasion.call;
  frame.step = static_cast<std::uint8_t>(at_step);
  frame.plane = occasion.plane;
  frame.number = occasion.number;
  frame.root = occasion.root;
  frame.bytes = size;
  if (!frame.is_short()) {
    data = static_cast<const std::byte*>(bytes);
  } else if (size > 0) {
    std::memcpy(frame.data.data(), bytes, static_cast<std::size_t>(size));
  }
}

ControlChannel::ControlChannel(Descriptor socket, MeshEvents& events, int peer)
    : Channel(std::move(socket)), events_(events), peer_(peer) {
  stash_.reserve(kEarlyFrames);
  note_.done = true;
}

void ControlChannel::send(OutFrame& frame) {
  frame.sent = 0;
  frame.done = false;
  out_.push(frame);
  write();
}

void ControlChannel::receive(InFrame& frame) {
  frame.done = false;
  const auto early =
      std::ranges::find(stash_, frame.occasion.plane, [](const Stashed& one) { return one.frame.plane; });
  // A stashed frame whose payload is still arriving is the last one, and the head.
  const bool arriving = has_head_ && claimed_ && target_ == nullptr && head_.kind == Frame::Kind::call;
  if (early != stash_.end() && !(arriving && early + 1 == stash_.end())) {
    deliver(frame, early->frame, early->data.data());
    stash_.erase(early);
    return;
  }
  expected_.push(frame);
  read();
}

bool ControlChannel::advance() {
  draining_ |= hung_;
  write();
  read();
  return false;
}

void ControlChannel::drain() {
  draining_ = true;
  read();
  draining_ = hung_;
}

void ControlChannel::note(const Frame& frame) {
  if (!note_.done) return;
  note_.frame = frame;
  send(note_);
}

void ControlChannel::end(const Frame& frame, const std::string& text) {
  const auto push = [&](const void* data, std::size_t size) {
    return ::send(fd(), data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(size);
  };
  write();
  if (out_.first == nullptr && !closed_ && push(&frame, sizeof(frame)) && !text.empty()) push(text.data(), text.size());
  ::shutdown(fd(), SHUT_WR);
}

void ControlChannel::write() {
  while (out_.first != nullptr && writable_) {
    OutFrame& frame = *out_.first;
    const std::int64_t payload = frame.frame.is_short() ? 0 : frame.frame.bytes;
    iovec parts[2] = {};
    std::size_t count = 0;
    if (frame.sent < kFrameBytes)
      parts[count++] = {reinterpret_cast<std::byte*>(&frame.frame) + frame.sent,
                        static_cast<std::size_t>(kFrameBytes - frame.sent)};
    const std::int64_t done = std::max<std::int64_t>(0, frame.sent - kFrameBytes);
    if (payload > done)
      parts[count++] = {const_cast<std::byte*>(frame.data) + done, static_cast<std::size_t>(payload - done)};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(fd(), &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) {
      writable_ = false;
      // Another error: what the peer has left to be read says why.
      if (errno != EAGAIN) draining_ = true;
      return;
    }
    if (frame.frame.kind == Frame::Kind::call) events_.moved();
    frame.sent += sent;
    if (frame.sent < kFrameBytes + payload) {
      writable_ = false;
      return;
    }
    out_.remove(nullptr, frame);
    frame.done = true;
  }
}

void ControlChannel::close(int error) {
  closed_ = true;
  readable_ = writable_ = false;
  if (!said_goodbye_) events_.gone(peer_, error);
}

/// Reads more into the buffer; returns false if there is nothing.
bool ControlChannel::fill() {
  if (!readable_) return false;
  std::memmove(buffer_.data(), buffer_.data() + begin_, buffered());
  end_ -= begin_;
  begin_ = 0;
  while (true) {
    const ssize_t read = ::recv(fd(), buffer_.data() + end_, buffer_.size() - end_, 0);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0 && errno == EAGAIN) {
      readable_ = false;
      return false;
    }
    if (read <= 0) {
      close(read < 0 ? errno : 0);
      return false;
    }
    readable_ = hung_ || static_cast<std::size_t>(read) == buffer_.size() - end_;
    end_ += static_cast<std::size_t>(read);
    return true;
  }
}

void ControlChannel::read() {
  while (true) {
    if (!has_head_) {
      while (buffered() < sizeof(Frame))
        if (!fill()) return;
      std::memcpy(&head_, buffer_.data() + begin_, sizeof(Frame));
      begin_ += sizeof(Frame);
      has_head_ = true;
      claimed_ = false;
    }
    if (!claimed_ && !claim()) return;
    while (missing_ > 0) {
      if (buffered() > 0) {
        const std::size_t some = std::min(buffered(), static_cast<std::size_t>(missing_));
        std::memcpy(payload_, buffer_.data() + begin_, some);
        begin_ += some;
        payload_ += some;
        missing_ -= static_cast<std::int64_t>(some);
        continue;
      }
      if (!readable_) return;
      const ssize_t read = ::recv(fd(), payload_, static_cast<std::size_t>(missing_), 0);
      if (read < 0 && errno == EINTR) continue;
      if (read < 0 && errno == EAGAIN) {
        readable_ = false;
        return;
      }
      if (read <= 0) return close(read < 0 ? errno : 0);
      events_.moved();
      payload_ += read;
      missing_ -= read;
    }
    has_head_ = false;
    finish();
  }
}

/// Finds memory for the payload of the head; returns false if it is left in the kernel until it is expected.
bool ControlChannel::claim() {
  target_ = nullptr;
  missing_ = head_.is_short() ? 0 : head_.bytes;
  if (head_.kind == Frame::Kind::abort) {
    abort_text_.resize(static_cast<std::size_t>(head_.bytes));
    payload_ = abort_text_.data();
    missing_ = head_.bytes;
  } else if (head_.kind == Frame::Kind::call) {
    InFrame* before = nullptr;
    for (InFrame* one = expected_.first; one != nullptr; before = one, one = one->next) {
      if (one->occasion.plane != head_.plane) continue;
      if (one->occasion != head_.occasion() || one->step != head_.step)
        events_.out_of_step(peer_, head_.occasion(), one->occasion);
      if (one->grows != nullptr) {
        one->grows->resize(static_cast<std::size_t>(head_.bytes));
        one->data = one->grows->data();
        one->bytes = head_.bytes;
      }
      if (one->bytes != head_.bytes) events_.unequal(peer_, head_.bytes, one->bytes, one->occasion);
      expected_.remove(before, *one);
      target_ = one;
      payload_ = one->data;
      break;
    }
    if (target_ == nullptr) {
      if (!head_.is_short() && !draining_ && expected_.first == nullptr) return false;
      Stashed& stashed = stash_.emplace_back();
      stashed.frame = head_;
      stashed.data.resize(static_cast<std::size_t>(missing_));
      payload_ = stashed.data.data();
    }
  }
  claimed_ = true;
  return true;
}

/// Acts on the head, which is complete.
void ControlChannel::finish() {
  switch (head_.kind) {
    case Frame::Kind::note:
      waits_for = head_.root;
      if (head_.root == events_.rank()) {
        Occasion theirs = head_.occasion();
        std::memcpy(&theirs.root, head_.data.data(), sizeof(theirs.root));
        events_.awaited(peer_, theirs);
      }
      return;
    case Frame::Kind::goodbye: said_goodbye_ = true; return;
    case Frame::Kind::abort:
      events_.aborted(head_.root, {reinterpret_cast<const char*>(abort_text_.data()), abort_text_.size()});
      return;
    case Frame::Kind::call:
      events_.moved();
      if (target_ != nullptr) {
        if (head_.is_short() && head_.bytes > 0)
          std::memcpy(target_->data, head_.data.data(), static_cast<std::size_t>(head_.bytes));
        target_->done = true;
        return;
      }
      // Whoever has begun to expect it while it arrived.
      InFrame* before = nullptr;
      for (InFrame* one = expected_.first; one != nullptr; before = one, one = one->next) {
        if (one->occasion.plane != head_.plane) continue;
        expected_.remove(before, *one);
        deliver(*one, head_, stash_.back().data.data());
        stash_.pop_back();
        return;
      }
  }
}

/// Hands a stashed frame over.
void ControlChannel::deliver(InFrame& frame, const Frame& head, const std::byte* data) {
  if (frame.occasion != head.occasion() || frame.step != head.step)
    events_.out_of_step(peer_, head.occasion(), frame.occasion);
  if (frame.grows != nullptr) {
    frame.grows->resize(static_cast<std::size_t>(head.bytes));
    frame.data = frame.grows->data();
    frame.bytes = head.bytes;
  }
  if (frame.bytes != head.bytes) events_.unequal(peer_, head.bytes, frame.bytes, frame.occasion);
  if (head.bytes > 0)
    std::memcpy(frame.data, head.is_short() ? head.data.data() : data, static_cast<std::size_t>(head.bytes));
  frame.done = true;
}

}  // namespace refit::transport
