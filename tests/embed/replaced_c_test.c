/* Engines that really die: two trainer processes refit two engines, each in a world and a session of its own. The
 * processes of engine 1 are killed again and again, between refits, in the midst of one, of a proof and of joining, and
 * stopped for longer than they may be. The trainer's call fails in time and names who is gone, engine 0 goes on without
 * noticing, new processes join through a new world and get everything, and nothing is left behind in the trainer.
 *
 *   replaced_c_test CONFIG_FOLDER
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "embed_support.h"

enum { kTrainers = 2, kMostLives = 24, kLimit = 4 };

/* How a life of engine 1 ends; the victim is one of its two processes. */
typedef enum { kKilledBetween, kKilledInRefit, kStopped, kKilledInProof, kKilledWaiting, kKilledJoining, kWays } way;

typedef struct {
  const char* config;
  const char* options; /* of sessions */
  int shared;          /* engines' memory */
  int lives;           /* of engine 1 that end badly; one more ends well */
} scene;

/* What all processes share. */
typedef struct {
  shared_board engine0, engine1[kMostLives];
  int proved[kMostLives];  /* processes whose first refit in that life is over, and proved */
  int noticed[kMostLives]; /* trainers that have seen its end */
} stage;

static void reach(int* counter, int all) {
  __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) < all) usleep(200);
}

static const char* kTrain = "megatron TP2";
static const char* kGen[] = {"vllm TP1", "vllm TP2"};

static way way_of(int life) { return (way)(life % kWays); }
static int victim_of(int life) { return kTrainers + life / kWays % 2; }

static void die(int signal) {
  (void)signal;
  kill(getpid(), SIGKILL);
}

static void die_in(int microseconds) {
  signal(SIGALRM, die);
  const struct itimerval when = {{0, 0}, {0, microseconds}};
  setitimer(ITIMER_REAL, &when, NULL);
}

typedef struct {
  refit_plan* plan;
  refit_world* world;
  refit_session* session;
} connection;

static void check_named(int life) {
  CHECK(refit_error_rank() == victim_of(life));
  char who[32];
  snprintf(who, sizeof(who), "rank %d (", victim_of(life));
  CHECK(strncmp(refit_error_text(), who, strlen(who)) == 0);
  const int is_late = way_of(life) == kStopped;
  CHECK((strstr(refit_error_text(), " waiting for 4 s") != NULL) == is_late);
  CHECK((strstr(refit_error_text(), " is gone") != NULL) == !is_late);
}

/* Makes world and session. `life`: of an engine one of whose processes dies meanwhile, so that there may be no session;
 * else -1. */
static connection connect_to(const scene* s, int engine, gather_state state, int limit, const tensors* train,
                             const tensors* gen, int life) {
  connection c = {NULL, NULL, NULL};
  OK(refit_plan_create(s->config, kTrain, &kGen[engine], 1, NULL, &c.plan));
  refit_plan_sizes sizes = {.size = sizeof(sizes)};
  OK(refit_plan_get_sizes(c.plan, &sizes));
  CHECK(sizes.ranks == state.size && sizes.train_ranks == kTrainers);
  const refit_control control = {state.rank, state.size, &state, gather};
  char text[32];
  snprintf(text, sizeof(text), "timeout=%d", limit);
  OK(refit_world_create(&control, text, &c.world));
  if (life >= 0 && state.rank == victim_of(life)) die_in(100 + life * 997 % 5000);
  const refit_status status =
      refit_session_create(c.plan, c.world, train ? train->list : NULL, train ? train->count : 0, gen ? gen->list : NULL,
                           gen ? gen->count : 0, s->options, &c.session);
  CHECK(status == REFIT_OK || (life >= 0 && status == REFIT_RUNTIME));
  if (status != REFIT_OK) check_named(life);
  while (life >= 0 && state.rank == victim_of(life)) pause();
  return c;
}

static void part_from(connection* c) {
  refit_session_destroy(c->session);
  refit_world_destroy(c->world);
  refit_plan_destroy(c->plan);
  c->session = NULL;
}

static void refit_and_prove(refit_session* session) {
  OK(refit_session_refit(session, NULL));
  refit_proof proof = {.size = sizeof(proof)};
  OK(refit_session_prove(session, &proof));
  CHECK(proof.elements > 0 && proof.elements_wrong == 0 && strcmp(proof.train_digest, proof.gen_digest) == 0);
}

/* Refits, and proves where `proves`, until the engine's end is noticed. What is under way when a process dies may still
 * come to its end on the others, and what follows cannot. */
static void until_the_end(refit_session* session, int life, int proves) {
  refit_status status = REFIT_OK;
  for (int call = 0; status == REFIT_OK && call < 4; ++call)
    status = proves && call % 2 == 0 ? refit_session_prove(session, NULL) : refit_session_refit(session, NULL);
  CHECK(status == REFIT_RUNTIME);
  check_named(life);
  CHECK(refit_session_refit(session, NULL) == REFIT_RUNTIME); /* for good */
}

/* What a process has that a session may leave behind. */
typedef struct {
  int descriptors, threads, mappings;
} belongings;

static int entries_of(const char* folder) {
  DIR* open = opendir(folder);
  CHECK(open != NULL);
  int count = 0;
  while (readdir(open) != NULL) ++count;
  closedir(open);
  return count;
}

static belongings own(void) {
  belongings b = {entries_of("/proc/self/fd"), entries_of("/proc/self/task"), 0};
  FILE* maps = fopen("/proc/self/maps", "r");
  CHECK(maps != NULL);
  char line[512];
  while (fgets(line, sizeof(line), maps)) b.mappings += strstr(line, "memfd:") != NULL; /* of engines' memory */
  fclose(maps);
  return b;
}

static void trainer(const scene* s, stage* shared, int rank) {
  refit_plan* plan = NULL;
  OK(refit_plan_create(s->config, kTrain, &kGen[0], 1, NULL, &plan));
  tensors train = make_tensors(plan, REFIT_TRAIN, rank, 0, 0);
  const gather_state to_first = {&shared->engine0, rank, kTrainers + 1};
  connection first = connect_to(s, 0, to_first, kLimit, &train, NULL, -1);
  int step = 0;
  belongings before = {0, 0, 0};
  for (int life = 0; life <= s->lives; ++life) {
    const gather_state state = {&shared->engine1[life], rank, kTrainers + 2};
    const int joins = life == s->lives || way_of(life) != kKilledJoining;
    connection second = connect_to(s, 1, state, kLimit, &train, NULL, joins ? -1 : life);
    write_weights(&train, ++step);
    if (joins) {
      refit_and_prove(second.session); /* a new engine gets everything */
      reach(&shared->proved[life], kTrainers + 2);
    }
    refit_and_prove(first.session);
    if (life < s->lives) {
      write_weights(&train, ++step);
      if (way_of(life) == kKilledWaiting) usleep(100000); /* the engine waits in its refit */
      const time_t start = time(NULL);
      if (second.session != NULL) until_the_end(second.session, life, way_of(life) == kKilledInProof);
      CHECK(time(NULL) - start <= 2 * kLimit);
      __atomic_add_fetch(&shared->noticed[life], 1, __ATOMIC_SEQ_CST);
    }
    part_from(&second);
    refit_and_prove(first.session);
    const belongings now = own();
    if (life == 0) before = now;
    if (now.descriptors != before.descriptors || now.threads != before.threads || now.mappings != before.mappings) {
      fprintf(stderr, "life %d leaves %d descriptors, %d threads, %d mappings: not %d, %d, %d\n", life, now.descriptors,
              now.threads, now.mappings, before.descriptors, before.threads, before.mappings);
      exit(1);
    }
  }
  part_from(&first);
  refit_plan_destroy(plan);
  free_tensors(&train, 0);
}

static tensors gen_tensors(const scene* s, int engine, int rank) {
  refit_plan* plan = NULL;
  OK(refit_plan_create(s->config, kTrain, &kGen[engine], 1, NULL, &plan));
  tensors gen = make_tensors(plan, REFIT_GEN, rank, 0xFF, s->shared);
  return gen; /* which has the plan's names */
}

/* Engine 0, which lives. */
static void engine0(const scene* s, stage* shared) {
  tensors gen = gen_tensors(s, 0, 0);
  const gather_state state = {&shared->engine0, kTrainers, kTrainers + 1};
  connection mine = connect_to(s, 0, state, 60, NULL, &gen, -1);
  for (int life = 0; life <= s->lives; ++life) {
    refit_and_prove(mine.session);
    refit_and_prove(mine.session);
  }
  part_from(&mine);
  free_tensors(&gen, s->shared);
}

/* One process of engine 1 in one of its lives. */
static void engine1(const scene* s, stage* shared, int life, int rank) {
  tensors gen = gen_tensors(s, 1, rank - kTrainers);
  const gather_state state = {&shared->engine1[life], rank, kTrainers + 2};
  const way how = way_of(life);
  const int joins = life == s->lives || how != kKilledJoining;
  connection mine = connect_to(s, 1, state, 60, NULL, &gen, joins ? -1 : life);
  if (joins) {
    refit_and_prove(mine.session);
    reach(&shared->proved[life], kTrainers + 2); /* one that dies earlier breaks the others' proof */
  }
  if (life < s->lives && mine.session != NULL) {
    const int is_victim = rank == victim_of(life);
    if (is_victim && how == kKilledBetween) raise(SIGKILL);
    if (is_victim && how == kStopped) raise(SIGSTOP);
    if (is_victim && how == kKilledWaiting) die_in(20000);
    if (is_victim && (how == kKilledInRefit || how == kKilledInProof)) die_in(200 + life * 997 % 5000);
    if (is_victim && how != kStopped) {
      for (int call = 0;; ++call)
        if (how == kKilledInProof && call % 2 == 0) refit_session_prove(mine.session, NULL);
        else refit_session_refit(mine.session, NULL);
    }
    if (is_victim) {
      /* One that wakes up is told that the others have gone on without it. */
      CHECK(refit_session_refit(mine.session, NULL) == REFIT_RUNTIME);
      CHECK(strstr(refit_error_text(), "waiting for 4 s") != NULL && refit_error_rank() == rank);
    } else {
      until_the_end(mine.session, life, how == kKilledInProof);
    }
  }
  part_from(&mine);
  free_tensors(&gen, s->shared);
}

static pid_t start(const scene* s, stage* shared, int engine, int life, int rank) {
  const pid_t child = fork();
  if (child != 0) return child;
  alarm(120);
  if (rank < kTrainers)
    trainer(s, shared, rank);
  else if (engine == 0)
    engine0(s, shared);
  else
    engine1(s, shared, life, rank);
  exit(0);
}

/* Waits for a process; one that has stopped goes on when the trainers have seen it. Returns how it ended. */
static int end_of(pid_t process, stage* shared, int life) {
  int status = 0;
  CHECK(waitpid(process, &status, WUNTRACED) == process);
  if (!WIFSTOPPED(status)) return status;
  while (__atomic_load_n(&shared->noticed[life], __ATOMIC_SEQ_CST) < kTrainers) {
    usleep(1000);
    if (getppid() == 1) exit(1);
  }
  kill(process, SIGCONT);
  CHECK(waitpid(process, &status, 0) == process);
  return status;
}

static int play(const scene* s) {
  stage* shared = mmap(NULL, sizeof(stage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED && s->lives < kMostLives);
  fflush(stdout);
  pid_t lasting[kTrainers + 1];
  for (int rank = 0; rank <= kTrainers; ++rank) lasting[rank] = start(s, shared, 0, 0, rank);
  int failed = 0;
  for (int life = 0; life <= s->lives; ++life) {
    pid_t both[2];
    for (int r = 0; r < 2; ++r) both[r] = start(s, shared, 1, life, kTrainers + r);
    for (int r = 0; r < 2; ++r) {
      const int status = end_of(both[r], shared, life);
      const int is_killed = life < s->lives && way_of(life) != kStopped && kTrainers + r == victim_of(life);
      const int is_right = is_killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                                     : WIFEXITED(status) && WEXITSTATUS(status) == 0;
      if (!is_right) printf("life %d: process %d of engine 1 ended with %x\n", life, r, (unsigned)status);
      failed += !is_right;
    }
  }
  for (int rank = 0; rank <= kTrainers; ++rank) {
    int status = 0;
    CHECK(waitpid(lasting[rank], &status, 0) == lasting[rank]);
    if (status != 0) printf("%s ended with %x\n", rank < kTrainers ? "a trainer" : "engine 0", (unsigned)status);
    failed += status != 0;
  }
  munmap(shared, sizeof(*shared));
  return failed;
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const scene scenes[] = {{argv[1], "executor=direct", 1, 20},
                          {argv[1], "executor=p2p", 0, 10},
                          {argv[1], "executor=golden", 0, 5}};
  int failed = 0;
  for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); ++i) {
    const int here = play(&scenes[i]);
    printf("%s, %d deaths: %s\n", scenes[i].options, scenes[i].lives, here == 0 ? "OK" : "FAILED");
    failed += here;
  }
  printf("%s\n", failed == 0 ? "PASS" : "FAIL");
  return failed == 0 ? 0 : 1;
}
