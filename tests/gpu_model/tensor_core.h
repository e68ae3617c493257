// The tensor cores: products of tiles that descriptors name, of bf16 or E4M3 with f32 sums. They are done in the order of issue, and
// some time after it; a commit arrives when those before it are done. Sections are those of the PTX ISA 9.2 manual.
#pragma once

#include "operands.h"
#include "tensor_memory.h"

namespace model {

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

// A product writes the sums of so many lanes and columns, after those it follows.
inline void write_sums(Program& program, u32 first, int lanes, int columns, Stamp stamp) {
    for (int lane = 0; lane < lanes; ++lane) {
        for (int column = 0; column < columns; ++column) {
            Cell& cell = program.tensor.cells[lane * COLUMNS + first + column];
            if (cell.write.id == stamp.id && cell.write.tick == stamp.tick && cell.read.tick == 0) continue;
            if (!seen_by_product_in_order(cell.write) || !cell.reads_known(seen_by_product_in_order)) {
                fail("a product writes tensor memory that others may still use: %s",
                     why_not_in_tensor_memory(seen_by_product_in_order(cell.write) ? cell.read : cell.write));
            }
            cell.set_write(stamp);
        }
    }
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
        }
        write_sums(*program, sums & 0xFFFF, a_rows, n, stamp);
        const auto addresses = [&](const SharedOperand& operand, int rows) {
            const int depth = product.depth();
            std::vector<u32> all(rows * depth);
            for (int i = 0; i < rows * depth; ++i) {
                all[i] = operand.at(i / depth, i % depth);
                read_by_product(*program, all[i] / 2 * 2, stamp);
            }
            return all;
        };
        if (!a_in_tensor_memory) product.a.push_back(addresses(operand_of_tcgen05(a, a_mn, element_bytes), a_rows));
        product.b.push_back(addresses(operand_of_tcgen05(b, b_mn, element_bytes), b_rows));
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

// ---- Products of operands with scales ----

// What a block-scaled product's kind says: E2M1 by E2M1 with four unsigned E4M3 scales along k, or E4M3 by E4M3 with an E8M0 scale.
struct ScaledKind {
    bool is_e2m1;
    int k() const { return is_e2m1 ? 64 : 32; }
    int scales() const { return is_e2m1 ? 4 : 1; }
    float number(const uint8_t* row, int k) const {
        static constexpr float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
        if (!is_e2m1) return from_e4m3(row[k]);
        const int code = row[k / 2] >> 4 * (k % 2) & 15;
        return code & 8 ? -E2M1[code & 7] : E2M1[code & 7];
    }
    // A scale of a row's word, by its place along k; `byte` is what the instruction names.
    float scale(u32 word, int place, int byte) const {
        const u32 code = word >> 8 * (is_e2m1 ? place : byte) & 255;
        if (is_e2m1 ? code >= 127 : code == 255) fail("a scale of code %u, which is a NaN or below zero", code);
        return is_e2m1 ? from_e4m3(code) : std::ldexp(1.0f, static_cast<int>(code) - 127);
    }
};

// A word of scales of a row, which every quarter of the lanes has alike.
inline u32 word_of_scales(Program& program, u32 column, int row) {
    const u32 at = row % 32 * COLUMNS + column + row / 32;
    for (u32 quarter = 1; quarter < 4; ++quarter) {
        if (program.tensor.words[at + 32 * quarter * COLUMNS] != program.tensor.words[at])
            fail("a block-scaled product whose quarters of tensor memory have other scales than the first");
    }
    return program.tensor.words[at];
}

// The columns of `rows` rows' scales are read by a product.
inline void read_scales(Program& program, u32 address, int rows, Stamp stamp, const char* whose) {
    if (address >> 16 != 0) fail("%s begin at lane %u of tensor memory", whose, address >> 16);
    if (address % 2 != 0) fail("%s begin at column %u of tensor memory: public kernels found that it must be even", whose, address);
    const u32 columns = (rows + 31) / 32;
    check_columns(program, address, columns);
    for (u32 lane = 0; lane < LANES; ++lane) {
        for (u32 column = address; column < address + columns; ++column) {
            if (static_cast<int>((column - address) * 32 + lane % 32) >= rows) continue;
            Cell& cell = program.tensor.cells[lane * COLUMNS + column];
            if (!seen_by_product_in_order(cell.write))
                fail("a product reads scales that are being written: %s", why_not_in_tensor_memory(cell.write));
            cell.add_read(stamp, seen_by_product_in_order);
        }
    }
}

// One product by its instruction descriptor (9.7.16.4.2, tables 43 and 44), of operands along k.
inline void multiply_scaled(int group, ScaledKind kind, u32 sums, u64 a, u64 b, u32 instruction, u32 a_scales, u32 b_scales, bool add) {
    const int m = (instruction >> 24 & 31) * 16, n = (instruction >> 17 & 63) * 8;
    const int a_byte = instruction >> 29 & 3, b_byte = instruction >> 4 & 3;
    const u32 types = kind.is_e2m1 ? 1 << 7 | 1 << 10 : 1 << 23;
    if ((instruction & 0x8081'FFCF) != types)
        fail("an instruction descriptor %08x that is not of this kind's products", instruction);
    if (kind.is_e2m1 && (a_byte || b_byte)) fail("an instruction descriptor that picks bytes of scales where all four are used");
    if (m != 128 * group) fail("a block-scaled product of M = %d by %d programs is not modelled", m, group);
    const int step = 16 * group;
    if (n < step || n > 256 || n % step != 0) fail("a product of N = %d by %d programs", n, group);
    if (sums >> 16 != 0) fail("a product's sums begin at lane %u", sums >> 16);
    check_pair(group, "tcgen05.mma");
    if (group == 2 && self().rank % 2 != 0) fail("a pair's product issued by its second program");

    if (!current->commits) current->commits = self().cluster->new_id();
    const Stamp stamp{current->commits, current->products};
    const std::vector<Program*> programs = programs_of(group);
    const int a_rows = m / group, b_rows = n / group;
    std::vector<std::vector<u32>> a_at, b_at;  // of each program's rows, where each two bytes lie
    for (Program* program : programs) {
        TensorMemory& memory = program->tensor;
        if (program->has_left) fail("a product in a program that has left");
        check_columns(*program, sums & 0xFFFF, n);
        if (memory.group != group)
            fail("a product by %d programs in tensor memory that was allocated for %d", group, memory.group);
        read_scales(*program, a_scales, a_rows, stamp, "scales of A");
        read_scales(*program, b_scales, n, stamp, "scales of B");
        write_sums(*program, sums & 0xFFFF, a_rows, n, stamp);
        const auto addresses = [&](u64 descriptor, int rows) {
            const SharedOperand operand = operand_of_tcgen05(descriptor, false, 2);
            std::vector<u32> all(rows * 16);
            for (int i = 0; i < rows * 16; ++i) {
                all[i] = operand.at(i / 16, i % 16);
                read_by_product(*program, all[i], stamp);
            }
            return all;
        };
        a_at.push_back(addresses(a, a_rows));
        b_at.push_back(addresses(b, b_rows));
        ++program->in_flight;
    }
    issue(self(), [=] {
        const auto row = [&](const std::vector<std::vector<u32>>& at, int rows, int index) {
            std::vector<uint8_t> bytes(32);
            Program& program = *programs[index / rows];
            for (int i = 0; i < 16; ++i) memcpy(&bytes[2 * i], bytes_at(program, at[index / rows][index % rows * 16 + i]), 2);
            return bytes;
        };
        const int k = kind.k(), each = k / kind.scales();
        std::vector<float> right(n * k);
        for (int j = 0; j < n; ++j) {
            const auto bytes = row(b_at, b_rows, j);
            for (int i = 0; i < k; ++i) right[j * k + i] = kind.number(bytes.data(), i);
        }
        for (Program* program : programs) {
            if (program->has_left) fail("a product in a program that has left");
            --program->in_flight;
        }
        for (int i = 0; i < m; ++i) {
            Program& program = *programs[i / a_rows];
            const auto bytes = row(a_at, a_rows, i);
            float* to = reinterpret_cast<float*>(&program.tensor.words[i % a_rows * COLUMNS + (sums & 0xFFFF)]);
            const u32 a_word = word_of_scales(program, a_scales, i % a_rows);
            for (int j = 0; j < n; ++j) {
                const u32 b_word = word_of_scales(program, b_scales, j);
                float sum = add ? to[j] : 0;
                for (int part = 0; part < kind.scales(); ++part) {
                    float terms = 0;
                    for (int at = part * each; at < (part + 1) * each; ++at)
                        terms += kind.number(bytes.data(), at) * right[j * k + at];
                    sum += terms * kind.scale(a_word, part, a_byte) * kind.scale(b_word, part, b_byte);
                }
                to[j] = sum;
            }
        }
    });
}

// 32 rows of 16 bytes of shared memory, by a descriptor without swizzle, to four columns of tensor memory in each quarter of its
// lanes (9.7.16.9). It is done before products of this thread that follow; that it waits for any before it nobody promises.
inline void copy_to_tensor_memory(int group, u32 to, u64 descriptor) {
    if ((descriptor >> 46 & 7) != 1 || (descriptor >> 49) != 0 || (descriptor >> 16 & 0x3FFF) != 0)
        fail("tcgen05.cp by a descriptor that is not of plain rows");
    if (to >> 16 != 0) fail("tcgen05.cp to lane %u of tensor memory", to >> 16);
    check_pair(group, "tcgen05.cp");
    if (group == 2 && self().rank % 2 != 0) fail("a pair's tcgen05.cp issued by its second program");
    if (!current->commits) current->commits = self().cluster->new_id();
    const Stamp stamp{current->commits, current->products};
    const u32 start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
    const std::vector<Program*> programs = programs_of(group);
    const auto place_of = [=](u32 row, u32 word) { return start + row / 8 * stride + row % 8 * 16 + 4 * word; };
    for (Program* program : programs) {
        if (program->has_left) fail("tcgen05.cp in a program that has left");
        if (program->tensor.group != group)
            fail("tcgen05.cp by %d programs in tensor memory that was allocated for %d", group, program->tensor.group);
        check_columns(*program, to, 4);
        for (u32 row = 0; row < 32; ++row) {
            for (u32 word = 0; word < 4; ++word) {
                read_by_product(*program, place_of(row, word), stamp);
                read_by_product(*program, place_of(row, word) + 2, stamp);
                for (u32 quarter = 0; quarter < 4; ++quarter) {
                    Cell& cell = program->tensor.cells[(32 * quarter + row) * COLUMNS + to + word];
                    if (!seen_in_tensor_memory(cell.write) || !cell.reads_known(seen_in_tensor_memory)) {
                        fail("tcgen05.cp writes tensor memory that others may still use: %s",
                             why_not_in_tensor_memory(seen_in_tensor_memory(cell.write) ? cell.read : cell.write));
                    }
                    cell.set_write(stamp);
                }
            }
        }
        ++program->in_flight;
    }
    issue(self(), [=] {
        for (Program* program : programs) {
            if (program->has_left) fail("tcgen05.cp in a program that has left");
            --program->in_flight;
            for (u32 row = 0; row < 128; ++row) {
                for (u32 word = 0; word < 4; ++word)
                    memcpy(&program->tensor.words[row * COLUMNS + to + word], bytes_at(*program, place_of(row % 32, word)), 4);
            }
        }
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
