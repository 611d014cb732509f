// SwiGLU, silu(gate) ∘ up, of rows gate[F] | up[F].
//
// Bound by memory: forward 12 bytes, backward 20 bytes a number of out[T, F]. A thread takes N columns; one block row
// of the grid is one row of tokens.
#include "packs.cuh"

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// out[T, F] from gate_up[T, 2F].
template <int N>
DEVICE void swiglu_forward(const float* gate_up, float* out, u32 width) {
  u64 row = block_x();
  u32 column = grid_column<N>();
  if (column >= width) return;
  const float* from = gate_up + row * 2 * width + column;
  Pack<N> gate = load_pack<N>(from), up = load_pack<N>(from + width);
  for (int i = 0; i < N; i++) up.at[i] *= gate.at[i] * sigmoid(gate.at[i]);
  store_pack<N>(out + row * width + column, up);
}

// dgate_up[T, 2F] from gate_up[T, 2F] and dout[T, F].
template <int N>
DEVICE void swiglu_backward(const float* gate_up, const float* dout, float* dgate_up, u32 width) {
  u64 row = block_x();
  u32 column = grid_column<N>();
  if (column >= width) return;
  u64 place = row * 2 * width + column;
  Pack<N> gate = load_pack<N>(gate_up + place), up = load_pack<N>(gate_up + place + width);
  Pack<N> gradient = load_pack<N>(dout + row * width + column);
  for (int i = 0; i < N; i++) {
    float sigma = sigmoid(gate.at[i]), silu = gate.at[i] * sigma;
    gate.at[i] = gradient.at[i] * up.at[i] * (sigma + silu * (1.0f - sigma));
    up.at[i] = gradient.at[i] * silu;
  }
  store_pack<N>(dgate_up + place, gate);
  store_pack<N>(dgate_up + place + width, up);
}

#define SWIGLU_KERNELS(N)                                                                                    \
  KERNEL LAUNCH_BOUNDS(256, 8) swiglu_forward_##N(const float* gate_up, float* out, u32 width) {             \
    swiglu_forward<N>(gate_up, out, width);                                                                  \
  }                                                                                                          \
  KERNEL LAUNCH_BOUNDS(256, 8) swiglu_backward_##N(const float* gate_up, const float* dout, float* dgate_up, \
                                                   u32 width) {                                              \
    swiglu_backward<N>(gate_up, dout, dgate_up, width);                                                      \
  }                                                                                                          \
  REGISTER_KERNEL(swiglu_forward_##N)                                                                        \
  REGISTER_KERNEL(swiglu_backward_##N)

SWIGLU_KERNELS(4)
SWIGLU_KERNELS(1)
