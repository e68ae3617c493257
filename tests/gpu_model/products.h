// The operands of products and what comes of them, by the macros WEIGHTS, DTYPE and ZERO_POINTS: codes drawn at random, what they stand
// for, and plain sums to compare C with. Included after the kernel.
#pragma once

#include <random>

#include "launches.h"

namespace products {

using launches::divided;

#if defined(ZERO_POINTS)
const bool WITH_ZEROS = ZERO_POINTS;
#else
const bool WITH_ZEROS = false;
#endif
#if defined(DTYPE)
const bool IS_F16 = std::string(NAME(DTYPE)) == "f16";
#else
const bool IS_F16 = false;
#endif

inline uint16_t to_half(float value) { return IS_F16 ? model::to_f16(value) : model::to_bf16(value); }
inline float from_half(uint16_t bits) { return IS_F16 ? model::from_f16(bits) : model::from_bf16(bits); }

// A code of B's format from random bits, and the weight it stands for.
inline float weight(const std::string& format, unsigned bits, uint16_t& code) {
    static constexpr float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    if (format == "Bf16" || format == "F16") {
        const float value = static_cast<int>(bits % 9) - 4;
        code = to_half(value);
        return value;
    }
    if (format == "E4m3") {  // a quarter to four, of either sign, some of them zero
        code = bits % 5 == 0 ? 0 : 0x28 + bits / 5 % 0x20 + (bits / 256 % 2 ? 0x80 : 0);
        return model::from_e4m3(code);
    }
    if (format == "Int16") {
        code = static_cast<uint16_t>(bits);
        return from_half(to_half(static_cast<int16_t>(code)));
    }
    code = bits % 16;
    if (format == "Int4" || (format == "Int4Group" && !WITH_ZEROS)) return code < 8 ? code : code - 16;
    if (format == "Int4Group") return code;
    return code < 8 ? E2M1[code] : -E2M1[code - 8];
}

// A scale of B's format from random bits, few enough of its own that weights need not be rounded, and what it stands for.
inline float scale(const std::string& format, unsigned bits, uint16_t& code) {
    if (format == "Int4Group") {
        const float value = std::ldexp(1 + bits % 4 / 4.0f, static_cast<int>(bits / 4 % 5) - 3) * (bits / 32 % 2 ? 1 : -1);
        code = to_half(value);
        return value;
    }
    if (format == "Nvfp4") {  // E4M3: subnormal ones, zero, and up to 4
        code = bits % 72;
        return code < 8 ? code / 512.0f : std::ldexp(1 + code % 8 / 8.0f, code / 8 - 7);
    }
    if (format == "E4m3") return std::ldexp(1 + bits % 4 / 4.0f, static_cast<int>(bits / 4 % 5) - 3) * (bits / 32 % 8 ? 1 : -1);
    code = 123 + bits % 8;
    return std::ldexp(1.0f, code - 127);
}

const std::string FORMAT = NAME(WEIGHTS);
const bool IS_FP8 = FORMAT == "E4m3";                                               // A as well
const int WEIGHTS_A_ROW = FORMAT == "Bf16" || FORMAT == "F16" || FORMAT == "Int16" || IS_FP8 ? 1 : 2;  // of k, in a row of B's bytes
const int WEIGHT_BYTES = WEIGHTS_A_ROW == 2 || IS_FP8 ? 1 : 2;
const int ACTIVATION_BYTES = IS_FP8 ? 1 : 2;
const int SCALE_ELEMENT_BYTES = FORMAT == "Int4Group" ? 2 : 1;
const float TENSOR_SCALE = 0.5f;  // of Nvfp4
const bool CODED = FORMAT != "Bf16" && FORMAT != "F16" && !IS_FP8;

// What B's weights share: for each group of them along k and each column a scale, and a zero point.
struct Groups {
    std::vector<uint8_t> scales, zeros;
    std::vector<float> of_rows, of_columns;  // of E4M3: a row of A's and a column of B's, or those of blocks
};

// What a program is asked for: `programs` or clusters, in an `order` of its own.
struct Problem {
    int m, n, k, split_k, programs;
    int order, group;
    unsigned seed;
};

// Tensor maps of what weights share, so many columns of a step's groups at once, none where they share none; and the steps of a row.
struct GroupMaps {
    model::Map scales, zeros;
    int group_steps = 0;

    GroupMaps(Groups& groups, const Problem& problem, int block_k, int columns) {
        const auto [m, n, k, split_k, programs, order, group, seed] = problem;
        if (group == 0 || IS_FP8) return;
        const int count = divided(k, group), groups_a_step = block_k / std::min(group, block_k);
        const auto tiles = [&, n = n](std::vector<uint8_t>& values, int bytes) {
            return model::Map{values.data(), bytes, {n, count}, {n * bytes}, {columns, groups_a_step}, 0};
        };
        scales = tiles(groups.scales, SCALE_ELEMENT_BYTES);
        if (WITH_ZEROS) zeros = tiles(groups.zeros, 1);
        group_steps = divided(std::min(group, k), block_k);
    }
};

// A product [m, n, k] whose weights share scales, `group` of them along k; none where it is 0. Of E4M3 1 stands for scales of rows and
// columns, 128 for those of blocks.
struct Product {
    int m, n, k, group;
    std::vector<uint8_t> a, b;
    Groups groups;
    std::vector<float> activations, weights;  // what they stand for, those with groups by their scales

    Product(int m, int n, int k, int group) : m(m), n(n), k(k), group(group) {
        std::mt19937 random(1);
        draw_activations(random);
        const auto fill = [&](std::vector<float>& values, int count) {
            uint16_t none;
            for (int i = 0; i < count; ++i) values.push_back(scale(FORMAT, random(), none));
        };
        if (IS_FP8) {
            fill(groups.of_rows, group == 128 ? divided(k, 128) * m : group == 1 ? m : 1);
            fill(groups.of_columns, group == 128 ? divided(n, 128) * divided(k, 128) : group == 1 ? n : 1);
        }
        draw_weights(random);
    }

    // C, in bytes that are halves, holds the sums.
    void check(const std::vector<uint16_t>& c) const {
        for (int row = 0; row < m; ++row) {
            std::vector<double> sums(n);
            for (int i = 0; i < k; ++i) {
                const double left = activations[row * k + i] * of_row(row, i);
                for (int column = 0; column < n; ++column) sums[column] += left * weights[i * n + column] * of_column(column, i);
            }
            for (int column = 0; column < n; ++column) {
                const double got = from_half(c[row * n + column]), sum = sums[column];
                if (!(std::abs(got - sum) <= std::abs(sum) / 200 + 1e-3)) {
                    model::fail("C[%d, %d] is %g, not %g", row, column, got, sum);
                }
            }
        }
    }

  private:
    // E4M3's scales of a row of A and of a column of B, at a place along k.
    double of_row(int row, int i) const {
        return !IS_FP8 ? 1 : groups.of_rows[group == 128 ? i / 128 * m + row : group == 1 ? row : 0];
    }
    double of_column(int column, int i) const {
        return !IS_FP8 ? 1 : groups.of_columns[group == 128 ? column / 128 * divided(k, 128) + i / 128 : group == 1 ? column : 0];
    }

    void draw_activations(std::mt19937& random) {
        a.resize(static_cast<size_t>(m) * k * ACTIVATION_BYTES), activations.resize(static_cast<size_t>(m) * k);
        for (size_t place = 0; place < activations.size(); ++place) {
            uint16_t code;
            activations[place] = weight(IS_FP8 ? "E4m3" : "Bf16", random(), code);
            memcpy(&a[place * ACTIVATION_BYTES], &code, ACTIVATION_BYTES);
        }
    }

    void draw_weights(std::mt19937& random) {
        std::vector<float> scales, zeros;  // what the groups' stand for
        const bool has_groups = group > 0 && !IS_FP8;
        for (int place = 0; has_groups && place < divided(k, group) * n; ++place) {
            uint16_t code;
            scales.push_back(scale(FORMAT, random(), code) * (FORMAT == "Nvfp4" ? TENSOR_SCALE : 1));
            for (int i = 0; i < SCALE_ELEMENT_BYTES; ++i) groups.scales.push_back(static_cast<uint8_t>(code >> 8 * i));
            groups.zeros.push_back(WITH_ZEROS ? random() % 16 : 0);
            zeros.push_back(groups.zeros.back());
        }
        weights.resize(static_cast<size_t>(k) * n), b.resize(static_cast<size_t>(k) / WEIGHTS_A_ROW * n * WEIGHT_BYTES);
        for (int row = 0; row < k; ++row) {
            for (int column = 0; column < n; ++column) {
                uint16_t code;
                float& value = weights[row * n + column];
                value = weight(FORMAT, random(), code);
                if (has_groups) {
                    const int shared = row / group * n + column;
                    value = (value - zeros[shared]) * scales[shared];
                }
                size_t place = (static_cast<size_t>(row / WEIGHTS_A_ROW) * n + column) * WEIGHT_BYTES;
                if (IS_FP8) place = static_cast<size_t>(column) * k + row;
                if (WEIGHTS_A_ROW == 2) {
                    b[place] |= code << 4 * (row % 2);
                } else {
                    memcpy(&b[place], &code, WEIGHT_BYTES);
                }
            }
        }
    }
};

// What a `main` does with its arguments: describes the launch of the problem where the last of them says so, else runs it.
template <typename Describe, typename Run>
int asked(char** arguments, Describe describe, Run run) {
    const auto number = [&](int index) { return atoi(arguments[index]); };
    const Problem problem{number(1), number(2), number(3), number(4), number(5), number(6), number(7),
                          static_cast<unsigned>(number(8))};
    if (std::string(arguments[8]) == "describe") {
        describe(problem);
        return 0;
    }
    Product product(problem.m, problem.n, problem.k, problem.group);
    product.check(run(product, problem));
    return 0;
}

}  // namespace products
