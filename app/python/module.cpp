// refit._refit: the functions of embed/refit.h as Python objects, one to one. What a user types is in refit/*.py.
//
// Collective functions release the GIL; the all-gather of a world takes it again. A status that is no success becomes
// the exception that refit.errors makes of it.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "embed/refit.h"
#include "version/version.hpp"

namespace nb = nanobind;

namespace {

/// A failure of the library, on its way to becoming a Python exception.
struct Failure {
  refit_status status;
  std::string text, tensor;
  int rank;
};

/// Throws the last failure of this thread, if `status` is one.
void check(refit_status status) {
  if (status == REFIT_OK) return;
  throw Failure{status, refit_error_text(), refit_error_tensor(), refit_error_rank()};
}

/// Runs Python's signal handlers; whether one of them raised an exception, which then waits for the call to end.
int interrupted() {
  const nb::gil_scoped_acquire acquired;
  return PyErr_CheckSignals() == 0 ? 0 : 1;
}

void set_python_error(const Failure& failure) {
  if (PyErr_Occurred() != nullptr) return;  // of a signal handler
  const nb::object error =
      nb::module_::import_("refit.errors")
          .attr("of_status")(static_cast<int>(failure.status), failure.text, failure.tensor, failure.rank);
  PyErr_SetObject(error.type().ptr(), error.ptr());
}

const char* text_or_null(const std::optional<std::string>& text) { return text ? text->c_str() : nullptr; }

/// Name, address, shape, strides in elements, dtype.
using Tensor =
    std::tuple<std::string, std::uintptr_t, std::vector<std::int64_t>, std::vector<std::int64_t>, std::string>;
/// Name, shape, dtype.
using Description = std::tuple<std::string, std::vector<std::int64_t>, std::string>;

using Tensors = std::optional<std::vector<Tensor>>;

/// The C form of `tensors`, which must outlive it; none of none.
std::vector<refit_tensor> in_c(const Tensors& tensors) {
  std::vector<refit_tensor> list;
  if (!tensors) return list;
  list.reserve(tensors->size());
  for (const auto& [name, address, shape, strides, dtype] : *tensors) {
    if (strides.size() != shape.size()) throw nb::value_error(("strides of " + name + ": one per dimension").c_str());
    list.push_back({.name = name.c_str(),
                    .address = reinterpret_cast<void*>(address),
                    .shape = shape.data(),
                    .strides = strides.data(),
                    .dimensions = static_cast<std::int32_t>(shape.size()),
                    .dtype = dtype.c_str()});
  }
  return list;
}

class Plan {
 public:
  Plan(const std::string& config, const std::string& train, const std::vector<std::string>& gen,
       const std::optional<std::string>& options) {
    std::vector<const char*> engines;
    for (const std::string& engine : gen) engines.push_back(engine.c_str());
    const nb::gil_scoped_release released;
    check(refit_plan_create(config.c_str(), train.c_str(), engines.data(), engines.size(), text_or_null(options),
                            &plan_));
  }
  ~Plan() { refit_plan_destroy(plan_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const refit_plan* get() const { return plan_; }

  nb::dict sizes() const {
    refit_plan_sizes sizes{};
    sizes.size = sizeof(sizes);
    check(refit_plan_get_sizes(plan_, &sizes));
    nb::dict result;
    result["ranks"] = sizes.ranks;
    result["train_ranks"] = sizes.train_ranks;
    result["gen_ranks"] = sizes.gen_ranks;
    result["tensors"] = sizes.tensors;
    result["payload_bytes"] = sizes.payload_bytes;
    result["wire_bytes"] = sizes.wire_bytes;
    result["copies"] = sizes.copies;
    result["egress_bytes_max"] = sizes.egress_bytes_max;
    result["ingress_bytes_max"] = sizes.ingress_bytes_max;
    result["misc_bytes"] = sizes.misc_bytes;
    return result;
  }

  std::vector<Description> storages(bool gen, int rank) const {
    const refit_tensor* tensors = nullptr;
    std::size_t count = 0;
    check(refit_plan_storages(plan_, gen ? REFIT_GEN : REFIT_TRAIN, rank, &tensors, &count));
    std::vector<Description> list;
    list.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      const refit_tensor& tensor = tensors[i];
      list.emplace_back(tensor.name, std::vector<std::int64_t>(tensor.shape, tensor.shape + tensor.dimensions),
                        tensor.dtype);
    }
    return list;
  }

  std::string explain(const std::string& tensor) {
    const char* text = nullptr;
    check(refit_plan_explain(plan_, tensor.c_str(), &text));
    return text;
  }

  double bound(double send, double receive) const {
    double seconds = 0;
    check(refit_plan_bound(plan_, send, receive, &seconds));
    return seconds;
  }

 private:
  refit_plan* plan_ = nullptr;
};

/// What the C library's all-gather calls: a Python function of bytes that returns the bytes of all ranks, one after
/// another.
struct AllGather {
  nb::callable function;
  std::size_t size;
  std::optional<nb::python_error> error = std::nullopt;

  static int call(void* user, const void* mine, void* all, std::size_t bytes) noexcept {
    auto& self = *static_cast<AllGather*>(user);
    const nb::gil_scoped_acquire acquired;
    try {
      const auto gathered = nb::cast<nb::bytes>(self.function(nb::bytes(mine, bytes)));
      if (gathered.size() != self.size * bytes) return 1;
      std::memcpy(all, gathered.data(), gathered.size());
      return 0;
    } catch (nb::python_error& error) {
      self.error.emplace(std::move(error));
    } catch (...) {
    }
    return 1;
  }
};

/// Connections, which end with close() and the last session that was made over them, whichever is later.
class World {
 public:
  World(int rank, int size, nb::callable all_gather, const std::optional<std::string>& options) {
    AllGather gather{std::move(all_gather), static_cast<std::size_t>(size)};
    const refit_control control{.rank = rank, .size = size, .user = &gather, .all_gather = AllGather::call};
    refit_status status{};
    {
      const nb::gil_scoped_release released;
      status = refit_world_create(&control, text_or_null(options), &world_);
    }
    if (gather.error && status != REFIT_OK) throw std::move(*gather.error);
    check(status);
  }
  ~World() { refit_world_destroy(world_); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  refit_world* get() const { return world_; }

  void close() {
    is_closed_ = true;
    end();
  }
  void enter() { ++sessions_; }
  void leave() {
    --sessions_;
    end();
  }

 private:
  void end() {
    if (is_closed_ && sessions_ == 0) refit_world_destroy(std::exchange(world_, nullptr));
  }

  refit_world* world_ = nullptr;
  int sessions_ = 0;
  bool is_closed_ = false;
};

nb::dict to_dict(const refit_proof& proof) {
  nb::dict result;
  result["tensors"] = proof.tensors;
  result["tensors_wrong"] = proof.tensors_wrong;
  result["elements"] = proof.elements;
  result["elements_wrong"] = proof.elements_wrong;
  result["kl_max"] = proof.kl_max;
  result["kl_mean"] = proof.kl_mean;
  result["train_digest"] = proof.train_digest;
  result["gen_digest"] = proof.gen_digest;
  return result;
}

class Session {
 public:
  Session(std::shared_ptr<Plan> plan, std::shared_ptr<World> world, const Tensors& train, const Tensors& gen,
          const std::optional<std::string>& options)
      : plan_(std::move(plan)), world_(std::move(world)) {
    const auto train_tensors = in_c(train);
    const auto gen_tensors = in_c(gen);
    const nb::gil_scoped_release released;
    check(refit_session_create(plan_->get(), world_->get(), train ? train_tensors.data() : nullptr,
                               train_tensors.size(), gen ? gen_tensors.data() : nullptr, gen_tensors.size(),
                               text_or_null(options), &session_));
    world_->enter();
  }
  /// A session that was not closed stays as it is, and with it its plan and world: its end is collective, and nothing
  /// may wait here.
  ~Session() {
    if (session_ == nullptr) return;
    new std::shared_ptr<Plan>(std::move(plan_));
    new std::shared_ptr<World>(std::move(world_));
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void close() {
    {
      const nb::gil_scoped_release released;
      refit_session_destroy(std::exchange(session_, nullptr));
    }
    world_->leave();
    world_.reset();
    plan_.reset();
  }

  std::string notes() {
    const char* text = nullptr;
    check(refit_session_notes(session_, &text));
    return text;
  }

  void move(bool gen, const Tensors& tensors) {
    const auto list = in_c(tensors);
    const nb::gil_scoped_release released;
    check(refit_session_move(session_, gen ? REFIT_GEN : REFIT_TRAIN, list.data(), list.size()));
  }

  std::tuple<double, double, double, double, double> refit(std::optional<std::int64_t> version) {
    refit_seconds seconds{};
    seconds.size = sizeof(seconds);
    const nb::gil_scoped_release released;
    check(version ? refit_session_refit_version(session_, *version, &seconds)
                  : refit_session_refit(session_, &seconds));
    return {seconds.total, seconds.quantise, seconds.bulk, seconds.misc, seconds.remap};
  }

  std::tuple<std::int64_t, std::string, std::string> version() {
    refit_weights weights{};
    weights.size = sizeof(weights);
    check(refit_session_version(session_, &weights));
    return {weights.version, weights.plan, weights.digest};
  }

  void set_version(std::int64_t number) { check(refit_session_set_version(session_, number)); }

  void require_version(std::int64_t number) {
    const nb::gil_scoped_release released;
    check(refit_session_require_version(session_, number));
  }

  /// What the proof found, and the first 1,000 of what is wrong: tensor, gen rank, elements, first index.
  nb::tuple prove() {
    refit_proof proof{};
    proof.size = sizeof(proof);
    refit_status status{};
    {
      const nb::gil_scoped_release released;
      status = refit_session_prove(session_, &proof);
    }
    if (status == REFIT_OK) return nb::make_tuple(to_dict(proof), nb::list(), nb::none());
    if (status != REFIT_DATA) check(status);
    const nb::object error =
        nb::make_tuple(static_cast<int>(status), refit_error_text(), refit_error_tensor(), refit_error_rank());
    std::vector<refit_wrong> wrong(1000);
    std::size_t count = 0;
    check(refit_session_wrong(session_, wrong.data(), wrong.size(), &count));
    wrong.resize(std::min(count, wrong.size()));
    nb::list list;
    for (const refit_wrong& one : wrong) {
      list.append(nb::make_tuple(one.tensor, one.gen_rank, one.elements_wrong, one.first_index));
    }
    return nb::make_tuple(to_dict(proof), list, error);
  }

  std::string digest() {
    char digits[33] = {};
    const nb::gil_scoped_release released;
    check(refit_session_digest(session_, digits));
    return digits;
  }

 private:
  std::shared_ptr<Plan> plan_;
  std::shared_ptr<World> world_;
  refit_session* session_ = nullptr;
};

/// The parts of a DLPack exporter: address, shape, strides in elements, kind of dtype, bits, lanes, kind of device, its
/// number, writable.
nb::tuple dlpack(nb::handle exporter) {
  nb::ndarray<> writable;
  nb::ndarray<nb::ro> array;
  const bool can_write = nb::try_cast(exporter, writable);
  if (can_write) {
    array = nb::ndarray<nb::ro>(writable);
  } else if (!nb::try_cast(exporter, array)) {
    throw nb::type_error("it exports nothing that can be read as DLPack");
  }
  nb::list shape, strides;
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    shape.append(array.shape(i));
    strides.append(array.stride(i));
  }
  return nb::make_tuple(reinterpret_cast<std::uintptr_t>(array.data()), nb::tuple(shape), nb::tuple(strides),
                        array.dtype().code, array.dtype().bits, array.dtype().lanes, array.device_type(),
                        array.device_id(), can_write);
}

using Bytes = nb::ndarray<nb::array_api, std::uint8_t, nb::ndim<1>>;

Bytes shared_memory(std::size_t bytes) {
  void* address = nullptr;
  check(refit_shared_memory_create(bytes, &address));
  const nb::capsule owner(address, [](void* owned) noexcept {
    const nb::gil_scoped_release released;  // whoever is inside the library may be waiting for it
    refit_shared_memory_destroy(owned);
  });
  return Bytes(address, {bytes}, owner);
}

}  // namespace

NB_MODULE(_refit, module) {
  nb::set_leak_warnings(false);  // a session that lives until the process ends is no leak
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Failure& failure) {
      set_python_error(failure);
    }
  });

  refit_set_interrupted(&interrupted);

  module.attr("__version__") = refit::release();
  module.attr("cuda") = REFIT_CUDA != 0;
  module.def("version", &refit_version);
  module.def("api_version", &refit_api_version);
  module.def("dlpack", &dlpack, nb::arg("exporter"));
  module.def("shared_memory", &shared_memory, nb::arg("bytes"));

  nb::class_<Plan>(module, "Plan")
      .def(nb::init<const std::string&, const std::string&, const std::vector<std::string>&,
                    const std::optional<std::string>&>(),
           nb::arg("config"), nb::arg("train"), nb::arg("gen"), nb::arg("options").none())
      .def("sizes", &Plan::sizes)
      .def("storages", &Plan::storages, nb::arg("gen"), nb::arg("rank"))
      .def("explain", &Plan::explain, nb::arg("tensor"))
      .def("bound", &Plan::bound, nb::arg("send"), nb::arg("receive"));

  nb::class_<World>(module, "World")
      .def(nb::init<int, int, nb::callable, const std::optional<std::string>&>(), nb::arg("rank"), nb::arg("size"),
           nb::arg("all_gather"), nb::arg("options").none())
      .def("close", &World::close);

  nb::class_<Session>(module, "Session")
      .def(nb::init<std::shared_ptr<Plan>, std::shared_ptr<World>, const Tensors&, const Tensors&,
                    const std::optional<std::string>&>(),
           nb::arg("plan"), nb::arg("world"), nb::arg("train").none(), nb::arg("gen").none(), nb::arg("options").none())
      .def("close", &Session::close)
      .def("notes", &Session::notes)
      .def("move", &Session::move, nb::arg("gen"), nb::arg("tensors"))
      .def("refit", &Session::refit, nb::arg("version").none())
      .def("version", &Session::version)
      .def("set_version", &Session::set_version, nb::arg("number"))
      .def("require_version", &Session::require_version, nb::arg("number"))
      .def("prove", &Session::prove)
      .def("digest", &Session::digest);
}
