// A model of what gemm_tcgen05.cu asks of a GPU: one thread of the host for each of the program's, mbarriers, a copy engine
// that finishes in any order, tensor cores that read shared memory by the layouts their descriptors name (the canonical
// layouts of the PTX ISA, section 9.7.16.5), and tensor memory. It takes the place of ptx.cuh, tma.cuh and tcgen05.cuh.
#pragma once

#include <pthread.h>

#include <array>
#include <condition_variable>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __align__(bytes)
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define shared_address(pointer) shared_address_of_program()

#define REQUIRE(condition) ((condition) ? void() : model::fail(#condition))

struct Dimension {
    unsigned x;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

inline thread_local Dimension threadIdx, blockIdx;

namespace model {

using u32 = unsigned;
using u64 = unsigned long long;

[[noreturn]] inline void fail(const char* what) {
    fprintf(stderr, "not so: %s\n", what);
    abort();
}

// Shared memory begins at 1024 of a program's window; a program's rank in its pair is above bit 24.
constexpr u32 SHARED_BEGIN = 1024, SHARED_BYTES = 227 * 1024, RANK_SHIFT = 24, WINDOW = (1u << RANK_SHIFT) - 1;

struct Map {
    uint8_t* base;
    int element_bytes;
    int64_t columns, rows, row_bytes;
    int tile_columns, tile_rows;
    int swizzled;  // by so many bytes, or 0
};

struct Barrier {
    int arrivals = 0, pending = 0;
    int64_t bytes = 0;
    unsigned phase = 0;

    void advance() {
        REQUIRE(pending >= 0);
        if (pending == 0 && bytes == 0) ++phase, pending = arrivals;
    }
};

struct Rendezvous {
    pthread_barrier_t barrier;
    explicit Rendezvous(int threads) { pthread_barrier_init(&barrier, nullptr, threads); }
    ~Rendezvous() { pthread_barrier_destroy(&barrier); }
    void wait() { pthread_barrier_wait(&barrier); }
};

struct Program {
    std::vector<uint8_t> shared = std::vector<uint8_t>(SHARED_BYTES, 0xFF);
    std::vector<float> sums = std::vector<float>(128 * 512, NAN);  // tensor memory, lane after lane
    bool has_tensor_memory = false;
    std::map<u32, Barrier> barriers;
    std::map<int, std::vector<std::shared_ptr<bool>>> stores;  // of each thread, in order: whether they are done
    std::vector<std::unique_ptr<Rendezvous>> warps;
    std::vector<std::array<u32, 32>> exchanged;  // an address of each lane of a warp
    std::map<int, std::unique_ptr<Rendezvous>> named;
    Rendezvous all;
    explicit Program(int threads) : exchanged(threads / 32), all(threads) {
        for (int warp = 0; warp < threads / 32; ++warp) warps.push_back(std::make_unique<Rendezvous>(32));
    }
};

// One program or a pair, and the engines that work for it.
struct Cluster {
    std::vector<std::unique_ptr<Program>> programs;
    Rendezvous all;
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::function<void()>> copies;  // finished in any order
    std::deque<std::function<void()>> products;  // in theirs
    bool stop = false;
    std::mt19937 random;
    std::thread copying, multiplying;

    Cluster(int ctas, int threads, unsigned seed) : all(ctas * threads), random(seed) {
        for (int rank = 0; rank < ctas; ++rank) programs.push_back(std::make_unique<Program>(threads));
        copying = std::thread([this] {
            work(copies, [this] {
                const size_t index = random() % copies.size();
                auto job = copies[index];
                copies.erase(copies.begin() + index);
                return job;
            });
        });
        multiplying = std::thread([this] {
            work(products, [this] {
                auto job = products.front();
                products.pop_front();
                return job;
            });
        });
    }

    // Everything a program leaves behind must be at rest.
    void finish() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            REQUIRE(products.empty());
            for (auto& program : programs) {
                REQUIRE(!program->has_tensor_memory);
                for (auto& [address, barrier] : program->barriers) {
                    REQUIRE(barrier.pending == barrier.arrivals && barrier.bytes == 0);
                }
            }
            stop = true;
            changed.notify_all();
        }
        copying.join();
        multiplying.join();
    }

  private:
    template <typename Jobs, typename Take>
    void work(Jobs& jobs, Take take) {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [&] { return stop || !jobs.empty(); });
            if (jobs.empty()) return;
            auto job = take();
            const bool late = random() % 16 == 0;
            lock.unlock();
            if (late) std::this_thread::sleep_for(std::chrono::microseconds(200));
            job();
            lock.lock();
        }
    }
};

inline Cluster* cluster;
inline std::vector<bool> begun;  // the grid's programs, or pairs, that have begun or never will
inline std::mt19937 dealer;
inline thread_local int rank;

inline Program& self() { return *cluster->programs[rank]; }
inline int thread() { return static_cast<int>(threadIdx.x); }
inline uint8_t* at(u32 address) { return &cluster->programs[address >> RANK_SHIFT]->shared.at((address & WINDOW) - SHARED_BEGIN); }
inline u32 swizzle(u32 address, int bytes) { return address ^ (address >> 7 & (bytes / 16 - 1)) << 4; }

inline Barrier& barrier(u32 address) { return cluster->programs[address >> RANK_SHIFT]->barriers.at(address & WINDOW); }

inline void arrive(u32 address, int64_t bytes = 0) {
    std::lock_guard<std::mutex> lock(cluster->mutex);
    Barrier& it = barrier(address);
    REQUIRE(it.pending > 0);
    --it.pending, it.bytes += bytes;
    it.advance();
    cluster->changed.notify_all();
}

inline void complete(u32 address, int64_t bytes) {
    std::lock_guard<std::mutex> lock(cluster->mutex);
    Barrier& it = barrier(address);
    it.bytes -= bytes;
    it.advance();
    cluster->changed.notify_all();
}

inline void wait(u32 address, u32 parity) {
    REQUIRE(static_cast<int>(address >> RANK_SHIFT) == rank);
    std::unique_lock<std::mutex> lock(cluster->mutex);
    Barrier& it = barrier(address);
    REQUIRE(cluster->changed.wait_for(lock, std::chrono::minutes(10), [&] { return it.phase % 2 != parity; }));
}

// Now and then a thread is late.
inline void dawdle() {
    static thread_local std::mt19937 random(thread());
    if (random() % 256 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

inline void defer(std::function<void()> job) {
    std::lock_guard<std::mutex> lock(cluster->mutex);
    cluster->copies.push_back(std::move(job));
    cluster->changed.notify_all();
}

// Visits the elements of the tile at (x, y): where each lies in shared memory, and in the tensor (null outside).
template <typename Visit>
void each_element(const Map& map, u32 shared, int x, int y, Visit visit) {
    REQUIRE(shared % (map.swizzled ? 1024 : 128) == 0);
    REQUIRE(!map.swizzled || map.tile_columns * map.element_bytes == map.swizzled);
    for (int row = 0; row < map.tile_rows; ++row) {
        for (int column = 0; column < map.tile_columns; ++column) {
            const u32 plain = shared + (row * map.tile_columns + column) * map.element_bytes;
            const bool inside = x + column < map.columns && y + row < map.rows;
            uint8_t* global = map.base + (y + row) * map.row_bytes + (x + column) * map.element_bytes;
            visit(at(map.swizzled ? swizzle(plain, map.swizzled) : plain), inside ? global : nullptr);
        }
    }
}

inline void load(u32 shared, const Map& map, u32 address, int x, int y) {
    defer([=] {
        each_element(map, shared, x, y, [&](uint8_t* inner, const uint8_t* global) {
            global ? memcpy(inner, global, map.element_bytes) : memset(inner, 0, map.element_bytes);
        });
        complete(address, int64_t{map.tile_rows} * map.tile_columns * map.element_bytes);
    });
}

inline void store(const Map& map, u32 shared, int x, int y) {
    auto done = std::make_shared<bool>(false);
    {
        std::lock_guard<std::mutex> lock(cluster->mutex);
        self().stores[thread()].push_back(done);
    }
    defer([=] {
        each_element(map, shared, x, y, [&](const uint8_t* inner, uint8_t* global) {
            if (global) memcpy(global, inner, map.element_bytes);
        });
        std::lock_guard<std::mutex> lock(cluster->mutex);
        *done = true;
        cluster->changed.notify_all();
    });
}

inline void wait_stores(size_t pending) {
    std::unique_lock<std::mutex> lock(cluster->mutex);
    auto& stores = self().stores[thread()];
    cluster->changed.wait(lock, [&] {
        for (size_t i = 0; i + pending < stores.size(); ++i) {
            if (!*stores[i]) return false;
        }
        return true;
    });
}

// Element (index, k) of an operand of a program, by its descriptor (table 40) and the canonical layouts.
inline float operand(int of_rank, u64 bits, bool mn_major, int index, int k) {
    const int mode = bits >> 61, line = mode == 2 ? 128 : mode == 4 ? 64 : 32;
    REQUIRE((bits >> 46 & 7) == 1 && (bits >> 49 & 15) == 0 && (mode == 2 || mn_major && (mode == 4 || mode == 6)));
    const u32 start = (bits & 0x3FFF) << 4, leading = (bits >> 16 & 0x3FFF) << 4, stride = (bits >> 32 & 0x3FFF) << 4;
    const u32 offset = mn_major ? index / (line / 2) * leading + index % (line / 2) * 2 + k % 8 * line + k / 8 * stride
                                : index / 8 * stride + index % 8 * 128 + k * 2;
    uint16_t value;
    memcpy(&value, at(static_cast<u32>(of_rank) << RANK_SHIFT | swizzle(start + offset, line)), 2);
    return __uint_as_float(static_cast<u32>(value) << 16);
}

// Row `index` of a program's operand in tensor memory: two of k a column, the first in the lower half.
inline float held_operand(int of_rank, u32 address, int index, int k) {
    REQUIRE(address >> 16 == 0 && (address & 0xFFFF) + 8 <= 512);
    const u32 word = __float_as_uint(cluster->programs[of_rank]->sums[index * 512 + (address & 0xFFFF) + k / 2]);
    return __uint_as_float(k % 2 ? word & 0xFFFF0000u : word << 16);
}

// One product, by its instruction descriptor (table 42).
template <typename First>
void multiply(int ctas, u32 sums, First first, u64 b, u32 instruction, bool add) {
    const int m = (instruction >> 24 & 31) * 16, n = (instruction >> 17 & 63) * 8, column = sums & 0xFFFF;
    const bool b_mn = instruction >> 16 & 1;
    REQUIRE((instruction & 0xE080'7FFF) == (1 << 4 | 1 << 7 | 1 << 10));
    REQUIRE(m == 128 * ctas && n >= 16 && n <= 256 && n % (16 * ctas) == 0 && sums >> 16 == 0 && column + n <= 512);
    for (int i = 0; i < m; ++i) {
        float* row = &cluster->programs[i / 128]->sums[i % 128 * 512 + column];
        float left[16];
        for (int k = 0; k < 16; ++k) left[k] = first(i / 128, i % 128, k);
        for (int j = 0; j < n; ++j) {
            float sum = add ? row[j] : 0;
            for (int k = 0; k < 16; ++k) sum += left[k] * operand(j / (n / ctas), b, b_mn, j % (n / ctas), k);
            row[j] = sum;
        }
    }
}

inline void issue(std::function<void()> job) {
    std::lock_guard<std::mutex> lock(cluster->mutex);
    cluster->products.push_back(std::move(job));
    cluster->changed.notify_all();
}

}  // namespace model

inline void __syncthreads() { model::self().all.wait(); }
inline void __syncwarp() { model::self().warps[model::thread() / 32]->wait(); }
inline void __threadfence() { __sync_synchronize(); }
inline unsigned __shfl_xor_sync(unsigned, unsigned, int) { model::fail("no shuffles"); }

namespace ptx {

using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;
using bf16 = u16;
using bf16x2 = u32;

struct TensorMap {
    const model::Map* map;
};

inline u32 shared_address_of_program() { return static_cast<u32>(model::rank) << model::RANK_SHIFT | model::SHARED_BEGIN; }
inline u32 cluster_rank() { return model::rank; }
inline void cluster_arrive_relaxed() {}
inline void cluster_wait() { model::cluster->all.wait(); }
inline bool elect_one() { return model::thread() % 32 == 0; }

template <typename Value>
Value load(u32 address) {
    Value value;
    memcpy(&value, model::at(address), sizeof(value));
    return value;
}
inline u32 load_shared(u32 address) { return load<u32>(address); }
inline uint2 load_shared_u64(u32 address) { return load<uint2>(address); }
inline uint4 load_shared_u128(u32 address) { return load<uint4>(address); }
inline void ldmatrix_x4_trans(u32 (&out)[4], u32 address) {
    const int lane = model::thread() % 32;
    REQUIRE(address % 16 == 0);
    auto& addresses = model::self().exchanged[model::thread() / 32];
    addresses[lane] = address;
    __syncwarp();
    for (int matrix = 0; matrix < 4; ++matrix) {
        auto element = [&](int row) { return load<u16>(addresses[8 * matrix + row] + lane / 4 * 2); };
        out[matrix] = element(lane % 4 * 2) | static_cast<u32>(element(lane % 4 * 2 + 1)) << 16;
    }
    __syncwarp();
}
template <typename Value>
void store_shared(u32 address, Value value) {
    memcpy(model::at(address), &value, sizeof(value));
}
inline float4 load_at_l2(const float4* pointer) { return *pointer; }

template <int THREADS>
void barrier_sync(int name) {
    std::unique_lock<std::mutex> lock(model::cluster->mutex);
    auto& rendezvous = model::self().named[name];
    if (!rendezvous) rendezvous = std::make_unique<model::Rendezvous>(THREADS);
    lock.unlock();
    rendezvous->wait();
}

inline void mbarrier_init(u32 address, u32 arrivals) {
    std::lock_guard<std::mutex> lock(model::cluster->mutex);
    model::Barrier fresh;
    fresh.arrivals = fresh.pending = static_cast<int>(arrivals);
    REQUIRE(address % 8 == 0 && model::self().barriers.emplace(address & model::WINDOW, fresh).second);
}
inline void fence_mbarrier_init() {}
inline void fence_async_shared() {}
inline void mbarrier_arrive_expect(u32 address, u32 bytes) { model::arrive(address, bytes); }
inline void mbarrier_wait(u32 address, u32 parity) { model::wait(address, parity); }
template <int CTAS>
void mbarrier_arrive_first(u32 address) { model::arrive(address & model::WINDOW); }
template <int CTAS>
void mbarrier_arrive_first_relaxed(u32 address) { model::arrive(address & model::WINDOW); }
inline u32 count_acquire_release(u32* counter) { return __sync_fetch_and_add(counter, 1u); }

// The next program that has not begun, or none, which the hardware may say before they are through.
template <int CTAS>
void cancel_block(u32 answer, u32 barrier) {
    REQUIRE(model::rank == 0 && answer % 16 == 0);
    int block = -1;
    for (size_t i = 0; i < model::begun.size() && block < 0 && model::dealer() % 16; ++i) {
        if (!model::begun[i]) model::begun[i] = true, block = static_cast<int>(i) * CTAS;
    }
    for (u32 rank = 0; rank < CTAS; ++rank) {
        model::defer([=] {
            const u32 of_rank = rank << model::RANK_SHIFT;
            store_shared(of_rank | answer, block);
            model::complete(of_rank | barrier, 16);
        });
    }
}
inline int canceled_block(u32 answer) { return load<int>(answer); }
inline void let_next_grid_begin() {}
inline void wait_for_last_grid() {}

inline void prefetch_map(const TensorMap&) {}
inline void tma_load(u32 shared, const TensorMap& map, u32 address, int x, int y) { model::load(shared, *map.map, address, x, y); }
template <int CTAS>
void tma_load_first(u32 shared, const TensorMap& map, u32 address, int x, int y) {
    model::load(shared, *map.map, address & model::WINDOW, x, y);
}
inline void tma_store(const TensorMap& map, u32 shared, int x, int y) { model::store(*map.map, shared, x, y); }
inline void tma_store_commit() {}
template <int PENDING>
void tma_store_wait_read() { model::wait_stores(PENDING); }

template <int CTAS, int COLUMNS>
void tmem_allocate(u32 address) {
    if (!elect_one()) return;
    REQUIRE(!model::self().has_tensor_memory);
    model::self().has_tensor_memory = true;
    store_shared(address, 0u);
}
template <int CTAS, int COLUMNS>
void tmem_free(u32 address) {
    if (!elect_one()) return;
    REQUIRE(address == 0 && model::self().has_tensor_memory);
    model::self().has_tensor_memory = false;
}
inline void tmem_load(float (&out)[16], u32 address) {
    const int warp = model::thread() / 32, lane = model::thread() % 32;
    REQUIRE(static_cast<int>(address >> 16) == warp % 4 * 32);
    model::dawdle();
    memcpy(out, &model::self().sums[(warp % 4 * 32 + lane) * 512 + (address & 0xFFFF)], sizeof(out));
}
template <int GROUPS>
void tmem_wait(float (&)[GROUPS][16]) {}
inline void tmem_store(u32 address, int lane, int column, u32 word) {
    REQUIRE(static_cast<int>(address >> 21) == model::thread() / 32 % 4 && (address >> 16) % 16 == 0);
    REQUIRE((address & 0xFFFF) + column < 512);
    model::self().sums[((address >> 16) + lane) * 512 + (address & 0xFFFF) + column] = __uint_as_float(word);
}
inline void tmem_store_16x256b(u32 address, const u32 (&words)[8]) {
    const int lane = model::thread() % 32;
    for (int i = 0; i < 8; ++i) tmem_store(address, lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2, words[i]);
}
inline void tmem_store_16x128b(u32 address, const u32 (&words)[4]) {
    const int lane = model::thread() % 32;
    for (int i = 0; i < 4; ++i) tmem_store(address, lane / 4 + i % 2 * 8, i / 2 * 4 + lane % 4, words[i]);
}
inline void tmem_wait_stores() {}
inline void tcgen05_before_signal() {}
inline void tcgen05_after_signal() {}
template <int CTAS>
void tcgen05_commit(u32 address) {
    model::issue([=] {
        for (u32 rank = 0; rank < CTAS; ++rank) {
            model::defer([=] { model::arrive(rank << model::RANK_SHIFT | (address & model::WINDOW)); });
        }
    });
}
template <int CTAS>
void tcgen05_multiply(u32 sums, u64 a, u64 b, u32 instruction, u32 add) {
    REQUIRE(model::rank == 0);
    const bool mn_major = instruction >> 15 & 1;
    auto first = [=](int rank, int index, int k) { return model::operand(rank, a, mn_major, index, k); };
    model::issue([=] { model::multiply(CTAS, sums, first, b, instruction, add); });
}
template <int CTAS>
void tcgen05_multiply_held(u32 sums, u32 a, u64 b, u32 instruction, u32 add) {
    REQUIRE(model::rank == 0 && (instruction >> 15 & 1) == 0);
    auto first = [=](int rank, int index, int k) { return model::held_operand(rank, a, index, k); };
    model::issue([=] { model::multiply(CTAS, sums, first, b, instruction, add); });
}

inline bf16 to_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    return static_cast<bf16>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline bf16x2 pack_bf16(float low, float high) { return to_bf16(low) | static_cast<u32>(to_bf16(high)) << 16; }
inline float low_to_float(bf16x2 packed) { return __uint_as_float(packed << 16); }
inline float high_to_float(bf16x2 packed) { return __uint_as_float(packed & 0xFFFF0000u); }
inline bf16x2 fma_bf16x2(bf16x2 a, bf16x2 b, bf16x2 c) {
    return pack_bf16(low_to_float(a) * low_to_float(b) + low_to_float(c),
                     high_to_float(a) * high_to_float(b) + high_to_float(c));
}
inline u32 and_xor(u32 a, u32 b, u32 c) { return (a & b) ^ c; }
inline u32 permute_bytes(u32 low, u32 high, u32 selector) {
    const u64 bytes = low | u64{high} << 32;
    u32 picked = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 nibble = selector >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 255;
        picked |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    return picked;
}

}  // namespace ptx
