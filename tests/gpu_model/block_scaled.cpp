// Runs gemm_block_scaled_tcgen05.cu, or with NUM_WARPS gemm_block_scaled.cu, on the model for one product and compares with plain sums:
//   m n k split_k programs order seed
// The order is 0 for strides, 1 for runs, 2 where the hardware deals the tiles out (so many `programs` at once).
// With `describe` for the seed it writes what it would launch. The launch is made here from the shapes and the macros by the
// kernels' contracts, and from nothing that they or the crate work out, but for the bytes of shared memory, which the contracts take
// from the kernels.
#include <random>

#include "host.h"

#if defined(NUM_WARPS)
#include "gemm_block_scaled.cu"
#else
#include "gemm_block_scaled_tcgen05.cu"
#endif
#include "launches.h"

namespace {

using launches::divided;
using launches::parameter;

const bool PACKED = std::string(NAME(FORMAT)) == "Nvfp4";
const bool IN_BF16 = std::string(NAME(DTYPE)) == "bf16";
const int A_BYTE = PACKED ? 2 : 1;    // numbers in one
const int A_SCALE = PACKED ? 16 : 32;  // numbers with one
const int A_BLOCK = 4 * A_SCALE;       // of k, of a block of scales

struct Problem {
    int m, n, k, split_k, programs;
    int order;
    unsigned seed;
};

// Rows along k as they lie in memory, with what they stand for.
struct Operand {
    std::vector<uint8_t> numbers, scales;
    std::vector<float> values;
    float factor;

    Operand(int rows, int k, std::mt19937& random) {
        static constexpr float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
        factor = PACKED ? std::ldexp(1.0f, static_cast<int>(random() % 5) - 2) : 1;
        numbers.resize(static_cast<size_t>(rows) * k / A_BYTE);
        for (auto& byte : numbers) {
            byte = random();
            if (!PACKED) byte = byte % 32 + 40 + (byte & 128);  // 2^-2 to 2^2, so that sums are exact
        }
        // What pads the blocks is never a NaN, and no zero either.
        scales.resize(static_cast<size_t>(divided(rows, 128)) * divided(k, A_BLOCK) * 512);
        for (auto& byte : scales) byte = PACKED ? 40 + random() % 32 : 118 + random() % 11;
        values.resize(static_cast<size_t>(rows) * k);
        for (int row = 0; row < rows; ++row) {
            for (int i = 0; i < k; ++i) {
                const size_t at = static_cast<size_t>(row) * k + i;
                const uint8_t code = PACKED ? numbers[at / 2] >> 4 * (i % 2) & 15 : numbers[at];
                const float size = PACKED ? E2M1[code & 7] : (8 + (code & 7)) * std::ldexp(1.0f, (code >> 3 & 15) - 10);
                // Block after block: 32 lines of four rows, 32 apart, of four scales each.
                const size_t block = static_cast<size_t>(row / 128) * divided(k, A_BLOCK) + i / A_BLOCK;
                const uint8_t scale = scales[block * 512 + row % 32 * 16 + row % 128 / 32 * 4 + i / A_SCALE % 4];
                const float times = PACKED ? (8 + (scale & 7)) * std::ldexp(1.0f, (scale >> 3) - 10)
                                           : std::ldexp(1.0f, static_cast<int>(scale) - 127);
                values[at] = (code & (PACKED ? 8 : 128) ? -size : size) * times;
            }
        }
    }
};

struct Launched : launches::Tiled {
    model::Map a, b, a_scales, b_scales, c;
};

Launched launch(const Problem& problem, uint8_t* a, uint8_t* b, uint8_t* a_scales, uint8_t* b_scales, uint8_t* c) {
    const auto [m, n, k, split_k, asked_programs, order, seed] = problem;
    const bool columns_first = BLOCK_M < 128;  // columns of C are the instruction's rows
#if defined(NUM_WARPS)
    const int together = 1;
#else
    const int together = (columns_first ? BLOCK_N : BLOCK_M) / 128;
#endif
    Launched it{launches::Tiled(m, n, k, split_k, asked_programs, order, {BLOCK_M, BLOCK_N, BLOCK_K}, together)};
#if !defined(NUM_WARPS)
    const int row_bytes = k / A_BYTE, blocks = divided(k, A_BLOCK), step_blocks = BLOCK_K / A_BLOCK;
    const auto numbers = [&](uint8_t* at, int rows, int tile) {
        return model::Map{at, 1, {row_bytes, rows}, {row_bytes}, {128, tile / together}, 128};
    };
    it.a = numbers(a, m, BLOCK_M), it.b = numbers(b, n, BLOCK_N);
    // Of the instruction's rows a program has 128, of its columns all.
    const auto scales = [&](uint8_t* at, int rows, int tile, bool are_its_rows) {
        const int tile_blocks = are_its_rows ? 1 : divided(tile, 128);
        return model::Map{at, 1, {256, 2 * blocks, divided(rows, 128)}, {256, 512 * blocks}, {256, 2 * step_blocks, tile_blocks}, 0};
    };
    it.a_scales = scales(a_scales, m, BLOCK_M, !columns_first), it.b_scales = scales(b_scales, n, BLOCK_N, columns_first);
    const int across = columns_first ? BLOCK_M : BLOCK_N, line = across % 64 == 0 ? 64 : across % 32 == 0 ? 32 : 16;
    it.c = {c, 2, {n, m}, {2 * n}, {line, 32}, 2 * line};
    if (columns_first) it.c = {c, 2, {n, m}, {2 * n}, {32, line}, 0};
    it.grid.threads = 192;
#else
    it.grid.threads = 32 * NUM_WARPS;
#endif
    it.grid.shared_bytes = SMEM_BYTES;
    return it;
}

void describe(const Launched& it) {
    launches::describe(it.grid, {&it.a, &it.b, &it.a_scales, &it.b_scales, &it.c}, 4 * it.parts, it.arrivals(), it.arguments());
}

// C, which begins as NaN.
std::vector<uint16_t> run(Operand& a, Operand& b, const Problem& problem) {
    std::vector<uint16_t> c(static_cast<size_t>(problem.m) * problem.n, 0x7FFF);
    const Launched it = launch(problem, a.numbers.data(), b.numbers.data(), a.scales.data(), b.scales.data(),
                               reinterpret_cast<uint8_t*>(c.data()));
    const float* factors[2] = {PACKED ? &a.factor : nullptr, PACKED ? &b.factor : nullptr};
#if defined(NUM_WARPS)
    model::run_grid(it.grid, problem.seed, [&] {
        gemm_block_scaled(a.numbers.data(), b.numbers.data(), a.scales.data(), b.scales.data(), factors[0], factors[1], c.data(),
                          problem.m, problem.n, problem.k, it.tiles_m, it.tiles_n, it.k_steps, it.tiles_m, it.stride, it.span);
    });
#else
    launches::Scratch scratch(it.parts, it.tiles * it.together);
    model::run_grid(it.grid, problem.seed, [&] {
        gemm_block_scaled_tcgen05(parameter(it.a), parameter(it.b), parameter(it.a_scales), parameter(it.b_scales),
                                  parameter(it.c), factors[0], factors[1], scratch.floats(),
                                  scratch.counters.data(), it.tiles_m, it.tiles_n, it.k_steps, it.tiles_m, it.split_k, it.stride, it.span);
    });
    scratch.check();
#endif
    return c;
}

}  // namespace

int main(int, char** arguments) {
    const auto number = [&](int index) { return atoi(arguments[index]); };
    const Problem problem{number(1), number(2), number(3), number(4), number(5), number(6), static_cast<unsigned>(number(7))};
    const auto [m, n, k, split_k, programs, order, seed] = problem;
    if (std::string(arguments[7]) == "describe") {
        describe(launch(problem, nullptr, nullptr, nullptr, nullptr, nullptr));
        return 0;
    }
    std::mt19937 random(1);
    Operand a(m, k, random), b(n, k, random);
    const auto c = run(a, b, problem);
    for (int row = 0; row < m; ++row) {
        for (int column = 0; column < n; ++column) {
            double sum = 0, size = 0;
            for (int i = 0; i < k; ++i) {
                const double term = static_cast<double>(a.values[row * k + i]) * b.values[column * k + i] * a.factor * b.factor;
                sum += term, size += std::abs(term);
            }
            const uint16_t bits = c[row * n + column];
            const double got = IN_BF16 ? model::from_bf16(bits) : model::from_f16(bits);
            if (!(std::abs(got - sum) <= std::abs(sum) / 200 + size * 1e-5)) {
                model::fail("C[%d, %d] is %g, not %g", row, column, got, sum);
            }
        }
    }
    return 0;
}
