// Compares what the emulator's words do (words.cu) with plain C++; prints every difference and ends with how many.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "emulator.h"

using u16 = unsigned short;
using u32 = unsigned int;

static std::mt19937 generator(11);
static int differences = 0;

static float small_integer() { return static_cast<float>(static_cast<int>(generator() % 9) - 4); }
static u16 half(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<u16>(bits >> 16);
}
static std::vector<float> numbers(int count) {
    std::vector<float> values(count);
    for (float& value : values) value = small_integer();
    return values;
}
static std::vector<u16> halves(const std::vector<float>& values) {
    std::vector<u16> result;
    for (float value : values) result.push_back(half(value));
    return result;
}

template <class... Arguments> static void launch(const std::string& kernel, u32 threads, u32 shared_bytes, Arguments... values) {
    void* arguments[] = {&values...};
    u32 bytes[] = {sizeof(Arguments)...}, grid[3] = {1, 1, 1};
    char message[512];
    for (u32 schedule = 0; schedule < 3; schedule++) {
        EmulatorSettings settings = {90, schedule, 1};
        if (emulator_launch(kernel.c_str(), grid, threads, shared_bytes, arguments, bytes, sizeof...(values), &settings, message,
                            sizeof message) != EMULATOR_OK)
            differences++, std::printf("%s\n", message);
    }
}

template <class T> static void compare(const std::string& what, const std::vector<T>& got, const std::vector<T>& expected) {
    for (std::size_t index = 0; index < expected.size(); index++)
        if (!(got[index] == expected[index])) {
            differences++;
            std::printf("%s: element %zu is %g, not %g\n", what.c_str(), index, double(got[index]), double(expected[index]));
            return;
        }
}

static void check_exchange() {
    std::vector<float> in = numbers(32), out(7 * 32, NAN), expected(7 * 32);
    float sum = 0, most = -1e9f;
    for (float value : in) sum += value, most = std::fmax(most, value);
    for (int lane = 0; lane < 32; lane++) {
        expected[lane] = in[31 - lane], expected[32 + lane] = in[lane ^ 5];
        expected[64 + lane] = in[lane + 3 < 32 ? lane + 3 : lane], expected[96 + lane] = in[lane >= 4 ? lane - 4 : lane];
        expected[128 + lane] = in[lane] > 0, expected[160 + lane] = sum, expected[192 + lane] = most;
    }
    launch("words_exchange", 32, 0, in.data(), out.data());
    compare("exchanges", out, expected);
}

static std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, int m, int n, int k) {
    std::vector<float> c(m * n, 0.0f);
    for (int row = 0; row < m; row++)
        for (int column = 0; column < n; column++)
            for (int inner = 0; inner < k; inner++) c[row * n + column] += a[row * k + inner] * b[inner * n + column];
    return c;
}

static void check_multiply(int turned) {
    std::vector<float> a = numbers(256), b = numbers(128), stored = b, c(128, NAN);
    if (turned)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) stored[n * 16 + k] = b[k * 8 + n];
    std::vector<u16> left = halves(a), right = halves(stored);
    launch("words_multiply", 32, 0, left.data(), right.data(), c.data(), turned);
    compare(turned ? "mma.sync, b turned" : "mma.sync", c, product(a, b, 16, 8, 16));
}

struct alignas(64) Map {
    unsigned char bytes[128];
};

// A box of a matrix [rows, columns] whose edges it may pass: zeros come in, nothing goes out.
static void check_tile(int rows, int columns, int stride, int box_rows, int x, int y) {
    std::vector<u16> source(rows * stride), target(rows * stride, 7), seen(box_rows * 64), expected(box_rows * 64), stored = target;
    for (u16& value : source) value = half(small_integer());
    Map from, to;
    emulator_tensor_map(&from, reinterpret_cast<uint64_t>(source.data()), rows, columns, stride * 2, box_rows, 64);
    emulator_tensor_map(&to, reinterpret_cast<uint64_t>(target.data()), rows, columns, stride * 2, box_rows, 64);
    for (int row = 0; row < box_rows; row++)
        for (int column = 0; column < 64; column++) {
            bool inside = y + row >= 0 && y + row < rows && x + column < columns && x + column >= 0;
            u16 value = inside ? source[(y + row) * stride + x + column] : 0;
            expected[row * 64 + (column / 8 ^ row % 8) * 8 + column % 8] = value;
            if (inside) stored[(y + row) * stride + x + column] = value;
        }
    launch("words_tile", 32, box_rows * 128 + 8, from, to, seen.data(), x, y, box_rows);
    std::string where = " at (" + std::to_string(x) + ", " + std::to_string(y) + ")";
    compare("load_tile" + where, seen, expected);
    compare("store_tile" + where, target, stored);
}

static void check_group(int n) {
    for (std::string layout : {"000", "010", "100", "110", "001", "011"}) {
        std::vector<float> a = numbers(64 * 64), b = numbers(64 * n), c(64 * n, NAN);
        std::vector<u16> left = halves(a), right = halves(b);
        std::string kernel = "words_group_" + std::to_string(n) + "_" + layout;
        launch(kernel, 128, 8192 + (n + 63) / 64 * 8192, left.data(), right.data(), c.data());
        compare(kernel, c, product(a, b, 64, n, 64));
    }
}

int main() {
    check_exchange();
    check_multiply(0);
    check_multiply(1);
    for (int x : {0, 64, 72, 136})
        for (int y : {-3, 0, 5, 30}) check_tile(33, 141, 144, 16, x, y);
    for (int n : {32, 64, 96, 128, 192, 256}) check_group(n);
    std::printf("%d differences\n", differences);
    return differences != 0;
}
