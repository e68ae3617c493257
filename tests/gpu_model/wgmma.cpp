// Runs gemm_wgmma.cu or, of E4M3, gemm_fp8.cu on the model for one product and compares with plain sums:
//   m n k split_k clusters order group seed
// The order is 0 for strides, 1 for runs, of so many `clusters`; of split products each has one tile. `group`: weights along k that share a
// scale, 0 where they have none; of E4M3 1 where rows and columns have scales, 128 where blocks have. With `describe` for the seed it
// writes what it would launch. The launch is made here from the shapes and the macros by the kernels' contracts, but for threads and bytes
// of shared memory, which these take from the kernel.
#include "host.h"

#if defined(BLOCK_SCALES)
#define WEIGHTS E4m3
#include "gemm_fp8.cu"
#else
#include "gemm_wgmma.cu"
#endif
#include "products.h"

namespace {

using launches::divided;
using launches::parameter;
using namespace products;

const bool COPIES_A = IS_FP8 ? REALIGNED : REALIGNED & 1, COPIES_B = IS_FP8 ? REALIGNED : REALIGNED & 2;

// Bytes from row to row of what the copy engine takes.
int64_t pitch(int64_t row_bytes, bool is_copied) { return is_copied ? divided(row_bytes, 128) * 128 : row_bytes; }

// What a product is launched with.
struct Launched {
    GroupMaps shared;
    model::Launch grid;
    model::Map a, b, c;
    int tiles_m, tiles_n, k_steps, split_k, stride, span;
    size_t scratch_bytes;
};

Launched launch(const Problem& problem, uint8_t* a, uint8_t* b, uint8_t* c, uint8_t* scratch, Groups& groups) {
    const auto [m, n, k, split_k, clusters, order, group, seed] = problem;
    Launched it{GroupMaps(groups, problem, BLOCK_K, std::min(256, BLOCK_N))};
    it.tiles_m = divided(m, BLOCK_M), it.tiles_n = divided(n, BLOCK_N), it.k_steps = divided(k, BLOCK_K), it.split_k = split_k;
    const int tiles = it.tiles_m * it.tiles_n, with_tiles = std::min(clusters, tiles);
    it.stride = order == 1 ? 1 : with_tiles, it.span = order == 1 ? divided(tiles, with_tiles) : tiles;
    const int b_rows = IS_FP8 ? n : k / WEIGHTS_A_ROW, b_row_bytes = IS_FP8 ? k : n * WEIGHT_BYTES;
    const int64_t a_pitch = pitch(k * ACTIVATION_BYTES, COPIES_A), b_pitch = pitch(b_row_bytes, COPIES_B);
    const size_t a_copied = COPIES_A ? m * a_pitch : 0;
    it.scratch_bytes = a_copied + (COPIES_B ? b_rows * b_pitch : 0);
    if (COPIES_A) a = scratch;
    if (COPIES_B) b = scratch + a_copied;
    if (IS_FP8) {
        it.a = {a, 1, {k, m}, {a_pitch}, {128, BLOCK_M}, 128};
        it.b = {b, 1, {k, n}, {b_pitch}, {128, BLOCK_N}, 128};
    } else {
        const int width = std::min(128, BLOCK_N * WEIGHT_BYTES);
        it.a = {a, 2, {k, m}, {a_pitch}, {64, BLOCK_M}, 128};
        it.b = {b, WEIGHT_BYTES, {n, b_rows}, {b_pitch}, {width / WEIGHT_BYTES, BLOCK_K / WEIGHTS_A_ROW}, width};
    }
    it.c = {c, 2, {n, m}, {2 * n}, {64, STAGING_ROWS}, 128};
    it.grid.cluster = split_k;
    it.grid.programs = (split_k > 1 ? tiles : clusters) * split_k;
    it.grid.threads = THREADS;
    it.grid.shared_bytes = STAGES_BYTES + (split_k > 1 ? 4 * BLOCK_M * BLOCK_N : STAGING_BYTES);
    return it;
}

void describe(const Problem& problem, const Launched& it) {
    const auto [m, n, k, split_k, clusters, order, group, seed] = problem;
    std::vector<const model::Map*> maps;
    if (ATile::VECTOR_BYTES == 16) maps.push_back(&it.a);
    if (BTile::VECTOR_BYTES == 16) maps.push_back(&it.b);
    if (C_BY_ENGINE) maps.push_back(&it.c);
    std::vector<int> arguments{m, n, k, it.tiles_m, it.tiles_n, it.k_steps, split_k, it.stride, it.span};
    if (IS_FP8) arguments.push_back(group == 1);
    if (n * SCALE_ELEMENT_BYTES % 16 == 0) maps.push_back(&it.shared.scales);
    if (n % 16 == 0) maps.push_back(&it.shared.zeros);
    if (it.shared.group_steps > 0) arguments.push_back(it.shared.group_steps);
    launches::describe(it.grid, maps, it.scratch_bytes, COPIES_A || COPIES_B ? 2 : 0, arguments);
}

// A kernel's argument: the map, or where the engine does not take it the matrix itself.
template <typename Source>
Source source(const model::Map& map, const void* matrix) {
    if constexpr (std::is_pointer_v<Source>) {
        return static_cast<Source>(matrix);
    } else {
        return parameter(map);
    }
}

std::vector<uint16_t> run(Product& product, const Problem& problem) {
    Groups& groups = product.groups;
    const auto [m, n, k, split_k, clusters, order, group, seed] = problem;
    std::vector<uint16_t> c(static_cast<size_t>(m) * n, 0x7FFF);
    std::vector<uint4> scratch(launch(problem, nullptr, nullptr, nullptr, nullptr, groups).scratch_bytes / 16 + 1);
    uint8_t* copies = reinterpret_cast<uint8_t*>(scratch.data());
    std::fill(copies, copies + 16 * scratch.size(), 0xFF);
    const Launched it = launch(problem, product.a.data(), product.b.data(), reinterpret_cast<uint8_t*>(c.data()), copies, groups);
    model::share(copies, 16 * scratch.size());
    std::vector<unsigned> counters(2, 0);
    model::share(counters.data(), counters.size() * sizeof(unsigned));
    const byte *a_rows = product.a.data(), *b_rows = product.b.data();
    model::lanes_reconverge = true;
    const auto target = source<CTarget>(it.c, c.data());
    model::run_grid(it.grid, seed, [&] {
#if defined(BLOCK_SCALES)
        gemm_fp8(source<Source>(it.a, a_rows), source<Source>(it.b, b_rows), target, groups.of_rows.data(), groups.of_columns.data(),
                 c.data(), m, n, k, it.tiles_m, it.tiles_n, it.k_steps, it.tiles_m, split_k, it.stride, it.span, group == 1
#if REALIGNED
                 , a_rows, b_rows, copies, counters.data()
#endif
        );
#else
        gemm_wgmma(source<ASource>(it.a, a_rows), source<BSource>(it.b, b_rows), target, c.data(), m, n, k, it.tiles_m, it.tiles_n,
                   it.k_steps, it.tiles_m, split_k, it.stride, it.span, a_rows, b_rows, copies, counters.data()
#if defined(GROUP)
                   , source<ScaleSource>(it.shared.scales, groups.scales.data()), source<ZeroSource>(it.shared.zeros, groups.zeros.data()),
                   FORMAT == "Nvfp4" ? &TENSOR_SCALE : nullptr, it.shared.group_steps
#endif
        );
#endif
    });
    for (const unsigned count : counters) {
        if (count != 0) model::fail("a count of programs is left at %u", count);
    }
    return c;
}

}  // namespace

int main(int, char** arguments) {
    Groups none;
    return asked(
        arguments,
        [&](const Problem& problem) { describe(problem, launch(problem, nullptr, nullptr, nullptr, nullptr, none)); }, run);
}
