// Finds accesses to shared memory that nothing orders: who wrote and read each two bytes, and what every thread knows of
// the others (vector clocks: Flanagan and Freund, "FastTrack", PLDI 2009). Tracing builds alone (see README.md).
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "block.hpp"

namespace emulator {

#ifdef EMULATOR_TRACE
constexpr bool is_tracing = true;
#else
constexpr bool is_tracing = false;
#endif

using Clock = std::vector<u32>;  // by thread, then by transfer barrier: the latest time that is known

constexpr u32 time_in_flight = 0xffffffffu;  // of a write that nobody may know of yet
constexpr int most_transfer_barriers = 64;

struct Races {
    struct Epoch {
        u32 time = 0;  // 0: never
        u32 actor = 0;
    };
    struct Cell {
        Epoch write, read;
        u32 more_readers = 0;  // 1 + index into `readers`, where one reader is not enough
    };

    int actors = 0;
    std::vector<Clock> clocks;        // of each thread
    std::array<Clock, 16> barriers;   // what arrived at the block's and the named barriers
    std::vector<Clock> arriving;      // at each transfer barrier in the phase under way
    std::vector<Clock> arrived;       // in the phases that have ended
    std::vector<u32> landings;        // loads so far by each transfer barrier
    std::vector<Cell> cells;          // of every two bytes of the arena
    std::vector<std::vector<Epoch>> readers;

    void start_block(const Block& block);
    void add_transfer_barrier();
    void release(int thread, Clock& clock);
    void acquire(int thread, const Clock& clock);
    void read(Block& block, int thread, u32 address, u32 bytes, Place place);
    void write(Block& block, int thread, u32 address, u32 bytes, Place place);
    // From the issue to the end, nobody may look.
    void start_write(Block& block, u32 address, u32 bytes, Place place);
    void end_write(u32 address, u32 bytes, int actor, u32 time);

  private:
    bool knows(int thread, Epoch epoch) const;
    void check(Block& block, int thread, Cell& cell, bool writes, u32 address, Place place);
    [[noreturn]] void report(Block& block, int thread, const char* does, Epoch other, const char* did, u32 address,
                             Place place);
};

}  // namespace emulator
