// Normalized rows, in f32, rounded once. With CENTERED 0 (RMS): y = x / sqrt(mean(x^2) + epsilon) * weight. With CENTERED 1
// (layer): y = (x - mean) / sqrt(variance + epsilon) * weight + bias, the variance that of the whole row.
//
// x, y: [rows, cols], weight, bias: [cols], all of DTYPE, contiguous and 16-byte aligned as a whole; a row need not be. A row is
// worked on as its aligned window: the 16-byte vectors that hold any of it. What the first and the last vector hold of other rows is
// left out. The weights beside a row that is not aligned come from two of their vectors, shifted into place.
//
// A tile is ROWS rows, dealt out evenly to the threads of a program: each row has NUM_WARPS * 32 / ROWS lanes, several warps or a
// part of one. With SPLIT > 1 that many programs, a thread block cluster, have a row between them, `share` vectors each, and
// exchange what they have seen through distributed shared memory.
//   LOOPED 0   a lane keeps its VECTORS vectors in registers, packed: x is read once. With NUM_STAGES 2 the program's next row is on
//              its way meanwhile.
//   LOOPED 1   a lane takes VECTORS vectors a step: once for the row's statistics, and once more, last step first so that L2 still
//              holds it, to write the result. With NUM_STAGES 2 the next step of the first pass is on its way meanwhile.
//
// The layer's variance is never a difference of large sums: deviations are taken from the mean of what is at hand, and put together
// with those of other lanes, warps and programs by how far their means lie apart (Chan, Golub, LeVeque 1979).
//
// Floor: each element read and written once, 4 bytes an element in 16-bit types and 8 in f32, at the rate of a device copy; weights
// stay in the caches.
//
// Launch: NUM_WARPS * 32 threads, grid (programs * SPLIT) in clusters of SPLIT, no dynamic shared memory.
//   share        vectors of a row that a program has: of the widest window
//   steps        steps of VECTORS * lanes vectors that cover the share; 1 where LOOPED is 0
//   contiguous   see programs.cuh
//
//   DTYPE        bf16, f16 or float
//   CENTERED     0 or 1, as above; without it `bias` is not read
//   ALIGNED      whether rows are multiples of 16 bytes: 0 or 1
//   ROWS         rows of a tile, a power of two; 1 where SPLIT is not
//   NUM_WARPS    warps of a program, a power of two up to 32
//   VECTORS      16-byte vectors of a lane, of the row or of a step: 1 to 8
//   LOOPED       0 or 1, as above
//   NUM_STAGES   1 or 2, as above
//   SPLIT        programs of a row, a power of two up to 8; more than 1 needs sm_90

#include "numeric.cuh"
#include "programs.cuh"

#if !defined(DTYPE) || !defined(CENTERED) || !defined(ALIGNED) || !defined(ROWS) || !defined(NUM_WARPS) || \
    !defined(VECTORS) || !defined(LOOPED) || !defined(NUM_STAGES) || !defined(SPLIT)
#error "row_norm.cu needs DTYPE, CENTERED, ALIGNED, ROWS, NUM_WARPS, VECTORS, LOOPED, NUM_STAGES and SPLIT"
#endif

constexpr int VECTOR_BYTES = 16;

#include "rows.cuh"

static_assert(VECTORS >= 1 && VECTORS <= 8, "VECTORS: 1 to 8");
static_assert(NUM_STAGES == 1 || NUM_STAGES == 2, "NUM_STAGES: 1 or 2");

// Weights and bias of a lane stay in registers from row to row where there is room for them beside x.
constexpr int KEPT_VECTORS = (NUM_STAGES + 1 + CENTERED) * VECTORS;
constexpr bool KEPT = ALIGNED && !LOOPED && KEPT_VECTORS <= (NUM_WARPS == 32 ? 4 : 8);
// Programs that a multiprocessor is to hold, of 65536 registers: with those of a lane's vectors and what else it needs, more where
// weights, bias and the next row are all carried along.
constexpr int REGISTERS = (CENTERED && KEPT ? 56 : 40) + 4 * (KEPT ? KEPT_VECTORS : NUM_STAGES * VECTORS + 1 + CENTERED);
constexpr int RESIDENT = 65536 / (REGISTERS * NUM_WARPS * 32);

// What has been seen of a row: how many elements, their sum, and the sum of their squared distances from their mean; or of an RMS
// norm the sum of their squares alone.
#if CENTERED
struct Seen {
    float count, sum, deviation, unused;
};
#else
struct Seen {
    float squares, unused;
};
#endif

// What of a row makes its result: y = (x - mean) * scale * weight + bias.
struct Norm {
    float mean, scale;
};

// How many elements of the row a vector holds that starts at `column`, of a lane's vectors those that are loaded.
__device__ __forceinline__ int elements_at(int column, int cols) {
    if constexpr (ALIGNED) return WIDTH;
    return min(column + WIDTH, cols) - max(column, 0);
}

// Zeros in place of what a vector holds of other rows.
__device__ __forceinline__ void leave_out(float (&values)[WIDTH], int column, int cols, float other) {
    if (is_whole(column, cols)) return;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        if (column + j < 0 || column + j >= cols) values[j] = other;
    }
}

__device__ __forceinline__ float sum_over_lanes(float value) { return sum_of_lanes<WARP_LANES>(value); }

// Takes a lane's vectors, from `first` on, LANES apart, into what it has seen; those past `window.vectors` are zero.
__device__ __forceinline__ void accumulate(Seen& seen, const Pack (&packs)[VECTORS], const Window& window, int first,
                                           int cols) {
#if CENTERED
    float sum = 0.0f;
    int count = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int vector = first + i * LANES, column = window.column + vector * WIDTH;
        if (vector >= window.vectors) continue;
        float values[WIDTH];
        packs[i].unpack(values);
        leave_out(values, column, cols, 0.0f);
        count += elements_at(column, cols);
        float of_vector = 0.0f;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) of_vector += values[j];
        sum += of_vector;
    }
    const float here = static_cast<float>(count), mean = count > 0 ? sum / here : 0.0f;
    float deviation = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int vector = first + i * LANES, column = window.column + vector * WIDTH;
        if (vector >= window.vectors) continue;
        float values[WIDTH];
        packs[i].unpack(values);
        leave_out(values, column, cols, mean);
        float of_vector = 0.0f;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) of_vector += (values[j] - mean) * (values[j] - mean);
        deviation += of_vector;
    }
    if constexpr (LOOPED) {
        if (seen.count > 0.0f && count > 0) {
            const float apart = seen.sum / seen.count - mean;
            deviation += apart * apart * (seen.count * here / (seen.count + here));
        }
        seen = {seen.count + here, seen.sum + sum, seen.deviation + deviation, 0.0f};
    } else {
        seen = {here, sum, deviation, 0.0f};
    }
#else
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int vector = first + i * LANES;
        float values[WIDTH];
        packs[i].unpack(values);
        if (vector < window.vectors) leave_out(values, window.column + vector * WIDTH, cols, 0.0f);
        // Neither one long chain of additions nor many sums side by side.
        float here = 0.0f;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) here += values[j] * values[j];
        seen.squares += here;
    }
#endif
}

#if CENTERED
// Of COUNT lanes together, in every one of them.
template <int COUNT>
__device__ __forceinline__ Seen merge_lanes(const Seen& seen) {
    const float count = sum_of_lanes<COUNT>(seen.count), sum = sum_of_lanes<COUNT>(seen.sum);
    const float apart = seen.count > 0.0f ? seen.sum / seen.count - sum / count : 0.0f;
    return {count, sum, sum_of_lanes<COUNT>(seen.deviation + seen.count * apart * apart), 0.0f};
}

__device__ __forceinline__ Seen merge(const Seen& a, const Seen& b) {
    const float count = a.count + b.count;
    const float apart = a.count > 0.0f && b.count > 0.0f ? a.sum / a.count - b.sum / b.count : 0.0f;
    const float between = count > 0.0f ? apart * apart * (a.count * b.count / count) : 0.0f;
    return {count, a.sum + b.sum, a.deviation + b.deviation + between, 0.0f};
}
#else
template <int COUNT>
__device__ __forceinline__ Seen merge_lanes(const Seen& seen) {
    return {sum_of_lanes<COUNT>(seen.squares), 0.0f};
}

__device__ __forceinline__ Seen merge(const Seen& a, const Seen& b) { return {a.squares + b.squares, 0.0f}; }
#endif

// What the lanes, warps and programs of a row have seen, put together.
__device__ __forceinline__ Norm norm_of(const Seen& of_lane, int cols, float epsilon, int group, int lane, int parity) {
    Seen seen = merge_lanes<WARP_LANES>(of_lane);
    if constexpr (PARTS > 1) {
        const Seen* row = parts_of_row(seen, group, lane, parity);
        seen = row[lane % (PARTS < 32 ? PARTS : 32)];
#pragma unroll
        for (int part = 32; part < PARTS; part += 32) seen = merge(seen, row[part + lane % 32]);
        seen = merge_lanes<PARTS < 32 ? PARTS : 32>(seen);
    }
    const float all = static_cast<float>(cols);
#if CENTERED
    return {seen.sum / all, rsqrtf(seen.deviation / all + epsilon)};
#else
    return {0.0f, rsqrtf(seen.squares / all + epsilon)};
#endif
}

// 16 bytes that stay in the caches. No volatile: it may be moved to where there is time for it.
__device__ __forceinline__ Pack load_kept(const DTYPE* from) {
    Pack pack;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3]) : "l"(from));
    return pack;
}

// The weights of the columns from `column` on; of columns that are none, anything.
__device__ __forceinline__ Pack weights_at(const DTYPE* weights, int column, int cols) {
    const int last = (cols - 1) / WIDTH * WIDTH;
    if constexpr (ALIGNED) return load_kept(weights + min(column, last));
    // Two neighbouring vectors, and of their words those from the first one's element `skew` on.
    const int skew = column & (WIDTH - 1), first = column - skew;
    const Pack low = load_kept(weights + max(min(first, last), 0));
    const Pack high = load_kept(weights + min(first + WIDTH, last));
    constexpr int PER_WORD = WIDTH / Pack::WORDS;
    const int words = skew / PER_WORD, bits = skew % PER_WORD * 16;
    unsigned all[2 * Pack::WORDS], shifted[Pack::WORDS + 1];
#pragma unroll
    for (int word = 0; word < Pack::WORDS; ++word) {
        all[word] = low.words[word];
        all[Pack::WORDS + word] = high.words[word];
    }
#pragma unroll
    for (int word = 0; word < Pack::WORDS + 1; ++word) {
        const unsigned near = words & 1 ? all[word + 1] : all[word];
        const unsigned far = words & 1 ? all[word + 3] : all[word + 2];
        shifted[word] = words & 2 ? far : near;
    }
    Pack pack;
#pragma unroll
    for (int word = 0; word < Pack::WORDS; ++word) {
        pack.words[word] = __funnelshift_r(shifted[word], shifted[word + 1], bits);
    }
    return pack;
}

// Writes the result for a vector that starts at `column` and is one of the row's.
__device__ __forceinline__ void write(DTYPE* out, const Pack& pack, const Pack& weight, const Pack& bias,
                                      const Norm& norm, int column, int cols) {
    float values[WIDTH], weights[WIDTH], biases[WIDTH];
    pack.unpack(values);
    weight.unpack(weights);
    if constexpr (CENTERED) bias.unpack(biases);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        values[j] = (values[j] - norm.mean) * norm.scale * weights[j];
        if constexpr (CENTERED) values[j] += biases[j];
    }
    store(out, values, column, cols);
}

// Asks for a lane's vectors from `first` on; zeros for those that are none of the row's. The last vector of all may go beyond the
// tensor, but never beyond its 16 bytes.
template <bool LAST_USE>
__device__ __forceinline__ void request(Pack (&packs)[VECTORS], const DTYPE* x, const Window& window, int first,
                                        unsigned long long last_use) {
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int vector = first + i * LANES;
        const DTYPE* source = x + window.first + static_cast<long long>(vector) * WIDTH;
#pragma unroll
        for (int word = 0; word < Pack::WORDS; ++word) packs[i].words[word] = 0;
        if (vector >= window.vectors) continue;
        if constexpr (LAST_USE) {
            ptx::load_streaming(packs[i].words, source, last_use);
        } else {
            asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(packs[i].words[0]), "=r"(packs[i].words[1]), "=r"(packs[i].words[2]),
                           "=r"(packs[i].words[3])
                         : "l"(source));
        }
    }
}

// The compiler does not see that these are the words from before, so it keeps them packed, not as floats.
__device__ __forceinline__ void keep_packed(Pack (&packs)[VECTORS]) {
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
        for (int word = 0; word < Pack::WORDS; ++word) asm volatile("" : "+r"(packs[i].words[word]));
    }
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32, RESIDENT < 1 ? 1 : RESIDENT < 32 ? RESIDENT : 32)
row_norm(const DTYPE* x, const DTYPE* weight, const DTYPE* bias, DTYPE* y, long long rows, int cols, int share, int steps,
         int contiguous, float epsilon) {
    // A program's shared memory may be written to once it runs.
    if constexpr (SPLIT > 1) ptx::cluster_sync();
    const int group = ROWS > 1 ? threadIdx.x / LANES : 0;
    const int lane = ROWS > 1 ? threadIdx.x % LANES : threadIdx.x;
    const Tiles tiles = tiles_of_program<SPLIT>(static_cast<int>((rows + ROWS - 1) / ROWS), contiguous);
    const unsigned long long last_use = ptx::evict_first_policy();
    const auto window_of = [&](long long tile) {
        return Window(tile < tiles.end ? tile * ROWS + group : rows, rows, cols, share);
    };
    int parity = 0;
#if LOOPED
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, parity ^= 1) {
        const Window window = window_of(tile);
        Seen seen{};
        Pack packs[VECTORS];
        request<false>(packs, x, window, lane, last_use);
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            const int first = step * VECTORS * LANES + lane;
            Pack next[VECTORS];
            if constexpr (NUM_STAGES == 2) request<false>(next, x, window, first + VECTORS * LANES, last_use);
            accumulate(seen, packs, window, first, cols);
            if constexpr (NUM_STAGES == 1) request<false>(next, x, window, first + VECTORS * LANES, last_use);
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) packs[i] = next[i];
        }
        const Norm norm = norm_of(seen, cols, epsilon, group, lane, parity);
#pragma unroll 1
        for (int step = steps - 1; step >= 0; --step) {
            const int first = step * VECTORS * LANES + lane;
            request<true>(packs, x, window, first, last_use);
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                const int vector = first + i * LANES, column = window.column + vector * WIDTH;
                if (vector >= window.vectors) continue;
                const Pack weights = weights_at(weight, column, cols);
                const Pack biases = CENTERED ? weights_at(bias, column, cols) : weights;
                write(y + window.first + static_cast<long long>(vector) * WIDTH, packs[i], weights, biases, norm, column,
                      cols);
            }
        }
    }
#else
    Window window = window_of(tiles.first);
    Pack packs[VECTORS], weights[VECTORS], biases[VECTORS];
    request<true>(packs, x, window, lane, last_use);
    if constexpr (KEPT) {
        const int before = SPLIT > 1 ? static_cast<int>(blockIdx.x % SPLIT) * share * WIDTH : 0;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            weights[i] = weights_at(weight, before + (lane + i * LANES) * WIDTH, cols);
            if constexpr (CENTERED) biases[i] = weights_at(bias, before + (lane + i * LANES) * WIDTH, cols);
        }
    }
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, parity ^= 1) {
        const Window following = window_of(tile + tiles.stride);
        Pack next[VECTORS];
        if constexpr (NUM_STAGES == 2) request<true>(next, x, following, lane, last_use);
        Seen seen{};
        accumulate(seen, packs, window, lane, cols);
        keep_packed(packs);
        const Norm norm = norm_of(seen, cols, epsilon, group, lane, parity);
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int vector = lane + i * LANES, column = window.column + vector * WIDTH;
            if (vector >= window.vectors) continue;
            if constexpr (!KEPT) {
                weights[i] = weights_at(weight, ptx::opaque(column), cols);
                if constexpr (CENTERED) biases[i] = weights_at(bias, ptx::opaque(column), cols);
            }
            write(y + window.first + static_cast<long long>(vector) * WIDTH, packs[i], weights[i], biases[i], norm, column,
                  cols);
        }
        if constexpr (NUM_STAGES == 1) request<true>(next, x, following, lane, last_use);
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) packs[i] = next[i];
        window = following;
    }
#endif
}
