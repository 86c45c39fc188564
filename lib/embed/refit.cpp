#include "embed/refit.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "core/error.hpp"
#include "core/text.hpp"
#include "embed/session.hpp"
#include "transport/shared_memory.hpp"
#include "version/version.hpp"

struct refit_plan {
  refit::embed::Plan plan;
  std::string explained;
};

struct refit_world {
  refit::embed::World world;
};

struct refit_session {
  refit::embed::Session session;
  std::string notes;
};

namespace {

using refit::Error;
using refit::ErrorKind;
using refit::Rank;
using refit::Side;

static_assert(REFIT_DATA == static_cast<int>(ErrorKind::data) && REFIT_USAGE == static_cast<int>(ErrorKind::usage));
static_assert(REFIT_RUNTIME == static_cast<int>(ErrorKind::runtime));
static_assert(REFIT_UNAVAILABLE == static_cast<int>(ErrorKind::unavailable));

/// The last failure of a thread.
struct Failure {
  std::string text, tensor;
  int rank = -1;
};
Failure& failure() {
  thread_local Failure last;
  return last;
}

refit_status fail(ErrorKind kind, const char* text, const std::string& tensor = "", int rank = -1) {
  failure() = {text, tensor, rank};
  return static_cast<refit_status>(kind);
}

/// One thread at a time is inside: kernels of a process share one queue, and its open sessions one list.
std::mutex& inside() {
  static std::mutex mutex;
  return mutex;
}

/// Calls `body`, and turns what it throws into a status.
template <typename Body>
refit_status call(const Body& body) noexcept {
  try {
    const std::unique_lock lock(inside(), std::try_to_lock);
    if (!lock) return fail(ErrorKind::usage, "another thread of this process is inside refit; let calls take turns");
    failure() = {};
    body();
    return REFIT_OK;
  } catch (const Error& error) {
    return fail(error.kind(), error.what(), error.tensor(), error.rank());
  } catch (const std::bad_alloc&) {
    return fail(ErrorKind::runtime, "out of memory");
  } catch (const std::exception& error) {
    return fail(ErrorKind::runtime, error.what());
  } catch (...) {
    return fail(ErrorKind::runtime, "an exception that is not of refit");
  }
}

template <typename T>
T& required(T* pointer, const char* name) {
  if (pointer == nullptr) refit::fail_usage("{} is NULL", name);
  return *pointer;
}

/// Gives a caller as much of a result as its header knows. `size`: of the caller's struct.
template <typename Result>
void hand_over(const Result& result, Result* out) {
  if (out == nullptr) return;
  const std::size_t size = std::min(out->size, sizeof(Result));
  if (size < sizeof(std::size_t)) refit::fail_usage("the member size of a result is {}: set it to sizeof", out->size);
  Result mine = result;
  mine.size = out->size;
  std::memcpy(out, &mine, size);
}

Side side_of(refit_side side) {
  if (side != REFIT_TRAIN && side != REFIT_GEN) refit::fail_usage("there is no side {}", static_cast<int>(side));
  return side == REFIT_TRAIN ? Side::source : Side::destination;
}

std::span<const refit_tensor> list_of(const refit_tensor* tensors, std::size_t count, const char* name) {
  if (tensors == nullptr && count > 0) refit::fail_usage("{} is NULL, with {} tensors", name, count);
  return {tensors, count};
}

/// Shared memory of callers, by address.
std::map<std::byte*, refit::transport::SharedMemory>& shared_memory() {
  static std::map<std::byte*, refit::transport::SharedMemory> all;
  return all;
}

void write_digest(const refit::Sum128& sum, char (&out)[33]) {
  const std::string digits = refit::hexadecimal(sum);
  std::memcpy(out, digits.c_str(), sizeof(out));
}

refit_proof to_proof(const refit::verify::StepResult& step) {
  refit_proof proof{};
  proof.tensors = step.tensors;
  proof.tensors_wrong = step.tensors_wrong;
  proof.elements = step.elements;
  proof.elements_wrong = step.elements_wrong;
  proof.kl_max = step.kl.max;
  proof.kl_mean = step.kl.mean;
  write_digest(step.fingerprint_train, proof.train_digest);
  write_digest(step.fingerprint_gen, proof.gen_digest);
  return proof;
}

/// Throws (data) for a proof that failed. `world`: which world ranks the ranks of both sides are.
void require_right(const refit::verify::StepResult& step, const refit::WorldMap& world) {
  if (!step.train_disagreements.empty()) {
    const refit::verify::TrainDisagreement& odd = step.train_disagreements.front();
    throw Error(ErrorKind::data,
                fmt::format("train rank {} holds other bits of {} {} than its replicas", to_int(odd.train_rank),
                            odd.tensor, to_string(odd.box)),
                {odd.tensor, world.world_rank(Side::source, odd.train_rank)});
  }
  if (step.wrong.empty()) return;
  const refit::verify::WrongTensor& first = step.wrong.front();
  throw Error(ErrorKind::data,
              fmt::format("{} wrong, the first is {} on gen rank {}: {}{} wrong",
                          refit::counted(step.tensors_wrong, "tensor"), first.tensor, to_int(first.gen_rank),
                          first.counted ? "" : "at least ", refit::counted(first.elements_wrong, "element")),
              {first.tensor, world.world_rank(Side::destination, first.gen_rank)});
}

}  // namespace

extern "C" {

int32_t refit_api_version(void) { return REFIT_API_VERSION; }

const char* refit_version(void) {
  static const std::string version =
      fmt::format("{} (commit {}, {})", refit::release(), refit::commit(), refit::kernels::Runtime::version());
  return version.c_str();
}

const char* refit_error_text(void) { return failure().text.c_str(); }
int32_t refit_error_rank(void) { return failure().rank; }
const char* refit_error_tensor(void) { return failure().tensor.c_str(); }

refit_status refit_plan_create(const char* config, const char* train, const char* const* gen, size_t engines,
                               const char* options, refit_plan** plan) {
  return call([&] {
    required(plan, "plan") = nullptr;
    std::vector<std::string> sides;
    if (engines > 0) required(gen, "gen");
    for (std::size_t e = 0; e < engines; ++e) sides.emplace_back(&required(gen[e], "an engine of gen"));
    *plan = new refit_plan{{&required(config, "config"), &required(train, "train"), sides, options}, {}};
  });
}

void refit_plan_destroy(refit_plan* plan) { delete plan; }

refit_status refit_plan_get_sizes(const refit_plan* plan, refit_plan_sizes* sizes) {
  return call([&] { hand_over(required(plan, "plan").plan.sizes(), &required(sizes, "sizes")); });
}

refit_status refit_plan_storages(const refit_plan* plan, refit_side side, int32_t rank, const refit_tensor** tensors,
                                 size_t* count) {
  return call([&] {
    const auto& list = required(plan, "plan").plan.storages(side_of(side), rank);
    required(tensors, "tensors") = list.data();
    required(count, "count") = list.size();
  });
}

refit_status refit_plan_explain(refit_plan* plan, const char* tensor, const char** text) {
  return call([&] {
    refit_plan& of = required(plan, "plan");
    of.explained = of.plan.explain(&required(tensor, "tensor"));
    required(text, "text") = plan->explained.c_str();
  });
}

refit_status refit_plan_bound(const refit_plan* plan, double send, double receive, double* seconds) {
  return call([&] { required(seconds, "seconds") = required(plan, "plan").plan.bound(send, receive); });
}

void refit_set_interrupted(int (*interrupted)(void)) { refit::embed::set_interrupted(interrupted); }

refit_status refit_world_create(const refit_control* control, const char* options, refit_world** world) {
  return call([&] {
    required(world, "world") = nullptr;
    *world = new refit_world{{required(control, "control"), refit::embed::parse_world_options(options)}};
  });
}

void refit_world_destroy(refit_world* world) { delete world; }

refit_status refit_session_create(const refit_plan* plan, refit_world* world, const refit_tensor* train,
                                  size_t train_count, const refit_tensor* gen, size_t gen_count, const char* options,
                                  refit_session** session) {
  return call([&] {
    required(session, "session") = nullptr;
    const refit::embed::Plan& of = required(plan, "plan").plan;
    refit::embed::World& in = required(world, "world").world;
    // What is wrong with this process's arguments must not leave the others waiting.
    const auto checked = [&] {
      list_of(train, train_count, "train");
      list_of(gen, gen_count, "gen");
      return refit::embed::parse_session_options(options);
    };
    const auto given = [](const refit_tensor* list, std::size_t count) {
      return std::span<const refit_tensor>(list, list == nullptr ? 0 : count);
    };
    *session = new refit_session{{of, in, given(train, train_count), given(gen, gen_count), checked}, {}};
  });
}

void refit_session_destroy(refit_session* session) {
  const std::lock_guard lock(inside());
  delete session;
}

refit_status refit_session_notes(refit_session* session, const char** text) {
  return call([&] {
    std::string& notes = required(session, "session").notes;
    notes.clear();
    for (const std::string& note : session->session.notes()) notes += note + "\n";
    required(text, "text") = notes.c_str();
  });
}

refit_status refit_session_move(refit_session* session, refit_side side, const refit_tensor* tensors, size_t count) {
  return call([&] {
    refit::embed::Session& mine = required(session, "session").session;
    const Side of = side_of(side);
    try {
      mine.move(of, list_of(tensors, count, "tensors"));
    } catch (const Error& error) {
      mine.refuse(of, error);
      throw;
    }
  });
}

refit_status refit_session_refit(refit_session* session, refit_seconds* seconds) {
  return call([&] { hand_over(required(session, "session").session.refit(), seconds); });
}

refit_status refit_session_refit_version(refit_session* session, int64_t version, refit_seconds* seconds) {
  return call([&] { hand_over(required(session, "session").session.refit(version), seconds); });
}

refit_status refit_session_version(refit_session* session, refit_weights* weights) {
  return call([&] {
    const refit::session::Version version = required(session, "session").session.version();
    required(weights, "weights");
    refit_weights result{};
    result.version = version.number;
    if (version.exists()) write_digest(version.plan, result.plan);
    if (version.weights) write_digest(*version.weights, result.digest);
    hand_over(result, weights);
  });
}

refit_status refit_session_set_version(refit_session* session, int64_t version) {
  return call([&] { required(session, "session").session.set_version(version); });
}

refit_status refit_session_require_version(refit_session* session, int64_t version) {
  return call([&] { required(session, "session").session.require_version(version); });
}

refit_status refit_session_prove(refit_session* session, refit_proof* proof) {
  return call([&] {
    const refit::verify::StepResult& step = required(session, "session").session.prove();
    hand_over(to_proof(step), proof);
    require_right(step, session->session.world());
  });
}

refit_status refit_session_wrong(const refit_session* session, refit_wrong* wrong, size_t capacity, size_t* count) {
  return call([&] {
    const auto& proof = required(session, "session").session.proof();
    if (!proof) refit::fail_usage("there is no proof yet; call refit_session_prove first");
    required(count, "count") = proof->wrong.size();
    if (wrong == nullptr && capacity > 0) refit::fail_usage("wrong is NULL, with a capacity of {}", capacity);
    for (std::size_t i = 0; i < std::min(capacity, proof->wrong.size()); ++i) {
      const refit::verify::WrongTensor& one = proof->wrong[i];
      wrong[i] = {one.tensor.c_str(), to_int(one.gen_rank), one.elements_wrong, one.counted ? one.first_index : -1};
    }
  });
}

refit_status refit_session_digest(refit_session* session, char digest[33]) {
  return call([&] {
    required(digest, "digest");
    char digits[33];
    write_digest(required(session, "session").session.prove().fingerprint_gen, digits);
    std::memcpy(digest, digits, sizeof(digits));
  });
}

refit_status refit_shared_memory_create(size_t bytes, void** address) {
  return call([&] {
    required(address, "address") = nullptr;
    refit::transport::SharedMemory memory(static_cast<std::int64_t>(bytes));
    std::byte* data = memory.data();
    shared_memory().emplace(data, std::move(memory));
    *address = data;
  });
}

void refit_shared_memory_destroy(void* address) {
  const std::lock_guard lock(inside());
  shared_memory().erase(static_cast<std::byte*>(address));
}

}  // extern "C"
