// Which tile, and which part of its k, each program works on, and in which order.
#pragma once

namespace scheduler {

__device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }
__device__ constexpr int ceil_div(int a, int b) { return a / b + (a % b != 0); }
__device__ constexpr bool power_of_two(int value) { return value > 0 && (value & (value - 1)) == 0; }

// The k steps of one of `parts` nearly equal parts.
struct Steps {
    int begin, end;
};

__device__ constexpr Steps part_steps(int k_steps, int part, int parts) {
    const int least = k_steps / parts, longer = k_steps % parts;
    const int begin = part * least + smaller(part, longer);
    return {begin, begin + least + (part < longer)};
}

// The place of a tile of C, in tiles.
struct Tile {
    int m, n;
};

// One tile of C and the k steps to sum there; a k step is BLOCK_K deep.
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
    int k_steps;
    int group_m;  // 1 ... tiles_m
    int split_k;  // parts of k

    __device__ constexpr int size() const { return tiles_m * tiles_n * split_k; }

    __device__ constexpr Tile tile(int number) const {
        if (tiles_m == 1) return {0, number};  // spares a stream of weights three divisions before its first load
        const int group_tiles = group_m * tiles_n;
        const int first_m = number / group_tiles * group_m;
        const int rows = smaller(group_m, tiles_m - first_m);
        return {first_m + number % group_tiles % rows, number % group_tiles / rows};
    }

    __device__ constexpr Work at(int index) const {
        Work work{};
        work.tile = index % (tiles_m * tiles_n);
        work.part = index / (tiles_m * tiles_n);

        const Tile place = tile(work.tile);
        work.tile_m = place.m;
        work.tile_n = place.n;

        const Steps steps = part_steps(k_steps, work.part, split_k);
        work.begin = steps.begin;
        work.end = steps.end;
        return work;
    }
};

// The first number of a program's work, which goes on in steps of `stride` and ends before work_end. With a stride of 1
// each program has `span` consecutive numbers; otherwise `stride` is the number of programs and `span` all the work.
__device__ constexpr int work_begin(int program, int stride, int span) { return stride == 1 ? program * span : program; }
__device__ constexpr int work_end(int begin, int span, int size) { return smaller(begin + span, size); }

}  // namespace scheduler
