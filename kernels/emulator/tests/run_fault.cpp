// Runs one kernel of faults.cu or faults_hopper.cu under one schedule: `run_fault KERNEL SCHEDULE`.
// Prints `right`, `wrong numbers`, or what the emulator says; nothing else decides whether a mistake was found.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulator.h"

using u16 = unsigned short;
using u32 = unsigned int;

static std::mt19937 generator(7);

// Numbers that bf16 and short sums of f32 hold exactly, so that right means equal.
static float small_integer() { return static_cast<float>(static_cast<int>(generator() % 9) - 4); }
static u16 bf16_of(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<u16>(bits >> 16);
}

// Memory that ends where its last element does, so that AddressSanitizer sees the next.
template <class T> static std::unique_ptr<T[]> filled(std::size_t count, T (*next)()) {
    std::unique_ptr<T[]> values(new T[count]);
    for (std::size_t index = 0; index < count; index++) values[index] = next();
    return values;
}

struct Launcher {
    const char* kernel;
    u32 schedule;

    template <class... Arguments> bool operator()(u32 x, u32 y, u32 threads, u32 shared_bytes, Arguments&... values) const {
        void* arguments[] = {&values...};
        u32 bytes[] = {sizeof(Arguments)...}, grid[3] = {x, y, 1};
        EmulatorSettings settings = {90, schedule, 1};
        char message[512];
        int code = emulator_launch(kernel, grid, threads, shared_bytes, arguments, bytes, sizeof...(values), &settings,
                                   message, sizeof message);
        if (code != EMULATOR_OK) std::printf("%s\n", message);
        return code == EMULATOR_OK;
    }
};

static void judge(const float* values, const std::vector<float>& expected) {
    for (std::size_t index = 0; index < expected.size(); index++)
        if (!(values[index] == expected[index])) {
            std::printf("wrong numbers: element %zu is %g, not %g\n", index, values[index], expected[index]);
            return;
        }
    std::printf("right\n");
}

// `expect(input, i)` is element i of the output.
template <class Expect> static void run_row(const Launcher& launch, Expect expect) {
    auto input = filled<float>(128, small_integer), output = filled<float>(128, [] { return NAN; });
    float *in = input.get(), *out = output.get();
    if (!launch(1, 1, 128, 0, in, out)) return;
    std::vector<float> expected(128);
    for (int index = 0; index < 128; index++) expected[index] = expect(in, index);
    judge(out, expected);
}

static void run_multiply(const Launcher& launch) {
    int k = 96;
    auto a = filled<float>(128 * k, small_integer), b = filled<float>(k * 8, small_integer);
    std::vector<u16> a_half(128 * k), b_half(k * 8);
    for (std::size_t index = 0; index < a_half.size(); index++) a_half[index] = bf16_of(a[index]);
    for (std::size_t index = 0; index < b_half.size(); index++) b_half[index] = bf16_of(b[index]);
    auto c = filled<float>(128 * 8, [] { return NAN; });
    u16 *left = a_half.data(), *right = b_half.data();
    float* sums = c.get();
    if (!launch(1, 1, 128, 2 * (128 * 32 + 512), left, right, sums, k)) return;
    std::vector<float> expected(128 * 8, 0.0f);
    for (int row = 0; row < 128; row++)
        for (int column = 0; column < 8; column++)
            for (int inner = 0; inner < k; inner++) expected[row * 8 + column] += a[row * k + inner] * b[inner * 8 + column];
    judge(sums, expected);
}

struct alignas(64) Map {
    unsigned char bytes[128];
};

static void run_gemm(const Launcher& launch) {
    int m = 128, n = 64, k = 320;
    auto a = filled<float>(m * k, small_integer), b = filled<float>(n * k, small_integer);
    std::unique_ptr<u16[]> a_half(new u16[m * k]), b_half(new u16[n * k]);  // malloc aligns to 16
    for (int index = 0; index < m * k; index++) a_half[index] = bf16_of(a[index]);
    for (int index = 0; index < n * k; index++) b_half[index] = bf16_of(b[index]);
    auto c = filled<float>(m * n, [] { return NAN; }), first = filled<float>(m, [] { return NAN; });
    Map left, right;
    emulator_tensor_map(&left, reinterpret_cast<uint64_t>(a_half.get()), m, k, k * 2, 64, 64);
    emulator_tensor_map(&right, reinterpret_cast<uint64_t>(b_half.get()), n, k, k * 2, 64, 64);
    float *sums = c.get(), *column = first.get();
    if (!launch(1, 2, 256, 2 * 16384 + 64 + 256, left, right, sums, column, n, k)) return;
    std::vector<float> expected(m * n, 0.0f);
    for (int row = 0; row < m; row++)
        for (int other = 0; other < n; other++)
            for (int inner = 0; inner < k; inner++) expected[row * n + other] += a[row * k + inner] * b[other * k + inner];
    for (int row = 0; row < m; row++)
        if (!(column[row] == expected[row * n])) {
            std::printf("wrong numbers: row %d of the stored column is %g, not %g\n", row, column[row], expected[row * n]);
            return;
        }
    judge(sums, expected);
}

int main(int count, char** words) {
    if (count != 3) return std::fprintf(stderr, "usage: run_fault KERNEL SCHEDULE\n"), 2;
    Launcher launch{words[1], static_cast<u32>(std::atoi(words[2]))};
    std::string kernel = words[1];
    auto starts = [&](const char* prefix) { return kernel.rfind(prefix, 0) == 0; };
    if (starts("reverse_")) run_row(launch, [](const float* in, int i) { return in[127 - i]; });
    else if (starts("rotate_")) run_row(launch, [](const float* in, int i) { return in[i / 32 * 32 + (i + 1) % 32]; });
    else if (starts("relay_")) run_row(launch, [](const float* in, int i) { return 2 * (in[63 - i % 64] + in[127 - i % 64]); });
    else if (starts("multiply_")) run_multiply(launch);
    else if (starts("gemm_")) run_gemm(launch);
    else return std::fprintf(stderr, "no kernel `%s`\n", words[1]), 2;
    return 0;
}
