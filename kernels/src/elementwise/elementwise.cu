// Elementwise sums and products: a thread a number.

// target[len] += source[len]
extern "C" __global__ void elementwise_add(const float* source, float* target, u64 len) {
  const u64 index = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < len) target[index] += source[index];
}

// target[len] *= factor
extern "C" __global__ void elementwise_scale(float* target, u64 len, float factor) {
  const u64 index = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < len) target[index] *= factor;
}
