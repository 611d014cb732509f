// Softmax of a row that is seen piece by piece, and the gradient of one of its logits.
// z are logits divided by the temperature.
#pragma once

// e^x, right to about 22 bits for the x near 0 that matter in a sum of shares.
DEVICE float exponential_of(float x) { return exponential2_fast(x * 1.4426950408889634f); }

// What has been seen of a row: the largest z, Σ e^(z − largest), and Σ e^(z − largest)·(z − largest).
struct Running {
    float largest, sum, weighted;

    MEMBER void clear() {
        largest = -infinity();
        sum = weighted = 0.0f;
    }

    // What was seen, counted from a larger z.
    MEMBER void raise(float to) {
        if (sum > 0.0f) {
            float step = largest - to, shrink = exponential_of(step);
            weighted = shrink * (weighted + step * sum);
            sum *= shrink;
        }
        largest = to;
    }

    // Takes COUNT more z; −∞ stands for none.
    template <int COUNT>
    MEMBER void push(const float (&z)[COUNT]) {
        float most = largest;
        UNROLL
        for (int i = 0; i < COUNT; i++) most = maximum(most, z[i]);
        if (most == -infinity()) return;
        if (most > largest) raise(most);
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            float below = z[i] - largest, share = exponential_of(below);
            sum += share;
            weighted += share > 0.0f ? share * below : 0.0f;
        }
    }

    // What the lane whose index differs in these bits saw; every lane of the warp must call.
    MEMBER Running of_lane(int mask) const {
        return {warp_shuffle_xor(largest, mask), warp_shuffle_xor(sum, mask), warp_shuffle_xor(weighted, mask)};
    }

    // Takes all that another saw of the same row.
    MEMBER void merge(Running other) {
        if (other.sum == 0.0f) return;
        if (other.largest > largest) raise(other.largest);
        else other.raise(largest);
        sum += other.sum;
        weighted += other.weighted;
    }
};

// What backward knows of a row; gradients are those of the loss, already divided by the temperature.
struct RowGradient {
    float log_sum, dlogp, entropy, dentropy;
    u32 target;

    // d loss / d logit: dlogp·(onehot − p) − dentropy·p·(log p + entropy).
    MEMBER float of(float z, u32 column) const {
        float log_share = z - log_sum, share = exponential_of(log_share);
        // A share of 0 has no gradient; its logarithm may be infinite.
        float slope = share > 0.0f ? log_share + entropy : 0.0f;
        return (column == target ? dlogp : 0.0f) - share * (dlogp + dentropy * slope);
    }
};
