// Elementwise sums and products: a thread a number.

DEVICE u64 index_in_grid() { return (u64)block_x() * block_threads() + thread_index(); }

// target[len] += source[len]
KERNEL elementwise_add(const float* source, float* target, u64 len) {
    u64 index = index_in_grid();
    if (index < len) target[index] += source[index];
}
REGISTER_KERNEL(elementwise_add)

// target[len] *= factor
KERNEL elementwise_scale(float* target, u64 len, float factor) {
    u64 index = index_in_grid();
    if (index < len) target[index] *= factor;
}
REGISTER_KERNEL(elementwise_scale)
