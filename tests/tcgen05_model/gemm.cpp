// Runs gemm_tcgen05.cu on the model for one product and compares with plain sums:
//   m n k split_k programs order group seed
// The order is 0 for strides, 1 for runs, 2 where the hardware deals the tiles out (so many `programs` at once). `group`:
// weights along k that share a scale, 0 where they have none; of E4M3 1 where rows and columns have scales, 128 where blocks have.
// With `describe` for the seed it writes what it would launch. The launch is made here from the shapes and the macros by the
// kernel's contract, and from nothing that the kernel or the crate works out, but for the bytes of shared memory, which the
// contract takes from the kernel.
#include <random>

#include "host.h"

#include "gemm_tcgen05.cu"
#include "launches.h"

namespace {

using launches::divided;
using launches::parameter;

#if defined(ZERO_POINTS)
const bool WITH_ZEROS = ZERO_POINTS;
#else
const bool WITH_ZEROS = false;
#endif

// A code of B's format from random bits, and the weight it stands for.
float weight(const std::string& format, unsigned bits, uint16_t& code) {
    static constexpr float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    if (format == "Bf16") {
        const float value = static_cast<int>(bits % 9) - 4;
        code = model::to_bf16(value);
        return value;
    }
    if (format == "E4m3") {  // a quarter to four, of either sign, some of them zero
        code = bits % 5 == 0 ? 0 : 0x28 + bits / 5 % 0x20 + (bits / 256 % 2 ? 0x80 : 0);
        return model::from_e4m3(code);
    }
    if (format == "Int16") {
        code = static_cast<uint16_t>(bits);
        return model::from_bf16(model::to_bf16(static_cast<int16_t>(code)));
    }
    code = bits % 16;
    if (format == "Int4" || (format == "Int4Group" && !WITH_ZEROS)) return code < 8 ? code : code - 16;
    if (format == "Int4Group") return code;
    return code < 8 ? E2M1[code] : -E2M1[code - 8];
}

// A scale of B's format from random bits, few enough of its own that weights need not be rounded, and what it stands for.
float scale(const std::string& format, unsigned bits, uint16_t& code) {
    if (format == "Int4Group") {
        const float value = std::ldexp(1 + bits % 4 / 4.0f, static_cast<int>(bits / 4 % 5) - 3) * (bits / 32 % 2 ? 1 : -1);
        code = model::to_bf16(value);
        return value;
    }
    if (format == "Nvfp4") {  // E4M3: subnormal ones, zero, and up to 4
        code = bits % 72;
        return code < 8 ? code / 512.0f : std::ldexp(1 + code % 8 / 8.0f, code / 8 - 7);
    }
    if (format == "E4m3") return std::ldexp(1 + bits % 4 / 4.0f, static_cast<int>(bits / 4 % 5) - 3) * (bits / 32 % 8 ? 1 : -1);
    code = 123 + bits % 8;
    return std::ldexp(1.0f, code - 127);
}

const std::string FORMAT = NAME(WEIGHTS);
const bool IS_FP8 = FORMAT == "E4m3";                                               // A as well
const int WEIGHTS_A_ROW = FORMAT == "Bf16" || FORMAT == "Int16" || IS_FP8 ? 1 : 2;  // of k, in a row of B's bytes
const int WEIGHT_BYTES = WEIGHTS_A_ROW == 2 || IS_FP8 ? 1 : 2;
const int ACTIVATION_BYTES = IS_FP8 ? 1 : 2;
const int SCALE_ELEMENT_BYTES = FORMAT == "Int4Group" ? 2 : 1;
const float TENSOR_SCALE = 0.5f;  // of Nvfp4
const bool CODED = FORMAT != "Bf16" && !IS_FP8;
const bool IN_TENSOR_MEMORY = TENSOR_WEIGHTS;                            // decoded weights
const bool WEIGHTS_FIRST = IN_TENSOR_MEMORY || BLOCK_M < 128;            // the instruction's rows are columns of C
const int TOGETHER = (WEIGHTS_FIRST ? BLOCK_N : BLOCK_M) > 128 ? 2 : 1;  // programs of a tile

// The widest swizzled line of bf16 that divides so many.
int line_of(int extent) { return extent % 64 == 0 ? 64 : extent % 32 == 0 ? 32 : 16; }

struct Problem {
    int m, n, k, split_k, programs;
    int order, group;
    unsigned seed;
};

// What B's weights share: for each group of them along k and each column a scale, and a zero point.
struct Groups {
    std::vector<uint8_t> scales, zeros;
    std::vector<float> of_rows, of_columns;  // of E4M3: a row of A's and a column of B's, or those of blocks
};

// What a product is launched with: tensor maps of A, B and C, the grid, and the last arguments.
struct Launched : launches::Tiled {
    model::Map a, b, c, scales, zeros;
    int group, group_steps;
};

Launched launch(const Problem& problem, uint8_t* a, uint8_t* b, uint8_t* c, Groups& groups) {
    const auto [m, n, k, split_k, asked_programs, order, group, seed] = problem;
    const int columns = BLOCK_N / TOGETHER;
    const int b_line = line_of(columns), coded_line = IN_TENSOR_MEMORY ? 128 / WEIGHT_BYTES : columns;
    const int c_line = line_of(WEIGHTS_FIRST ? BLOCK_M : BLOCK_N);
    Launched it{launches::Tiled(m, n, k, split_k, asked_programs, order, {BLOCK_M, BLOCK_N, BLOCK_K}, TOGETHER)};
    it.a = {a, 2, {k, m}, {2 * k}, {64, BLOCK_M / TOGETHER}, 128};
    it.b = {b,
            WEIGHT_BYTES,
            {n, k / WEIGHTS_A_ROW},
            {n * WEIGHT_BYTES},
            {coded_line, BLOCK_K / WEIGHTS_A_ROW},
            IN_TENSOR_MEMORY ? 128 : 0};
    if (!CODED) it.b = {b, 2, {n, k}, {2 * n}, {b_line, BLOCK_K}, 2 * b_line};
    if (IS_FP8) {
        it.a = {a, 1, {k, m}, {k}, {128, BLOCK_M / TOGETHER}, 128};
        it.b = {b, 1, {k, n}, {k}, {128, columns}, 128};
    }
    it.c = {c, 2, {n, m}, {2 * n}, {c_line, 32}, 2 * c_line};
    if (WEIGHTS_FIRST) it.c = {c, 2, {n, m}, {2 * n}, {32, c_line}, 0};

    it.group = group;
    if (group > 0 && !IS_FP8) {
        const int count = divided(k, group), groups_a_step = BLOCK_K / std::min(group, BLOCK_K);
        const auto tiles = [&](std::vector<uint8_t>& values, int bytes) {
            return model::Map{values.data(), bytes, {n, count}, {n * bytes}, {columns, groups_a_step}, 0};
        };
        it.scales = tiles(groups.scales, SCALE_ELEMENT_BYTES), it.zeros = tiles(groups.zeros, 1);
        it.group_steps = group >= k ? divided(k, BLOCK_K) : divided(group, BLOCK_K);
    }

    it.grid.threads = 32 * (6 + DECODE_WARPS);
    if (IS_FP8 && (WEIGHTS_FIRST ? BLOCK_M : BLOCK_N) > 128) it.grid.threads = 384;
    it.grid.shared_bytes = SMEM_BYTES;
    return it;
}

void describe(const Launched& it) {
    const bool has_groups = it.group > 0 && !IS_FP8;
    std::vector<const model::Map*> maps{&it.a, &it.b, &it.c};
    if (has_groups) maps.push_back(&it.scales);
    if (WITH_ZEROS) maps.push_back(&it.zeros);
    std::vector<int> arguments = it.arguments();
    const auto extent = [](int64_t extent) { return static_cast<int>(extent); };
    if (IS_FP8) {
        const int k = extent(it.a.extents[0]);
        arguments.insert(arguments.end(), {extent(it.a.extents[1]), extent(it.b.extents[1]), divided(k, 128), it.group == 1});
    }
    if (has_groups) arguments.push_back(it.group_steps);
    launches::describe(it.grid, maps, 4 * it.parts, it.arrivals(), arguments);
}

#if defined(BLOCK_SCALES)
#define GROUP_ARGUMENTS \
    , groups.of_rows.data(), groups.of_columns.data(), problem.m, problem.n, divided(problem.k, 128), problem.group == 1
#elif !defined(GROUP)
#define GROUP_ARGUMENTS
#elif defined(ZERO_POINTS) && ZERO_POINTS
#define GROUP_ARGUMENTS , parameter(it.scales), parameter(it.zeros), nullptr, it.group_steps
#else
#define GROUP_ARGUMENTS , parameter(it.scales), nullptr, FORMAT == "Nvfp4" ? &TENSOR_SCALE : nullptr, it.group_steps
#endif

// C, which begins as NaN, from A, from B's bytes and from what its weights share.
std::vector<uint16_t> run(std::vector<uint8_t>& a, std::vector<uint8_t>& b, Groups& groups, const Problem& problem) {
    std::vector<uint16_t> c(static_cast<size_t>(problem.m) * problem.n, 0x7FC0);
    const auto bytes = [](auto& tensor) { return reinterpret_cast<uint8_t*>(tensor.data()); };
    const Launched it = launch(problem, a.data(), b.data(), bytes(c), groups);
    launches::Scratch scratch(it.parts, it.tiles * TOGETHER);
    model::run_grid(it.grid, problem.seed, [&] {
        gemm_tcgen05(parameter(it.a), parameter(it.b), parameter(it.c), scratch.floats(), scratch.counters.data(),
                     it.tiles_m, it.tiles_n, it.k_steps, it.tiles_m, it.split_k, it.stride, it.span GROUP_ARGUMENTS);
    });
    scratch.check();
    return c;
}

}  // namespace

int main(int, char** arguments) {
    const auto number = [&](int index) { return atoi(arguments[index]); };
    const Problem problem{number(1), number(2), number(3), number(4), number(5), number(6), number(7),
                          static_cast<unsigned>(number(8))};
    const auto [m, n, k, split_k, programs, order, group, seed] = problem;
    Groups groups;
    if (std::string(arguments[8]) == "describe") {
        describe(launch(problem, nullptr, nullptr, nullptr, groups));
        return 0;
    }
    std::mt19937 random(1);
    std::vector<uint8_t> a(static_cast<size_t>(m) * k * ACTIVATION_BYTES);
    std::vector<float> activations(static_cast<size_t>(m) * k);
    for (size_t place = 0; place < activations.size(); ++place) {
        uint16_t code;
        activations[place] = weight(IS_FP8 ? "E4m3" : "Bf16", random(), code);
        memcpy(&a[place * ACTIVATION_BYTES], &code, ACTIVATION_BYTES);
    }
    std::vector<float> weights(static_cast<size_t>(k) * n);
    std::vector<float> scales, zeros;  // what the groups' stand for
    const int blocks_k = divided(k, 128);
    const auto fill = [&](std::vector<float>& values, int count) {
        uint16_t none;
        for (int i = 0; i < count; ++i) values.push_back(scale(FORMAT, random(), none));
    };
    if (IS_FP8) {
        fill(groups.of_rows, group == 128 ? blocks_k * m : group == 1 ? m : 1);
        fill(groups.of_columns, group == 128 ? divided(n, 128) * blocks_k : group == 1 ? n : 1);
    }
    // The scales of a row of A and of a column of B, at a place along k.
    const auto of_row = [&](int row, int i) {
        return !IS_FP8 ? 1 : groups.of_rows[group == 128 ? i / 128 * m + row : group == 1 ? row : 0];
    };
    const auto of_column = [&](int column, int i) {
        return !IS_FP8 ? 1 : groups.of_columns[group == 128 ? column / 128 * blocks_k + i / 128 : group == 1 ? column : 0];
    };
    for (int place = 0; group > 0 && !IS_FP8 && place < divided(k, group) * n; ++place) {
        uint16_t code;
        scales.push_back(scale(FORMAT, random(), code) * (FORMAT == "Nvfp4" ? TENSOR_SCALE : 1));
        for (int i = 0; i < SCALE_ELEMENT_BYTES; ++i) groups.scales.push_back(static_cast<uint8_t>(code >> 8 * i));
        groups.zeros.push_back(WITH_ZEROS ? random() % 16 : 0);
        zeros.push_back(groups.zeros.back());
    }
    std::vector<uint8_t> b(static_cast<size_t>(k) / WEIGHTS_A_ROW * n * WEIGHT_BYTES);
    for (int row = 0; row < k; ++row) {
        for (int column = 0; column < n; ++column) {
            uint16_t code;
            float& value = weights[row * n + column];
            value = weight(FORMAT, random(), code);
            if (group > 0 && !IS_FP8) {
                const int shared = row / group * n + column;
                value = (value - zeros[shared]) * scales[shared];
            }
            size_t place = (static_cast<size_t>(row / WEIGHTS_A_ROW) * n + column) * WEIGHT_BYTES;
            if (IS_FP8) place = static_cast<size_t>(column) * k + row;
            if (WEIGHTS_A_ROW == 2) {
                b[place] |= code << 4 * (row % 2);
            } else {
                memcpy(&b[place], &code, WEIGHT_BYTES);
            }
        }
    }

    const auto c = run(a, b, groups, problem);
    for (int row = 0; row < m; ++row) {
        std::vector<double> sums(n);
        for (int i = 0; i < k; ++i) {
            const double left = activations[row * k + i] * of_row(row, i);
            for (int column = 0; column < n; ++column) sums[column] += left * weights[i * n + column] * of_column(column, i);
        }
        for (int column = 0; column < n; ++column) {
            const double got = model::from_bf16(c[row * n + column]), sum = sums[column];
            if (!(std::abs(got - sum) <= std::abs(sum) / 200 + 1e-3)) {
                model::fail("C[%d, %d] is %g, not %g", row, column, got, sum);
            }
        }
    }
    return 0;
}
