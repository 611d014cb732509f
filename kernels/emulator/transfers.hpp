// The state behind transfer barriers and bulk copies of one block.
#pragma once
#include <vector>

#include "block.hpp"

namespace emulator {

struct TransferBarrier {
    u32 address;
    u32 arrivals, pending;
    long bytes = 0;      // announced and not yet brought
    long announced = 0;  // announced and not yet asked for
    u32 parity = 0;      // of the phase under way
    u64 waiting[most_threads / 64] = {};
};

// A row of bytes on its way into shared memory.
struct Piece {
    u32 to;
    std::size_t from;  // where its bytes are in Load::data
    u32 bytes;
};

struct Load {
    std::size_t barrier;
    std::vector<unsigned char> data;
    std::vector<Piece> pieces;
    u32 bytes;
    Place place;
};

// Shared memory that a copy to global memory reads until it is waited for.
struct StorePiece {
    unsigned char* to;
    u32 from, bytes;
    std::size_t seen;  // where the bytes as they were at the start are in Store::data
};
struct Store {
    std::vector<StorePiece> pieces;
    std::vector<unsigned char> data;
    Place place;
};
struct ThreadStores {
    std::vector<Store> stores;
    std::vector<std::size_t> groups;
    std::size_t open = 0;
};

struct Transfers {
    std::vector<TransferBarrier> barriers;
    std::vector<Load> loads;
    std::vector<ThreadStores> stores;  // by thread; empty where the block has none

    ThreadStores& of_current_thread(Block& block);
    void reset();
    TransferBarrier& find(Block& block, u32 address, const char* word, Place place);
    void end_phase_if_complete(Block& block, TransferBarrier& barrier);
    void start(Block& block, Load load, const char* word);
    void land(Block& block, std::size_t load);
    // What is wrong now that every thread has ended; empty where nothing is.
    std::string leftovers() const;
};

}  // namespace emulator
