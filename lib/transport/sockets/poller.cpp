#include "transport/sockets/poller.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "core/error.hpp"

namespace refit::transport {

Poller::Poller() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) fail_runtime("epoll: {}; raise the limit of open files (ulimit -n)", error_text(errno));
}

void Poller::add(Channel& channel) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &channel;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, channel.fd(), &event) != 0) fail_runtime("epoll: {}", error_text(errno));
  ++channels_;
  ready_.reserve(channels_);
  now_.reserve(channels_);
}

void Poller::remove(Channel& channel) {
  // Closing does not suffice: another process may still have the socket.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, channel.fd(), nullptr);
  std::erase(ready_, &channel);
  std::erase(now_, &channel);
  --channels_;
}

void Poller::poll(int milliseconds) {
  std::array<epoll_event, 64> events;
  const int count =
      epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), ready_.empty() ? milliseconds : 0);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    auto& channel = *static_cast<Channel*>(event.data.ptr);
    const bool hung = (event.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    channel.hung_ |= hung;
    channel.readable_ |= hung || (event.events & EPOLLIN) != 0;
    channel.writable_ |= (event.events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
    list(channel);
  }
  now_.swap(ready_);
  for (Channel* channel : now_) channel->listed_ = false;
  for (Channel* channel : now_) {
    if (channel->advance()) list(*channel);
  }
  now_.clear();
}

}  // namespace refit::transport
