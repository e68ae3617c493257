// The copy engine (TMA): tiles of tensors to and from shared memory, done in any order.
#pragma once

#include "barriers.h"

namespace model {

// Where the copy engine and the tensor cores put a byte: 16-byte pieces of a line are xored with the line's number.
inline u32 swizzle(u32 address, int line_bytes) {
    const u32 mask = line_bytes == 128 ? 7 : line_bytes == 64 ? 3 : line_bytes == 32 ? 1 : 0;
    return address ^ (address >> 7 & mask) << 4;
}

inline void check_map(const Map& map, u32 shared, const std::vector<int>& begin) {
    if (shared % 128 != 0) fail("a copy to or from shared memory at %u, no multiple of 128", shared & WINDOW);
    if (map.swizzle_bytes && map.tile[0] * map.element_bytes > map.swizzle_bytes) fail("a tile wider than its swizzle");
    if (map.tile[0] * map.element_bytes % 16 != 0) fail("a tile whose rows are no multiple of 16 bytes");
    if (begin.size() != map.tile.size()) fail("a copy with other coordinates than its tensor has");
    // An H200 calls it an illegal instruction.
    if (begin[0] * map.element_bytes % 16 != 0) fail("a tile that begins at no multiple of 16 bytes of a row");
    if (reinterpret_cast<uintptr_t>(map.base) % 16 != 0) fail("a tensor that is not aligned to 16 bytes");
    for (const int64_t stride : map.strides_bytes) {
        if (stride % 16 != 0) fail("a tensor whose rows are no multiple of 16 bytes");
    }
    for (const int extent : map.tile) {
        if (extent < 1 || extent > 256) fail("a tile of %d along an extent", extent);
    }
}

// Visits the elements of the tile: where each lies in shared memory, and in the tensor (null outside).
template <typename Visit>
void each_element(const Map& map, u32 shared, const std::vector<int>& begin, Visit visit) {
    const int rows = static_cast<int>(map.tile_bytes() / map.element_bytes / map.tile[0]);
    for (int row = 0; row < rows; ++row) {
        bool row_inside = true;
        int64_t offset = 0;
        for (size_t i = 1, rest = row; i < map.tile.size(); ++i) {
            const int64_t at = begin[i] + static_cast<int>(rest % map.tile[i]);
            rest /= map.tile[i];
            row_inside &= at >= 0 && at < map.extents[i];
            offset += at * map.strides_bytes[i - 1];
        }
        for (int column = 0; column < map.tile[0]; ++column) {
            const int64_t x = begin[0] + column;
            const u32 plain = shared + (row * map.tile[0] + column) * map.element_bytes;
            const bool inside = row_inside && x >= 0 && x < map.extents[0];
            visit(swizzle(plain, map.swizzle_bytes), inside ? map.base + offset + x * map.element_bytes : nullptr);
        }
    }
}

// Copies a tile to the same place of the shared memory of programs, whose barriers count the bytes: its own, or `far`, the
// one that is named, of whichever program of a pair.
inline void load(u32 shared, const Map& map, u32 barrier_address, const std::vector<int>& begin, const std::vector<u32>& ranks,
                 bool far) {
    check_map(map, shared, begin);
    if (const Global* tensor = global_of(map.base)) {
        each_element(map, shared, begin, [&](u32, const uint8_t* global) {
            if (global) engine_reads_global(*tensor, global);
        });
    }
    for (const u32 rank : ranks) {
        const u32 to = rank << RANK_SHIFT | (shared & WINDOW);
        const u32 signals = far ? barrier_address : rank << RANK_SHIFT | (barrier_address & WINDOW);
        Program& program = program_at(to);
        check_range(program, to, static_cast<u32>(map.tile_bytes()));
        Program& signalled = program_at(signals);
        Barrier& barrier = barrier_at(signals, true);
        const unsigned phase = barrier.phase;
        Cell* cells = cells_at(program, to);
        for (int i = 0; i < map.tile_bytes() / 2; ++i) {
            if (!current->now.memory.knows(is_thread(cells[i].write) ? Stamp{} : cells[i].write) ||
                !cells[i].reads_known(left_to_copies)) {
                fail("the copy engine writes where others may still read or write: %s", place(to + 2 * i).c_str());
            }
            if (!seen_by_copies(cells[i].write)) {
                fail("the copy engine writes over what %s: %s",
                     why_not(cells[i].write, seen_by_thread(cells[i].write), true).c_str(), place(to + 2 * i).c_str());
            }
            cells[i].set_write({barrier.id, phase + 1});
        }
        memset(bytes_at(program, to), 0xFF, map.tile_bytes());
        ++program.in_flight;
        if (&program != &signalled) ++signalled.in_flight;
        jobs.push_back([=, &program, &signalled, &map] {
            each_element(map, to, begin, [&](u32 address, const uint8_t* global) {
                uint8_t* inner = bytes_at(program, address);
                global ? memcpy(inner, global, map.element_bytes) : memset(inner, 0, map.element_bytes);
            });
            --program.in_flight;
            if (&program != &signalled) --signalled.in_flight;
            engine_arrives(signalled, signals, phase, 0, map.tile_bytes(), nullptr);
        });
    }
}

inline void store(const Map& map, u32 shared, const std::vector<int>& begin) {
    check_map(map, shared, begin);
    Program& program = program_at(shared);
    check_range(program, shared, static_cast<u32>(map.tile_bytes()));
    if (!current->groups) current->groups = self().cluster->new_id();
    if (!current->open_group) current->unread.push_back(0), current->open_group = true;
    const size_t group = current->unread.size() - 1;
    const Stamp stamp{current->groups, static_cast<Tick>(group + 1)};
    Cell* cells = cells_at(program, shared);
    for (int i = 0; i < map.tile_bytes() / 2; ++i) {
        if (!seen_by_copies(cells[i].write)) {
            fail("the copy engine reads what %s: %s", why_not(cells[i].write, seen_by_thread(cells[i].write), true).c_str(),
                 place(shared + 2 * i).c_str());
        }
        cells[i].add_read(stamp, seen_by_thread);
    }
    ++program.in_flight;
    ++current->unread[group];
    Thread* thread = current;
    jobs.push_back([=, &program, &map] {
        each_element(map, shared, begin, [&](u32 address, uint8_t* global) {
            if (global) memcpy(global, bytes_at(program, address), map.element_bytes);
        });
        --program.in_flight;
        if (--thread->unread[group] == 0 && thread->awaits_stores) wake(thread);
    });
}

inline void commit_stores() {
    if (!current->open_group) current->unread.push_back(0);
    current->open_group = false;
}

// Waits until all but so many of this thread's groups have read their shared memory.
inline void wait_stores(size_t pending) {
    const size_t groups = current->unread.size() - current->open_group;
    const size_t until = groups > pending ? groups - pending : 0;
    for (size_t group = 0; group < until; ++group) {
        while (current->unread[group] > 0) {
            current->awaits_stores = true;
            block("its bulk stores");
            current->awaits_stores = false;
        }
    }
    if (until > 0 && current->groups) current->now.raise(current->groups, static_cast<Tick>(until));
}

}  // namespace model
