// The tensor cores: products of tiles that descriptors name, of bf16 or E4M3 with f32 sums. They are done in the order of issue, and
// some time after it; a commit arrives when those before it are done. Sections are those of the PTX ISA 9.2 manual.
#pragma once

#include "copy_engine.h"
#include "tensor_memory.h"

namespace model {

// An operand in shared memory by its descriptor (9.7.16.4.1, table 40): where element (index, k) lies, by the canonical
// layouts (9.7.16.5.1).
struct SharedOperand {
    u32 start, leading, stride;
    int line_bytes, element_bytes;
    bool mn_major;

    SharedOperand(u64 bits, bool mn_major, int element_bytes) : element_bytes(element_bytes), mn_major(mn_major) {
        if (mn_major && element_bytes != 2) fail("an MN-major operand of %d bytes an element is not modelled", element_bytes);
        start = (bits & 0x3FFF) << 4, leading = (bits >> 16 & 0x3FFF) << 4, stride = (bits >> 32 & 0x3FFF) << 4;
        const int swizzle = static_cast<int>(bits >> 61);
        line_bytes = swizzle == 2 ? 128 : swizzle == 4 ? 64 : swizzle == 6 ? 32 : 0;
        if (line_bytes == 0) fail("an operand's descriptor with a swizzle of code %d, which is not modelled", swizzle);
        if ((bits >> 46 & 7) != 1) fail("an operand's descriptor without its constant 1 in bits 46-48");
        if ((bits >> 49 & 0xFFF) != 0) fail("an operand's descriptor with a base offset or reserved bits");
    }
    u32 at(int index, int k) const {
        const int elements = line_bytes / 2;
        const u32 offset = mn_major ? index / elements * leading + index % elements * 2 + k % 8 * line_bytes + k / 8 * stride
                                    : index / 8 * stride + index % 8 * line_bytes + k * element_bytes;
        return swizzle(start + offset, line_bytes);
    }
};

struct Product {
    int group;
    int m, n;  // of the whole instruction
    u32 sums;
    bool a_in_tensor_memory;
    u32 a_address;                       // there
    std::vector<std::vector<u32>> a, b;  // addresses of each program's elements, index after index
    bool add;
    int element_bytes;

    int depth() const { return 32 / element_bytes; }  // of k
};

// The programs that take part: the current one, or its pair.
inline std::vector<Program*> programs_of(int group) {
    std::vector<Program*> programs{&self()};
    if (group == 2) programs.push_back(self().cluster->programs[self().rank ^ 1].get());
    return programs;
}

inline void read_by_product(Program& program, u32 address, Stamp stamp) {
    const u32 full = program.rank << RANK_SHIFT | address;
    check_range(program, full, 2);
    Cell& cell = *cells_at(program, full);
    if (cell.read.id == stamp.id && cell.read.tick == stamp.tick && !cell.more_reads) return;
    if (!seen_by_products(cell.write)) {
        const bool synced = current->now.memory.knows(cell.write), fenced = seen_by_copies(cell.write);
        fail("a product reads what %s: %s",
             fenced ? "was waited for, but no tcgen05.fence::after_thread_sync follows"
                    : why_not(cell.write, synced, true).c_str(),
             place(full).c_str());
    }
    cell.add_read(stamp, seen_by_products);
}

inline void compute(const Product& product, const std::vector<Program*>& programs) {
    const int a_rows = product.m / product.group, b_rows = product.n / product.group;
    const int depth = product.depth();
    std::vector<float> b(product.n * depth);
    const auto element = [&](Program& program, u32 address) {
        if (product.element_bytes == 1) return from_e4m3(*bytes_at(program, address));
        uint16_t value;
        memcpy(&value, bytes_at(program, address), 2);
        return from_bf16(value);
    };
    for (int j = 0; j < product.n; ++j) {
        for (int k = 0; k < depth; ++k)
            b[k * product.n + j] = element(*programs[j / b_rows], product.b[j / b_rows][j % b_rows * depth + k]);
    }
    for (int i = 0; i < product.m; ++i) {
        Program& program = *programs[i / a_rows];
        float* row = reinterpret_cast<float*>(&program.tensor.words[i % a_rows * COLUMNS + (product.sums & 0xFFFF)]);
        if (!product.add) std::fill(row, row + product.n, 0.0f);
        for (int k = 0; k < depth; ++k) {
            float left;
            if (product.a_in_tensor_memory) {
                const u32 word = program.tensor.words[i % a_rows * COLUMNS + (product.a_address & 0xFFFF) + k / 2];
                left = from_bf16(k % 2 ? word >> 16 : word & 0xFFFF);
            } else {
                left = element(program, product.a[i / a_rows][i % a_rows * depth + k]);
            }
            const float* right = &b[k * product.n];
            for (int j = 0; j < product.n; ++j) row[j] += left * right[j];
        }
    }
}

inline void run_products(Program& program);

inline void issue(Program& program, std::function<void()> job) {
    program.products.push_back(std::move(job));
    jobs.push_back([&program] {
        auto first = std::move(program.products.front());
        program.products.pop_front();
        first();
    });
}

// One product, by its instruction descriptor (9.7.16.4.2, table 42). `a` is a descriptor or an address of tensor memory. An element
// has two bytes in the kind f16, one in f8f6f4.
inline void multiply(int element_bytes, int group, u32 sums, u64 a, bool a_in_tensor_memory, u64 b, u32 instruction, bool add) {
    const int m = (instruction >> 24 & 31) * 16, n = (instruction >> 17 & 63) * 8;
    const bool a_mn = instruction >> 15 & 1, b_mn = instruction >> 16 & 1;
    const u32 type = element_bytes == 2 ? 1 : 0;  // bf16, E4M3
    if ((instruction & 0xE080'7FFF) != (1 << 4 | type << 7 | type << 10))
        fail("an instruction descriptor %08x that is not of %s products with f32 sums", instruction, type ? "bf16" : "E4M3");
    if (a_in_tensor_memory && element_bytes != 2) fail("an operand of E4M3 in tensor memory is not modelled");
    if (m != 128 * group) fail("a product of M = %d by %d programs is not modelled", m, group);
    const int step = 16 * group;
    if (n < step || n > 256 || n % step != 0) fail("a product of N = %d by %d programs", n, group);
    if (sums >> 16 != 0) fail("a product's sums begin at lane %u", sums >> 16);
    if (a_in_tensor_memory && (a_mn || a >> 16 != 0)) fail("an operand in tensor memory that is not K-major from lane 0");
    check_pair(group, "tcgen05.mma");
    if (group == 2 && self().rank % 2 != 0) fail("a pair's product issued by its second program");

    if (!current->commits) current->commits = self().cluster->new_id();
    const Stamp stamp{current->commits, current->products};
    const std::vector<Program*> programs = programs_of(group);
    Product product{group, m, n, sums, a_in_tensor_memory, static_cast<u32>(a), {}, {}, add, element_bytes};
    const int a_rows = m / group, b_rows = n / group;
    for (Program* program : programs) {
        TensorMemory& memory = program->tensor;
        if (program->has_left) fail("a product in a program that has left");
        check_columns(*program, sums & 0xFFFF, n);
        if (memory.group != group)
            fail("a product by %d programs in tensor memory that was allocated for %d", group, memory.group);
        if (a_in_tensor_memory) check_columns(*program, a & 0xFFFF, 8);
        for (int lane = 0; lane < a_rows; ++lane) {
            for (int column = 0; a_in_tensor_memory && column < 8; ++column) {
                Cell& cell = memory.cells[lane * COLUMNS + (a & 0xFFFF) + column];
                if (!seen_by_product_in_order(cell.write))
                    fail("a product reads tensor memory that is being written: %s", why_not_in_tensor_memory(cell.write));
                cell.add_read(stamp, seen_by_product_in_order);
            }
            for (int column = 0; column < n; ++column) {
                Cell& cell = memory.cells[lane * COLUMNS + (sums & 0xFFFF) + column];
                if (cell.write.id == stamp.id && cell.write.tick == stamp.tick && cell.read.tick == 0) continue;
                if (!seen_by_product_in_order(cell.write) || !cell.reads_known(seen_by_product_in_order)) {
                    fail("a product writes tensor memory that others may still use: %s",
                         why_not_in_tensor_memory(seen_by_product_in_order(cell.write) ? cell.read : cell.write));
                }
                cell.set_write(stamp);
            }
        }
        const auto addresses = [&](const SharedOperand& operand, int rows) {
            const int depth = product.depth();
            std::vector<u32> all(rows * depth);
            for (int i = 0; i < rows * depth; ++i) {
                all[i] = operand.at(i / depth, i % depth);
                read_by_product(*program, all[i] / 2 * 2, stamp);
            }
            return all;
        };
        if (!a_in_tensor_memory) product.a.push_back(addresses(SharedOperand(a, a_mn, element_bytes), a_rows));
        product.b.push_back(addresses(SharedOperand(b, b_mn, element_bytes), b_rows));
        ++program->in_flight;
    }
    issue(self(), [product = std::move(product), programs] {
        for (Program* program : programs) {
            if (program->has_left) fail("a product in a program that has left");
            --program->in_flight;
        }
        compute(product, programs);
    });
}

// Arrives at the barrier when the products before are done: at the named one, or at that place in the programs of `mask`.
inline void commit(int group, u32 address, bool multicast, u32 mask) {
    check_pair(group, "tcgen05.commit");
    if (self().tensor.group != group)
        fail("tcgen05.commit by %d programs where tensor memory is allocated for %d", group, self().tensor.group);
    if (!current->commits) current->commits = self().cluster->new_id();
    Knowledge known = current->now;
    known.raise(current->commits, current->products);
    ++current->products;
    std::vector<u32> to;
    for (u32 rank = 0; multicast && rank < 16; ++rank) {
        if (mask >> rank & 1) to.push_back(rank << RANK_SHIFT | (address & WINDOW));
    }
    if (!multicast) to.push_back(address);
    for (const u32 barrier : to) barrier_at(barrier, true), ++program_at(barrier).in_flight;
    Cluster& cluster = *self().cluster;
    issue(self(), [=, &cluster] {
        for (const u32 barrier : to) {
            jobs.push_back([=, &cluster] {
                Program& program = *cluster.programs[barrier >> RANK_SHIFT];
                --program.in_flight;
                engine_arrives(program, barrier, 0, 1, 0, &known);
            });
        }
    });
    tick();
}

}  // namespace model
