// Arithmetic of the emulated tensor cores: exact products of bf16, sums in f32.
#pragma once
#include <cstring>

namespace emulator {

inline float float_of_bits(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned bits_of(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float low_half(unsigned pair) { return float_of_bits(pair << 16); }
inline float high_half(unsigned pair) { return float_of_bits(pair & 0xffff0000u); }

// product[16, 8] = a[16, 16] b[16, 8], every sum in ascending order of the inner index.
inline void multiply_16_8_16(float (&product)[16][8], const float (&a)[16][16], const float (&b)[16][8]) {
    typedef float Eight __attribute__((vector_size(32)));
    Eight rows[16];
    std::memcpy(rows, b, sizeof rows);
    for (int row = 0; row < 16; row++) {
        Eight sum = a[row][0] * rows[0];
        for (int inner = 1; inner < 16; inner++) sum += a[row][inner] * rows[inner];
        std::memcpy(product[row], &sum, sizeof sum);
    }
}

// product[64, n] = a[64, 16] b[16, n] of bf16; rows of the product lie `stride` apart, those of b 256.
void multiply_64_n_16(float* product, int stride, int n, const unsigned short (&a)[64][16],
                      const unsigned short (&b)[16][256]);

}  // namespace emulator
