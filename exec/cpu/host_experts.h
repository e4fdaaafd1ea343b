/* Experts computed by the host's cores from where they lie in host memory, whatever the device.
 *
 * Work is cut into strips of outputs, which the threads share: first the inside of all experts,
 * then what comes out of them, with one meeting of the threads between. A number depends on its own
 * row and weights alone, and its sum has one order, so that results do not depend on which experts
 * share a call, or on the number of threads. Sums are f32.
 *
 * Weights are read as they are kept, so that nothing is kept twice: parts of the checkpoint, the
 * plain form of a slot, or the packed one (exec/cpu/host_packed.h), which is the fast path. bf16
 * experts that are packed have rows and insides rounded to bf16, as on the device. */
#ifndef EXEC_CPU_HOST_EXPERTS_H
#define EXEC_CPU_HOST_EXPERTS_H

#include "base/threads.h"
#include "exec/backend.h"

typedef enum {
    HOST_PARTS, /* FfnTensors: of any type and step */
    HOST_F32,   /* ffn_layout() with f32 */
    HOST_BF16,  /* ffn_layout() with bf16 */
    HOST_PACKED /* exec/cpu/host_packed.h, bf16 */
} HostForm;

typedef struct HostExperts HostExperts;

/* Rows that are computed at a time, of steps of MAX_TOKENS: all, or so many that their insides take
 * little memory. */
uint32_t host_experts_rows(const ModelConfig *config, uint32_t max_tokens);
/* For the MoE layers of CONFIG; POOL must outlive it. */
Status host_experts_new(const ModelConfig *config, uint32_t max_tokens, ThreadPool *pool,
                        HostExperts **host);
void host_experts_free(HostExperts *host);

/* The rows of JOBS, and how far they are computed. All pointers are to host memory. */
typedef struct {
    const FfnShape *shape;
    HostForm form;
    uint32_t top_k;
    RowGroups groups; /* by expert; row / top_k is the token */
    const HostJob *jobs;
    uint32_t n_jobs;
    const float *in; /* [tokens][d_model] */
    uint32_t job;    /* the next one ... */
    uint32_t row;    /* ... and its next row; 0 at first, as JOB */
} HostWork;

/* Computes the next rows of WORK, host_experts_rows() at the most, and returns how many they are; 0
 * when all are done. ROWS[n] are their numbers, as in GROUPS. Where SCATTER is set row r goes to
 * OUT + r * d_model, else they lie in OUT one after the other; f32, or bf16 in form HOST_PACKED. */
uint32_t host_experts_next(HostExperts *host, HostWork *work, bool scatter, void *out,
                           uint32_t *rows);

/* Computes one row of each of N_JOBS experts of SHAPE, HOST_TIMED_EXPERTS at the most, for nobody:
 * *NS is what that takes now. Experts that are read for the first time in a while come from memory,
 * as misses do. */
void host_experts_time(HostExperts *host, const FfnShape *shape, HostForm form, const HostJob *jobs,
                       uint32_t n_jobs, uint64_t *ns);

/* "AVX-512 bf16", "plain C" ...: what computes packed experts on this machine. */
const char *host_experts_kernel(void);

#endif
