/* The C interface from a program in C: processes that fork hold a trainer's and an engine's weights, refit and prove them,
 * and every mistake comes back as a status with tensor and rank.
 *
 *   embed_c_test CONFIG_FOLDER     a folder with the config.json of a small Llama
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "embed_support.h"

static int failing_gather(void* user, const void* mine, void* all, size_t bytes) {
  (void)user, (void)mine, (void)all, (void)bytes;
  return 7;
}

typedef struct {
  const char* config;
  const char* train;
  const char* gen;
  const char* plan_options;
  const char* session_options;
  int ranks, shared;
} setup;

static refit_plan* make_plan(const setup* s) {
  refit_plan* plan = NULL;
  OK(refit_plan_create(s->config, s->train, &s->gen, 1, s->plan_options, &plan));
  return plan;
}

static refit_world* make_world(gather_state* state, const char* options) {
  const refit_control control = {state->rank, state->size, state, gather};
  refit_world* world = NULL;
  OK(refit_world_create(&control, options, &world));
  return world;
}

/* Starts one process for each rank and waits for them; returns how many failed. */
static int on_ranks(const setup* s, void (*body)(const setup*, gather_state*)) {
  shared_board* board = mmap(NULL, sizeof(shared_board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(board != MAP_FAILED);
  memset(board, 0, sizeof(*board));
  fflush(stdout);
  for (int rank = 0; rank < s->ranks; ++rank) {
    if (fork() == 0) {
      gather_state state = {board, rank, s->ranks};
      alarm(60);
      body(s, &state);
      exit(0);
    }
  }
  int failed = 0;
  int status = 0;
  while (wait(&status) > 0) {
    if (WIFSIGNALED(status)) printf("a process ended by signal %d\n", WTERMSIG(status));
    failed += !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  munmap(board, sizeof(*board));
  return failed;
}

static void refits(const setup* s, gather_state* state) {
  refit_plan* plan = make_plan(s);
  refit_world* world = make_world(state, NULL);
  refit_plan_sizes sizes = {.size = sizeof(sizes)};
  OK(refit_plan_get_sizes(plan, &sizes));
  CHECK(sizes.ranks == s->ranks);
  const int is_train = state->rank < sizes.train_ranks;
  const int is_gen = !is_train || strstr(s->plan_options ? s->plan_options : "", "colocated=true") != NULL;
  const int gen_rank = is_gen && is_train ? state->rank : state->rank - sizes.train_ranks;
  tensors train = {NULL, 0}, gen = {NULL, 0};
  if (is_train) train = make_tensors(plan, REFIT_TRAIN, state->rank, 0, 0);
  if (is_gen) gen = make_tensors(plan, REFIT_GEN, gen_rank, 0xFF, s->shared);
  refit_session* session = NULL;
  OK(refit_session_create(plan, world, train.list, train.count, gen.list, gen.count, s->session_options, &session));
  char digests[4][33];
  for (int step = 1; step <= 3; ++step) {
    if (is_train) write_weights(&train, step);
    if (step == 1) { /* nothing has arrived yet */
      refit_proof proof = {.size = sizeof(proof)};
      CHECK(refit_session_prove(session, &proof) == REFIT_DATA);
      CHECK(proof.elements_wrong > 0 && proof.tensors_wrong > 0 && refit_error_rank() >= 0);
      CHECK(strlen(refit_error_tensor()) > 0);
      size_t count = 0;
      refit_wrong first;
      OK(refit_session_wrong(session, &first, 1, &count));
      CHECK(count > 0 && first.tensor != NULL && first.elements_wrong > 0);
    }
    refit_seconds seconds = {.size = sizeof(seconds)};
    OK(refit_session_refit(session, &seconds));
    CHECK(seconds.total > 0);
    refit_proof proof = {.size = sizeof(proof)};
    OK(refit_session_prove(session, &proof));
    CHECK(proof.elements_wrong == 0 && proof.elements > 0 && proof.tensors == sizes.tensors);
    CHECK(strcmp(proof.train_digest, proof.gen_digest) == 0);
    OK(refit_session_digest(session, digests[step]));
    CHECK(strcmp(digests[step], proof.gen_digest) == 0);
    refit_weights weights = {.size = sizeof(weights)};
    OK(refit_session_version(session, &weights));
    CHECK(weights.version == step && strlen(weights.plan) == 32 && strcmp(weights.digest, digests[step]) == 0);
    OK(refit_session_require_version(session, step));
    CHECK(refit_session_require_version(session, step + 1) == REFIT_DATA);
    CHECK(strstr(refit_error_text(), "gen rank 0 holds version") != NULL);
  }
  CHECK(strcmp(digests[1], digests[2]) != 0);
  const char* notes = NULL;
  OK(refit_session_notes(session, &notes));
  const int has_auto = s->session_options == NULL;
  CHECK((strstr(notes, "executor p2p: memory of some gen ranks cannot be mapped") != NULL) == (has_auto && !s->shared));

  /* Other memory, at other places: the next refit goes there, and the old memory is left alone. */
  if (is_gen) {
    tensors moved = make_tensors(plan, REFIT_GEN, gen_rank, 0xFF, s->shared);
    OK(refit_session_move(session, REFIT_GEN, moved.list, moved.count));
    for (size_t i = 0; i < gen.count; ++i) memset(gen.list[i].address, 0xAA, bytes_of(&gen.list[i]));
    OK(refit_session_refit(session, NULL));
    for (size_t i = 0; i < gen.count; ++i) CHECK(((unsigned char*)gen.list[i].address)[0] == 0xAA);
    free_tensors(&gen, s->shared);
    gen = moved;
  } else {
    OK(refit_session_refit(session, NULL));
  }
  OK(refit_session_notes(session, &notes));
  CHECK(strstr(notes, "moved, the first is ") != NULL);
  OK(refit_session_prove(session, NULL));

  /* Memory that is given back and taken anew, most likely at the same address. */
  if (is_gen && s->shared) {
    for (size_t i = 0; i < gen.count; ++i) {
      refit_shared_memory_destroy(gen.list[i].address);
      OK(refit_shared_memory_create(bytes_of(&gen.list[i]), &gen.list[i].address));
    }
    OK(refit_session_move(session, REFIT_GEN, gen.list, gen.count));
  }
  OK(refit_session_refit(session, NULL));
  OK(refit_session_prove(session, NULL));
  char digest[33];
  OK(refit_session_digest(session, digest));
  CHECK(strcmp(digest, digests[3]) == 0);

  refit_session_destroy(session);
  refit_world_destroy(world);
  refit_plan_destroy(plan);
  free_tensors(&train, 0);
  free_tensors(&gen, s->shared);
}

static void expect(refit_status status, refit_status wanted, const char* text, const char* tensor) {
  if (status != wanted || strstr(refit_error_text(), text) == NULL || strstr(refit_error_tensor(), tensor) == NULL) {
    fprintf(stderr, "wanted %d with \"%s\" about \"%s\", got %d: %s (about \"%s\")\n", wanted, text, tensor, status,
            refit_error_text(), refit_error_tensor());
    exit(1);
  }
}

/* Mistakes of gen rank 0, world rank 1: all processes return the same status, and go on. */
static void mistakes(const setup* s, gather_state* state) {
  refit_plan* plan = make_plan(s);
  refit_world* world = make_world(state, "timeout=20");
  const int is_train = state->rank == 0;
  tensors train = {NULL, 0}, gen = {NULL, 0};
  if (is_train) train = make_tensors(plan, REFIT_TRAIN, 0, 1, 0);
  if (!is_train) gen = make_tensors(plan, REFIT_GEN, state->rank - 1, 0, 0);
  const int has_mistake = state->rank == 1;
  const char* norm = "model.norm.weight";
  size_t at = 0;
  while (!is_train && strcmp(gen.list[at].name, norm) != 0) ++at;
  refit_session* session = NULL;
#define CREATE() refit_session_create(plan, world, train.list, train.count, gen.list, gen.count, NULL, &session)
  refit_tensor kept;
  memset(&kept, 0, sizeof(kept));
  if (!is_train) kept = gen.list[at];
  const int64_t shape[2] = {3, 7}, strides[1] = {2};

  if (has_mistake) gen.list[at].name = "model.nrom.weight";
  expect(CREATE(), REFIT_USAGE, "gen rank 0: model.norm.weight: is missing", norm);
  CHECK(refit_error_rank() == 1 && session == NULL);
  if (has_mistake) gen.list[at] = kept, gen.list[at].shape = shape, gen.list[at].dimensions = 2;
  expect(CREATE(), REFIT_USAGE, "model.norm.weight: has shape [3, 7] and has to have", norm);
  if (has_mistake) gen.list[at] = kept, gen.list[at].dtype = "F32";
  expect(CREATE(), REFIT_USAGE, "model.norm.weight: is F32 and has to be BF16", norm);
  if (has_mistake) gen.list[at] = kept, gen.list[at].dtype = "BFLOAT";
  expect(CREATE(), REFIT_USAGE, "has the unknown dtype BFLOAT", norm);
  if (has_mistake) gen.list[at] = kept, gen.list[at].strides = strides;
  expect(CREATE(), REFIT_USAGE, "model.norm.weight: is not dense", norm);
  if (has_mistake) gen.list[at] = kept, gen.list[at].address = NULL;
  expect(CREATE(), REFIT_USAGE, "model.norm.weight: has no memory", norm);
  if (has_mistake) gen.list[at] = kept, gen.list[at].address = gen.list[at + 1 < gen.count ? at + 1 : at - 1].address;
  expect(CREATE(), REFIT_USAGE, "shares memory with", "weight");
  if (!is_train) gen.list[at] = kept;
  if (has_mistake) gen.list[at].address = (char*)kept.address + 1;
  expect(CREATE(), REFIT_USAGE, "lies 1 bytes beyond a multiple of its elements' size", norm);
  if (has_mistake) gen.list[at].address = (void*)64; /* no memory at all */
  expect(CREATE(), REFIT_USAGE, "are not memory of this process", norm);
  if (has_mistake) gen.list[at].address = (void*)-64;
  expect(CREATE(), REFIT_USAGE, "are not memory of this process", norm);
  if (!is_train) gen.list[at] = kept;
  void* address = is_train ? train.list[0].address : NULL;
  if (is_train) train.list[0].address = (void*)64;
  expect(CREATE(), REFIT_USAGE, "are not memory of this process", "weight");
  if (is_train) train.list[0].address = address;
  expect(refit_session_create(plan, world, train.list, train.count, gen.list, gen.count,
                              has_mistake ? "executer=p2p" : NULL, &session),
         REFIT_USAGE, "unknown key executer; did you mean executor", "");
  expect(refit_session_create(plan, world, train.list, train.count, has_mistake ? NULL : gen.list, gen.count, NULL,
                              &session),
         REFIT_USAGE, "gen is NULL", "");
  OK(CREATE());

  /* The same gen memory in two sessions at once. */
  refit_session* first = session;
  refit_status status = CREATE();
  expect(status, REFIT_USAGE, "another open session refits this memory", "weight");
  if (is_train) write_weights(&train, 1);
  OK(refit_session_refit(first, NULL));
  OK(refit_session_prove(first, NULL));

  /* A process with another plan. */
  refit_session_destroy(first);
  const char* other_train = has_mistake ? "megatron TP1 precision=fp32" : s->train;
  refit_plan* other = NULL;
  OK(refit_plan_create(s->config, other_train, &s->gen, 1, NULL, &other));
  expect(refit_session_create(other, world, train.list, train.count, gen.list, gen.count, NULL, &session), REFIT_USAGE,
         "rank 1 has another plan or other options than rank 0", "");
  refit_plan_destroy(other);
  /* Other words for the same plan are no other plan. */
  refit_plan* same = NULL;
  OK(refit_plan_create(s->config, has_mistake ? "megatron TP1xEP1 precision=bf16" : s->train, &s->gen, 1, NULL, &same));
  OK(refit_session_create(same, world, train.list, train.count, gen.list, gen.count, NULL, &session));
  refit_session_destroy(session);
  refit_plan_destroy(same);
  expect(refit_session_create(plan, world, train.list, train.count, gen.list, gen.count,
                              has_mistake ? "executor=golden" : "executor=p2p", &session),
         REFIT_USAGE, "executor=golden", "");
  OK(CREATE());

  /* A process that dies: the others learn it, name it, and live. */
  CHECK(gather(state, "", NULL, 0) == 0); /* all have a session by now */
  if (has_mistake) raise(SIGKILL);
  const time_t start = time(NULL);
  status = refit_session_refit(session, NULL);
  CHECK(status == REFIT_RUNTIME && refit_error_rank() == 1 && strstr(refit_error_text(), "rank 1") != NULL);
  CHECK(time(NULL) - start <= 5);
  CHECK(refit_session_refit(session, NULL) == REFIT_RUNTIME); /* broken for good */
  refit_session_destroy(session);
  refit_world_destroy(world);
  refit_plan_destroy(plan);
  free_tensors(&train, 0);
  free_tensors(&gen, 0);
}

/* A colocated process whose gen tensor lies where the trainer has another one. */
static void shares_with_train(const setup* s, gather_state* state) {
  refit_plan* plan = make_plan(s);
  refit_world* world = make_world(state, NULL);
  tensors train = make_tensors(plan, REFIT_TRAIN, state->rank, 1, 0);
  tensors gen = make_tensors(plan, REFIT_GEN, state->rank, 0, 0);
  void* own = gen.list[0].address;
  gen.list[0].address = train.list[1].address;
  for (size_t i = 0; i < train.count; ++i) /* as large as can be */
    if (bytes_of(&train.list[i]) >= bytes_of(&gen.list[0])) gen.list[0].address = train.list[i].address;
  refit_session* session = NULL;
  expect(refit_session_create(plan, world, train.list, train.count, gen.list, gen.count, NULL, &session), REFIT_USAGE,
         "which the trainer holds there: a refit would overwrite it", gen.list[0].name);
  gen.list[0].address = own;
  refit_world_destroy(world);
  refit_plan_destroy(plan);
  free_tensors(&train, 0);
  free_tensors(&gen, 0);
}

/* What needs no other process. */
static void alone(const char* config) {
  const char* tp2 = "vllm TP2";
  const char* none = NULL;
  refit_plan* plan = NULL;
  CHECK(refit_api_version() == REFIT_API_VERSION && strlen(refit_version()) > 0);
  expect(refit_plan_create("/nowhere", "megatron TP2", &tp2, 1, NULL, &plan), REFIT_USAGE, "/nowhere", "");
  expect(refit_plan_create(config, "megatorn TP2", &tp2, 1, NULL, &plan), REFIT_USAGE, "did you mean megatron", "");
  expect(refit_plan_create(config, "megatron", &tp2, 1, NULL, &plan), REFIT_USAGE, "has no layout", "");
  expect(refit_plan_create(config, "megatron TP2 presicion=bf16", &tp2, 1, NULL, &plan), REFIT_USAGE,
         "unknown key presicion; did you mean precision", "");
  expect(refit_plan_create(config, "megatron TP2 TP4", &tp2, 1, NULL, &plan), REFIT_USAGE, "is there twice", "");
  expect(refit_plan_create(config, "megatron TP5", &tp2, 1, NULL, &plan), REFIT_USAGE, "impossible", "");
  expect(refit_plan_create(config, "megatron TP2", &none, 1, NULL, &plan), REFIT_USAGE, "is NULL", "");
  expect(refit_plan_create(config, "megatron TP2", &tp2, 0, NULL, &plan), REFIT_USAGE, "no engine", "");
  expect(refit_plan_create(config, "megatron TP2 precision=fp8", &tp2, 1, NULL, &plan), REFIT_USAGE, "fp8", "");
  expect(refit_plan_create(config, "megatron TP2", &tp2, 1, "policy=most", &plan), REFIT_USAGE, "policy", "");
  expect(refit_plan_create(config, "megatron TP2", &tp2, 1, "policy=all policy=ffn", &plan), REFIT_USAGE, "twice", "");
  expect(refit_plan_create(NULL, "megatron TP2", &tp2, 1, NULL, &plan), REFIT_USAGE, "config is NULL", "");
  OK(refit_plan_create(config, "megatron TP2", &tp2, 1, NULL, &plan));
  const refit_tensor* list = NULL;
  size_t count = 0;
  expect(refit_plan_storages(plan, REFIT_GEN, 2, &list, &count), REFIT_USAGE, "gen has ranks 0 to 1", "");
  const char* text = NULL;
  OK(refit_plan_explain(plan, "model.layers.0.self_attn.q_proj.weight", &text));
  CHECK(strstr(text, "qkv_proj") != NULL && strstr(text, "linear_qkv") != NULL);
  expect(refit_plan_explain(plan, "model.layers.0.self_attn.q_porj.weight", &text), REFIT_USAGE, "did you mean", "");
  expect(refit_plan_explain(NULL, "model.norm.weight", &text), REFIT_USAGE, "plan is NULL", "");
  expect(refit_plan_explain(plan, NULL, &text), REFIT_USAGE, "tensor is NULL", "");
  double seconds = 0;
  OK(refit_plan_bound(plan, 1e9, 1e9, &seconds));
  refit_plan_sizes sizes = {.size = sizeof(sizes)};
  OK(refit_plan_get_sizes(plan, &sizes));
  const double ingress = (double)sizes.ingress_bytes_max / 1e9;
  CHECK(sizes.wire_bytes > 0 && seconds > 0.99 * ingress && seconds < 1.01 * ingress);
  refit_plan_sizes old = {.size = 2 * sizeof(size_t)};
  OK(refit_plan_get_sizes(plan, &old)); /* a caller with a smaller header */
  CHECK(old.ranks == 4 && old.wire_bytes == 0);
  refit_plan_destroy(plan);

  refit_world* world = NULL;
  const refit_control fails = {0, 2, NULL, failing_gather};
  expect(refit_world_create(&fails, NULL, &world), REFIT_RUNTIME, "all_gather failed with 7", "");
  const refit_control odd = {2, 2, NULL, failing_gather};
  expect(refit_world_create(&odd, NULL, &world), REFIT_USAGE, "no rank 2", "");
  void* memory = NULL;
  OK(refit_shared_memory_create(1 << 20, &memory));
  memset(memory, 1, 1 << 20);
  refit_shared_memory_destroy(memory);
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const char* config = argv[1];
  const setup runs[] = {
      {config, "megatron TP1", "vllm TP1", NULL, NULL, 2, 0},
      {config, "megatron TP1", "vllm TP2", NULL, NULL, 3, 1},
      {config, "megatron TP2", "vllm TP2", NULL, "executor=direct", 4, 1},
      {config, "megatron TP2", "vllm TP1", NULL, "executor=direct", 3, 0},
      /* padding rows that are not zero, as a trainer's are after its first step */
      {config, "megatron TP1 make_vocab_size_divisible_by=1000", "vllm TP2", NULL, "executor=p2p", 3, 0},
      {config, "megatron TP1xPP2", "vllm TP2", NULL, "executor=golden", 4, 0},
      {config, "megatron TP2", "vllm TP1xDP2", NULL, "executor=direct fan_out=true", 4, 1},
      {config, "fsdp FSDP2", "vllm TP2", "policy=ffn", "executor=p2p streams=2 misc_buffer_bytes=4096", 4, 0},
      {config, "megatron TP2", "vllm TP2", "colocated=true", NULL, 2, 1},
  };
  int failed = 0;
  for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); ++i) {
    const int here = on_ranks(&runs[i], refits);
    printf("%s -> %s %s: %s\n", runs[i].train, runs[i].gen, runs[i].session_options ? runs[i].session_options : "auto",
           here == 0 ? "OK" : "FAILED");
    failed += here;
  }
  const setup errors = {config, "megatron TP1", "vllm TP2", NULL, NULL, 3, 0};
  const int here = on_ranks(&errors, mistakes);
  printf("mistakes: %s\n", here == 1 ? "OK" : "FAILED"); /* the one that killed itself */
  failed += here != 1;
  const setup sharing = {config, "megatron TP1", "vllm TP1", "colocated=true", NULL, 1, 0};
  const int apart = on_ranks(&sharing, shares_with_train);
  printf("gen in train's memory: %s\n", apart == 0 ? "OK" : "FAILED");
  failed += apart;
  alone(config);
  printf("%s\n", failed == 0 ? "PASS" : "FAIL");
  return failed == 0 ? 0 : 1;
}
