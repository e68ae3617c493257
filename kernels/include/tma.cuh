// Hopper's asynchronous machinery: mbarriers, the copy engine (TMA), clusters and register reallocation. Needs sm_90.
// Shared memory is addressed by 32-bit shared-window addresses throughout.
#pragma once

#include "ptx.cuh"

namespace ptx {

// What the host encodes for a tensor and passes by value, as `const __grid_constant__ TensorMap`.
struct alignas(128) TensorMap {
    unsigned long long words[16];
};

// ---- mbarriers: 8 bytes of shared memory, aligned ----

__device__ __forceinline__ void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}

// Makes this thread's mbarrier_init visible to the copy engine and to the cluster; a barrier follows.
__device__ __forceinline__ void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

// Arrives, and lets the phase end only when so many bytes have been copied too.
__device__ __forceinline__ void mbarrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

// Arrives at the barrier at the same place in the shared memory of another program of the cluster.
__device__ __forceinline__ void mbarrier_arrive_cluster(u32 barrier, u32 rank) {
    asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}"
                 :: "r"(barrier), "r"(rank) : "memory");
}

// Whether the phase of that parity has ended; waits a while for it.
__device__ __forceinline__ bool mbarrier_try_wait(u32 barrier, u32 parity) {
    u32 ended;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(ended) : "r"(barrier), "r"(parity) : "memory");
    return ended != 0;
}

// Waits until the phase of that parity has ended. A fresh barrier is in phase 0, and its phase -1 (parity 1) has ended.
__device__ __forceinline__ void mbarrier_wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait(barrier, parity)) {}
}

// ---- The copy engine; one thread issues for all ----

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" :: "l"(&map) : "memory");
}

// Copies the tile that begins at (x, y), x along the fastest extent; `barrier` counts its bytes.
__device__ __forceinline__ void tma_load(u32 shared, const TensorMap& map, u32 barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 :: "r"(shared), "l"(&map), "r"(barrier), "r"(x), "r"(y) : "memory");
}

__device__ __forceinline__ void tma_load(u32 shared, const TensorMap& map, u32 barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 :: "r"(shared), "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z) : "memory");
}

// Copies a tile out to (x, y); what lies beyond the extents is not written.
__device__ __forceinline__ void tma_store(const TensorMap& map, u32 shared, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                 :: "l"(&map), "r"(shared), "r"(x), "r"(y) : "memory");
}

__device__ __forceinline__ void tma_store(const TensorMap& map, u32 shared, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];"
                 :: "l"(&map), "r"(shared), "r"(x), "r"(y), "r"(z) : "memory");
}

__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until the shared memory of all but PENDING of this thread's groups of stores may be written again.
template <int PENDING>
__device__ __forceinline__ void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" :: "n"(PENDING) : "memory");
}

// Lets the copy engine and the tensor cores see what this thread stored to shared memory; a barrier follows.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Clusters ----

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// The cluster's number in the grid; without clusters, the program's.
__device__ __forceinline__ u32 cluster_index() {
    u32 index;
    asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
    return index;
}

__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }

// Arrives and promises nothing of what this thread stored; initialized mbarriers have their own fence.
__device__ __forceinline__ void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }

__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// All threads of all programs of the cluster; shared memory written before is seen after, by all of them.
__device__ __forceinline__ void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

// The address, for store_async, of a place in another program's shared memory.
__device__ __forceinline__ u32 cluster_address(u32 shared, u32 rank) {
    u32 address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}

// Stores floats to an address of another program's shared memory, aligned to all of them, without waiting; `barrier`, an
// address in the same program, counts their bytes.
__device__ __forceinline__ void store_async(u32 address, const float (&value)[1], u32 barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];"
                 :: "r"(address), "f"(value[0]), "r"(barrier) : "memory");
}

__device__ __forceinline__ void store_async(u32 address, const float (&value)[2], u32 barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
                 :: "r"(address), "f"(value[0]), "f"(value[1]), "r"(barrier) : "memory");
}

__device__ __forceinline__ void store_async(u32 address, const float (&value)[4], u32 barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
                 :: "r"(address), "f"(value[0]), "f"(value[1]), "f"(value[2]), "f"(value[3]), "r"(barrier) : "memory");
}

// ---- Warps and warpgroups ----

// One lane of the warp, the same each time; all lanes call it.
__device__ __forceinline__ bool elect_one() {
    u32 elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected != 0;
}

// Gives registers of each thread back, or takes more; whole warpgroups, multiples of 8.
template <int REGISTERS>
__device__ __forceinline__ void release_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(REGISTERS));
}

template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(REGISTERS));
}

}  // namespace ptx
