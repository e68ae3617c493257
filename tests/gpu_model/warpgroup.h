// Hopper's tensor cores: products of warpgroups, of bf16, f16 or E4M3 with f32 sums in registers. Each warp of the four makes 16 of the
// 64 rows. They are done some time before the wait for their group ends; until then their sums are nobody's to read. Sections are those
// of the PTX ISA 9.2 manual.
#pragma once

#include <optional>

#include "operands.h"

namespace model {

enum class Number { BF16, F16, E4M3 };

inline int bytes_of(Number number) { return number == Number::E4M3 ? 1 : 2; }
inline float value_of(Number number, u32 bits) {
    return number == Number::BF16 ? from_bf16(bits) : number == Number::F16 ? from_f16(bits) : from_e4m3(bits);
}

// What this warp's part of a product reads of shared memory, through the async proxy.
inline void read_by_warpgroup(const SharedOperand& operand, int first, int count, int depth, const Stamp& stamp) {
    for (int index = first; index < first + count; ++index) {
        for (int k = 0; k < depth; ++k) {
            const u32 address = self().rank << RANK_SHIFT | operand.at(index, k);
            check_range(self(), address, operand.element_bytes);
            Cell& cell = *cells_at(self(), address);
            if (cell.read.id == stamp.id && cell.read.tick == stamp.tick && !cell.more_reads) continue;
            if (!seen_by_copies(cell.write)) {
                fail("a product reads what %s: %s", why_not(cell.write, seen_by_thread(cell.write), true).c_str(),
                     place(address).c_str());
            }
            cell.add_read(stamp, seen_by_thread);
        }
    }
}

inline float element(const Program& program, const SharedOperand& operand, Number number, int index, int k) {
    u32 bits = 0;
    memcpy(&bits, &program.shared[operand.at(index, k) - SHARED_BEGIN], bytes_of(number));
    return value_of(number, bits);
}

// One product of 64 rows and `n` columns. A is by a descriptor, or the fragments of this warp's lanes (9.7.15.5.1.1); the sums'
// registers are `places`.
struct WarpgroupOperands {
    Number number;
    int n;
    std::optional<SharedOperand> a;
    std::array<Fragments, 32> fragments;  // where A is none in shared memory
    SharedOperand b;
    bool add;
};

inline void multiply_in_warpgroup(const WarpgroupOperands& it, const std::vector<void*>& places) {
    if (static_cast<int>(places.size()) != it.n / 2) fail("wgmma of %d columns with %zu sums a thread", it.n, places.size());
    if (!current->is_fenced) fail("wgmma without a wgmma.fence after registers were last the thread's own");
    Warp& warp = own_warp();
    if (!warp.products) warp.products = self().cluster->new_id();
    const int depth = 32 / bytes_of(it.number), lane = current->lane, rows = current->warp % 4 * 16;
    if (lane == 0) {
        const Stamp stamp{warp.products, current->products};
        if (it.a) read_by_warpgroup(*it.a, rows, 16, depth, stamp);
        read_by_warpgroup(it.b, 0, it.n, depth, stamp);
    }

    GroupSums& sums = current->sums[places[0]];
    if (sums.pending == 0) {
        sums.places = places;
        sums.values.clear();
        for (void* place : places) sums.values.push_back(*static_cast<float*>(place));
    }
    if (sums.places != places) fail("wgmma adds to registers of which another still under way has others");
    for (void* place : places) *static_cast<float*>(place) = NAN;
    ++sums.pending;

    const Program* program = &self();
    current->open_products.push_back({&sums, [=](std::vector<float>& values) {
        float left[2][32];  // of this lane's two rows
        for (int half = 0; half < 2; ++half) {
            for (int k = 0; k < depth; ++k) {
                if (it.a) {
                    left[half][k] = element(*program, *it.a, it.number, rows + lane / 4 + 8 * half, k);
                } else {
                    const u32 word = it.fragments[lane / 4 * 4 + k % 8 / 2][k / 8 * 2 + half];
                    left[half][k] = value_of(it.number, word >> 16 * (k % 2) & 0xFFFF);
                }
            }
        }
        for (int j = 0; j < it.n / 8; ++j) {
            for (int e = 0; e < 2; ++e) {
                float right[32];
                for (int k = 0; k < depth; ++k) right[k] = element(*program, it.b, it.number, 8 * j + lane % 4 * 2 + e, k);
                for (int half = 0; half < 2; ++half) {
                    float& sum = values[4 * j + 2 * half + e];
                    if (!it.add) sum = 0;
                    for (int k = 0; k < depth; ++k) sum += left[half][k] * right[k];
                }
            }
        }
    }});
}

inline void commit_products() {
    current->product_groups.push_back(std::move(current->open_products));
    current->open_products.clear();
    ++current->products;
}

// Waits until at most so many groups are under way. What is done has read its operands.
inline void wait_products(size_t pending) {
    while (current->product_groups.size() > pending) {
        for (GroupProduct& product : current->product_groups.front()) {
            GroupSums& sums = *product.sums;
            product.add(sums.values);
            if (--sums.pending > 0) continue;
            for (size_t i = 0; i < sums.places.size(); ++i) *static_cast<float*>(sums.places[i]) = sums.values[i];
        }
        current->product_groups.pop_front();
    }
    const auto under_way = static_cast<Tick>(current->product_groups.size());
    if (own_warp().products) current->now.raise(own_warp().products, current->products - 1 - under_way);
    current->is_fenced = false;
}

}  // namespace model
