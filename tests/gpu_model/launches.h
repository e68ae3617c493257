// What the programs that run a kernel on the model have in common: how a launch is put into words, the memory that programs share, and
// of products the order of their tiles. Included after the kernel.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "host.h"

#include "tma.cuh"

#define NAME_OF(macro) #macro
#define NAME(macro) NAME_OF(macro)

namespace launches {

inline int divided(int a, int b) { return (a + b - 1) / b; }

// A map as a kernel's argument.
inline ptx::TensorMap parameter(const model::Map& map) {
    ptx::TensorMap words{};
    const model::Map* pointer = &map;
    memcpy(&words, &pointer, sizeof pointer);
    return words;
}

// A line a thing, in words that the crate's launch is put into as well; maps that are none are passed over.
inline void describe(const model::Launch& grid, const std::vector<const model::Map*>& maps, long long workspace_bytes, int counters,
                     const std::vector<int>& arguments) {
    const auto joined = [](const auto& numbers, const char* between) {
        std::string text;
        for (const auto number : numbers) text += (text.empty() ? "" : between) + std::to_string(number);
        return text;
    };
    printf("grid %u cluster %u threads %u shared %u\n", grid.programs, grid.cluster, grid.threads, grid.shared_bytes);
    for (const model::Map* map : maps) {
        if (map->extents.empty()) continue;
        printf("map of %d bytes, %s, rows of %s, tiles %s, swizzle %d\n", map->element_bytes, joined(map->extents, " x ").c_str(),
               joined(map->strides_bytes, " and ").c_str(), joined(map->tile, " x ").c_str(), map->swizzle_bytes);
    }
    printf("workspace %lld counters %d\n", workspace_bytes, counters);
    printf("arguments %s\n", joined(arguments, " ").c_str());
}

// What programs that share a tile leave for each other: floats that begin as NaN, and counters that begin and end as zero.
struct Scratch {
    std::vector<float4> vectors;
    std::vector<unsigned> counters;

    Scratch(size_t floats, size_t count) : vectors(floats / 4 + 1, float4{NAN, NAN, NAN, NAN}), counters(count, 0) {
        model::share(vectors.data(), vectors.size() * sizeof(float4));
        model::share(counters.data(), counters.size() * sizeof(unsigned));
    }

    float* floats() { return reinterpret_cast<float*>(vectors.data()); }

    void check() const {
        for (const unsigned count : counters) {
            if (count != 0) model::fail("a count of arrivals is left at %u", count);
        }
    }
};

// A product's tiles, and their order: 0 for strides, 1 for runs, 2 where the hardware deals them out, so many `programs` at once.
struct Tiled {
    model::Launch grid;
    int together, tiles, tiles_m, tiles_n, k_steps, split_k, stride, span;

    Tiled() = default;
    Tiled(int m, int n, int k, int split, int asked_programs, int order, const int (&block)[3], int together_) {
        together = together_, split_k = split;
        tiles_m = divided(m, block[0]), tiles_n = divided(n, block[1]), tiles = tiles_m * tiles_n;
        k_steps = divided(k, block[2]);
        const int work = tiles * split_k, programs = order == 2 ? work : std::min(asked_programs, work);
        stride = order == 2 ? 0 : order == 1 ? 1 : programs, span = order == 1 ? divided(work, programs) : work;
        grid.programs = programs * together, grid.cluster = together;
        if (order == 2) grid.at_once = asked_programs;
        parts = split_k > 1 ? 1ll * tiles * split_k * block[0] * block[1] : 0;
    }

    long long parts;  // floats that split tiles leave
    int arrivals() const { return split_k > 1 ? tiles * together : 0; }
    std::vector<int> arguments() const { return {tiles_m, tiles_n, k_steps, split_k, stride, span}; }
};

}  // namespace launches
