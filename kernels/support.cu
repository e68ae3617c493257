// What measuring needs besides the candidates: inputs, the comparison with the reference, and a gate on the stream.
//
// Every kernel but `block_stream` and `say_when` (one thread each) runs on any grid of whole warps. Tensors are contiguous.
// Poison needs no kernel: a memset with 0xff makes every bf16 and every f32 a NaN.

#include "numeric.cuh"

// The same function as `random_bits` of src/families/inputs.rs: splitmix64's output over a Weyl sequence.
__device__ unsigned long long random_bits(unsigned long long seed, unsigned long long index) {
    unsigned long long word = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ull;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBull;
    return word ^ (word >> 31);
}

// Uniform in [-1, 1), exact in f32: the top 24 bits.
__device__ float unit(unsigned long long seed, unsigned long long index) {
    return static_cast<float>(random_bits(seed, index) >> 40) * (2.0f / (1 << 24)) - 1.0f;
}

__device__ long long first_index() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ long long index_stride() { return static_cast<long long>(gridDim.x) * blockDim.x; }

// The same as `Fill` of src/families/inputs.rs and its two parameters.
enum Fill : unsigned { UNIFORM = 0, WIDE = 1, QUERIES = 2, LOGITS = 3, EXTREMES = 4 };

__device__ unsigned choice_of(unsigned long long seed, long long index) {
    return static_cast<unsigned>(random_bits(seed, index) >> 8) & 0xffff;
}

// The float at `index` of a tensor with rows of `cols`; the parameters are a magnitude or the least exponent, and the
// exponent past the largest, the factor of loud rows, or the largest value.
__device__ float value_at(unsigned fill, float first, float second, unsigned long long seed, long long index,
                          long long cols) {
    constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);
    const float value = unit(seed, index);
    const unsigned choice = choice_of(seed, index);
    if (fill == WIDE) {
        const int exponent = static_cast<int>(first) + static_cast<int>(choice % static_cast<unsigned>(second - first));
        return copysignf(1.0f + fabsf(value), value) * __uint_as_float((exponent + 127u) << 23);
    }
    if (fill == UNIFORM) return first * value;
    const unsigned long long row = random_bits(~seed, index / cols);
    if (fill == QUERIES) return first * value * (row % 8 == 0 ? second : 1.0f);
    const int kind = static_cast<int>(row % 5);
    if (kind == 2 || (kind == 1 && choice % 2 == 0)) return -INFINITE;
    if (kind == 4 || (kind == 3 && choice % 16 == 0)) return copysignf(second, value);
    return first * value;
}

template <typename Element>
__device__ void fill_floats(Element* out, long long numel, unsigned long long seed, unsigned fill, float first,
                            float second, long long cols) {
    for (long long i = first_index(); i < numel; i += index_stride()) {
        out[i] = from_float<Element>(value_at(fill, first, second, seed, i, cols));
    }
}

template <typename Element>
__device__ void fill_bits(Element* out, long long numel, unsigned long long seed, unsigned fill) {
    constexpr unsigned SIGN = 1u << (8 * sizeof(Element) - 1);
    for (long long i = first_index(); i < numel; i += index_stride()) {
        const unsigned choice = fill == EXTREMES ? choice_of(seed, i) % 16 : 1;
        const unsigned long long bits = random_bits(seed, i) >> (64 - 8 * sizeof(Element));
        out[i] = static_cast<Element>(choice == 0 ? SIGN : choice == 8 ? SIGN - 1 : bits);
    }
}

// Fill `out` with stream `seed`: floats as `value_at` says, integers with random bits, or some of them with an extreme.
extern "C" __global__ void fill_bf16(bf16* out, long long numel, unsigned long long seed, unsigned fill, float first,
                                     float second, long long cols) {
    fill_floats(out, numel, seed, fill, first, second, cols);
}

extern "C" __global__ void fill_f32(float* out, long long numel, unsigned long long seed, unsigned fill, float first,
                                    float second, long long cols) {
    fill_floats(out, numel, seed, fill, first, second, cols);
}

extern "C" __global__ void fill_i8(unsigned char* out, long long numel, unsigned long long seed, unsigned fill, float,
                                   float, long long) {
    fill_bits(out, numel, seed, fill);
}

extern "C" __global__ void fill_i16(unsigned short* out, long long numel, unsigned long long seed, unsigned fill,
                                    float, float, long long) {
    fill_bits(out, numel, seed, fill);
}

__device__ bool is_poison(float value) { return __float_as_uint(value) == 0xffffffffu; }
__device__ bool is_poison(bf16 value) { return value == 0xffffu; }

// Adds to sums[0] the square of out - reference, to sums[1] the square of the reference, and to sums[2] the number of
// elements that still hold the poison or whose difference is not finite: a NaN or an infinity that the reference does
// not have, or the other way round. Any other two NaNs are equal (arithmetic never makes one of all ones), and so are two
// infinities of one sign; neither adds to the squares.
template <typename Element>
__device__ void compare(const Element* out, const float* reference, long long numel, double* sums) {
    double squared_difference = 0, squared_reference = 0, mismatches = 0;
    for (long long i = first_index(); i < numel; i += index_stride()) {
        const float value = to_float(out[i]), expected = reference[i];
        const bool both_nan = value != value && expected != expected;
        const bool same_infinity = value == expected && expected - expected != 0;
        const bool poisoned = is_poison(out[i]);
        if (!poisoned && (both_nan || same_infinity)) continue;
        const double difference = static_cast<double>(value) - expected;
        if (poisoned || difference - difference != 0) {
            mismatches += 1;
        } else {
            squared_difference += difference * difference;
            squared_reference += static_cast<double>(expected) * expected;
        }
    }
    squared_difference = warp_sum(squared_difference);
    squared_reference = warp_sum(squared_reference);
    mismatches = warp_sum(mismatches);
    if (threadIdx.x % 32 == 0) {
        atomicAdd(&sums[0], squared_difference);
        atomicAdd(&sums[1], squared_reference);
        atomicAdd(&sums[2], mismatches);
    }
}

extern "C" __global__ void compare_bf16(const bf16* out, const float* reference, long long numel, double* sums) {
    compare(out, reference, numel, sums);
}

extern "C" __global__ void compare_f32(const float* out, const float* reference, long long numel, double* sums) {
    compare(out, reference, numel, sums);
}

// Reads `words` 16-byte words and writes none of them, so that L2 is left full of clean lines: what runs next evicts them for
// nothing, where lines that a flush had written would have to go back to memory first, at the cost of whoever evicts them.
// `seen` is written only where the words add up to 1 or more, which words of zeros do not.
extern "C" __global__ void read_lines(const uint4* words, long long count, unsigned* seen) {
    unsigned bits = 0;
    for (long long i = first_index(); i < count; i += index_stride()) {
        const uint4 word = words[i];
        bits |= word.x | word.y | word.z | word.w;
    }
    if (bits != 0) *seen = bits;
}

// The same moment by the multiprocessor's own counter of cycles and by the GPU's clock, and which multiprocessor that is.
struct Moment {
    unsigned long long cycles, nanoseconds, multiprocessor;
};

__device__ Moment now() {
    Moment moment;
    unsigned multiprocessor;
    asm volatile("mov.u64 %0, %%clock64;\n\tmov.u64 %1, %%globaltimer;\n\tmov.u32 %2, %%smid;"
                 : "=l"(moment.cycles), "=l"(moment.nanoseconds), "=r"(multiprocessor)::"memory");
    moment.multiprocessor = multiprocessor;
    return moment;
}

// What the host and the kernels around a sample share, in mapped host memory; `Mailbox` of src/device/cuda/memory.rs.
struct Mailbox {
    unsigned gate;  // 0 while the stream is to be held
    Moment before, after;
};

// What `block_stream` leaves at the gate when nobody opened it in time.
constexpr unsigned TIMED_OUT = 0xffffffffu;

// Holds the stream until the host opens the gate, or until `timeout_ns` have passed: then it leaves TIMED_OUT there. Says when
// that was.
extern "C" __global__ void block_stream(volatile Mailbox* mailbox, unsigned long long timeout_ns) {
    const unsigned long long start = now().nanoseconds;
    Moment moment = now();
    while (mailbox->gate == 0) {
        moment = now();
        if (moment.nanoseconds - start > timeout_ns) {
            mailbox->gate = TIMED_OUT;
            break;
        }
    }
    mailbox->before.cycles = moment.cycles;
    mailbox->before.nanoseconds = moment.nanoseconds;
    mailbox->before.multiprocessor = moment.multiprocessor;
    __threadfence_system();
}

// Says when the stream came to it.
extern "C" __global__ void say_when(volatile Mailbox* mailbox) {
    const Moment moment = now();
    mailbox->after.cycles = moment.cycles;
    mailbox->after.nanoseconds = moment.nanoseconds;
    mailbox->after.multiprocessor = moment.multiprocessor;
    __threadfence_system();
}

// Does nothing: the floor of every time measured by launching.
extern "C" __global__ void empty() {}
