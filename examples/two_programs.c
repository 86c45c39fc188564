/* Refits an engine's weights from a trainer's through librefit, from C over MPI: rank 0 trains with TP1, the others are
 * vLLM ranks that hold TP parts.
 *   mpirun -np 3 two_programs FOLDER_WITH_CONFIG_JSON
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <refit_mpi.h>

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, refit_error_text());
  return 1;
}

/* Allocates what a rank must hold, as its framework would. */
static refit_tensor* allocate(const refit_plan* plan, refit_side side, int rank, size_t* count) {
  const refit_tensor* described = NULL;
  if (refit_plan_storages(plan, side, rank, &described, count) != REFIT_OK) return NULL;
  refit_tensor* tensors = calloc(*count, sizeof(*tensors));
  for (size_t i = 0; i < *count; ++i) {
    size_t bytes = strcmp(described[i].dtype, "F32") == 0 ? 4 : 2;
    for (int d = 0; d < described[i].dimensions; ++d) bytes *= (size_t)described[i].shape[d];
    tensors[i] = described[i];
    tensors[i].address = malloc(bytes);
    memset(tensors[i].address, side == REFIT_TRAIN ? 0x3C : 0, bytes);
  }
  return tensors;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);

  char side[32];
  snprintf(side, sizeof(side), "vllm TP%d", size - 1);
  const char* gen = side;
  refit_plan* plan = NULL;
  if (refit_plan_create(argc > 1 ? argv[1] : ".", "megatron TP1", &gen, 1, NULL, &plan)) return failed("plan");
  refit_world* world = NULL;
  if (refit_world_create_mpi(MPI_COMM_WORLD, "timeout=60", &world)) return failed("world");

  size_t count = 0;
  const int trains = rank == 0;
  refit_tensor* mine = allocate(plan, trains ? REFIT_TRAIN : REFIT_GEN, trains ? 0 : rank - 1, &count);
  refit_session* session = NULL;
  if (refit_session_create(plan, world, trains ? mine : NULL, trains ? count : 0, trains ? NULL : mine,
                           trains ? 0 : count, NULL, &session))
    return failed("session");

  refit_seconds seconds = {.size = sizeof(seconds)};
  refit_proof proof = {.size = sizeof(proof)};
  if (refit_session_refit(session, &seconds)) return failed("refit");
  if (refit_session_prove(session, &proof)) return failed("proof");
  if (trains)
    printf("%lld elements are right, digest %s, %.3f s\n", (long long)proof.elements, proof.gen_digest, seconds.total);

  refit_session_destroy(session);
  refit_world_destroy(world);
  refit_plan_destroy(plan);
  for (size_t i = 0; i < count; ++i) free(mine[i].address);
  free(mine);
  MPI_Finalize();
  return 0;
}
