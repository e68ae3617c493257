// Runs attention_tcgen05.cu on the model for one problem and compares with sums in f64:
//   batch_heads q_seq kv_seq head_dim splits programs contiguous rising seed
// Where `rising` is not 0, keys are the larger the later they come, so that maxima rise. The launch is made here from the
// shapes and the macros by the kernel's contract, and from nothing that the kernel or the crate works out.
#include <random>

#include "host.h"

#include "attention_tcgen05.cu"

namespace {

int divided(int a, int b) { return (a + b - 1) / b; }

struct Shape {
    int batch_heads, q_seq, kv_seq, head_dim;
};

using Tensor = std::vector<uint16_t>;

uint8_t* bytes(Tensor& tensor) { return reinterpret_cast<uint8_t*>(tensor.data()); }
double element(const Tensor& tensor, size_t index) { return model::from_bf16(tensor[index]); }

// The result, which begins as NaN.
Tensor run(const Shape& shape, Tensor& q, Tensor& k, Tensor& v, int splits, int programs, bool contiguous, unsigned seed) {
    const auto [batch_heads, q_seq, kv_seq, head_dim] = shape;
    const size_t count = static_cast<size_t>(batch_heads) * q_seq * head_dim;
    std::vector<uint4> memory(count / 8 + 4, uint4{0x7FC07FC0, 0x7FC07FC0, 0x7FC07FC0, 0x7FC07FC0});
    auto* out = reinterpret_cast<uint16_t*>(reinterpret_cast<uintptr_t>(memory.data()) + 31 & ~uintptr_t{31});

    const auto map = [&](Tensor& tensor, int seq, int rows) {
        return model::Map{bytes(tensor), 2,  {head_dim, seq, batch_heads}, {head_dim * 2, int64_t{seq} * head_dim * 2},
                          {64, rows, 1}, 128};
    };
    const model::Map q_map = map(q, q_seq, 128), k_map = map(k, kv_seq, BLOCK_KV), v_map = map(v, kv_seq, BLOCK_KV);
    const auto parameter = [](const model::Map& map) {
        ptx::TensorMap words{};
        const model::Map* pointer = &map;
        memcpy(&words, &pointer, sizeof pointer);
        return words;
    };

    const int padded = divided(head_dim, 16) * 16, q_tiles = divided(q_seq, BLOCK_Q);
    const size_t rows = static_cast<size_t>(batch_heads) * q_seq;
    std::vector<float4> workspace(splits > 1 ? splits * rows * (padded + 2) / 4 + 1 : 1, float4{NAN, NAN, NAN, NAN});
    std::vector<unsigned> counters(batch_heads * q_tiles, 0);
    model::share(workspace.data(), workspace.size() * sizeof(float4));
    model::share(counters.data(), counters.size() * sizeof(unsigned));

    const unsigned tiles = batch_heads * q_tiles * splits;
    const int lines = divided(head_dim, 64), panels = BLOCK_Q / 128;
    const unsigned shared =
        (BLOCK_Q + 2 * NUM_STAGES * BLOCK_KV) * lines * 128 + 8 * (BLOCK_Q + 4 * NUM_STAGES + 10 * panels + 1);
    const model::Launch launch{std::min<unsigned>(programs, tiles), 1, (BLOCK_Q / 128 + 2) * 128, shared};
    model::run_grid(launch, seed, [&] {
        attention_tcgen05(parameter(q_map), parameter(k_map), parameter(v_map), out, reinterpret_cast<float*>(workspace.data()),
                          counters.data(), batch_heads, q_seq, kv_seq, head_dim, splits,
                          static_cast<float>(1.4426950408889634 / std::sqrt(double(head_dim))), contiguous);
    });
    for (const unsigned count : counters) {
        if (count != 0) model::fail("a counter is left at %u", count);
    }
    return Tensor(out, out + count);
}

// Refuses a result that is further from the exact one than rounding of weights and result to bf16 explains.
void compare(const Shape& shape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
    const auto [batch_heads, q_seq, kv_seq, head_dim] = shape;
    for (int head = 0; head < batch_heads; ++head) {
        const size_t keys = static_cast<size_t>(head) * kv_seq * head_dim;
        for (int query = 0; query < q_seq; ++query) {
            const size_t row = (static_cast<size_t>(head) * q_seq + query) * head_dim;
            std::vector<double> weights(kv_seq);
            double maximum = -INFINITY, sum = 0, squares = 0;
            for (int key = 0; key < kv_seq; ++key) {
                for (int i = 0; i < head_dim; ++i)
                    weights[key] += element(q, row + i) * element(k, keys + static_cast<size_t>(key) * head_dim + i);
                weights[key] /= std::sqrt(double(head_dim));
                maximum = std::max(maximum, weights[key]);
            }
            for (double& weight : weights) weight = std::exp(weight - maximum), sum += weight, squares += weight * weight;
            for (int i = 0; i < head_dim; ++i) {
                double exact = 0;
                for (int key = 0; key < kv_seq; ++key)
                    exact += weights[key] / sum * element(v, keys + static_cast<size_t>(key) * head_dim + i);
                const double got = element(out, row + i), allowed = std::abs(exact) / 256 + std::sqrt(squares) / sum / 128;
                if (!(std::abs(got - exact) <= allowed)) {
                    model::fail("out[%d, %d, %d] is %g, not %g (within %g)", head, query, i, got, exact, allowed);
                }
            }
        }
    }
}

}  // namespace

int main(int, char** arguments) {
    const auto number = [&](int index) { return atoi(arguments[index]); };
    const Shape shape{number(1), number(2), number(3), number(4)};
    const double rising = number(8);
    std::mt19937 random(1);
    const auto tensor = [&](int seq, double magnitude, double rising) {
        Tensor values(static_cast<size_t>(shape.batch_heads) * seq * shape.head_dim);
        for (size_t i = 0; i < values.size(); ++i) {
            const double uniform = static_cast<int>(random() % 2001) / 1000.0 - 1,
                         place = double(i / shape.head_dim % seq) / seq;
            values[i] = model::to_bf16(static_cast<float>(uniform * magnitude * (1 + rising * place)));
        }
        return values;
    };
    Tensor q = tensor(shape.q_seq, 2, 0), k = tensor(shape.kv_seq, 2, rising), v = tensor(shape.kv_seq, 1, 0);
    compare(shape, q, k, v, run(shape, q, k, v, number(5), number(6), number(7) != 0, number(9)));
    return 0;
}
