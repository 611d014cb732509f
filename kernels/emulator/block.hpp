// One block on one OS thread: its threads are fibers that run until they wait, in an order that a schedule chooses.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fiber.hpp"

namespace emulator {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int warp_size = 32;
constexpr int most_threads = 1024;
constexpr int most_warps = most_threads / warp_size;
constexpr u32 most_shared_bytes = 227 * 1024;        // dynamic and static together, as on sm_90
constexpr u32 most_static_shared_bytes = 48 * 1024;  // arrays that a kernel declares
constexpr u32 static_shared_start = 256 * 1024;      // our addresses: dynamic bytes from 0, arrays from here
constexpr u32 shared_arena_bytes = static_shared_start + 2 * most_static_shared_bytes;
constexpr unsigned char poison = 0xff;               // a NaN in f32 and bf16, -1 as an integer

// A line of a kernel's text.
struct Place {
    const char* file;
    int line;
    static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    bool operator==(const Place& other) const { return line == other.line && (file == other.file || !std::strcmp(file, other.file)); }
};

// A copy into shared memory that its thread has not waited for.
struct PendingCopy {
    u32 to;
    u32 bytes;
    unsigned char data[16];
    Place place;
};

// One thread of the block.
struct Fiber {
    int context = -1;  // which of the block's contexts it runs in; none before it begins
    int thread = 0;
    int phase = 0;  // which half of its warp's slots it uses next
    bool ended = false;
    const char* waits_at = nullptr;  // the word it waits in, for the message of a deadlock
    Place place{"", 0};
    std::vector<PendingCopy> copies;       // in order of issue
    std::vector<std::size_t> copy_groups;  // how many copies each open group has, oldest first
    std::size_t open_copies = 0;           // issued since the last commit
    int warp() const { return thread / warp_size; }
    int lane() const { return thread % warp_size; }
};

// Where 32 lanes exchange values. Two halves: a fast lane may already fill the next exchange.
struct Warp {
    static constexpr int slot_bytes = 64;
    int arrived = 0;
    const char* word = nullptr;
    Place place{"", 0};
    alignas(64) unsigned char slots[2][warp_size][slot_bytes];
    alignas(64) float product[2][16][8];            // of one mma.sync
    alignas(64) u32 fragments[2][warp_size][4];     // of one ldmatrix
    u32 ballot[2];
};

// A barrier counted in threads: the block's (0) or a named one.
struct Barrier {
    int arrived = 0;
    int expected = 0;
    u64 here[most_threads / 64] = {};   // who has arrived
    u64 waiting[most_threads / 64] = {};  // and who of them waits
    Place place{"", 0};
};

enum class Order { ascending, descending, shuffled };

// How the next runnable thread is chosen, and when copies in flight land.
struct Schedule {
    Order order = Order::ascending;
    u64 state = 0;  // of the shuffle
    static Schedule of(u64 number, u64 block);
    u32 random(u32 below);
};

class Block;
struct Transfers;  // transfers.hpp
struct Products;   // products.hpp
struct Races;      // races.hpp
extern __thread Block* current_block;
inline Block& block() { return *current_block; }

// What a worker owns and reuses from block to block.
class Block {
  public:
    Block();
    ~Block();
    Block(const Block&) = delete;

    // Runs one block to its end; false leaves why in `fault`.
    bool run(void (*kernel)(void**), void** arguments, Schedule schedule);

    // Set before `run`.
    u32 index[3], grid[3];
    int threads = 0;
    u32 shared_bytes = 0;

    // For the twins of the vocabulary.
    Fiber* current = nullptr;
    unsigned char* shared = nullptr;
    std::string fault;
    int loads_in_flight = 0;
    std::unique_ptr<Transfers> transfers;
    std::unique_ptr<Products> products;
    std::unique_ptr<Races> races;
    Warp& warp() { return warps[current->warp()]; }
    void* static_shared(const void* site, u32 bytes, u32 alignment, Place place);
    // Ends the block with a message; nothing of it runs again.
    [[noreturn]] void fail(Place place, const char* format, ...) __attribute__((format(printf, 3, 4)));
    // Pauses the current thread until `wake`.
    void wait(const char* word, Place place);
    void wake(int thread);
    // All lanes of the warp meet; the last one runs `complete` before any goes on. Returns the half of the slots.
    template <class Complete> int meet_warp(const char* word, Place place, Complete complete);
    // What the lanes of the current warp wrote before is known to all of them after.
    void order_warp();
    void arrive(int barrier, int expected, bool waits, const char* word, Place place);
    // The bytes [address, address + bytes) of shared memory, which must lie inside what the block has.
    unsigned char* span(u32 address, u32 bytes, u32 alignment, const char* word, Place place);
    void enter();  // a fiber's first steps
    // Lands the loads in flight that the schedule wants now, or one that is needed as no thread can go on.
    void let_loads_land(bool is_picking);

  private:
    void start_threads();
    void check_end();
    Fiber* pick();
    Context& begin_or_continue(Fiber& fiber);
    void switch_away();
    void report_deadlock();
    int take_ready(int warp);

    Stacks stacks;
    std::vector<Context> contexts;
    std::vector<int> free_contexts;
    Context scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Barrier barriers[16];
    u32 ready_warps = 0;
    u32 ready[most_warps] = {};
    int running_warp = 0;
    int left = 0;
    Schedule schedule;
    void (*kernel)(void**) = nullptr;
    void** arguments = nullptr;
    struct StaticArray {
        const void* site;
        u32 start, bytes;
    };
    std::vector<StaticArray> statics;
    u32 static_end = static_shared_start;
};

// Leaves a value in the current lane's slot for the next meeting of its warp.
template <class T> inline void deposit(const T& value) {
    static_assert(sizeof(T) <= Warp::slot_bytes, "a lane's slot is too small for this value");
    Fiber& fiber = *block().current;
    std::memcpy(block().warp().slots[fiber.phase][fiber.lane()], &value, sizeof(T));
}
// What a lane has left there.
template <class T> inline T deposited(const Warp& warp, int phase, int lane) {
    T value;
    std::memcpy(&value, warp.slots[phase][lane], sizeof(T));
    return value;
}

template <class Complete> int Block::meet_warp(const char* word, Place place, Complete complete) {
    Warp& meeting = warp();
    int phase = current->phase;
    current->phase ^= 1;
    current->place = place;
    if (meeting.arrived == 0) {
        meeting.word = word, meeting.place = place;
    } else if (meeting.word != word && std::strcmp(meeting.word, word) != 0) {
        fail(place, "lanes of warp %d part: one is at `%s`, another at `%s` (line %d)", current->warp(), word,
             meeting.word, meeting.place.line);
    }
    if (++meeting.arrived < warp_size) {
        wait(word, place);
        return phase;
    }
    meeting.arrived = 0;
    complete(meeting, phase);
    int here = current->warp();
    ready[here] |= ~(1u << current->lane());
    ready_warps |= 1u << here;
    return phase;
}

inline void Block::wake(int thread) {
    ready[thread / warp_size] |= 1u << thread % warp_size;
    ready_warps |= 1u << thread / warp_size;
}

}  // namespace emulator
