// Which tile, and which part of its k, each program works on, and in which order.
#pragma once

namespace scheduler {

__device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }
__device__ constexpr int ceil_div(int a, int b) { return a / b + (a % b != 0); }

// One tile of C and the k steps to sum there.
struct Work {
    int tile;            // its number, m varying fastest within a group
    int tile_m, tile_n;  // its place, in tiles
    int part;            // which of the tile's parts of k
    int begin, end;      // the part's k steps
};

// The whole problem as numbered work: all tiles' first parts of k, then all their second parts, and so on. Tiles go in
// groups of `group_m` tile rows, column after column within the group, so that programs running together share both
// operands in L2.
struct Schedule {
    int tiles_m, tiles_n;
    int group_m;  // 1 ... tiles_m
    int parts;    // of k
    int k_steps;

    __device__ constexpr int size() const { return tiles_m * tiles_n * parts; }

    __device__ constexpr Work at(int index) const {
        Work work{};
        work.tile = index % (tiles_m * tiles_n);
        work.part = index / (tiles_m * tiles_n);

        const int group_tiles = group_m * tiles_n;
        const int first_m = work.tile / group_tiles * group_m;
        const int rows = smaller(group_m, tiles_m - first_m);
        work.tile_m = first_m + work.tile % group_tiles % rows;
        work.tile_n = work.tile % group_tiles / rows;

        const int least = k_steps / parts, longer = k_steps % parts;
        work.begin = work.part * least + smaller(work.part, longer);
        work.end = work.begin + least + (work.part < longer);
        return work;
    }
};

// The numbers of one program's work: first, first + stride, … below end. Programs take runs of `run` numbers each, or,
// where `run` is 0, stride over all of them.
struct Range {
    int first, stride, end;

    __device__ constexpr Range(int program, int programs, int run, int size)
        : first(run > 0 ? program * run : program),
          stride(run > 0 ? 1 : programs),
          end(run > 0 ? smaller(first + run, size) : size) {}
};

}  // namespace scheduler
