// Runs gemm_tcgen05.cu on the model for one product and compares with plain sums: m n k split_k programs order. The order is 0
// for strides, 1 for runs, 2 where the hardware deals the tiles out.
#include <cmath>

#include "gemm_tcgen05.cu"

namespace {

// A code of B's format from random bits, and the weight it stands for.
float weight(unsigned bits, uint16_t& code) {
    static constexpr float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    if constexpr (std::is_same_v<Weights, decode::Bf16>) {
        const float value = static_cast<int>(bits % 9) - 4;
        code = ptx::to_bf16(value);
        return value;
    } else if constexpr (std::is_same_v<Weights, decode::Int16>) {
        code = static_cast<uint16_t>(bits);
        return ptx::low_to_float(ptx::to_bf16(static_cast<int16_t>(code)));
    } else {
        code = bits % 16;
        if (std::is_same_v<Weights, decode::Int4>) return code < 8 ? code : code - 16;
        return code < 8 ? E2M1[code] : -E2M1[code - 8];
    }
}

// C, which begins as NaN, from A and from B's bytes.
std::vector<uint16_t> run(std::vector<uint16_t>& a, std::vector<uint8_t>& b, int m, int n, int k, int split_k, int programs,
                          int order) {
    std::vector<uint16_t> c(static_cast<size_t>(m) * n, 0x7FC0);
    auto bytes = [](auto& tensor) { return reinterpret_cast<uint8_t*>(tensor.data()); };
    const int b_row_bytes = n * Weights::COLUMN_BYTES;
    const model::Map a_map{bytes(a), 2, k, m, 2 * k, 64, A_ROWS, 128};
    const model::Map b_map = DECODED ? model::Map{b.data(), Weights::COLUMN_BYTES, n, k / Weights::K_PER_ROW, b_row_bytes,
                                                  RAW_LINE, RAW_ROWS, HELD ? 128 : 0}
                                     : model::Map{b.data(), 2, n, k, b_row_bytes, B_LINE, BLOCK_K, B_LINE_BYTES};
    const model::Map c_map = SWAPPED ? model::Map{bytes(c), 2, n, m, 2 * n, 32, CHUNK, 0}
                                     : model::Map{bytes(c), 2, n, m, 2 * n, CHUNK, 32, 2 * CHUNK};

    const int tiles_m = scheduler::ceil_div(m, BLOCK_M), tiles_n = scheduler::ceil_div(n, BLOCK_N);
    const int tiles = tiles_m * tiles_n, work = tiles * split_k;
    programs = order == 2 ? work : scheduler::smaller(programs, work);
    const int stride = order == 2 ? 0 : order == 1 ? 1 : programs, span = order == 1 ? scheduler::ceil_div(work, programs) : work;
    model::begun.assign(programs, false);
    std::vector<float> partials(static_cast<size_t>(work) * BLOCK_M * BLOCK_N, NAN);
    std::vector<unsigned> arrivals(tiles * CTAS, 0);
    for (int program = 0; program < programs; ++program) {
        if (model::begun[program]) continue;
        model::begun[program] = true;
        model::Cluster cluster(CTAS, THREADS, program);
        model::cluster = &cluster;
        std::vector<std::thread> threads;
        for (int index = 0; index < CTAS * THREADS; ++index) {
            threads.emplace_back([&, index] {
                model::rank = index / THREADS;
                threadIdx.x = index % THREADS;
                blockIdx.x = program * CTAS + model::rank;
                gemm_tcgen05({&a_map}, {&b_map}, {&c_map}, partials.data(), arrivals.data(), tiles_m, tiles_n,
                             scheduler::ceil_div(k, BLOCK_K), tiles_m, split_k, stride, span);
            });
        }
        for (auto& thread : threads) thread.join();
        cluster.finish();
    }
    for (unsigned count : arrivals) REQUIRE(count == 0);
    return c;
}

}  // namespace

int main(int, char** arguments) {
    const int m = atoi(arguments[1]), n = atoi(arguments[2]), k = atoi(arguments[3]);
    std::mt19937 random(1);
    std::vector<uint16_t> a(static_cast<size_t>(m) * k);
    for (auto& value : a) value = ptx::to_bf16(static_cast<int>(random() % 9) - 4);
    std::vector<float> weights(static_cast<size_t>(k) * n);
    std::vector<uint8_t> b(static_cast<size_t>(k) / Weights::K_PER_ROW * n * Weights::COLUMN_BYTES);
    for (int row = 0; row < k; ++row) {
        for (int column = 0; column < n; ++column) {
            uint16_t code;
            weights[row * n + column] = weight(random(), code);
            const size_t place = (static_cast<size_t>(row / Weights::K_PER_ROW) * n + column) * Weights::COLUMN_BYTES;
            if (Weights::K_PER_ROW == 2) {
                b[place] |= code << 4 * (row % 2);
            } else {
                memcpy(&b[place], &code, 2);
            }
        }
    }

    const auto c = run(a, b, m, n, k, atoi(arguments[4]), atoi(arguments[5]), atoi(arguments[6]));
    for (int row = 0; row < m; ++row) {
        for (int column = 0; column < n; ++column) {
            double sum = 0;
            for (int i = 0; i < k; ++i) sum += double{ptx::low_to_float(a[row * k + i])} * weights[i * n + column];
            const double got = ptx::low_to_float(c[row * n + column]);
            if (!(std::abs(got - sum) <= std::abs(sum) / 200 + 1e-3)) {
                fprintf(stderr, "C[%d, %d] is %g, not %g\n", row, column, got, sum);
                return 1;
            }
        }
    }
    return 0;
}
