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
// engine and the tensor cores; what a fence at the GPU's scope has shown to other programs; what of it no longer reads; its
// loads and its stores of tensor memory that are done and that a tcgen05 fence let go before a signal. Beyond them come the
// entries of barriers (phases that ended), of the multiplying threads (commits) and of the storing threads (groups of bulk
// stores).
enum Section : Id { DONE = 0, ASYNC = 1, GPU = 2, READS = 3, TENSOR_LOADS = 4, TENSOR_STORES = 5, SECTIONS = 6 };

// Entries are numbered by cluster, so that a clock is as many pieces, most of them shared with others' clocks.
inline Id threads_of_grid, threads_of_cluster;
constexpr Id CLUSTER_SHIFT = 20, WITHIN = (1u << CLUSTER_SHIFT) - 1;

inline Id entry(Section section, Id thread) {
    return thread / threads_of_cluster << CLUSTER_SHIFT | (section * threads_of_cluster + thread % threads_of_cluster);
}
// Whether it is what a thread did, and not an engine; and then that thread's entry in another section.
inline bool is_thread(const Stamp& stamp) { return (stamp.id & WITHIN) < threads_of_cluster; }
inline Id in_section(Section section, Id id) { return id + section * threads_of_cluster; }

// A cluster's piece of a clock.
struct Piece {
    std::vector<Tick> of;
    mutable std::shared_ptr<const Piece> fenced[SECTIONS];  // this, after a fence into that section; made once
    mutable bool is_fenced[SECTIONS] = {};

    Tick operator[](Id within) const { return within < of.size() ? of[within] : 0; }
};
using SharedPiece = std::shared_ptr<const Piece>;

struct Ticks {
    std::vector<SharedPiece> of;
};
using Shared = std::shared_ptr<const Ticks>;

// Remembers what the last pairs came to: threads that wait for the same mostly know the same.
template <typename T, typename Join>
std::shared_ptr<const T> joined(const std::shared_ptr<const T>& one, const std::shared_ptr<const T>& other, Join join) {
    if (one == other || !other) return one;
    if (!one) return other;
    struct Memo {
        std::shared_ptr<const T> one, other, result;
    };
    static Memo memos[16];
    static unsigned next = 0;
    for (const Memo& memo : memos) {
        if (memo.one == one && memo.other == other) return memo.result;
    }
    const std::shared_ptr<const T> result = join(one, other);
    memos[next++ % 16] = {one, other, result};
    return result;
}

inline SharedPiece larger(const SharedPiece& one, const SharedPiece& other) {
    return joined(one, other, [](const SharedPiece& one, const SharedPiece& other) {
        const SharedPiece &longer = one->of.size() >= other->of.size() ? one : other, &shorter = longer == one ? other : one;
        auto result = std::make_shared<Piece>();
        result->of = longer->of;
        Tick* to = result->of.data();
        const Tick* from = shorter->of.data();
        const size_t size = shorter->of.size();
        Tick changed = 0;
        for (size_t i = 0; i < size; ++i) {
            const Tick larger = to[i] > from[i] ? to[i] : from[i];
            changed |= larger ^ to[i];
            to[i] = larger;
        }
        return changed ? SharedPiece(result) : longer;
    });
}

inline Shared larger(const Shared& one, const Shared& other) {
    return joined(one, other, [](const Shared& one, const Shared& other) {
        auto result = std::make_shared<Ticks>(*one);
        if (other->of.size() > result->of.size()) result->of.resize(other->of.size());
        for (size_t i = 0; i < other->of.size(); ++i) result->of[i] = larger(result->of[i], other->of[i]);
        return result->of == one->of ? one : result->of == other->of ? other : Shared(result);
    });
}

// A clock: what many share, and the little that was learnt since.
class View {
  public:
    Tick operator[](Id id) const {
        Tick tick = 0;
        if (shared && id >> CLUSTER_SHIFT < shared->of.size()) {
            const SharedPiece& piece = shared->of[id >> CLUSTER_SHIFT];
            if (piece) tick = (*piece)[id & WITHIN];
        }
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
            auto fenced = std::make_shared<Ticks>(*shared);
            for (SharedPiece& piece : fenced->of) {
                if (piece) piece = fenced_piece(piece, section);
            }
            if (fenced->of != shared->of) shared = fenced;
        }
        const std::vector<Stamp> before = recent;
        for (const Stamp& it : before) {
            if (is_thread(it)) raise(in_section(section, it.id), it.tick);
        }
    }

    // What fences at the GPU's scope have shown, as things that are done.
    View shown_to_gpu() const {
        return changed([](Piece& piece) {
            const auto shown = piece.of.begin() + GPU * threads_of_cluster;
            Piece result;
            result.of.resize(piece.of.size());
            std::copy(shown, shown + threads_of_cluster, result.of.begin());
            std::copy(shown, shown + threads_of_cluster, result.of.begin() + GPU * threads_of_cluster);
            piece.of = result.of;
        });
    }

    // Without what threads wrote, but that past a proxy fence: what a signal to another program tells that releases to its own
    // program alone.
    View without_writes() const {
        View view = *this;
        view.fence(READS);
        return view.changed([](Piece& piece) {
            for (const Section section : {DONE, GPU}) {
                const auto begin = piece.of.begin() + section * threads_of_cluster;
                std::fill(begin, begin + threads_of_cluster, 0);
            }
        });
    }

  private:
    friend class Meeting;
    Shared shared;
    std::vector<Stamp> recent;

    static SharedPiece fenced_piece(const SharedPiece& piece, Section section) {
        if (piece->is_fenced[section]) return piece;
        if (piece->fenced[section]) return piece->fenced[section];
        auto fenced = std::make_shared<Piece>();
        fenced->of = piece->of;
        bool same = true;
        for (size_t i = 0; i < threads_of_cluster; ++i) {
            Tick& to = fenced->of[section * threads_of_cluster + i];
            same &= to >= fenced->of[i];
            to = std::max(to, fenced->of[i]);
        }
        if (same) {
            piece->is_fenced[section] = true;
            return piece;
        }
        fenced->is_fenced[section] = true;
        return piece->fenced[section] = fenced;
    }

    // A copy of which each piece is changed.
    template <typename Change>
    View changed(Change change) const {
        View view = *this;
        view.settle();
        auto ticks = std::make_shared<Ticks>();
        for (const SharedPiece& piece : view.shared->of) {
            std::shared_ptr<Piece> copy;
            if (piece) copy = std::make_shared<Piece>(), copy->of = piece->of, change(*copy);
            ticks->of.push_back(copy);
        }
        view.shared = ticks;
        return view;
    }

    void settle() {
        auto ticks = shared ? std::make_shared<Ticks>(*shared) : std::make_shared<Ticks>();
        std::vector<std::shared_ptr<Piece>> own(threads_of_grid / threads_of_cluster);
        ticks->of.resize(own.size());
        for (const Stamp& it : recent) {
            const Id cluster = it.id >> CLUSTER_SHIFT, within = it.id & WITHIN;
            std::shared_ptr<Piece>& piece = own[cluster];
            if (!piece) {
                piece = std::make_shared<Piece>();
                if (ticks->of[cluster]) piece->of = ticks->of[cluster]->of;
                if (piece->of.size() < SECTIONS * threads_of_cluster) piece->of.resize(SECTIONS * threads_of_cluster + 64);
                ticks->of[cluster] = piece;
            }
            if (within >= piece->of.size()) piece->of.resize(within + 64);
            piece->of[within] = std::max(piece->of[within], it.tick);
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
