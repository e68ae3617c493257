// Runs gemm_tcgen05.cu on the model for one product and compares with plain sums:
//   m n k split_k programs order seed
// The order is 0 for strides, 1 for runs, 2 where the hardware deals the tiles out (so many `programs` at once).
// The launch is made here from the shapes and the macros by the kernel's contract, and from nothing that the kernel or the
// crate works out.
#include <random>

#include "host.h"

#include "gemm_tcgen05.cu"

namespace {

int divided(int a, int b) { return (a + b - 1) / b; }

// A code of B's format from random bits, and the weight it stands for.
float weight(const std::string& format, unsigned bits, uint16_t& code) {
    static constexpr float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    if (format == "Bf16") {
        const float value = static_cast<int>(bits % 9) - 4;
        code = model::to_bf16(value);
        return value;
    }
    if (format == "Int16") {
        code = static_cast<uint16_t>(bits);
        return model::from_bf16(model::to_bf16(static_cast<int16_t>(code)));
    }
    code = bits % 16;
    if (format == "Int4") return code < 8 ? code : code - 16;
    return code < 8 ? E2M1[code] : -E2M1[code - 8];
}

#define NAME_OF(macro) #macro
#define NAME(macro) NAME_OF(macro)
const std::string FORMAT = NAME(WEIGHTS);
const int WEIGHTS_A_ROW = FORMAT == "Int4" || FORMAT == "Fp4" ? 2 : 1;  // of k, in a row of B's bytes
const int WEIGHT_BYTES = WEIGHTS_A_ROW == 2 ? 1 : 2;
const bool CODED = FORMAT != "Bf16";
const bool IN_TENSOR_MEMORY = TENSOR_WEIGHTS;             // decoded weights
const bool WEIGHTS_FIRST = IN_TENSOR_MEMORY || BLOCK_M < 128;  // the instruction's rows are columns of C
const int TOGETHER = (WEIGHTS_FIRST ? BLOCK_N : BLOCK_M) > 128 ? 2 : 1;  // programs of a tile

// The widest swizzled line of bf16 that divides so many.
int line_of(int extent) { return extent % 64 == 0 ? 64 : extent % 32 == 0 ? 32 : 16; }

struct Problem {
    int m, n, k, split_k, programs;
    int order;
    unsigned seed;
};

// C, which begins as NaN, from A and from B's bytes.
std::vector<uint16_t> run(std::vector<uint16_t>& a, std::vector<uint8_t>& b, const Problem& problem, int shared_bytes) {
    const auto [m, n, k, split_k, asked_programs, order, seed] = problem;
    std::vector<uint16_t> c(static_cast<size_t>(m) * n, 0x7FC0);
    const auto bytes = [](auto& tensor) { return reinterpret_cast<uint8_t*>(tensor.data()); };
    const int columns = BLOCK_N / TOGETHER;
    const model::Map a_map{bytes(a), 2, {k, m}, {2 * k}, {64, BLOCK_M / TOGETHER}, 128};
    const int b_line = line_of(columns), coded_line = IN_TENSOR_MEMORY ? 128 / WEIGHT_BYTES : columns;
    const model::Map b_map = CODED ? model::Map{b.data(), WEIGHT_BYTES, {n, k / WEIGHTS_A_ROW}, {n * WEIGHT_BYTES},
                                                {coded_line, BLOCK_K / WEIGHTS_A_ROW}, IN_TENSOR_MEMORY ? 128 : 0}
                                   : model::Map{b.data(), 2, {n, k}, {2 * n}, {b_line, BLOCK_K}, 2 * b_line};
    const int c_line = line_of(WEIGHTS_FIRST ? BLOCK_M : BLOCK_N);
    const model::Map c_map = WEIGHTS_FIRST ? model::Map{bytes(c), 2, {n, m}, {2 * n}, {32, c_line}, 0}
                                           : model::Map{bytes(c), 2, {n, m}, {2 * n}, {c_line, 32}, 2 * c_line};

    const int tiles_m = divided(m, BLOCK_M), tiles_n = divided(n, BLOCK_N);
    const int tiles = tiles_m * tiles_n, work = tiles * split_k;
    const int programs = order == 2 ? work : std::min(asked_programs, work);
    const int stride = order == 2 ? 0 : order == 1 ? 1 : programs, span = order == 1 ? divided(work, programs) : work;
    std::vector<float4> partials(static_cast<size_t>(split_k > 1 ? work : 0) * BLOCK_M * BLOCK_N / 4 + 1, float4{NAN, NAN, NAN, NAN});
    std::vector<unsigned> arrivals(tiles * TOGETHER, 0);
    model::share(partials.data(), partials.size() * sizeof(float4));
    model::share(arrivals.data(), arrivals.size() * sizeof(unsigned));
    const auto parameter = [](const model::Map& map) {
        ptx::TensorMap words{};
        const model::Map* pointer = &map;
        memcpy(&words, &pointer, sizeof pointer);
        return words;
    };
    model::Launch launch{static_cast<unsigned>(programs * TOGETHER), static_cast<unsigned>(TOGETHER), 32 * (6 + DECODE_WARPS),
                         static_cast<unsigned>(shared_bytes)};
    launch.after_a_grid = true;
    if (order == 2) launch.at_once = static_cast<unsigned>(asked_programs);
    model::run_grid(launch, seed, [&] {
        gemm_tcgen05(parameter(a_map), parameter(b_map), parameter(c_map), reinterpret_cast<float*>(partials.data()),
                     arrivals.data(), tiles_m, tiles_n, divided(k, BLOCK_K), tiles_m, split_k, stride, span);
    });
    for (const unsigned count : arrivals) {
        if (count != 0) model::fail("a count of arrivals is left at %u", count);
    }
    return c;
}

}  // namespace

int main(int, char** arguments) {
    const auto number = [&](int index) { return atoi(arguments[index]); };
    const Problem problem{number(1), number(2), number(3), number(4), number(5), number(6), static_cast<unsigned>(number(7))};
    const auto [m, n, k, split_k, programs, order, seed] = problem;
    std::mt19937 random(1);
    std::vector<uint16_t> a(static_cast<size_t>(m) * k);
    for (auto& value : a) value = model::to_bf16(static_cast<int>(random() % 9) - 4);
    std::vector<float> weights(static_cast<size_t>(k) * n);
    std::vector<uint8_t> b(static_cast<size_t>(k) / WEIGHTS_A_ROW * n * WEIGHT_BYTES);
    for (int row = 0; row < k; ++row) {
        for (int column = 0; column < n; ++column) {
            uint16_t code;
            weights[row * n + column] = weight(FORMAT, random(), code);
            const size_t place = (static_cast<size_t>(row / WEIGHTS_A_ROW) * n + column) * WEIGHT_BYTES;
            if (WEIGHTS_A_ROW == 2) {
                b[place] |= code << 4 * (row % 2);
            } else {
                memcpy(&b[place], &code, 2);
            }
        }
    }

    const auto c = run(a, b, problem, SMEM_BYTES);
    for (int row = 0; row < m; ++row) {
        std::vector<double> sums(n);
        for (int i = 0; i < k; ++i) {
            const double left = model::from_bf16(a[row * k + i]);
            for (int column = 0; column < n; ++column) sums[column] += left * weights[i * n + column];
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
