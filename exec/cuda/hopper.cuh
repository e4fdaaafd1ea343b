/* Hopper's instructions that CUDA C++ has no words for: barriers in shared memory, tensor copies,
 * clusters, dependent launches. One function per instruction; PTX ISA 8.0. */
#ifndef EXEC_CUDA_HOPPER_CUH
#define EXEC_CUDA_HOPPER_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

__device__ inline uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* ---- barriers (64 bits of shared memory each) ---- */

__device__ inline void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

/* Makes initialised barriers visible to the cluster and to the copy engine. */
__device__ inline void barrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives, and makes the phase wait for BYTES of copies as well. */
__device__ inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* Arrives at the barrier that lies at the same place in block RANK of the cluster. Of what this
 * thread did before it orders only completed matrix instructions, which is what the copy engine's
 * next write waits for; release at cluster scope would cost a fence per arrival. */
__device__ inline void barrier_arrive_at(uint32_t barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

/* Waits until the phase of this PARITY is over. */
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* ---- clusters ---- */

__device__ inline uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* The two halves of cluster_sync(). */
__device__ inline void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ inline void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ inline void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}

/* The float at the place FROM of block RANK's shared memory. */
__device__ inline float load_shared_of(uint32_t rank, uint32_t from)
{
    float value;
    asm volatile("{\n"
                 ".reg .b32 place;\n"
                 "mapa.shared::cluster.u32 place, %1, %2;\n"
                 "ld.shared::cluster.f32 %0, [place];\n"
                 "}"
                 : "=f"(value)
                 : "r"(from), "r"(rank)
                 : "memory");
    return value;
}

/* Four that lie together, at a multiple of 16. */
__device__ inline float4 load_four_of(uint32_t rank, uint32_t from)
{
    float4 value;
    asm volatile("{\n"
                 ".reg .b32 place;\n"
                 "mapa.shared::cluster.u32 place, %4, %5;\n"
                 "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [place];\n"
                 "}"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "r"(from), "r"(rank)
                 : "memory");
    return value;
}

/* VALUE -> the place TO of block RANK's shared memory. */
__device__ inline void store_shared_of(uint32_t rank, uint32_t to, uint32_t value)
{
    asm volatile("{\n"
                 ".reg .b32 place;\n"
                 "mapa.shared::cluster.u32 place, %0, %1;\n"
                 "st.shared::cluster.u32 [place], %2;\n"
                 "}" ::"r"(to),
                 "r"(rank), "r"(value)
                 : "memory");
}

/* ---- tensor copies ---- */

__device__ inline void tensor_map_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Box at the given coordinates of MAP -> the same place in shared memory of every block of the
 * cluster whose bit is set in RANKS; each one's barrier at that place gets the bytes. */
__device__ inline void copy_box_2d_to(uint16_t ranks, uint32_t to, const CUtensorMap *map,
                                      uint32_t barrier, int x, int y)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(x), "r"(y), "h"(ranks)
                 : "memory");
}

/* Box at the given coordinates of MAP -> shared memory of this block. */
__device__ inline void copy_box_3d(uint32_t to, const CUtensorMap *map, uint32_t barrier, int x,
                                   int y, int z)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ inline void copy_box_4d(uint32_t to, const CUtensorMap *map, uint32_t barrier, int x,
                                   int y, int z, int w)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

/* WORD -> the place TO of block RANK of the cluster, whose barrier gets the 16 bytes. */
__device__ inline void send_word_to(uint32_t rank, uint32_t to, uint4 word, uint32_t barrier)
{
    asm volatile("{\n"
                 ".reg .b32 place, remote;\n"
                 "mapa.shared::cluster.u32 place, %0, %6;\n"
                 "mapa.shared::cluster.u32 remote, %1, %6;\n"
                 "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [place], "
                 "{%2, %3, %4, %5}, [remote];\n"
                 "}" ::"r"(to),
                 "r"(barrier), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w), "r"(rank)
                 : "memory");
}

/* BYTES (a multiple of 16) that lie together -> shared memory of this block. */
__device__ inline void copy_bytes(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

/* How the L2 is to treat what is read once: it goes before all else. */
__device__ inline uint64_t evict_first()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* copy_bytes() under such a POLICY. */
__device__ inline void copy_bytes_once(uint32_t to, const void *from, uint32_t bytes,
                                       uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
}

/* BYTES (a multiple of 16) of shared memory -> device memory; this thread's group of such. */
__device__ inline void store_bytes(void *to, uint32_t from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}

/* Waits until this thread's stores have read shared memory. */
__device__ inline void await_stores()
{
    asm volatile("cp.async.bulk.commit_group;\n"
                 "cp.async.bulk.wait_group.read 0;" ::
                     : "memory");
}

/* Asks for BYTES (a multiple of 16) that lie together to be in the L2 soon. */
__device__ inline void prefetch_bytes(const void *from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/* Makes what this thread stored in shared memory visible to matrix instructions and copies. */
__device__ inline void fence_for_copies()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- between blocks, through device memory ---- */

/* *COUNTER += VALUE, behind all that this thread wrote or knows to be written. */
__device__ inline void add_released(uint32_t *counter, uint32_t value)
{
    asm volatile("fence.acq_rel.gpu;\n"
                 "red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(counter),
                 "r"(value)
                 : "memory");
}

/* What lies at FROM; what was written before it was is then there for this thread. */
__device__ inline uint32_t load_acquired(const uint32_t *from)
{
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

/* ... and for the copies that it begins. */
__device__ inline void fence_for_fetches()
{
    asm volatile("fence.proxy.async;" ::: "memory");
}

/* ---- the rest ---- */

/* Four 8 x 8 matrices of 16-bit elements, transposed; lane i gives the address of row i % 8 of
 * matrix i / 8. */
__device__ inline void store_matrices_transposed(uint32_t to, uint32_t a, uint32_t b, uint32_t c,
                                                 uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

__device__ inline uint4 load_shared_word(uint32_t from)
{
    uint4 word;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "r"(from)
                 : "memory");
    return word;
}

__device__ inline uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}

/* Gives this warpgroup N registers a thread from here on, MORE or fewer than it had. */
template <uint32_t N, bool MORE> __device__ inline void take_registers()
{
    if constexpr (MORE)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
    else
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* A barrier among THREADS threads of the block that use the same ID. */
__device__ inline void named_barrier(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Waits for the kernels before this one in the stream, whose results it may then read. A kernel
 * launched by launch_after() starts before they end; each must call this before it touches memory.
 */
__device__ inline void wait_for_earlier_kernels()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* Lets the next kernel of the stream start as soon as there is room for its blocks. */
__device__ inline void let_next_kernel_start()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#endif
