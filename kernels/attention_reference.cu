// out = softmax(q kᵀ / sqrt(head_dim)) v in f32 on plain lanes: what `attention.cu` is checked against; and by how much each
// element may differ before it is rounded, as a share of the head's largest value: `share` where the query's weight is on few
// keys, and where it is on many `root_share` of the root of the sum of the squared weights, whichever is less.
//
// q: [batch_heads, q_seq, head_dim], k, v: [batch_heads / sharing, kv_seq, head_dim], DTYPE; out: [batch_heads, q_seq, head_dim]
// f32; allowed: likewise, bf16. With `causal` query i sees the keys j where i + kv_seq - q_seq - window < j <= i + kv_seq -
// q_seq; of a query that sees none the result is zeros, and nothing is allowed.
// Four threads have one query: each holds every fourth group of four of its elements, and the same part of its output.
// Launch: 128 threads, grid (tiles of 32 queries, batch_heads), where a grid of fewer heads strides over them.
//
//   HEAD_DIM   head_dim rounded up to a multiple of 16; the rest is zeros
//   DTYPE      f16, or bf16, which need not be given

#include "halves.cuh"

#ifndef HEAD_DIM
#error "attention_reference.cu needs HEAD_DIM"
#endif

#ifndef DTYPE
#define DTYPE bf16
#endif

using Half = halves::DTYPE;
using ptx::u16;  // its bits in memory

constexpr int THREADS = 128;
constexpr int QUERIES = THREADS / 4;
constexpr int KEYS = 16;  // in shared memory at a time
constexpr int GROUPS = HEAD_DIM / 16;
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM <= 256, "HEAD_DIM: a multiple of 16 up to 256");

using Rows = float[KEYS][HEAD_DIM];

// Returns the largest magnitude of what this thread loaded.
__device__ float load_rows(Rows& rows, const u16* global, int first, int count, int head_dim) {
    float largest = 0.0f;
    for (int i = threadIdx.x; i < KEYS * HEAD_DIM; i += THREADS) {
        const int row = i / HEAD_DIM, column = i % HEAD_DIM;
        const bool inside = first + row < count && column < head_dim;
        const float value = inside ? Half::to_float(global[static_cast<long long>(first + row) * head_dim + column]) : 0.0f;
        rows[row][column] = value;
        largest = fmaxf(largest, fabsf(value));
    }
    return largest;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_reference(const u16* q, const u16* k, const u16* v, float* out, u16* allowed, int batch_heads, int q_seq,
                    int kv_seq, int head_dim, int sharing, int causal, int window, float share, float root_share) {
    __shared__ __align__(16) Rows keys, values;
    __shared__ int largest_value;  // the bits of a float that is not negative, which order as it does
    const int query = blockIdx.x * QUERIES + threadIdx.x / 4;
    const int part = threadIdx.x % 4;
    const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
    const auto column_of = [&](int group, int i) { return group * 16 + part * 4 + i; };

    for (long long head = blockIdx.y; head < batch_heads; head += gridDim.y) {
        const long long row = head * q_seq + query, key_head = head / sharing;
        const int end = causal ? min(query + 1 + kv_seq - q_seq, kv_seq) : kv_seq;
        const int begin = causal ? end - window : 0;
        // Of the whole block's queries.
        const int last_query = blockIdx.x * QUERIES + QUERIES - 1;
        const int all_end = causal ? last_query + 1 + kv_seq - q_seq : kv_seq;
        const int all_begin = causal ? static_cast<int>(blockIdx.x) * QUERIES + 1 + kv_seq - q_seq - window : 0;
        float query_part[GROUPS][4], sums[GROUPS][4];
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int column = column_of(group, i);
                const bool inside = query < q_seq && column < head_dim;
                query_part[group][i] = inside ? Half::to_float(q[row * head_dim + column]) : 0.0f;
                sums[group][i] = 0.0f;
            }
        }
        float maximum = -INFINITE, sum = 0.0f, squares = 0.0f;  // of the weights
        float largest = 0.0f;

        for (int first = 0; first < kv_seq; first += KEYS) {
            __syncthreads();
            if (first == 0 && threadIdx.x == 0) largest_value = 0;  // everyone is done with the last head's
            load_rows(keys, k + key_head * kv_seq * head_dim, first, kv_seq, head_dim);
            largest = fmaxf(largest, load_rows(values, v + key_head * kv_seq * head_dim, first, kv_seq, head_dim));
            __syncthreads();
            if (first >= all_end || first + KEYS <= all_begin) continue;
            for (int key = 0; key < min(KEYS, kv_seq - first); ++key) {
                float score = 0.0f;
#pragma unroll
                for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) score += query_part[group][i] * keys[key][column_of(group, i)];
                }
                score += __shfl_xor_sync(0xffffffffu, score, 1);
                score += __shfl_xor_sync(0xffffffffu, score, 2);
                score *= scale;

                const bool is_seen = first + key >= begin && first + key < end;
                if (is_seen && score > maximum) {
                    const float rescale = expf(maximum - score);
                    sum *= rescale;
                    squares *= rescale * rescale;
#pragma unroll
                    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) sums[group][i] *= rescale;
                    }
                    maximum = score;
                }
                const float weight = is_seen ? expf(score - maximum) : 0.0f;
                sum += weight;
                squares += weight * weight;
#pragma unroll
                for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[group][i] += weight * values[key][column_of(group, i)];
                }
            }
        }

        atomicMax(&largest_value, __float_as_int(largest));
        __syncthreads();
        if (query < q_seq) {
            const float largest_share = sum > 0.0f ? fminf(share, root_share * sqrtf(squares) / sum) : 0.0f;
            const float slack = __int_as_float(largest_value) * largest_share;
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int column = column_of(group, i);
                    if (column >= head_dim) continue;
                    out[row * head_dim + column] = sum > 0.0f ? sums[group][i] / sum : 0.0f;
                    allowed[row * head_dim + column] = ptx::to_bf16(slack);
                }
            }
        }
    }
}
