// Runs gemm_tcgen05.cu on the model for one product and compares with plain sums:
//   m n k split_k programs order group seed
// The order is 0 for strides, 1 for runs, 2 where the hardware deals the tiles out (so many `programs` at once). `group`:
// weights along k that share a scale, 0 where they have none; of E4M3 1 where rows and columns have scales, 128 where blocks have.
// With `describe` for the seed it writes what it would launch. The launch is made here from the shapes and the macros by the
// kernel's contract, and from nothing that the kernel or the crate works out, but for the bytes of shared memory, which the
// contract takes from the kernel.
#include "host.h"

#include "gemm_tcgen05.cu"
#include "products.h"

namespace {

using launches::divided;
using launches::parameter;
using namespace products;

const bool IN_TENSOR_MEMORY = TENSOR_WEIGHTS;                            // decoded weights
const bool WEIGHTS_FIRST = IN_TENSOR_MEMORY || BLOCK_M < 128;            // the instruction's rows are columns of C
const int TOGETHER = (WEIGHTS_FIRST ? BLOCK_N : BLOCK_M) > 128 ? 2 : 1;  // programs of a tile

// The widest swizzled line of bf16 that divides so many.
int line_of(int extent) { return extent % 64 == 0 ? 64 : extent % 32 == 0 ? 32 : 16; }

// What a product is launched with: tensor maps of A, B and C, the grid, and the last arguments.
struct Launched : launches::Tiled {
    model::Map a, b, c;
    GroupMaps shared;
    int group;
};

Launched launch(const Problem& problem, uint8_t* a, uint8_t* b, uint8_t* c, Groups& groups) {
    const auto [m, n, k, split_k, asked_programs, order, group, seed] = problem;
    const int columns = BLOCK_N / TOGETHER;
    const int b_line = line_of(columns), coded_line = IN_TENSOR_MEMORY ? 128 / WEIGHT_BYTES : columns;
    const int c_line = line_of(WEIGHTS_FIRST ? BLOCK_M : BLOCK_N);
    Launched it{launches::Tiled(m, n, k, split_k, asked_programs, order, {BLOCK_M, BLOCK_N, BLOCK_K}, TOGETHER),
                {}, {}, {}, GroupMaps(groups, problem, BLOCK_K, columns), group};
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

    it.grid.threads = 32 * (6 + DECODE_WARPS);
    if (IS_FP8 && (WEIGHTS_FIRST ? BLOCK_M : BLOCK_N) > 128) it.grid.threads = 384;
    it.grid.shared_bytes = SMEM_BYTES;
    return it;
}

void describe(const Launched& it) {
    std::vector<int> arguments = it.arguments();
    const auto extent = [](int64_t extent) { return static_cast<int>(extent); };
    if (IS_FP8) {
        const int k = extent(it.a.extents[0]);
        arguments.insert(arguments.end(), {extent(it.a.extents[1]), extent(it.b.extents[1]), divided(k, 128), it.group == 1});
    }
    if (it.shared.group_steps > 0) arguments.push_back(it.shared.group_steps);
    launches::describe(it.grid, {&it.a, &it.b, &it.c, &it.shared.scales, &it.shared.zeros}, 4 * it.parts, it.arrivals(), arguments);
}

#if defined(BLOCK_SCALES)
#define GROUP_ARGUMENTS \
    , groups.of_rows.data(), groups.of_columns.data(), problem.m, problem.n, divided(problem.k, 128), problem.group == 1
#elif !defined(GROUP)
#define GROUP_ARGUMENTS
#elif defined(ZERO_POINTS) && ZERO_POINTS
#define GROUP_ARGUMENTS , parameter(it.shared.scales), parameter(it.shared.zeros), nullptr, it.shared.group_steps
#else
#define GROUP_ARGUMENTS , parameter(it.shared.scales), nullptr, FORMAT == "Nvfp4" ? &TENSOR_SCALE : nullptr, it.shared.group_steps
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
    Groups none;
    return asked(
        arguments, [&](const Problem& problem) { describe(launch(problem, nullptr, nullptr, nullptr, none)); },
        [](Product& product, const Problem& problem) { return run(product.a, product.b, product.groups, problem); });
}
