// A build without CUDA: everything is there, refused with the option that would provide it.

#include <gmock/gmock.h>

#include <functional>

#include "core/error.hpp"
#include "transport/cuda.hpp"
#include "transport/foreign_memory.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/nccl.hpp"

namespace refit::transport {
namespace {

TEST(CudaAbsent, IsRefusedWithTheOptionThatWouldProvideIt) {
  const auto world = make_mpi_control();
  const std::pair<const char*, std::function<void()>> calls[] = {
      {"device memory", [] { DeviceArena(100); }},
      {"peer memory of devices", [&] { make_cuda_peer_memory(*world, 100); }},
      {"windows of NCCL", [] { make_nccl_windows(10); }},
      {"peer memory of devices", [&] { make_foreign_device_memory(*world, {}); }},
      {"memory of devices", [] { device_identities({}); }},
      {"NCCL", [&] { prepare_nccl(*world); }},
      {"NCCL", [&] { make_nccl_communicator(*world, 2, 10); }},
  };
  for (const auto& [what, call] : calls) {
    try {
      call();
      ADD_FAILURE() << what << " was not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unavailable);
      EXPECT_THAT(error.what(), testing::StartsWith(what));
      EXPECT_THAT(error.what(), testing::HasSubstr("-DREFIT_ENABLE_CUDA=ON"));
    }
  }
  EXPECT_EQ(nccl_version(), "");
  EXPECT_EQ(cuda_version(), "");
}

}  // namespace
}  // namespace refit::transport
