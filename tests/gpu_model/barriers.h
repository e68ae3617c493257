// mbarriers, and the barriers of warps, programs and clusters.
#pragma once

#include "memory.h"

namespace model {

enum class Signal { RELAXED, RELEASE, RELEASE_TO_PROGRAM };  // the last: of a thread of another program, at its own scope

// ---- mbarriers ----

inline void make_barrier(u32 address, u32 arrivals) {
    Program& program = program_at(address);
    if (&program != &self()) fail("mbarrier.init in another program's shared memory");
    if (address % 8 != 0 || arrivals == 0) fail("mbarrier.init at %u for %u arrivals", address & WINDOW, arrivals);
    thread_writes(address, 8);
    auto [it, fresh] =
        program.barriers.emplace(std::piecewise_construct, std::forward_as_tuple(address & WINDOW), std::tuple<>());
    if (!fresh) fail("mbarrier.init where there is a barrier: %s", place(address).c_str());
    it->second.id = program.cluster->new_id();
    it->second.arrivals = it->second.pending = static_cast<int>(arrivals);
    it->second.made = stamp_of_thread();
}

// fence.mbarrier_init, or the proxy fence: what this thread initialized is there for the engines and the cluster.
inline void publish_barriers() {
    for (auto& [_, barrier] : self().barriers) {
        if (barrier.made.id == entry(DONE, current->id) && barrier.published.tick == 0) barrier.published = stamp_of_thread();
    }
}

inline Barrier& barrier_in(Program& program, u32 address) {
    const auto it = program.barriers.find(address & WINDOW);
    if (it == program.barriers.end()) fail("no barrier was initialized at %s", place(address).c_str());
    return it->second;
}

// A barrier that the current thread uses itself or, `by_engine`, has an engine use.
inline Barrier& barrier_at(u32 address, bool by_engine) {
    Program& program = program_at(address);
    Barrier& barrier = barrier_in(program, address);
    const bool far = &program != &self();
    if (!far && !current->now.memory.knows(barrier.made))
        fail("a barrier whose initialization this thread may not see: %s", place(address).c_str());
    if ((far || by_engine) && (barrier.published.tick == 0 || !current->now.order.knows(barrier.published))) {
        fail("a barrier whose initialization no fence has shown to the engines and the cluster (fence.mbarrier_init): %s",
             place(address).c_str());
    }
    return barrier;
}

inline void advance(Barrier& barrier) {
    ++progress;
    if (barrier.pending < 0) fail("more arrivals at a barrier than it counts");
    if (barrier.pending > 0 || barrier.bytes != 0) return;
    ++barrier.phase, barrier.pending = barrier.arrivals;
    barrier.ended.order.join(barrier.order.end());
    barrier.ended.memory.join(barrier.memory.end());
    barrier.ended_far.join(barrier.far.end());
    barrier.order = {}, barrier.memory = {}, barrier.far = {};
    for (Thread* thread : barrier.waiting) wake(thread);
    barrier.waiting.clear();
}

// A thread arrives.
inline void arrive(u32 address, int count, int64_t bytes, Signal signal) {
    Barrier& barrier = barrier_at(address, false);
    const bool far = address >> RANK_SHIFT != self().rank;
    barrier.order.add(current->now.order);
    if (signal == Signal::RELEASE) (far ? barrier.far : barrier.memory).add(current->now.memory);
    if (signal == Signal::RELEASE_TO_PROGRAM) barrier.memory.add(current->now.memory.without_writes());
    if (far) barrier.must_be_seen = barrier.phase + 1;
    tick();
    if (barrier.pending <= 0) fail("more arrivals at a barrier than it counts: %s", place(address).c_str());
    barrier.pending -= count, barrier.bytes += bytes;
    advance(barrier);
    if (one_in(8)) yield();
}

inline void expect(u32 address, int64_t bytes) { barrier_at(address, false).bytes += bytes; }

// An engine is done with so many bytes, or arrives with what `known` says. The phase it belongs to is that of its issue.
inline void engine_arrives(Program& program, u32 address, unsigned phase, int count, int64_t bytes, const Knowledge* known) {
    if (program.has_left) fail("an engine signals a barrier of a program that has left: %s", place(address).c_str());
    Barrier& barrier = barrier_in(program, address);
    if (bytes && barrier.phase != phase)
        fail("bytes are counted in a later phase than that in which their copy was issued: %s", place(address).c_str());
    barrier.must_be_seen = barrier.phase + 1;
    if (known) barrier.order.add(known->order), barrier.memory.add(known->memory);
    if (count > 0 && barrier.pending <= 0) fail("more arrivals at a barrier than it counts: %s", place(address).c_str());
    barrier.pending -= count, barrier.bytes -= bytes;
    advance(barrier);
}

// Whether the phase of that parity has ended; waits for it a while unless it is only a test.
inline bool try_wait(u32 address, u32 parity, bool acquire, bool in_cluster, bool test) {
    if (address >> RANK_SHIFT != self().rank) fail("a wait at another program's barrier");
    Barrier& barrier = barrier_at(address, false);
    const auto ended = [&] { return barrier.phase % 2 != parity; };
    if (!ended()) {
        if (test || one_in(8)) {
            yield();
            if (!ended()) return false;
        } else {
            barrier.waiting.push_back(current);
            polling.push_back(current);
            block("the phase of parity " + std::to_string(parity) + " of the barrier at " + std::to_string(address & WINDOW));
            polling.erase(std::remove(polling.begin(), polling.end(), current), polling.end());
            barrier.waiting.erase(std::remove(barrier.waiting.begin(), barrier.waiting.end(), current), barrier.waiting.end());
            if (!ended()) return false;
        }
    }
    current->now.order.join(barrier.ended.order);
    current->now.order.raise(barrier.id, barrier.phase);
    if (acquire) {
        current->now.memory.join(barrier.ended.memory);
        if (in_cluster) current->now.memory.join(barrier.ended_far);
        current->now.memory.raise(barrier.id, barrier.phase);
    }
    return true;
}

// ---- Warps, programs, clusters ----

// Waits for `count` threads. `tells`: whether what one did before is known to all after.
inline void meet(Rendezvous& rendezvous, int count, bool holds, bool tells, const char* what) {
    if (tells) {
        rendezvous.order.add(current->now.order);
        rendezvous.memory.add(current->now.memory);
        rendezvous.received.add(current->now.received);
        tick();
    }
    if (holds) rendezvous.waiting.push_back(current);
    if (++rendezvous.arrived < count) {
        if (holds) block(what);
        return;
    }
    if (rendezvous.arrived > count) fail("more threads at %s than it counts", what);
    ++progress;
    const Knowledge all{rendezvous.order.end(), rendezvous.memory.end(), rendezvous.received.end()};
    const auto waiting = std::move(rendezvous.waiting);
    rendezvous = {};
    for (Thread* thread : waiting) {
        if (tells) {
            thread->now.join(all);
            thread->trace = 0;
        }
        wake(thread);
    }
}

inline Warp& own_warp() { return *self().warps[current->warp]; }

void sync_warp(u32 mask) {
    if (mask != 0xFFFFFFFF) fail("a sync of part of a warp is not modelled");
    meet(own_warp().sync, 32, true, true, "the warp's sync");
}

// An instruction that all lanes execute together, which they must have come to together (`aligned`).
inline void together(bool aligned, const char* what) {
    Warp& warp = own_warp();
    const u64 trace = current->trace;
    warp.exchanged[current->lane] = trace;
    meet(warp.collective, 32, true, false, what);
    if (!aligned || lanes_reconverge) return;
    for (int lane = 0; lane < 32; ++lane) {
        if (warp.exchanged[lane] != trace)
            fail("an aligned instruction in a warp that is not together (__syncwarp before it): %s", what);
    }
    meet(warp.collective, 32, true, false, what);
}

inline void sync_program(int name, int count, bool holds) {
    meet(self().named[name], count, holds, true, "the program's barrier");
}

inline void cluster_arrive(bool release) {
    Cluster& cluster = *self().cluster;
    if (cluster.arrivals.count(current)) fail("barrier.cluster.arrive twice without a wait");
    cluster.arrivals[current] = cluster.generation;
    cluster.arrived.order.add(current->now.order);
    if (release) cluster.arrived.memory.add(current->now.memory);
    tick();
    const size_t count = cluster.programs.size() * self().threads.size();
    if (static_cast<size_t>(++cluster.arrived.arrived) < count) return;
    cluster.passed.order = cluster.arrived.order.end();
    cluster.passed.memory = cluster.arrived.memory.end();
    const auto waiting = std::move(cluster.arrived.waiting);
    cluster.arrived = {};
    ++cluster.generation, ++progress;
    for (Thread* thread : waiting) wake(thread);
}

inline void cluster_wait(bool acquire) {
    Cluster& cluster = *self().cluster;
    const auto it = cluster.arrivals.find(current);
    if (it == cluster.arrivals.end()) fail("barrier.cluster.wait without an arrive");
    if (it->second == cluster.generation) {
        cluster.arrived.waiting.push_back(current);
        block("the cluster");
    }
    cluster.arrivals.erase(current);
    current->now.order.join(cluster.passed.order);
    if (acquire) current->now.memory.join(cluster.passed.memory);
    current->trace = 0;
}

}  // namespace model
