// Threads, warps, programs (thread blocks) and clusters, and what runs next: a fiber for each thread, in an order that the
// seed decides, so that a run can be had again. What the engines do for them waits among the threads for its turn.
#pragma once

#include <array>
#include <csetjmp>
#include <cstdarg>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <sys/mman.h>
#include <ucontext.h>

#include "clocks.h"
#include "machine.h"

namespace model {

struct Program;
struct Cluster;

// A load from tensor memory whose values are not there yet.
struct PendingLoad {
    std::vector<std::pair<void*, u32>> values;
};

// A copy of cp.async.
struct AsyncCopy {
    std::function<void()> copy;
    bool is_done = false;

    void make() {
        if (!is_done) is_done = true, copy();
    }
};

// A thread's sums while products of its warpgroup add to them: nobody may read their registers then.
struct GroupSums {
    std::vector<void*> places;
    std::vector<float> values;
    int pending = 0;
};

// A thread's part of one such product.
struct GroupProduct {
    GroupSums* sums;
    std::function<void(std::vector<float>&)> add;
};

struct Thread {
    Id id;
    int index, lane, warp;
    Program* program;
    std::function<void()> body;
    ucontext_t context;
    jmp_buf place;
    void* stack = nullptr;
    bool started = false, finished = false, runnable = true;
    std::string doing, waits_for;

    Tick tick = 1;  // of what it does now
    Knowledge now;
    Knowledge tensor;  // what it knew at the last fence::after_thread_sync: what its tcgen05 instructions may rely on
    u64 trace = 0;     // what it executed since its warp was together

    // Tensor memory: the tick of its accesses, and up to which they are done.
    Tick tensor_tick = 1, loads_done = 0, stores_done = 0;
    std::vector<PendingLoad> pending_loads;
    Id commits = 0;     // entry of its products; 0 before the first
    Tick products = 1;  // tick of the products after its last commit

    // Products of its warpgroup: sums by the place of the first, the groups that were not waited for, and the open one.
    std::map<void*, GroupSums> sums;
    std::deque<std::vector<GroupProduct>> product_groups;
    std::vector<GroupProduct> open_products;
    bool is_fenced = false;  // registers, for products

    // Bulk stores: its groups, of how many stores of each are not done.
    Id groups = 0;
    std::vector<int> unread;
    bool open_group = false, awaits_stores = false;

    // cp.async: its groups that were not waited for, and the open one. A copy is made once, whoever comes first.
    std::deque<std::vector<std::shared_ptr<AsyncCopy>>> copies;
    std::vector<std::shared_ptr<AsyncCopy>> open_copies;
};

// Threads that wait for each other.
struct Rendezvous {
    int arrived = 0;
    Meeting order, memory, received;
    std::vector<Thread*> waiting;
};

// What a lane holds of operands: of mma.sync A, then B; of wgmma A.
using Fragments = std::array<u32, 6>;

struct Warp {
    Rendezvous sync, collective;
    std::vector<u64> exchanged = std::vector<u64>(32);
    std::array<Fragments, 32> fragments;
    Id products = 0;  // entry of its part of its warpgroup's products; 0 before the first
};

inline std::mt19937 random_bits;
inline Thread* current;
inline jmp_buf scheduler_place;
inline std::vector<Thread*> runnable;
inline std::vector<std::function<void()>> jobs;  // of the engines: done in any order
inline u64 progress;                             // things that happened which somebody may wait for
inline std::vector<Thread*> polling;             // those in a wait that may give up

inline void describe(FILE* file);

[[noreturn]] void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "refused: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    describe(stderr);
    fflush(stderr);
    std::_Exit(1);
}

inline bool one_in(unsigned number) { return random_bits() % number == 0; }

// Lets others run; the thread goes on when its turn comes.
inline void yield() {
    if (_setjmp(current->place) == 0) _longjmp(scheduler_place, 1);
}

// Lets others run until somebody wakes it.
inline void block(std::string waits_for) {
    current->waits_for = std::move(waits_for);
    current->runnable = false;
    yield();
    current->waits_for.clear();
}

inline void wake(Thread* thread) {
    if (thread->runnable || thread->finished) return;
    thread->runnable = true;
    runnable.push_back(thread);
}

inline void resume(Thread* thread) {
    current = thread;
    if (_setjmp(scheduler_place) != 0) return;
    if (!thread->started) {
        thread->started = true;
        setcontext(&thread->context);
    }
    _longjmp(thread->place, 1);
}

inline void thread_end();

inline void fiber_main() {
    current->body();
    thread_end();
    current->finished = true, current->runnable = false;
    _longjmp(scheduler_place, 1);
}

constexpr size_t STACK_BYTES = 128 << 10;

inline void prepare(Thread* thread) {
    thread->stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = thread->stack;
    thread->context.uc_stack.ss_size = STACK_BYTES;
    thread->context.uc_link = nullptr;
    makecontext(&thread->context, fiber_main, 0);
    runnable.push_back(thread);
}

// Runs everything to its end.
inline void run_all(const std::function<void(Thread*)>& ended) {
    const unsigned laziness = std::vector<unsigned>{2, 8, 64}[random_bits() % 3];  // of the engines
    int silent = 0;
    u64 seen = 0;
    for (;;) {
        if (!jobs.empty() && (runnable.empty() || one_in(laziness))) {
            const size_t index = random_bits() % jobs.size();
            auto job = std::move(jobs[index]);
            jobs[index] = std::move(jobs.back());
            jobs.pop_back();
            current = nullptr;
            job();
            ++progress;
        } else if (!runnable.empty()) {
            const size_t index = random_bits() % runnable.size();
            Thread* thread = runnable[index];
            runnable[index] = runnable.back();
            runnable.pop_back();
            resume(thread);
            if (thread->runnable) runnable.push_back(thread);
            if (thread->finished) ended(thread);
        } else if (!polling.empty()) {
            // Waits that give up now and then look again; nothing else will happen unless they do something else then.
            silent = progress == seen ? silent + 1 : 0;
            seen = progress;
            if (silent > 3) break;
            const auto all = std::move(polling);
            polling.clear();
            for (Thread* thread : all) wake(thread);
        } else {
            break;
        }
    }
}

}  // namespace model
