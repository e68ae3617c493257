// Shared memory and global memory, and who touched what last. Three read and write them: threads (the generic proxy), the
// copy engine and the tensor cores (the async proxy), which see what a thread wrote only past a proxy fence.
#pragma once

#include "threads.h"

namespace model {

// Shared memory begins at 1024 of a program's window; a program's rank in its cluster is above bit 24.
constexpr u32 SHARED_BEGIN = 1024, SHARED_BYTES = 227 * 1024, RANK_SHIFT = 24, WINDOW = (1u << RANK_SHIFT) - 1;
constexpr u32 LANES = 128, COLUMNS = 512;  // of tensor memory

// The last accesses of a piece of memory: the last write, and the reads since.
struct Cell {
    Stamp write, read;
    std::vector<Stamp>* more_reads = nullptr;

    template <typename Knows>
    bool written_known(Knows knows) const {
        return knows(write);
    }
    template <typename Knows>
    bool reads_known(Knows knows) const {
        if (!knows(read)) return false;
        if (more_reads) {
            for (const Stamp& stamp : *more_reads) {
                if (!knows(stamp)) return false;
            }
        }
        return true;
    }
    void set_write(Stamp stamp) {
        write = stamp, read = {};
        delete more_reads;
        more_reads = nullptr;
    }
    // `covers`: whether whoever knows of the new read knows of an earlier one.
    template <typename Covers>
    void add_read(Stamp stamp, Covers covers) {
        if (read.tick == 0 || read.id == stamp.id || covers(read)) {
            read = stamp;
            return;
        }
        if (!more_reads) more_reads = new std::vector<Stamp>;
        for (Stamp& it : *more_reads) {
            if (it.id == stamp.id) {
                it = stamp;
                return;
            }
        }
        more_reads->push_back(stamp);
    }
};

struct Barrier {
    Id id = 0;
    int arrivals = 0, pending = 0;
    int64_t bytes = 0;
    unsigned phase = 0;
    Meeting order, memory, far;  // of the arrivals of this phase; `far`: releases of other programs, at the cluster's scope
    Knowledge ended;             // what the phases that ended have told
    View ended_far;
    Stamp made;                  // its initialization
    Stamp published;             // the fence that shows it to the engines and the cluster
    // Phases that somebody has to see end before the program leaves: up to the last at which an engine or another program's thread
    // arrived. Nothing else tells that such an arrival has come: not even that the thread has met this program's since.
    unsigned must_be_seen = 0;
    std::vector<Thread*> waiting;
};

// The tensor memory of one multiprocessor.
struct TensorMemory {
    std::vector<u32> words = std::vector<u32>(LANES * COLUMNS, 0xFFFFFFFF);
    std::vector<Cell> cells = std::vector<Cell>(LANES * COLUMNS);
    u32 first_column = 0, columns = 0;  // allocated to the program
    int group = 0;                      // by one program or by a pair
    bool has_permit = true, was_allocated = false;
    Stamp made;  // its allocation
};

struct Program {
    Cluster* cluster;
    u32 rank, index;  // in the cluster, in the grid
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<std::unique_ptr<Warp>> warps;
    std::map<int, Rendezvous> named;  // bar.sync
    u32 shared_bytes;
    std::vector<uint8_t> shared;
    std::vector<Cell> cells;  // one for two bytes
    std::map<u32, Barrier> barriers;
    TensorMemory tensor;
    std::deque<std::function<void()>> products;  // of its tensor cores, done in their order
    int in_flight = 0;                           // what the engines have still to do to its shared memory
    int left = 0;                                // threads that have ended
    bool has_left = false;
    Knowledge last;  // of all that have ended
};

struct Cluster {
    u32 index;
    std::vector<std::unique_ptr<Program>> programs;
    Rendezvous arrived;  // barrier.cluster
    Knowledge passed;
    u64 generation = 0;
    std::map<Thread*, u64> arrivals;
    u32 first_column = 0;  // where this cluster's tensor memory begins, in all of its programs
    bool is_cancelled = false, was_told_none = false;
    Id next_id = SECTIONS * threads_of_cluster;  // of a clock's entries
    Id new_id() { return index << CLUSTER_SHIFT | next_id++; }
};

// ---- Who knows what ----

inline Program& self() { return *current->program; }

inline std::string place(u32 address) {
    char text[64];
    snprintf(text, sizeof text, "shared memory at %u of program %u of the cluster", address & WINDOW, address >> RANK_SHIFT);
    return text;
}

// The program whose shared memory this is. To touch another's, a thread must know that it has begun.
inline Program& program_at(u32 address, bool must_know = true) {
    Cluster& cluster = *self().cluster;
    const u32 rank = address >> RANK_SHIFT;
    if (rank >= cluster.programs.size()) fail("there is no program %u in the cluster", rank);
    Program& program = *cluster.programs[rank];
    if (program.has_left) fail("the shared memory of a program that has left: %s", place(address).c_str());
    if (must_know && &program != &self()) {
        bool known = false;
        for (const auto& thread : program.threads) known |= current->now.order[entry(DONE, thread->id)] > 0;
        if (!known)
            fail("the shared memory of a program that may not have begun (a cluster sync at the start): %s",
                 place(address).c_str());
    }
    return program;
}

inline void check_range(const Program& program, u32 address, u32 bytes) {
    const u32 offset = address & WINDOW;
    if (offset < SHARED_BEGIN || offset + bytes > SHARED_BEGIN + program.shared_bytes) {
        fail("beyond the program's shared memory of %u bytes: %s", program.shared_bytes, place(address).c_str());
    }
    const auto next = program.barriers.lower_bound(offset >= 8 ? offset - 7 : 0);
    if (next != program.barriers.end() && next->first < offset + bytes)
        fail("a barrier is accessed as memory: %s", place(address).c_str());
}

inline uint8_t* bytes_at(Program& program, u32 address) { return &program.shared[(address & WINDOW) - SHARED_BEGIN]; }
inline Cell* cells_at(Program& program, u32 address) { return &program.cells[((address & WINDOW) - SHARED_BEGIN) / 2]; }

// What threads themselves may rely on.
inline bool seen_by_thread(const Stamp& stamp) { return current->now.memory.knows(stamp); }
// What this thread may have the copy engine rely on: of threads' writes, those past a proxy fence.
inline bool seen_by_copies(const Stamp& stamp) {
    if (!is_thread(stamp)) return current->now.memory.knows(stamp);
    return current->now.memory[in_section(ASYNC, stamp.id)] >= stamp.tick;
}
// A read that the copy engine may write over: a thread's takes no proxy fence, but has to be known to be done.
inline bool left_to_copies(const Stamp& stamp) {
    return current->now.memory.knows(stamp) ||
           (is_thread(stamp) && current->now.memory[in_section(READS, stamp.id)] >= stamp.tick);
}
// What it may have the tensor cores rely on: what it knew at its last fence::after_thread_sync, and its own.
inline bool seen_by_products(const Stamp& stamp) {
    if (!is_thread(stamp)) return current->tensor.memory.knows(stamp) || stamp.id == current->commits;
    const Knowledge& known = stamp.id == entry(DONE, current->id) ? current->now : current->tensor;
    return known.memory[in_section(ASYNC, stamp.id)] >= stamp.tick;
}

inline std::string why_not(const Stamp& stamp, bool thread_sees, bool was_write) {
    std::string text = was_write ? "a write" : "a read";
    text += is_thread(stamp) ? " by a thread" : " by an engine";
    text += thread_sees ? " is known of, but no fence shows it" : " may not be done";
    return text;
}

// A signal ends: what comes after it is not told by it.
inline void tick() {
    const Id id = entry(DONE, current->id);
    current->now.raise(id, ++current->tick);
}
inline Stamp stamp_of_thread() { return {entry(DONE, current->id), current->tick}; }

inline void thread_reads(u32 address, u32 bytes) {
    Program& program = program_at(address);
    check_range(program, address, bytes);
    Cell* cells = cells_at(program, address);
    const Stamp mine = stamp_of_thread();
    for (u32 i = 0; i < (bytes + 1) / 2; ++i) {
        if (!seen_by_thread(cells[i].write)) {
            fail("a thread reads what may not be written yet: %s, %s", place(address).c_str(),
                 why_not(cells[i].write, false, true).c_str());
        }
        cells[i].add_read(mine, seen_by_thread);
    }
}

inline void thread_writes(u32 address, u32 bytes) {
    Program& program = program_at(address);
    check_range(program, address, bytes);
    Cell* cells = cells_at(program, address);
    for (u32 i = 0; i < (bytes + 1) / 2; ++i) {
        if (!seen_by_thread(cells[i].write) || !cells[i].reads_known(seen_by_thread)) {
            fail("a thread writes where others may still read or write: %s", place(address).c_str());
        }
        cells[i].set_write(stamp_of_thread());
    }
}

// ---- Global memory that programs share: in pieces of so many bytes ----

constexpr size_t PIECE = 4;

struct Global {
    uint8_t* begin;
    size_t bytes;
    std::vector<Cell> cells;
    std::map<const void*, View> told;  // by atomics at these words
};
inline std::vector<Global> globals;

void share(void* begin, size_t bytes) {
    globals.push_back({static_cast<uint8_t*>(begin), bytes, std::vector<Cell>(bytes / PIECE + 1), {}});
}

inline Global* global_of(const void* pointer) {
    for (Global& it : globals) {
        if (pointer >= it.begin && pointer < it.begin + it.bytes) return &it;
    }
    return nullptr;
}

// What one instruction loads or stores is aligned to as many bytes.
inline void check_alignment(const char* what, const void* pointer, size_t bytes) {
    const size_t past = reinterpret_cast<uintptr_t>(pointer) % bytes;
    if (past != 0) fail("%s of %zu bytes of global memory, %zu past a multiple of them", what, bytes, past);
}

void thread_reads_global(const void* pointer, size_t bytes) {
    check_alignment("a load", pointer, bytes);
    Global* it = current ? global_of(pointer) : nullptr;
    if (!it) return;
    const size_t offset = static_cast<const uint8_t*>(pointer) - it->begin;
    for (size_t i = offset / PIECE; i <= (offset + bytes - 1) / PIECE; ++i) {
        if (!seen_by_thread(it->cells[i].write))
            fail("a thread reads global memory that another program may not have written (fence and atomic)");
        it->cells[i].add_read(stamp_of_thread(), seen_by_thread);
    }
}

void thread_writes_global(const void* pointer, size_t bytes) {
    check_alignment("a store", pointer, bytes);
    Global* it = current ? global_of(pointer) : nullptr;
    if (!it) return;
    const size_t offset = static_cast<const uint8_t*>(pointer) - it->begin;
    for (size_t i = offset / PIECE; i <= (offset + bytes - 1) / PIECE; ++i) {
        if (!seen_by_thread(it->cells[i].write) || !it->cells[i].reads_known(seen_by_thread)) {
            fail("a thread writes global memory that others may still read or write");
        }
        it->cells[i].set_write(stamp_of_thread());
    }
}

// The copy engine reads for this thread, past a proxy fence.
inline void engine_reads_global(const Global& it, const uint8_t* pointer) {
    const Cell& cell = it.cells[(pointer - it.begin) / PIECE];
    if (!seen_by_copies(cell.write)) {
        fail("the copy engine reads of global memory what %s", why_not(cell.write, seen_by_thread(cell.write), true).c_str());
    }
}

// What was written before is shown to other programs by atomics after, and what atomics told before is known after.
void fence_gpu() {
    current->now.memory.fence(GPU);
    current->now.memory.join(current->now.received);
    current->now.order.join(current->now.received);
    current->now.received = {};
}

u32 atomic_add(u32* pointer, u32 value) {
    Global* it = global_of(pointer);
    if (!it) fail("an atomic at memory that the launch does not name");
    View& told = it->told[pointer];
    current->now.received.join(told);
    told.join(current->now.memory.shown_to_gpu());
    tick();
    if (one_in(4)) yield();
    const u32 before = *pointer;
    *pointer += value;
    return before;
}

// A load that orders nothing by itself.
inline u32 read_relaxed(const u32* pointer) {
    Global* it = global_of(pointer);
    if (!it) fail("a relaxed load of memory that the launch does not name");
    current->now.received.join(it->told[pointer]);
    return *pointer;
}

}  // namespace model
