// The state behind products of warpgroups: what is under way, and sums that are hidden until they are waited for.
#pragma once
#include <vector>

#include "block.hpp"
#include "product_requests.hpp"

namespace emulator {

constexpr int warpgroup_size = 128;
constexpr int most_warpgroups = most_threads / warpgroup_size;
constexpr int widest_product = 256;

// The factors of one product as they were when it was issued: they must still be the same when it has been waited for.
struct Operation {
    ProductRequest request;
    int unfinished = 0;  // threads that have not waited
    Place place{"", 0};
    u16 a[64][16];
    u16 b[16][widest_product];
};

// A thread's accumulators while products add to them; the array itself holds poison meanwhile.
struct HiddenSums {
    float* array;
    int count;
    int under_way;
    float values[widest_product / 2];
};

struct ThreadProducts {
    struct Issued {
        std::size_t operation;
        float* array;
    };
    std::vector<HiddenSums> hidden;
    std::vector<Issued> issued;       // oldest first
    std::vector<std::size_t> groups;  // how many of them each committed group has
    std::size_t open = 0;
    bool fenced = false;
    std::vector<float*> fence_names;
    int phase = 0;
};

// Where 128 threads meet, as lanes do in a Warp.
struct Warpgroup {
    int arrived = 0;
    const char* word = nullptr;
    Place place{"", 0};
    ProductRequest requests[warpgroup_size];
    std::size_t operation[2];
    float product[2][64][widest_product];
};

struct Products {
    std::vector<ThreadProducts> threads;  // empty where the block has none
    std::vector<Warpgroup> groups;
    std::vector<Operation> operations;
    std::vector<std::size_t> free_operations;

    ThreadProducts& of_current_thread(Block& block);
    void reset();
    std::string leftovers() const;
};

}  // namespace emulator
