// Tensor memory: 512 columns of 128 lanes of 32 bits, of which a program has what it allocated. Loads give their values at
// wait::ld and not before; what threads did there is told to others only past a tcgen05 fence, and relied on only past another.
#pragma once

#include "barriers.h"

namespace model {

constexpr u32 POISON = 0xFFFFFFFF;  // what a load leaves until it is waited for

inline Id entry_of_loads() { return entry(TENSOR_LOADS, current->id); }
inline Id entry_of_stores() { return entry(TENSOR_STORES, current->id); }

// What this thread's tcgen05 instructions may rely on in tensor memory.
inline bool seen_in_tensor_memory(const Stamp& stamp) {
    if (stamp.id == entry_of_loads() && stamp.tick <= current->loads_done) return true;
    if (stamp.id == entry_of_stores() && stamp.tick <= current->stores_done) return true;
    return current->tensor.order.knows(stamp);
}
// The same for its products, which the tensor cores take in the order of issue.
inline bool seen_by_product_in_order(const Stamp& stamp) {
    return (current->commits && stamp.id == current->commits) || seen_in_tensor_memory(stamp);
}

inline const char* why_not_in_tensor_memory(const Stamp& stamp) {
    if (stamp.id == entry_of_loads() || stamp.id == entry_of_stores())
        return "this thread has not waited for its own access (tcgen05.wait)";
    if (current->now.order.knows(stamp)) return "no tcgen05.fence::after_thread_sync follows the wait";
    return "it may not be done (a wait, tcgen05.wait, or tcgen05.fence::before_thread_sync before the signal)";
}

inline void check_columns(const Program& program, u32 column, u32 columns) {
    const TensorMemory& memory = program.tensor;
    if (memory.columns == 0) fail("tensor memory that is not allocated");
    if (memory.made.id != entry(DONE, current->id) && !current->tensor.order.knows(memory.made)) {
        fail("tensor memory whose allocation this thread may not rely on (a sync, then tcgen05.fence::after_thread_sync)");
    }
    if (column < memory.first_column || column + columns > memory.first_column + memory.columns) {
        fail("columns %u to %u of tensor memory, of which %u to %u are allocated", column, column + columns - 1,
             memory.first_column, memory.first_column + memory.columns - 1);
    }
}

inline void check_power_of_two(u32 columns) {
    if (columns < 32 || columns > COLUMNS || (columns & (columns - 1)) != 0) {
        fail("%u columns of tensor memory: it must be a power of two from 32 to 512", columns);
    }
}

// What touches both programs of a pair needs both to be there.
inline void check_pair(int group, const char* what) {
    Cluster& cluster = *self().cluster;
    if (group == 2 && cluster.programs.size() % 2 != 0)
        fail("%s for a pair in a cluster of %zu", what, cluster.programs.size());
    if (group == 2) program_at((self().rank ^ 1) << RANK_SHIFT);
}

// One lane for its warp.
inline void allocate(int group, u32 address, u32 columns) {
    TensorMemory& memory = self().tensor;
    check_power_of_two(columns);
    check_pair(group, "tcgen05.alloc");
    if (!memory.has_permit) fail("tcgen05.alloc after relinquish_alloc_permit");
    if (memory.columns) fail("a second tcgen05.alloc is not modelled");
    u32 first = self().cluster->first_column;
    if (first + columns > COLUMNS) first = COLUMNS - columns;
    memory.first_column = first, memory.columns = columns, memory.group = group, memory.was_allocated = true;
    memory.made = stamp_of_thread();
    thread_writes(address, 4);
    memcpy(bytes_at(program_at(address), address), &first, 4);
}

inline void relinquish(int group) {
    TensorMemory& memory = self().tensor;
    if (!memory.has_permit) fail("relinquish_alloc_permit twice");
    if (memory.was_allocated && memory.group != group)
        fail("relinquish_alloc_permit for another cta_group than was allocated for");
    memory.has_permit = false;
}

inline void deallocate(int group, u32 address, u32 columns) {
    TensorMemory& memory = self().tensor;
    check_power_of_two(columns);
    if (memory.columns == 0) fail("tcgen05.dealloc of what is not allocated");
    if (address != memory.first_column || columns != memory.columns || group != memory.group) {
        fail("tcgen05.dealloc of %u columns from %u, where %u from %u are allocated", columns, address, memory.columns,
             memory.first_column);
    }
    for (u32 lane = 0; lane < LANES; ++lane) {
        for (u32 column = address; column < address + columns; ++column) {
            const Cell& cell = memory.cells[lane * COLUMNS + column];
            if (!seen_in_tensor_memory(cell.write) || !cell.reads_known(seen_in_tensor_memory)) {
                fail("tcgen05.dealloc of what others may still use: %s",
                     why_not_in_tensor_memory(seen_in_tensor_memory(cell.write) ? cell.read : cell.write));
            }
        }
    }
    memory.columns = 0;
}

// Register `index` of a thread in the shapes of tcgen05.ld and tcgen05.st: the lane, from the first that is named, and the
// column.
struct Spot {
    u32 lane, column;
};
inline Spot spot(const std::string& shape, u32 thread, u32 index) {
    if (shape == "32x32b") return {thread, index};
    if (shape == "16x256b") return {thread / 4 + index % 4 / 2 * 8, index / 4 * 8 + thread % 4 * 2 + index % 2};
    if (shape == "16x128b") return {thread / 4 + index % 2 * 8, index / 2 * 4 + thread % 4};
    fail("the shape %s of tensor memory's loads and stores is not modelled", shape.c_str());
}

inline Cell& cell_of_access(const std::string& shape, u32 address, u32 index, u32** word) {
    const u32 lanes = current->warp % 4 * 32, first = address >> 16;
    if (first != lanes && !(shape != "32x32b" && first == lanes + 16)) {
        fail("warp %d reaches lanes from %u of tensor memory, its own begin at %u", current->warp, first, lanes);
    }
    const Spot at = spot(shape, current->lane, index);
    const u32 column = (address & 0xFFFF) + at.column;
    check_columns(self(), column, 1);
    const u32 cell = (first + at.lane) * COLUMNS + column;
    *word = &self().tensor.words[cell];
    return self().tensor.cells[cell];
}

inline void tensor_load(const std::string& shape, u32 address, const std::vector<void*>& places) {
    PendingLoad load;
    for (u32 i = 0; i < places.size(); ++i) {
        u32* word;
        Cell& cell = cell_of_access(shape, address, i, &word);
        if (!seen_in_tensor_memory(cell.write))
            fail("tcgen05.ld of what is being written: %s", why_not_in_tensor_memory(cell.write));
        cell.add_read({entry_of_loads(), current->tensor_tick}, seen_in_tensor_memory);
        for (const PendingLoad& other : current->pending_loads) {
            for (const auto& [place, _] : other.values) {
                if (place == places[i])
                    fail("tcgen05.ld into a register whose last load was not waited for (tcgen05.wait::ld)");
            }
        }
        load.values.emplace_back(places[i], *word);
        memcpy(places[i], &POISON, 4);
    }
    current->pending_loads.push_back(std::move(load));
}

inline void wait_loads() {
    for (const PendingLoad& load : current->pending_loads) {
        for (const auto& [place, value] : load.values) memcpy(place, &value, 4);
    }
    current->pending_loads.clear();
    current->loads_done = current->tensor_tick++;
}

inline void tensor_store(const std::string& shape, u32 address, const std::vector<u32>& values) {
    for (u32 i = 0; i < values.size(); ++i) {
        u32* word;
        Cell& cell = cell_of_access(shape, address, i, &word);
        if (!seen_in_tensor_memory(cell.write) || !cell.reads_known(seen_in_tensor_memory)) {
            fail("tcgen05.st where others may still read or write: %s",
                 why_not_in_tensor_memory(seen_in_tensor_memory(cell.write) ? cell.read : cell.write));
        }
        cell.set_write({entry_of_stores(), current->tensor_tick});
        *word = values[i];
    }
}

inline void wait_tensor_stores() { current->stores_done = current->tensor_tick++; }

inline void fence_before_signal() {
    if (!current->pending_loads.empty()) fail("a thread signals before its tcgen05.ld are done (tcgen05.wait::ld)");
    if (current->loads_done) current->now.order.raise(entry_of_loads(), current->loads_done);
    if (current->stores_done) current->now.order.raise(entry_of_stores(), current->stores_done);
}
inline void fence_after_signal() { current->tensor = current->now; }

}  // namespace model
