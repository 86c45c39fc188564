/* refit.h: refits the weights that a trainer's and inference engines' own processes hold, in place, and proves it.
 *
 * Every process that holds weights calls this library. A plan says who sends what to whom; a session carries it out,
 * again and again, over memory that the caller owns. Nothing is copied to be handed over, nothing is printed, no process
 * is ended, no exception leaves a function: every function returns a status, and the text of a failure is read with
 * refit_error_text.
 *
 * Order of a program (docs/embed.md has it in full; tests/embed/embed_c_test.c is one):
 *
 *   refit_plan_create      the model's config.json, both sides: no communication, no memory
 *   refit_world_create     collective: the processes find each other through one callback, an all-gather of bytes
 *   refit_session_create   collective: this process's tensors, by the engine's own names
 *   refit_session_refit    collective, after every training step
 *   refit_session_prove    collective: compares every element's fingerprint
 *   ..._destroy
 *
 * World ranks: train ranks come first and gen ranks follow, train rank r is world rank r and gen rank r is world rank
 * T + r; in a colocated plan world rank r is train rank r and gen rank r.
 *
 * Threads: the functions of one process take turns; one that is called while another thread is inside is refused with
 * REFIT_USAGE, except for the error functions, which belong to their thread. "Collective" means that all processes of
 * the world call it, in the same order; a failure of one of them is returned by all, as far as they live.
 */
#ifndef REFIT_H
#define REFIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define REFIT_API __attribute__((visibility("default")))

/* Version of this interface. It grows when a function, a status or a member is added, and never for anything else:
 * programs that were compiled with a smaller one go on working. */
#define REFIT_API_VERSION 2

typedef enum refit_status {
  REFIT_OK = 0,
  REFIT_DATA = 1,        /* wrong data: a proof that failed, ranks whose weights or inputs differ */
  REFIT_USAGE = 2,       /* a mistake in an argument: names, shapes, dtypes, layouts */
  REFIT_RUNTIME = 3,     /* a peer that is gone or late, too little memory, the network */
  REFIT_UNAVAILABLE = 77 /* this build or machine lacks what is asked for */
} refit_status;

/* Returns REFIT_API_VERSION of the library that is loaded, which may differ from the header's. */
REFIT_API int32_t refit_api_version(void);
/* Returns the release, and in parentheses the commit and what it is built with: "0.2.0 (commit 15a3c14e0b2d, Kokkos ...)". */
REFIT_API const char* refit_version(void);

/* The last failure of this thread, until its next call: what is wrong and what to do about it; the world rank it is
 * about, or -1; and the tensor, parameter or storage it is about, or "". Never NULL. */
REFIT_API const char* refit_error_text(void);
REFIT_API int32_t refit_error_rank(void);
REFIT_API const char* refit_error_tensor(void);

/* ---- Plan: which bytes go from whom to whom. A value: no communication, no weights, no device. ---- */

typedef struct refit_plan refit_plan;

typedef enum refit_side { REFIT_TRAIN = 0, REFIT_GEN = 1 } refit_side;

/* A tensor in memory, or a description of one. */
typedef struct refit_tensor {
  const char* name;       /* the engine's own, "model.layers.0.self_attn.qkv_proj.weight" */
  void* address;          /* of its first element, in host or device memory; NULL in descriptions */
  const int64_t* shape;   /* of `dimensions` extents */
  const int64_t* strides; /* in elements; NULL: row-major */
  int32_t dimensions;
  const char* dtype; /* as safetensors files name it: "BF16", "F16", "F32", "F8_E4M3", "U8", "I32", ... */
} refit_tensor;

/* Makes a plan. `config`: path of a config.json or of its folder. `train`: one side as text; `gen`: one or several
 * engines, whose ranks follow each other. A side is a trainer or an engine, its layout, and options as a case file's
 * [train] and [gen] have them:
 *
 *   "megatron TP2xPP2"      "fsdp FSDP4 recipe=torchtitan"      "vllm TP4xEP4 precision=fp8 quantiser=vllm"
 *
 * `options`: NULL, or keys of the plan, "policy=all colocated=true layers=4". Errors: usage, with every rule that a layout
 * breaks for the model. */
REFIT_API refit_status refit_plan_create(const char* config, const char* train, const char* const* gen, size_t engines,
                                         const char* options, refit_plan** plan);
REFIT_API void refit_plan_destroy(refit_plan* plan);

/* Sizes of a plan, of which it is not known who shares a GPU or a node: processes that do may send to others than here,
 * but the same bytes in all. Members may be added behind: `size` is sizeof(refit_plan_sizes) of the caller. */
typedef struct refit_plan_sizes {
  size_t size;
  int32_t ranks, train_ranks, gen_ranks;
  int64_t tensors;             /* of the model that gen stores */
  int64_t payload_bytes;       /* each tensor once, at its Hugging Face shape, in train's dtype */
  int64_t wire_bytes;          /* that move between ranks in one refit */
  int64_t copies;              /* the boxes they are made of */
  int64_t egress_bytes_max;    /* of the busiest sender */
  int64_t ingress_bytes_max;   /* of the busiest receiver */
  int64_t misc_bytes;          /* of payload_bytes: tensors that are gathered and broadcast */
} refit_plan_sizes;
REFIT_API refit_status refit_plan_get_sizes(const refit_plan* plan, refit_plan_sizes* sizes);

/* Lists what a rank of a side must hold: `*count` tensors without address, which live as long as the plan. */
REFIT_API refit_status refit_plan_storages(const refit_plan* plan, refit_side side, int32_t rank,
                                           const refit_tensor** tensors, size_t* count);

/* Returns in `*text` where a tensor's pieces lie on both sides and the copies that move them, by its Hugging Face name
 * or a glob of such names. The text lives until the next call with this plan. Errors: usage, a name that matches
 * nothing, with the nearest ones. */
REFIT_API refit_status refit_plan_explain(refit_plan* plan, const char* tensor, const char** text);

/* Returns in `*seconds` the least time of a refit where every rank sends and receives at most so many bytes per second
 * at a time. */
REFIT_API refit_status refit_plan_bound(const refit_plan* plan, double send, double receive, double* seconds);

/* ---- World: the processes that take part. ---- */

typedef struct refit_world refit_world;

/* The caller's means to let the processes find each other. It is used by refit_world_create alone; from then on they
 * talk over connections of their own, so that one that dies or hangs is noticed. */
typedef struct refit_control {
  int32_t rank, size; /* world rank of this process, and their number */
  void* user;         /* handed to the callbacks */
  /* Collective: puts `bytes` bytes of every rank, in order of rank, into `all` (size x bytes). Returns 0, or anything
   * else for a failure. */
  int (*all_gather)(void* user, const void* mine, void* all, size_t bytes);
} refit_control;

/* Makes a world. Collective. `options`: NULL, or "timeout=60 interface=eth0": seconds that a process may keep the others
 * waiting before they fail (REFIT_RUNTIME, with its rank, host and pid; 0 = for ever), and the network interface to reach
 * it through (else REFIT_SOCKET_IFNAME, or the first that is up and not the loopback). */
REFIT_API refit_status refit_world_create(const refit_control* control, const char* options, refit_world** world);
/* Sessions of the world must be destroyed before it. Not collective. */
REFIT_API void refit_world_destroy(refit_world* world);

/* Has `interrupted` asked, some times a second, while a call of this process waits for other ranks. Anything but 0 ends the
 * call with REFIT_RUNTIME, here and on all ranks that wait for this one. For languages whose signal handlers run between
 * calls. NULL: nobody is asked. Not collective; for all worlds of the process. */
REFIT_API void refit_set_interrupted(int (*interrupted)(void));

/* ---- Session: a plan carried out over memory that the caller owns. ---- */

typedef struct refit_session refit_session;

/* Makes a session. Collective. `train`, `gen`: this process's tensors on the sides that it is a rank of (else NULL, 0),
 * under the engine's own names: all that refit_plan_storages lists, in any order; those that it does not list are left
 * alone. A tensor's memory is used where it lies: its strides must be those of the shape, with dimensions in any order.
 * The plan and the world must outlive the session; the memory must stay until it is destroyed, or refit_session_move is
 * told.
 *
 * `options`, the same on all processes: NULL, or
 *   executor=auto | direct | p2p | golden   auto: direct where every gen rank's memory can be mapped, else p2p
 *   fan_out=true                            gen ranks that feed each other; for direct, where all memory is mapped
 *   delta=auto | index | bitmap             a refit sends what has changed since the one before; p2p, which it chooses
 *   streams=4 misc_buffer_bytes=268435456   as a case file's [refit]
 *
 * Errors: usage, with the tensor: missing, of another shape or dtype, not dense, on another device, in an open session
 * already; all of them are listed. Runtime: memory, peers. */
REFIT_API refit_status refit_session_create(const refit_plan* plan, refit_world* world, const refit_tensor* train,
                                            size_t train_count, const refit_tensor* gen, size_t gen_count,
                                            const char* options, refit_session** session);
/* Collective, unless a call of the session has failed. */
REFIT_API void refit_session_destroy(refit_session* session);

/* Returns what a reader should know, one sentence a line: the executor that was chosen and why, what could not be
 * mapped, tensors that were left alone, memory that moved. The text lives until the session's next call. */
REFIT_API refit_status refit_session_notes(refit_session* session, const char** text);

/* Tells where this process's tensors of a side lie from now on: all of them, as in refit_session_create. Not collective,
 * and cheap where nothing has moved: call it before every refit where an allocator may have moved or freed them. The
 * next refit maps and plans anew on all ranks, and says so in its notes. Errors: as of refit_session_create; call the
 * next verb all the same: it then fails with that error on all ranks, instead of letting them wait for this one. */
REFIT_API refit_status refit_session_move(refit_session* session, refit_side side, const refit_tensor* tensors,
                                          size_t count);

/* Seconds of one refit on this process, from leaving its barrier on; before that, `remap` where memory has moved. */
typedef struct refit_seconds {
  size_t size; /* sizeof(refit_seconds) of the caller */
  double total, quantise, bulk, misc, remap;
} refit_seconds;

/* Moves all weights. Collective: begins with a barrier; on return this process's part is complete and visible to its
 * device. Train's tensors must be written, and device work on either side ended, before it. `seconds`: may be NULL. */
REFIT_API refit_status refit_session_refit(refit_session* session, refit_seconds* seconds);

/* ---- Versions: which weights a process has (since interface 2). ---- */

/* The same as refit_session_refit, and the weights are version `version`, 0 or more: what gen processes give is not
 * looked at. refit_session_refit itself counts on from the last one, and begins with 1. Gen processes that do not have
 * the version that was sent last are named in the notes. Errors: usage, train processes that give different ones. */
REFIT_API refit_status refit_session_refit_version(refit_session* session, int64_t version, refit_seconds* seconds);

/* The weights that a gen process holds, or that a train process sent last. */
typedef struct refit_weights {
  size_t size;     /* sizeof(refit_weights) of the caller */
  int64_t version; /* -1: none */
  char plan[33];   /* hash of the plan that brought them, in hexadecimal digits; "" without a version */
  char digest[33]; /* their fingerprint, as a proof of this version found it; "" where there was none */
} refit_weights;
/* Not collective. */
REFIT_API refit_status refit_session_version(refit_session* session, refit_weights* weights);

/* Says what a gen process's memory holds, where no refit of this session has brought it: a version that it had before
 * (of a session over the same plan), or -1, nothing known, e.g. after loading a checkpoint into it. Memory that moves
 * holds nothing known by itself. Not collective. */
REFIT_API refit_status refit_session_set_version(refit_session* session, int64_t version);

/* Requires that all gen processes hold `version`: call it before they serve. Collective. Errors: REFIT_DATA, with those
 * that do not, and what they hold. */
REFIT_API refit_status refit_session_require_version(refit_session* session, int64_t version);

/* What a proof found; equal on all processes. */
typedef struct refit_proof {
  size_t size; /* sizeof(refit_proof) of the caller */
  int64_t tensors, tensors_wrong;
  int64_t elements, elements_wrong; /* stored over all gen ranks */
  double kl_max, kl_mean;           /* of the KL proxy; 0 for equal bits */
  char train_digest[33], gen_digest[33]; /* fingerprints over all tensors, in hexadecimal digits: equal where the bits are */
} refit_proof;

/* Compares what gen ranks hold with what train ranks hold, every element, by fingerprints. Collective. Returns
 * REFIT_DATA where something is wrong, with `proof` filled in, and the first wrong tensor and rank in the error. */
REFIT_API refit_status refit_session_prove(refit_session* session, refit_proof* proof);

/* Lists the last proof's wrong tensors, at most `capacity` of them; `*count` becomes their number. The names live until
 * the session's next call. */
typedef struct refit_wrong {
  const char* tensor;
  int32_t gen_rank;
  int64_t elements_wrong;
  int64_t first_index; /* in the tensor's Hugging Face shape; -1: not counted */
} refit_wrong;
REFIT_API refit_status refit_session_wrong(const refit_session* session, refit_wrong* wrong, size_t capacity,
                                           size_t* count);

/* Writes the fingerprint of the weights that gen ranks hold now, 32 hexadecimal digits. Collective; equal on all
 * processes, and for equal weights in any layout of the same precision. */
REFIT_API refit_status refit_session_digest(refit_session* session, char digest[33]);

/* Memory of `bytes` on this host that other processes can map, so that `direct` can store into it: for engines on CPUs.
 * (So can tensors that lie in any shared mapping, as torch's share_memory_ makes.) */
REFIT_API refit_status refit_shared_memory_create(size_t bytes, void** address);
REFIT_API void refit_shared_memory_destroy(void* address);

#ifdef __cplusplus
}
#endif
#endif
