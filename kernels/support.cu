// What measuring needs besides the candidates: inputs, the comparison with the reference, and a gate on the stream. And what
// the check's own tests need: altering a tensor.
//
// Every kernel but `block_stream` and `say_when` (one thread each) runs on any grid of whole warps. Tensors are contiguous.
// Poison needs no kernel: a memset with 0xff makes every bf16 and every f32 a NaN.

#include "numeric.cuh"

// E4M3: a sign, four bits of exponent, three of mantissa; all ones beside the sign are a NaN, and there is no infinity.
struct fp8 {
    unsigned char bits;
};

__device__ float to_float(fp8 value) {
    const unsigned code = value.bits & 0x7f;
    if (code == 0x7f) return __builtin_bit_cast(float, 0x7fffffff);
    const int exponent = static_cast<int>(code >> 3);
    const float mantissa = static_cast<float>(code & 7);
    const float magnitude = exponent == 0 ? mantissa * 0.001953125f
                                          : (8 + mantissa) * __uint_as_float((exponent + 117u) << 23);
    return value.bits & 0x80 ? -magnitude : magnitude;
}

// The nearest, ties to even; the largest for what is larger.
template <>
__device__ __forceinline__ fp8 from_float<fp8>(float value) {
    const float magnitude = fminf(fabsf(value), 448.0f);
    unsigned code;
    if (magnitude < 0.015625f) {
        code = static_cast<unsigned>(rintf(magnitude * 512));
    } else {
        const unsigned exponent = (__float_as_uint(magnitude) >> 23) - 127 + 7;
        const float scaled = magnitude * __uint_as_float((127 + 10 - exponent) << 23);
        code = exponent * 8 + static_cast<unsigned>(rintf(scaled)) - 8;
    }
    return {static_cast<unsigned char>(code | (value < 0 ? 0x80 : 0))};
}

template <>
__device__ __forceinline__ double from_float<double>(float value) {
    return value;
}

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

// The same as `Fill` of src/families/inputs.rs and its constants.
enum Fill : unsigned { UNIFORM = 0, WIDE = 1, QUERIES = 2, LOGITS = 3, EXTREMES = 4, LANDMARKS = 5, WHOLE = 6, SCALES = 7 };
constexpr long long LANDMARK_SPACING = 64;
constexpr int LANDMARK_ABOVE = 4;
constexpr float LOUD = 32.0f, ATTENTION = 2.0f, OUTSTANDING = 4.0f, LARGEST = 3.3895314e38f;

__device__ unsigned choice_of(unsigned long long seed, long long index) {
    return static_cast<unsigned>(random_bits(seed, index) >> 8) & 0xffff;
}

// Whole numbers from `least` on, of which there are `count`.
__device__ long long whole_at(unsigned long long seed, long long index, long long least, long long count) {
    return least + static_cast<long long>((random_bits(seed, index) >> 16) % static_cast<unsigned long long>(count));
}

// What a fill depends on: the tensor's stream and the length of its rows; a magnitude, or the least exponent and the
// exponent past the largest; and for queries the rows of a head, and those of its keys, and in the upper halves the heads that
// share their keys, and the keys that a query sees at most where a mask ends them at its own, else 0.
struct Stream {
    unsigned fill;
    float first, second;
    unsigned long long seed;
    long long cols, q_seq, kv_seq;
};

// Random sign and mantissa, from a value in [-1, 1).
__device__ float with_exponent(float value, int exponent) {
    return copysignf(1.0f + fabsf(value), value) * __uint_as_float((exponent + 127u) << 23);
}

__device__ float query_at(const Stream& stream, long long row, long long column, float value) {
    const unsigned long long word = random_bits(~stream.seed, row);
    const long long q_seq = stream.q_seq & 0xffffffff, sharing = stream.q_seq >> 32;
    const long long kv_seq = stream.kv_seq & 0xffffffff, window = stream.kv_seq >> 32;
    const bool is_last = window > 0 && (row + 1) % q_seq == 0;  // the last key of all is seen by one query
    const bool looks = row % 2 == 0 || word % 2 == 0 || is_last;
    if (looks) {
        const long long past = row % q_seq + 1 + kv_seq - q_seq;
        const long long end = window == 0 ? kv_seq : past > 0 ? past : 0;
        const long long first = window == 0 || end < window ? 0 : end - window;
        const long long count = end > first ? end - first : 1;
        long long key = first + static_cast<long long>((word >> 16) % static_cast<unsigned long long>(count));
        if (is_last) {
            key = kv_seq - 1;
        } else if (row % 2 == 0) {
            const int edge = window == 0 ? 0 : static_cast<int>((word >> 1) % 4);
            key = edge == 0 ? end - 1 : edge == 1 ? end : edge == 2 ? first : first - 1;
            if (key < 0 || key >= kv_seq) key = end > 0 ? end - 1 : 0;
        }
        value = unit(stream.seed + 1, (row / q_seq / sharing * kv_seq + key) * stream.cols + column);
    }
    const float factor = (word >> 8) % 8 == 0 ? LOUD : looks ? ATTENTION : 1.0f;
    return factor * stream.first * value;
}

__device__ float logit_at(const Stream& stream, long long row, long long column, float value, unsigned choice) {
    constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);
    const int kind = static_cast<int>(row % 5);
    if (kind == 0) {
        const unsigned long long word = random_bits(~stream.seed, row);
        const long long any = static_cast<long long>((word >> 16) % static_cast<unsigned long long>(stream.cols));
        if (column == (row % 2 == 0 ? stream.cols - 1 : any)) return stream.first * OUTSTANDING;
    }
    if (kind == 2 || (kind == 1 && choice % 2 == 0)) return -INFINITE;
    if (kind == 4 || (kind == 3 && choice % 16 == 0)) return copysignf(LARGEST, value);
    return stream.first * value;
}

// The float at `index` of a tensor.
__device__ float value_at(const Stream& stream, long long index) {
    const float value = unit(stream.seed, index);
    if (stream.fill == UNIFORM) return stream.first * value;
    if (stream.fill == WHOLE) return static_cast<float>(whole_at(stream.seed, index, stream.q_seq, stream.kv_seq));
    const unsigned choice = choice_of(stream.seed, index);
    const long long row = index / stream.cols, column = index - row * stream.cols;
    if (stream.fill == QUERIES) return query_at(stream, row, column, value);
    if (stream.fill == LOGITS) return logit_at(stream, row, column, value, choice);
    const int least = static_cast<int>(stream.first), most = static_cast<int>(stream.second);
    if (stream.fill == SCALES) {
        const unsigned long long word = random_bits(stream.seed, index) % 8;
        if (word == 0) return 0.0f;
        if (word == 1) return __uint_as_float((most + 127u) << 23);
    }
    if (stream.fill == LANDMARKS && (column + 1 == stream.cols || (column + 1) % LANDMARK_SPACING <= 1)) {
        return with_exponent(value, most + LANDMARK_ABOVE);
    }
    if (stream.fill == SCALES) {
        const unsigned long long word = random_bits(stream.seed, index) % 8;
        if (word == 0) return 0.0f;
        if (word == 1) return __uint_as_float((most + 127u) << 23);
    }
    return with_exponent(value, least + static_cast<int>(choice % static_cast<unsigned>(most - least)));
}

// What is finite stays finite in every type: half precision ends at 65504, where the others go on.
template <typename Element>
__device__ Element element_of(float value) {
    return from_float<Element>(value);
}
template <>
__device__ f16 element_of<f16>(float value) {
    const bool is_finite = value - value == 0;
    return from_float<f16>(is_finite ? fmaxf(fminf(value, 65504.0f), -65504.0f) : value);
}

template <typename Element>
__device__ void fill_floats(Element* out, long long numel, const Stream& stream) {
    for (long long i = first_index(); i < numel; i += index_stride()) out[i] = element_of<Element>(value_at(stream, i));
}

template <typename Element>
__device__ void fill_bits(Element* out, long long numel, const Stream& stream) {
    constexpr Element SIGN = static_cast<Element>(1) << (8 * sizeof(Element) - 1);
    const unsigned long long seed = stream.seed;
    const unsigned fill = stream.fill;
    for (long long i = first_index(); i < numel; i += index_stride()) {
        if (fill == WHOLE) {
            out[i] = static_cast<Element>(whole_at(seed, i, stream.q_seq, stream.kv_seq));
            continue;
        }
        const unsigned choice = fill == EXTREMES ? choice_of(seed, i) % 16 : 1;
        const unsigned long long bits = random_bits(seed, i) >> (64 - 8 * sizeof(Element));
        out[i] = choice == 0 ? SIGN : choice == 8 ? static_cast<Element>(SIGN - 1) : static_cast<Element>(bits);
    }
}

// Fill `out` with a stream: floats as `value_at` says, integers with random bits, or some of them with an extreme.
extern "C" __global__ void fill_bf16(bf16* out, long long numel, unsigned long long seed, unsigned fill, float first,
                                     float second, long long cols, long long q_seq, long long kv_seq) {
    fill_floats(out, numel, {fill, first, second, seed, cols, q_seq, kv_seq});
}

extern "C" __global__ void fill_f32(float* out, long long numel, unsigned long long seed, unsigned fill, float first,
                                    float second, long long cols, long long q_seq, long long kv_seq) {
    fill_floats(out, numel, {fill, first, second, seed, cols, q_seq, kv_seq});
}

#define FILL(NAME, ELEMENT, HOW)                                                                                         \
    extern "C" __global__ void fill_##NAME(ELEMENT* out, long long numel, unsigned long long seed, unsigned fill,        \
                                           float first, float second, long long cols, long long q_seq,                   \
                                           long long kv_seq) {                                                            \
        HOW(out, numel, {fill, first, second, seed, cols, q_seq, kv_seq});                                               \
    }
FILL(f16, f16, fill_floats)
FILL(f64, double, fill_floats)
FILL(fp8, fp8, fill_floats)
FILL(i8, unsigned char, fill_bits)
FILL(u8, unsigned char, fill_bits)
FILL(i16, unsigned short, fill_bits)
FILL(i32, unsigned, fill_bits)
FILL(i64, unsigned long long, fill_bits)

__device__ bool is_poison(float value) { return __float_as_uint(value) == 0xffffffffu; }
__device__ bool is_poison(bf16 value) { return value == 0xffffu; }

// The representable number next to a finite one, upwards or downwards, from its bits.
template <typename Bits>
__device__ Bits neighbour(Bits bits, bool upwards) {
    constexpr Bits SIGN = static_cast<Bits>(1) << (8 * sizeof(Bits) - 1);
    if ((bits & static_cast<Bits>(~SIGN)) == 0) return upwards ? 1 : SIGN | 1;
    return (bits & SIGN) == 0 == upwards ? bits + 1 : bits - 1;
}

__device__ float neighbour_of(float value, bool upwards) {
    return __uint_as_float(neighbour(__float_as_uint(value), upwards));
}

__device__ float neighbour_of(bf16 value, bool upwards) { return to_float(neighbour(value, upwards)); }

__device__ double neighbour_of(double value, bool upwards) {
    const unsigned long long bits = neighbour(static_cast<unsigned long long>(__double_as_longlong(value)), upwards);
    return __longlong_as_double(static_cast<long long>(bits));
}

__device__ float neighbour_of(f16 value, bool upwards) { return to_float(f16{neighbour(value.bits, upwards)}); }
__device__ float neighbour_of(fp8 value, bool upwards) { return to_float(fp8{neighbour(value.bits, upwards)}); }

// How far `expected` is from the nearest number that rounds to `out`: what the rounding of the output leaves unexplained.
template <typename Element>
__device__ double unexplained(Element out, float expected) {
    const float value = to_float(out);
    if (to_float(from_float<Element>(expected)) == value) return 0;
    const double half_gap = fabs(static_cast<double>(neighbour_of(out, expected > value)) - value) / 2;
    return fmax(0.0, fabs(static_cast<double>(expected) - value) - half_gap);
}

// Whether a value is an infinity, and the reference is the same one, or becomes it where it is rounded to the output's type.
template <typename Element>
__device__ bool is_right_infinity(double value, double expected) {
    if (value != value || value - value == 0) return false;
    if constexpr (sizeof(Element) == sizeof(double)) {
        return value == expected;
    } else {
        return value == expected || to_float(from_float<Element>(static_cast<float>(expected))) == value;
    }
}

// What a comparison comes to; all zero before. The host reads the same words.
struct Comparison {
    double squared_difference, squared_reference;
    // Elements that still hold the poison or whose difference is not finite: a NaN or an infinity that the reference does
    // not have, or the other way round.
    unsigned long long poisoned;
    // Elements that err by more than is allowed.
    unsigned long long beyond;
    // The largest error over what is allowed: the bits of a double, which order as it does.
    unsigned long long worst;
    // numel less the index of the first element that is poisoned or beyond; 0 where none is.
    unsigned long long from_first;
};

// Compares each element with its reference. `allowed`: by how much it may differ once its own rounding is taken off, at
// least `least`. Two NaNs are equal unless the output's is the poison (arithmetic never makes one of all ones), and so are
// two infinities of one sign; neither adds to the squares.
template <typename Element>
__device__ void compare(const Element* out, const float* reference, const bf16* allowed, long long numel, float least,
                        Comparison* comparison) {
    double squared_difference = 0, squared_reference = 0, worst = 0;
    unsigned long long poisoned = 0, beyond = 0, from_first = 0;
    const auto note = [&](unsigned long long& count, long long index) {
        count += 1;
        if (from_first == 0) from_first = numel - index;  // a thread's indices rise
    };
    for (long long i = first_index(); i < numel; i += index_stride()) {
        const Element element = out[i];
        const float value = to_float(element), expected = reference[i];
        const bool both_nan = value != value && expected != expected;
        const bool same_infinity = is_right_infinity<Element>(value, expected);
        const bool is_poisoned = is_poison(element);
        if (!is_poisoned && (both_nan || same_infinity)) continue;
        const double difference = static_cast<double>(value) - expected;
        if (is_poisoned || difference - difference != 0) {
            note(poisoned, i);
            continue;
        }
        squared_difference += difference * difference;
        squared_reference += static_cast<double>(expected) * expected;
        const double error = unexplained(element, expected);
        if (error == 0) continue;
        const double ratio = error / fmaxf(to_float(allowed[i]), least);
        worst = fmax(worst, ratio);
        if (ratio > 1) note(beyond, i);
    }
    squared_difference = warp_sum(squared_difference);
    squared_reference = warp_sum(squared_reference);
    worst = warp_maximum(worst);
    poisoned = warp_sum(poisoned);
    beyond = warp_sum(beyond);
    from_first = warp_maximum(from_first);
    if (threadIdx.x % 32 != 0) return;
    atomicAdd(&comparison->squared_difference, squared_difference);
    atomicAdd(&comparison->squared_reference, squared_reference);
    if (worst > 0) atomicMax(&comparison->worst, static_cast<unsigned long long>(__double_as_longlong(worst)));
    if (poisoned > 0) atomicAdd(&comparison->poisoned, poisoned);
    if (beyond > 0) atomicAdd(&comparison->beyond, beyond);
    if (from_first > 0) atomicMax(&comparison->from_first, from_first);
}

extern "C" __global__ void compare_bf16(const bf16* out, const float* reference, const bf16* allowed, long long numel,
                                        float least, Comparison* comparison) {
    compare(out, reference, allowed, numel, least, comparison);
}

extern "C" __global__ void compare_f32(const float* out, const float* reference, const bf16* allowed, long long numel,
                                       float least, Comparison* comparison) {
    compare(out, reference, allowed, numel, least, comparison);
}

__device__ bool is_poison(f16 value) { return value.bits == 0xffffu; }
__device__ bool is_poison(fp8 value) { return value.bits == 0xffu; }
__device__ bool is_poison(double value) { return __double_as_longlong(value) == -1; }
__device__ double to_number(f16 value) { return to_float(value); }
__device__ double to_number(fp8 value) { return to_float(value); }
__device__ double to_number(double value) { return value; }

// The same for the other floats, whose rounding is explained by half the way to the neighbour alone.
template <typename Element, typename Number>
__device__ void compare_others(const Element* out, const Number* reference, const bf16* allowed, long long numel,
                               float least, Comparison* comparison) {
    for (long long i = first_index(); i < numel; i += index_stride()) {
        const Element element = out[i];
        const double value = to_number(element), expected = reference[i];
        const bool both_nan = value != value && expected != expected;
        const bool same_infinity = is_right_infinity<Element>(value, expected);
        const bool is_poisoned = is_poison(element);
        if (!is_poisoned && (both_nan || same_infinity)) continue;
        const double difference = value - expected;
        const bool is_off = is_poisoned || difference - difference != 0;
        bool is_beyond = false;
        if (!is_off) {
            atomicAdd(&comparison->squared_difference, difference * difference);
            atomicAdd(&comparison->squared_reference, expected * expected);
            const double half_gap = fabs(static_cast<double>(neighbour_of(element, expected > value)) - value) / 2;
            const double ratio = fmax(0.0, fabs(difference) - half_gap) / fmaxf(to_float(allowed[i]), least);
            if (ratio > 0) atomicMax(&comparison->worst, static_cast<unsigned long long>(__double_as_longlong(ratio)));
            is_beyond = ratio > 1;
        }
        if (is_off) atomicAdd(&comparison->poisoned, 1ull);
        if (is_beyond) atomicAdd(&comparison->beyond, 1ull);
        if (is_off || is_beyond) atomicMax(&comparison->from_first, static_cast<unsigned long long>(numel - i));
    }
}

// The same for integers, whose poison is a number like any other: what was never written differs from the reference.
template <typename Element>
__device__ void compare_integers(const Element* out, const Element* reference, const bf16* allowed, long long numel,
                                 Comparison* comparison) {
    for (long long i = first_index(); i < numel; i += index_stride()) {
        const double expected = static_cast<double>(reference[i]);
        if (expected != 0) atomicAdd(&comparison->squared_reference, expected * expected);
        if (out[i] == reference[i]) continue;
        const double difference = fabs(static_cast<double>(out[i]) - expected);
        atomicAdd(&comparison->squared_difference, difference * difference);
        // Differences that a double does not see are of one at least.
        const double ratio = fmax(difference, 1.0) / fmaxf(to_float(allowed[i]), 0.5f);
        atomicMax(&comparison->worst, static_cast<unsigned long long>(__double_as_longlong(ratio)));
        if (ratio <= 1) continue;
        atomicAdd(&comparison->beyond, 1ull);
        atomicMax(&comparison->from_first, static_cast<unsigned long long>(numel - i));
    }
}

#define COMPARE_FLOATS(NAME, ELEMENT, NUMBER)                                                                            \
    extern "C" __global__ void compare_##NAME(const ELEMENT* out, const NUMBER* reference, const bf16* allowed,          \
                                              long long numel, float least, Comparison* comparison) {                    \
        compare_others(out, reference, allowed, numel, least, comparison);                                               \
    }
#define COMPARE_INTEGERS(NAME, ELEMENT)                                                                                  \
    extern "C" __global__ void compare_##NAME(const ELEMENT* out, const ELEMENT* reference, const bf16* allowed,         \
                                              long long numel, float, Comparison* comparison) {                          \
        compare_integers(out, reference, allowed, numel, comparison);                                                    \
    }
COMPARE_FLOATS(f16, f16, float)
COMPARE_FLOATS(fp8, fp8, float)
COMPARE_FLOATS(f64, double, double)
COMPARE_INTEGERS(i8, signed char)
COMPARE_INTEGERS(u8, unsigned char)
COMPARE_INTEGERS(i16, short)
COMPARE_INTEGERS(i32, int)
COMPARE_INTEGERS(i64, long long)

// By how much each element may differ: a share of its reference, and so much in any case.
template <typename Number>
__device__ void allow(const Number* reference, bf16* allowed, long long numel, float relative, float absolute) {
    for (long long i = first_index(); i < numel; i += index_stride()) {
        allowed[i] = from_float<bf16>(relative * fabsf(static_cast<float>(reference[i])) + absolute);
    }
}

#define ALLOW(NAME, NUMBER)                                                                                              \
    extern "C" __global__ void allow_##NAME(const NUMBER* reference, bf16* allowed, long long numel, float relative,     \
                                            float absolute) {                                                            \
        allow(reference, allowed, numel, relative, absolute);                                                            \
    }
ALLOW(f32, float)
ALLOW(f64, double)
ALLOW(i8, signed char)
ALLOW(u8, unsigned char)
ALLOW(i16, short)
ALLOW(i32, int)
ALLOW(i64, long long)

// Makes a change of src/device/mutants.rs to `rows` rows of `columns` bytes, `pitch` apart: zeros at `first` (0), what is at
// `first` to `second` (1), or each to the other's place (2).
extern "C" __global__ void alter(unsigned char* first, unsigned char* second, long long pitch, long long columns,
                                 long long rows, unsigned change) {
    for (long long i = first_index(); i < rows * columns; i += index_stride()) {
        const long long at = i / columns * pitch + i % columns;
        const unsigned char one = first[at], other = second[at];
        if (change != 1) first[at] = change == 0 ? 0 : other;
        if (change != 0) second[at] = one;
    }
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
