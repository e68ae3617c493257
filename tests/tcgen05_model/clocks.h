// Who knows of what: vector clocks. Every thread counts its own time, a tick for each time it signals; what it does is
// stamped with (who, tick), and whoever depends on it must know at least that tick. Knowledge goes from one to another with
// barriers and commits alone, so that a missing wait is found whatever the order in which things happened to run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace model {

using Id = uint32_t;
using Tick = uint32_t;

struct Stamp {
    Id id = 0;
    Tick tick = 0;  // 0 is known to all
};

// The sections of a clock, one entry a thread in each: what a thread did; what of it a proxy fence has shown to the copy
// engine and the tensor cores; what a fence at the GPU's scope has shown to other programs; its loads and its stores of
// tensor memory that are done and that a tcgen05 fence let go before a signal. Beyond them come the entries of barriers
// (phases that ended), of the multiplying threads (commits) and of the storing threads (groups of bulk stores).
enum Section : Id { DONE = 0, ASYNC = 1, GPU = 2, TENSOR_LOADS = 3, TENSOR_STORES = 4, SECTIONS = 5 };

inline Id threads_of_grid;
inline Id next_id;

inline Id entry(Section section, Id thread) { return section * threads_of_grid + thread; }
inline Id new_id() { return next_id++; }

struct Ticks {
    std::vector<Tick> of;
    mutable std::shared_ptr<const Ticks> fenced[SECTIONS];  // this, after a fence into that section; made once

    Tick operator[](Id id) const { return id < of.size() ? of[id] : 0; }
};
using Shared = std::shared_ptr<const Ticks>;

inline Shared larger(const Shared& one, const Shared& other) {
    if (one == other || !other) return one;
    if (!one) return other;
    struct Memo {
        Shared one, other, result;
    };
    static Memo memos[16];
    static unsigned next = 0;
    for (const Memo& memo : memos) {
        if (memo.one == one && memo.other == other) return memo.result;
    }
    const Ticks& longer = one->of.size() >= other->of.size() ? *one : *other;
    const Ticks& shorter = one->of.size() >= other->of.size() ? *other : *one;
    auto result = std::make_shared<Ticks>();
    result->of = longer.of;
    for (size_t i = 0; i < shorter.of.size(); ++i) result->of[i] = std::max(result->of[i], shorter.of[i]);
    memos[next++ % 16] = {one, other, result};
    return result;
}

// A clock: what many share, and the little that was learnt since.
class View {
  public:
    Tick operator[](Id id) const {
        Tick tick = shared ? (*shared)[id] : 0;
        for (const Stamp& it : recent) {
            if (it.id == id) tick = std::max(tick, it.tick);
        }
        return tick;
    }
    bool knows(const Stamp& stamp) const { return stamp.tick == 0 || (*this)[stamp.id] >= stamp.tick; }

    void raise(Id id, Tick tick) {
        for (Stamp& it : recent) {
            if (it.id == id) {
                it.tick = std::max(it.tick, tick);
                return;
            }
        }
        recent.push_back({id, tick});
        if (recent.size() > 24) settle();
    }

    void join(const View& other) {
        shared = larger(shared, other.shared);
        if (recent.size() + other.recent.size() > 48) {
            recent.insert(recent.end(), other.recent.begin(), other.recent.end());
            settle();
        } else {
            for (const Stamp& it : other.recent) raise(it.id, it.tick);
        }
    }

    // Everything that is known to be done is from now on known in this section too.
    void fence(Section section) {
        if (shared) {
            if (!shared->fenced[section]) {
                auto fenced = std::make_shared<Ticks>();
                fenced->of = shared->of;
                bool same = true;
                const size_t threads = std::min<size_t>(threads_of_grid, fenced->of.size());
                if (threads > 0) fenced->of.resize(std::max<size_t>(fenced->of.size(), (section + 1) * threads_of_grid));
                for (size_t i = 0; i < threads; ++i) {
                    Tick& to = fenced->of[section * threads_of_grid + i];
                    same &= to >= fenced->of[i];
                    to = std::max(to, fenced->of[i]);
                }
                if (same) return raise_fenced(section);
                shared->fenced[section] = fenced;
            }
            shared = shared->fenced[section];
        }
        raise_fenced(section);
    }

    // What of it this section holds; `done`: as things that are done.
    View only(Section section, bool done) const {
        View view;
        auto ticks = std::make_shared<Ticks>();
        ticks->of.resize(SECTIONS * threads_of_grid);
        for (Id thread = 0; thread < threads_of_grid; ++thread) {
            const Tick tick = (*this)[entry(section, thread)];
            if (tick) ticks->of[entry(section, thread)] = tick;
            if (done) ticks->of[entry(DONE, thread)] = tick;
        }
        view.shared = ticks;
        return view;
    }

  private:
    friend class Meeting;
    Shared shared;
    std::vector<Stamp> recent;

    void raise_fenced(Section section) {
        const std::vector<Stamp> before = recent;
        for (const Stamp& it : before) {
            if (it.id < threads_of_grid) raise(entry(section, it.id), it.tick);
        }
    }

    void settle() {
        auto ticks = std::make_shared<Ticks>();
        if (shared) ticks->of = shared->of;
        for (const Stamp& it : recent) {
            if (it.id >= ticks->of.size()) ticks->of.resize(it.id + 64);
            ticks->of[it.id] = std::max(ticks->of[it.id], it.tick);
        }
        shared = ticks;
        recent.clear();
    }
};

// What many bring together, to be known by all of them after.
class Meeting {
  public:
    void add(const View& view) {
        sum.shared = larger(sum.shared, view.shared);
        sum.recent.insert(sum.recent.end(), view.recent.begin(), view.recent.end());
    }
    View end() {
        if (!sum.recent.empty()) sum.settle();
        return std::move(sum);
    }

  private:
    View sum;
};

// What a thread knows: that something has happened, which every signal tells, and beyond that what memory holds since, which
// only a release tells to an acquire. `received` is what atomics told of other programs, known after the next fence.
struct Knowledge {
    View order, memory, received;

    void join(const Knowledge& other) { order.join(other.order), memory.join(other.memory), received.join(other.received); }
    void raise(Id id, Tick tick) { order.raise(id, tick), memory.raise(id, tick); }
};

}  // namespace model
