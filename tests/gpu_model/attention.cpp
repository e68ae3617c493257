// Runs attention_tcgen05.cu or, where QUERY_BUFFERS are defined, attention_wgmma.cu on the model for one problem and compares with sums
// in f64:
//   batch_heads q_seq kv_seq head_dim splits programs contiguous rising queries window sharing section seed
// The four before the seed are the mask's where CAUSAL, and else 0. Where `rising` is not 0, keys are the larger the later they come, so
// that maxima rise. With `describe` for the seed it writes what it would launch. The launch is made here from the shapes and the macros by
// the kernel's contract, and from nothing that the kernel or the crate works out, but for the bytes of shared memory that
// attention_wgmma.cu's contract takes from the kernel.
#include <random>

#include "host.h"

#if defined(QUERY_BUFFERS)
#define HOPPER 1
#include "attention_wgmma.cu"
#define KERNEL attention_wgmma
#define RESULT parameter(it.out), out
#else
#define HOPPER 0
#include "attention_tcgen05.cu"
#define KERNEL attention_tcgen05
#define RESULT out
#endif
#include "launches.h"

namespace {

using launches::divided;
using launches::parameter;

struct Shape {
    int batch_heads, q_seq, kv_seq, head_dim;
    int queries, window, sharing, section;

    int key_heads() const { return CAUSAL ? batch_heads / sharing : batch_heads; }
    int key_head(int head) const { return CAUSAL ? head / sharing : head; }

    // Whether a row of a head sees a key: its query's own is as far from the last as it is from the last query.
    bool sees(int row, int key) const {
        const int ahead = row % (CAUSAL ? queries : q_seq) - queries + kv_seq - key;
        return !CAUSAL || (ahead >= 0 && ahead < window);
    }
};

using Tensor = std::vector<uint16_t>;

uint8_t* bytes(Tensor& tensor) { return reinterpret_cast<uint8_t*>(tensor.data()); }
double element(const Tensor& tensor, size_t index) { return model::from_bf16(tensor[index]); }

// What a problem is launched with: tensor maps, of the result where the engine stores it, the grid, and what programs share.
struct Launched {
    model::Map q, k, v, out;
    model::Launch grid;
    long long workspace_floats;
    int counters;
};

Launched launch(const Shape& shape, uint8_t* q, uint8_t* k, uint8_t* v, uint8_t* out, int splits, int programs) {
    const int batch_heads = shape.batch_heads, q_seq = shape.q_seq, kv_seq = shape.kv_seq, head_dim = shape.head_dim;
    const auto map = [&](uint8_t* tensor, int heads, int seq, int rows) {
        return model::Map{tensor, 2, {head_dim, seq, heads}, {head_dim * 2, int64_t{seq} * head_dim * 2}, {64, rows, 1}, 128};
    };
    const int padded = HOPPER ? HEAD_DIM : divided(head_dim, 16) * 16, q_tiles = divided(q_seq, BLOCK_Q);
    Launched it;
    it.q = map(q, batch_heads, q_seq, HOPPER ? 64 : 128);
    if (HOPPER) it.out = map(out, batch_heads, q_seq, 64);
    it.k = map(k, shape.key_heads(), kv_seq, BLOCK_KV), it.v = map(v, shape.key_heads(), kv_seq, BLOCK_KV);
    it.grid.programs = std::min(programs, batch_heads * q_tiles * splits), it.grid.cluster = 1;
#if HOPPER
    it.grid.threads = (BLOCK_Q / 64 + 1) * 128;
    it.grid.shared_bytes = SMEM_BYTES;
#else
    const int lines = divided(head_dim, 64), panels = BLOCK_Q / 128;
    it.grid.threads = (panels + 2) * 128;
    it.grid.shared_bytes =
        (BLOCK_Q + 2 * NUM_STAGES * BLOCK_KV) * lines * 128 + 8 * (BLOCK_Q + 4 * NUM_STAGES + 10 * panels + 1);
#endif
    it.workspace_floats = splits > 1 ? 1ll * splits * batch_heads * q_seq * (padded + 2) : 0;
    it.counters = splits > 1 ? batch_heads * q_tiles : 0;
    return it;
}

void describe(const Launched& it, const Shape& shape, int splits, bool contiguous) {
    std::vector<int> arguments{shape.batch_heads, shape.q_seq, shape.kv_seq, shape.head_dim, splits, contiguous};
    if (CAUSAL) arguments.insert(arguments.end(), {shape.queries, shape.window, shape.sharing, shape.section});
    launches::describe(it.grid, {&it.q, &it.k, &it.v, &it.out}, 4 * it.workspace_floats, it.counters, arguments);
}

// The result, which begins as NaN.
Tensor run(const Shape& shape, Tensor& q, Tensor& k, Tensor& v, int splits, int programs, bool contiguous, unsigned seed) {
    const int batch_heads = shape.batch_heads, q_seq = shape.q_seq, kv_seq = shape.kv_seq, head_dim = shape.head_dim;
    const size_t count = static_cast<size_t>(batch_heads) * q_seq * head_dim;
    std::vector<uint4> memory(count / 8 + 4, uint4{0x7FC07FC0, 0x7FC07FC0, 0x7FC07FC0, 0x7FC07FC0});
    auto* out = reinterpret_cast<uint16_t*>(reinterpret_cast<uintptr_t>(memory.data()) + 31 & ~uintptr_t{31});

    const Launched it = launch(shape, bytes(q), bytes(k), bytes(v), reinterpret_cast<uint8_t*>(out), splits, programs);
    launches::Scratch scratch(it.workspace_floats, it.counters + 1);
    model::lanes_reconverge = HOPPER;
    model::run_grid(it.grid, seed, [&] {
        KERNEL(parameter(it.q), parameter(it.k), parameter(it.v), RESULT, scratch.floats(), scratch.counters.data(), batch_heads,
               q_seq, kv_seq, head_dim, splits, static_cast<float>(1.4426950408889634 / std::sqrt(double(head_dim))), contiguous
#if CAUSAL
               , shape.queries, shape.window, shape.sharing, shape.section
#endif
        );
    });
    scratch.check();
    return Tensor(out, out + count);
}

// Refuses a result that is further from the exact one than rounding of weights and result to bf16 explains.
void compare(const Shape& shape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
    const int batch_heads = shape.batch_heads, q_seq = shape.q_seq, kv_seq = shape.kv_seq, head_dim = shape.head_dim;
    for (int head = 0; head < batch_heads; ++head) {
        const size_t keys = static_cast<size_t>(shape.key_head(head)) * kv_seq * head_dim;
        for (int query = 0; query < q_seq; ++query) {
            const size_t row = (static_cast<size_t>(head) * q_seq + query) * head_dim;
            std::vector<double> weights(kv_seq);
            double maximum = -INFINITY, sum = 0, squares = 0;
            for (int key = 0; key < kv_seq; ++key) {
                for (int i = 0; i < head_dim; ++i)
                    weights[key] += element(q, row + i) * element(k, keys + static_cast<size_t>(key) * head_dim + i);
                weights[key] = shape.sees(query, key) ? weights[key] / std::sqrt(double(head_dim)) : -INFINITY;
                maximum = std::max(maximum, weights[key]);
            }
            const bool sees_any = maximum > -INFINITY;
            for (double& weight : weights) weight = sees_any ? std::exp(weight - maximum) : 0, sum += weight, squares += weight * weight;
            for (int i = 0; i < head_dim; ++i) {
                double exact = 0;
                for (int key = 0; key < kv_seq; ++key)
                    exact += sees_any ? weights[key] / sum * element(v, keys + static_cast<size_t>(key) * head_dim + i) : 0;
                const double of_weights = sees_any ? std::sqrt(squares) / sum / 128 : 0;
                const double got = element(out, row + i), allowed = std::abs(exact) / 256 + of_weights;
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
    const Shape shape{number(1), number(2), number(3), number(4), number(9), number(10), number(11), number(12)};
    if (std::string(arguments[13]) == "describe") {
        describe(launch(shape, nullptr, nullptr, nullptr, nullptr, number(5), number(6)), shape, number(5), number(7) != 0);
        return 0;
    }
    const double rising = number(8);
    std::mt19937 random(1);
    const auto tensor = [&](int heads, int seq, double magnitude, double rising) {
        Tensor values(static_cast<size_t>(heads) * seq * shape.head_dim);
        for (size_t i = 0; i < values.size(); ++i) {
            const double uniform = static_cast<int>(random() % 2001) / 1000.0 - 1,
                         place = double(i / shape.head_dim % seq) / seq;
            values[i] = model::to_bf16(static_cast<float>(uniform * magnitude * (1 + rising * place)));
        }
        return values;
    };
    Tensor q = tensor(shape.batch_heads, shape.q_seq, 2, 0), k = tensor(shape.key_heads(), shape.kv_seq, 2, rising),
           v = tensor(shape.key_heads(), shape.kv_seq, 1, 0);
    compare(shape, q, k, v, run(shape, q, k, v, number(5), number(6), number(7) != 0, number(13)));
    return 0;
}
