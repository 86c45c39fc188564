/* What the tests of the C interface share: checks, an all-gather between forked processes, and memory for what a rank
 * stores. */
#ifndef REFIT_EMBED_SUPPORT_H
#define REFIT_EMBED_SUPPORT_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "embed/refit.h"

#define CHECK(condition)                                                                                   \
  do {                                                                                                     \
    if (!(condition)) {                                                                                    \
      fprintf(stderr, "line %d: %s is false (last error: %s)\n", __LINE__, #condition, refit_error_text()); \
      exit(1);                                                                                             \
    }                                                                                                      \
  } while (0)
#define OK(call) CHECK((call) == REFIT_OK)

enum { kMostRanks = 8, kGatherBytes = 4096 };

/* An all-gather through memory that forked processes share. */
typedef struct {
  int round[kMostRanks];
  char bytes[kMostRanks][kGatherBytes];
} shared_board;

typedef struct {
  shared_board* board;
  int rank, size;
} gather_state;

static inline int gather(void* user, const void* mine, void* all, size_t bytes) {
  gather_state* state = user;
  if (bytes > kGatherBytes) return E2BIG;
  memcpy(state->board->bytes[state->rank], mine, bytes);
  __atomic_add_fetch(&state->board->round[state->rank], 1, __ATOMIC_SEQ_CST);
  const int round = state->board->round[state->rank];
  for (int rank = 0; rank < state->size; ++rank) {
    while (__atomic_load_n(&state->board->round[rank], __ATOMIC_SEQ_CST) < round) usleep(200);
    if (bytes > 0) memcpy((char*)all + (size_t)rank * bytes, state->board->bytes[rank], bytes);
  }
  return 0;
}

typedef struct {
  refit_tensor* list;
  size_t count;
} tensors;

static inline size_t bytes_of(const refit_tensor* tensor) {
  size_t bytes = strcmp(tensor->dtype, "F32") == 0 ? 4 : 2;
  for (int d = 0; d < tensor->dimensions; ++d) bytes *= (size_t)tensor->shape[d];
  return bytes;
}

/* Memory for everything that a rank stores, filled with `byte`. `shared`: in memory that other processes can map. */
static inline tensors make_tensors(const refit_plan* plan, refit_side side, int rank, int byte, int shared) {
  const refit_tensor* described = NULL;
  tensors made = {NULL, 0};
  OK(refit_plan_storages(plan, side, rank, &described, &made.count));
  CHECK(made.count > 0);
  made.list = calloc(made.count, sizeof(refit_tensor));
  for (size_t i = 0; i < made.count; ++i) {
    made.list[i] = described[i];
    const size_t bytes = bytes_of(&described[i]);
    if (shared) {
      OK(refit_shared_memory_create(bytes, &made.list[i].address));
    } else {
      made.list[i].address = malloc(bytes);
    }
    memset(made.list[i].address, byte, bytes);
  }
  return made;
}

static inline void free_tensors(tensors* made, int shared) {
  for (size_t i = 0; i < made->count; ++i) {
    if (shared)
      refit_shared_memory_destroy(made->list[i].address);
    else
      free(made->list[i].address);
  }
  free(made->list);
}

/* Numbers that depend on the step and the place; equal on all ranks that hold a whole tensor. Halves and floats alike have
 * to be finite, so the exponent's upper bits are 0. */
static inline void write_weights(tensors* made, int step) {
  for (size_t i = 0; i < made->count; ++i) {
    unsigned char* bytes = made->list[i].address;
    const size_t count = bytes_of(&made->list[i]);
    for (size_t b = 0; b < count; ++b) bytes[b] = (unsigned char)((b * 131 + i * 17 + (size_t)step * 29) & 0x3F);
  }
}

#endif
