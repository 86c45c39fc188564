// Refits std::vectors over MPI: a matrix that the first rank has whole, and all others by rows.
//   mpirun -np 3 two_vectors
#include <mpi.h>

#include <cstdio>
#include <numeric>

#include "session/prover.hpp"
#include "transport/mpi/mpi.hpp"

using namespace refit;

/// Shard(0): each of `ranks` has as many rows of every matrix, in a storage of its own.
class Rows : public layout::Layout {
 public:
  Rows(const model::Model& model, std::int32_t ranks) : model_(model), ranks_(ranks) {}
  std::int32_t ranks() const override { return ranks_; }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const model::Tensor&) const override { return 0; }
  std::optional<Format> format(const model::Tensor& tensor) const override { return Format{tensor.dtype}; }
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override {
    const std::int64_t rows = tensor.shape[0] / ranks_, columns = tensor.shape[1];
    out.push_back({{{rows * to_int(rank), 0}, {rows, columns}}, {{tensor.index}, 0, {columns, 1}}, {tensor.dtype}});
  }
  layout::Storage storage(const layout::StorageKey& key, Rank) const override {
    const model::Tensor& tensor = model_.tensors[static_cast<std::size_t>(key.parameter)];
    return {key, tensor.name, {tensor.shape[0] / ranks_, tensor.shape[1]}, tensor.dtype};
  }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank rank) const override { return "row=" + std::to_string(to_int(rank)); }

 private:
  const model::Model& model_;
  std::int32_t ranks_;
};

int main() {
  MPI_Init(nullptr, nullptr);
  bool equal = false;
  {
    const kernels::Runtime runtime;
    const kernels::ExecutionSpace space;
    transport::Progress progress;
    const auto world = transport::make_mpi_control();
    model::Model model;
    model.tensors.push_back({.index = 0, .name = "weight", .shape = {1200, 64}, .dtype = DType::f32});
    const Rows train(model, 1), gen(model, world->size() - 1);
    const std::vector<model::Tensor> misc;
    const session::Exchange exchange{model, {model.tensors, misc, train, gen}};

    const bool sends = world->rank() == 0;
    const auto local = layout::materialise(sends ? train : gen, model.tensors, Rank{sends ? 0 : world->rank() - 1});
    std::vector<float> mine(static_cast<std::size_t>(local.storages.front().elements()));
    if (sends) std::iota(mine.begin(), mine.end(), 0.0f);
    const auto memory = std::as_writable_bytes(std::span(mine));
    session::OwnMemory own;
    (sends ? own.source : own.destination).emplace(session::SideMemory{local, {local, memory.data()}, memory});

    const auto links = transport::make_links(*world, 60, progress);
    const auto places = transport::places_of(*world);
    const session::How how{.executor = transport::ExecutorKind::p2p};
    session::Session session(space, *world, *links, places, exchange, own, how, progress);
    session.refit();
    equal = session::Prover(space, *world, session, exchange, own, 1, {}, {}).prove(1).elements_wrong == 0;
    if (sends) std::printf("%s, %.1f us at least\n", equal ? "equal" : "WRONG", session.estimate().bound.total() * 1e6);
  }
  MPI_Finalize();
  return equal ? 0 : 1;
}
