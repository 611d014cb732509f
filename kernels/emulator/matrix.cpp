// Copies that land when they are waited for, and the products of one warp.
#include "block.hpp"

#include <cstdint>

#include "matrix_math.hpp"
#include "races.hpp"

namespace emulator {

// The old bytes are gone at once and the new ones are not there before the wait: whoever reads between finds poison.
void copy_async(u32 to, const void* from, u32 bytes, bool inside, Place place) {
    Block& here = block();
    unsigned char* target = here.span(to, bytes, bytes, "copy_async", place);
    PendingCopy copy{to, bytes, {}, place};
    if (inside) {
        if (reinterpret_cast<std::uintptr_t>(from) % bytes != 0)
            here.fail(place, "`copy_async`: global address %p is not a multiple of %u", from, bytes);
        std::memcpy(copy.data, from, bytes);
    }
    if (is_tracing) here.races->start_write(here, to, bytes, place);
    std::memset(target, poison, bytes);
    here.current->copies.push_back(copy);
    here.current->open_copies++;
}

void commit_copies() {
    Fiber& fiber = *block().current;
    fiber.copy_groups.push_back(fiber.open_copies);
    fiber.open_copies = 0;
}

void wait_for_copies(int pending) {
    Fiber& fiber = *block().current;
    std::size_t groups = fiber.copy_groups.size();
    if (groups <= static_cast<std::size_t>(pending)) return;
    std::size_t landing = groups - pending, copies = 0;
    for (std::size_t group = 0; group < landing; group++) copies += fiber.copy_groups[group];
    for (std::size_t index = 0; index < copies; index++) {
        const PendingCopy& copy = fiber.copies[index];
        std::memcpy(block().shared + copy.to, copy.data, copy.bytes);
        if (is_tracing) {
            Races& races = *block().races;
            races.end_write(copy.to, copy.bytes, fiber.thread, races.clocks[fiber.thread][fiber.thread]);
        }
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + copies);
    fiber.copy_groups.erase(fiber.copy_groups.begin(), fiber.copy_groups.begin() + landing);
}

// Fills every lane's fragments from the rows that the lanes named.
static void read_matrices(Warp& warp, int phase, int matrices, bool transposed) {
    const unsigned char* shared = block().shared;
    for (int matrix = 0; matrix < matrices; matrix++) {
        u16 values[8][8];
        for (int row = 0; row < 8; row++)
            std::memcpy(values[row], shared + deposited<u32>(warp, phase, matrix * 8 + row), 16);
        for (int lane = 0; lane < warp_size; lane++) {
            int major = lane / 4, minor = lane % 4 * 2;
            u16 low = transposed ? values[minor][major] : values[major][minor];
            u16 high = transposed ? values[minor + 1][major] : values[major][minor + 1];
            warp.fragments[phase][lane][matrix] = low | static_cast<u32>(high) << 16;
        }
    }
}

void load_matrices(u32* fragment, u32 row, int matrices, bool transposed, const char* word, Place place) {
    Block& here = block();
    if (here.current->lane() < matrices * 8) {
        here.span(row, 16, 16, word, place);
        if (is_tracing) here.races->read(here, here.current->thread, row, 16, place);
    }
    deposit(row);
    int phase = here.meet_warp(word, place, [=](Warp& warp, int phase) {
        read_matrices(warp, phase, matrices, transposed);
    });
    std::memcpy(fragment, here.warp().fragments[phase][here.current->lane()], matrices * sizeof(u32));
}

void multiply_64_n_16(float* product, int stride, int n, const u16 (&a)[64][16], const u16 (&b)[16][256]) {
    static thread_local float rows[16][256];
    for (int inner = 0; inner < 16; inner++)
        for (int column = 0; column < n; column++) rows[inner][column] = float_of_bits(u32(b[inner][column]) << 16);
    for (int row = 0; row < 64; row++) {
        float* sums = product + row * stride;
        std::memset(sums, 0, n * sizeof(float));
        for (int inner = 0; inner < 16; inner++) {
            float factor = float_of_bits(u32(a[row][inner]) << 16);
            for (int column = 0; column < n; column++) sums[column] += factor * rows[inner][column];
        }
    }
}

struct Factors {
    u32 a[4], b[2];
};

// Gathers a [16, 16] and b [16, 8] from the lanes and multiplies.
static void multiply_warp(Warp& warp, int phase) {
    alignas(64) float a[16][16], b[16][8];
    for (int lane = 0; lane < warp_size; lane++) {
        Factors factors = deposited<Factors>(warp, phase, lane);
        int major = lane / 4, minor = lane % 4 * 2;
        for (int part = 0; part < 4; part++) {
            float* row = &a[major + part % 2 * 8][minor + part / 2 * 8];
            row[0] = low_half(factors.a[part]), row[1] = high_half(factors.a[part]);
        }
        for (int part = 0; part < 2; part++) {
            b[minor + part * 8][major] = low_half(factors.b[part]);
            b[minor + part * 8 + 1][major] = high_half(factors.b[part]);
        }
    }
    multiply_16_8_16(warp.product[phase], a, b);
}

void multiply_accumulate(float* c, const u32* a, u32 b0, u32 b1, Place place) {
    Block& here = block();
    deposit(Factors{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    int phase = here.meet_warp("multiply_accumulate_bf16", place, multiply_warp);
    int major = here.current->lane() / 4, minor = here.current->lane() % 4 * 2;
    const auto& product = here.warp().product[phase];
    c[0] += product[major][minor], c[1] += product[major][minor + 1];
    c[2] += product[major + 8][minor], c[3] += product[major + 8][minor + 1];
}

}  // namespace emulator
