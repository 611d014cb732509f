// What forward leaves of each row, and what backward is given of it: shared by every way to compute a tile of logits.
#pragma once
#include "running.cuh"

// Where forward leaves what it saw: partials[pieces][3][rows] and the targets' z in logp[rows].
struct Seen {
    float* partials;
    float* logp;
    const u32* targets;
    u64 rows;

    MEMBER void keep(u64 piece, u64 row, const Running& seen) const {
        float* at = partials + piece * 3 * rows + row;
        at[0] = seen.largest;
        at[rows] = seen.sum;
        at[2 * rows] = seen.weighted;
    }

    // The row's target, counted from a tile's first column; below 0 where it lies before the tile or the row is none.
    MEMBER int target(u64 row, u32 first) const { return row < rows ? int(targets[row] - first) : -1; }

    MEMBER Running of(u64 piece, u64 row) const {
        const float* at = partials + piece * 3 * rows + row;
        return {at[0], at[rows], at[2 * rows]};
    }
};

// Takes z of one row; the j-th is of the tile's column column_of(j), and real where that is below `inside`. Whoever holds
// the target notes its z.
template <int COUNT, class Column>
DEVICE void see_row(Running& running, float* logp, int target, int inside, float (&z)[COUNT], Column column_of) {
    UNROLL
    for (int j = 0; j < COUNT; j++) z[j] = column_of(j) < inside ? z[j] : -infinity();
    if (target >= 0 && target < inside) {
        UNROLL
        for (int j = 0; j < COUNT; j++)
            if (column_of(j) == target) *logp = z[j];
    }
    running.push(z);
}

// What backward is given of each row: lse[rows], dlogp[rows], targets[rows] and entropy[rows], dentropy[rows] or neither.
struct Saved {
    const float* lse;
    const float* dlogp;
    const float* entropy;
    const float* dentropy;
    const u32* targets;
    float scale;

    MEMBER RowGradient of(u64 row) const {
        bool counts = dentropy != nullptr;
        float given = counts ? entropy[row] : 0.0f, slope = counts ? dentropy[row] * scale : 0.0f;
        return {lse[row], dlogp[row] * scale, given, slope, targets[row]};
    }
};

// Where backward leaves rounded gradients of logits: dlogits[rows][line_length] of the vocabulary's columns
// `first_column`..+columns, zeros behind a line's end.
struct RoundedGradients {
    bf16* dlogits;
    u32 columns, line_length, first_column;

    // Logits of two neighbouring columns, the first of them even.
    MEMBER void keep_pair(const RowGradient& gradient, u64 row, u32 column, float low, float high) const {
        if (column >= line_length) return;
        float first = column < columns ? gradient.of(low, first_column + column) : 0.0f;
        float second = column + 1 < columns ? gradient.of(high, first_column + column + 1) : 0.0f;
        *(u32*)(dlogits + row * line_length + column) = pack_bf16(first, second);
    }
};
