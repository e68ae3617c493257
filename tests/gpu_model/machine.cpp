// Grids, from their beginning to their end, and what kernels call of the model (machine.h).
#include "instructions.h"

namespace model {

inline std::vector<std::unique_ptr<Cluster>> clusters;
inline size_t next_cluster, clusters_at_once;
inline u32 grid_programs;

inline void begin_clusters() {
    while (next_cluster < clusters.size() && clusters_at_once > 0) {
        Cluster& cluster = *clusters[next_cluster++];
        if (cluster.is_cancelled) continue;
        --clusters_at_once;
        for (auto& program : cluster.programs) {
            program->shared.assign(program->shared_bytes, 0xFF);
            program->cells.resize(program->shared_bytes / 2 + 1);
            for (auto& thread : program->threads) prepare(thread.get());
        }
    }
}

inline run::Cancelled run::cancel_one() {
    for (size_t i = next_cluster; i < clusters.size(); ++i) {
        if (clusters[i]->is_cancelled) continue;
        clusters[i]->is_cancelled = true;
        return {true, clusters[i]->programs[0]->index};
    }
    return {false, 0};
}

inline void thread_end() {
    if (!current->pending_loads.empty()) fail("a thread ends before its tcgen05.ld are done (tcgen05.wait::ld)");
    if (current->open_group) fail("a thread ends with bulk stores that it did not commit");
}

// Nothing may still be done to the shared and the tensor memory of a program that leaves.
inline void program_end(Program& program) {
    const auto done = [&](const Stamp& stamp) { return program.last.order.knows(stamp); };
    if (program.in_flight > 0)
        fail("a program leaves while an engine still works on its shared memory or signals its barriers");
    if (program.tensor.columns) fail("a program leaves with tensor memory that it did not free (tcgen05.dealloc)");
    if (program.tensor.was_allocated && program.tensor.has_permit)
        fail("a program leaves without giving the permit to allocate back (relinquish_alloc_permit)");
    for (auto& [address, barrier] : program.barriers) {
        if (barrier.pending != barrier.arrivals || barrier.bytes != 0)
            fail("a program leaves in the midst of a phase of its barrier at %u", address);
        if (program.last.order[barrier.id] < barrier.must_be_seen) {
            fail("a program leaves without having waited for the last arrivals of others at its barrier at %u", address);
        }
    }
    for (const Cell& cell : program.cells) {
        if (!done(cell.write) || !cell.reads_known(done))
            fail("a program leaves while its shared memory may still be read or written");
    }
    program.has_left = true;
    program.shared.assign(program.shared.size(), 0xAA);
}

inline void describe(FILE* file) {
    if (current) {
        fprintf(file, "  in thread %d of program %u of cluster %u, %s\n", current->index, self().rank, self().cluster->index,
                current->doing.c_str());
    }
}

void run_grid(const Launch& launch, unsigned seed, const std::function<void()>& body) {
    random_bits.seed(seed);
    if (launch.programs % launch.cluster != 0 || launch.threads % 32 != 0 || launch.shared_bytes > SHARED_BYTES)
        fail("a launch that no GPU takes");
    threads_of_grid = launch.programs * launch.threads;
    threads_of_cluster = launch.cluster * launch.threads;
    grid_programs = launch.programs;
    for (u32 index = 0; index < launch.programs / launch.cluster; ++index) {
        auto cluster = std::make_unique<Cluster>();
        cluster->index = index;
        cluster->first_column = random_bits() % 8 * 32 + 32;
        for (u32 rank = 0; rank < launch.cluster; ++rank) {
            auto program = std::make_unique<Program>();
            program->cluster = cluster.get(), program->rank = rank, program->index = index * launch.cluster + rank;
            program->shared_bytes = launch.shared_bytes;
            for (u32 i = 0; i < launch.threads; ++i) {
                auto thread = std::make_unique<Thread>();
                thread->id = program->index * launch.threads + i;
                thread->index = static_cast<int>(i), thread->lane = i % 32, thread->warp = i / 32;
                thread->program = program.get(), thread->body = body;
                thread->now.raise(entry(DONE, thread->id), 1);
                thread->tensor = thread->now;
                program->threads.push_back(std::move(thread));
            }
            for (u32 warp = 0; warp < launch.threads / 32; ++warp) program->warps.push_back(std::make_unique<Warp>());
            cluster->programs.push_back(std::move(program));
        }
        clusters.push_back(std::move(cluster));
    }
    clusters_at_once = launch.at_once;
    begin_clusters();
    run_all([&](Thread* thread) {
        Program& program = *thread->program;
        program.last.join(thread->now);
        munmap(thread->stack, STACK_BYTES);
        if (++program.left < static_cast<int>(program.threads.size())) return;
        program_end(program);
        for (auto& other : program.cluster->programs) {
            if (!other->has_left) return;
        }
        ++clusters_at_once;
        begin_clusters();
    });
    current = nullptr;
    std::string stuck;
    for (auto& cluster : clusters) {
        for (auto& program : cluster->programs) {
            for (auto& thread : program->threads) {
                if (cluster->is_cancelled || thread->finished || thread->lane != 0) continue;
                stuck += "\n  program " + std::to_string(program->index) + " thread " + std::to_string(thread->index) + ": " +
                         thread->waits_for;
            }
            if (!cluster->is_cancelled && !program->has_left && stuck.empty()) stuck = " (lanes beside the first)";
        }
    }
    if (!stuck.empty()) fail("the grid hangs; threads wait for%s", stuck.c_str());
    if (!jobs.empty()) fail("engines still work when the grid has ended");
}

// ---- What kernels call ----

u32 thread_index() { return static_cast<u32>(current->index); }
u32 program_index() { return self().index; }
u32 programs_of_grid() { return grid_programs; }
void sync_program() { sync_program(0, static_cast<int>(self().threads.size()), true); }

unsigned char* shared_symbol() {
    alignas(1024) static unsigned char symbol[1024];
    return symbol;
}

unsigned char* shared_memory() { return self().shared.data(); }

u64 exchange(u32 mask, u64 value, int from) {
    if (mask != 0xFFFFFFFF) fail("an exchange in part of a warp is not modelled");
    Warp& warp = own_warp();
    warp.exchanged[current->lane] = value;
    meet(warp.collective, 32, true, false, "the warp's exchange");
    value = warp.exchanged[from];
    meet(warp.collective, 32, true, false, "the warp's exchange");
    return value;
}

}  // namespace model
