// Runs the threads of a block until all have ended, one fails, or none can go on.
#include "block.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <new>
#include <tuple>

#include "forbidden.hpp"
#include "products.hpp"
#include "races.hpp"
#include "transfers.hpp"

namespace emulator {

__thread Block* current_block = nullptr;

static void fiber_entry() {
    arrive_in_context();
    block().enter();
}

Schedule Schedule::of(u64 number, u64 block) {
    Schedule schedule;
    schedule.order = number == 0 ? Order::ascending : number == 1 ? Order::descending : Order::shuffled;
    schedule.state = (number * 0x9E3779B97F4A7C15ull) ^ ((block + 1) * 0xD1342543DE82EF95ull);
    return schedule;
}

// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016.
u32 Schedule::random(u32 below) {
    if (state == 0) state = 1;
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return static_cast<u32>((state * 0x2545F4914F6CDD1Dull) >> 32) % below;
}

Block::Block()
    : transfers(std::make_unique<Transfers>()), products(std::make_unique<Products>()),
      races(std::make_unique<Races>()), fibers(most_threads),
      warps(most_warps) {
    shared = static_cast<unsigned char*>(std::aligned_alloc(1024, shared_arena_bytes));
    if (!shared) throw std::bad_alloc();
    for (int thread = 0; thread < most_threads; thread++) fibers[thread].thread = thread;
}

Block::~Block() {
    ASAN_UNPOISON_MEMORY_REGION(shared, shared_arena_bytes);
    std::free(shared);
}

bool Block::run(void (*kernel)(void**), void** arguments, Schedule schedule) {
    this->kernel = kernel, this->arguments = arguments, this->schedule = schedule;
    current_block = this;
    describe_thread_stack(scheduler);
    start_threads();
    if (Fiber* first = pick()) {
        current = first;
        switch_context(scheduler, begin_or_continue(*first));
    }
    if (fault.empty() && left > 0) report_deadlock();
    if (fault.empty()) check_end();
    return fault.empty();
}

void Block::start_threads() {
    fault.clear();
    ASAN_UNPOISON_MEMORY_REGION(shared, shared_bytes);
    std::memset(shared, poison, shared_bytes);
    ASAN_POISON_MEMORY_REGION(shared + shared_bytes, shared_arena_bytes - shared_bytes);
    statics.clear(), static_end = static_shared_start;
    for (Barrier& barrier : barriers) barrier = Barrier();
    transfers->reset(), products->reset(), loads_in_flight = 0;
    if (is_tracing) races->start_block(*this);
    for (int thread = 0; thread < threads; thread++) {
        Fiber& fiber = fibers[thread];
        fiber.phase = 0, fiber.ended = false, fiber.waits_at = nullptr;
        fiber.copies.clear(), fiber.copy_groups.clear(), fiber.open_copies = 0;
        fiber.context = -1;
    }
    stacks.reserve(threads);
    contexts.resize(most_threads), free_contexts.clear();
    for (int context = threads; context-- > 0;) free_contexts.push_back(context);
    ready_warps = 0, running_warp = 0, left = threads;
    for (int warp = 0; warp < threads / warp_size; warp++) {
        warps[warp].arrived = 0;
        ready[warp] = ~0u, ready_warps |= 1u << warp;
    }
}

Context& Block::begin_or_continue(Fiber& fiber) {
    if (fiber.context < 0) {
        fiber.context = free_contexts.back();
        free_contexts.pop_back();
        stacks.give(contexts[fiber.context], fiber.context);
        prepare_context(contexts[fiber.context], fiber_entry);
    }
    return contexts[fiber.context];
}

// Who has ended goes on as the next thread that has not begun: threads that never wait share one warm stack.
void Block::enter() {
    int mine = current->context;
    while (true) {
        kernel(arguments);
        current->ended = true, left--;
        Fiber* next = pick();
        if (next) current = next;
        if (next && next->context < 0) {
            next->context = mine;
            continue;
        }
        free_contexts.push_back(mine);
        leave_context(contexts[mine], next ? contexts[next->context] : scheduler);
        __builtin_unreachable();
    }
}

void Block::switch_away() {
    Fiber* from = current;
    Fiber* to = pick();
    if (to == from) return;
    if (to) current = to;
    switch_context(contexts[from->context], to ? begin_or_continue(*to) : scheduler);
}

void Block::wait(const char* word, Place place) {
    current->waits_at = word, current->place = place;
    switch_away();
    current->waits_at = nullptr;
}

static int highest_bit(u32 bits) { return 31 - __builtin_clz(bits); }
static int lowest_bit(u32 bits) { return __builtin_ctz(bits); }

// Ascending and descending orders let one warp run as far ahead as it can; a shuffle stays with a warp for a while.
Fiber* Block::pick() {
    if (loads_in_flight) let_loads_land(true);
    if (ready_warps == 0) return nullptr;
    int warp = 0;
    switch (schedule.order) {
        case Order::ascending: warp = lowest_bit(ready_warps); break;
        case Order::descending: warp = highest_bit(ready_warps); break;
        case Order::shuffled: {
            bool stay = (ready_warps >> running_warp & 1) && schedule.random(8) != 0;
            if (stay) { warp = running_warp; break; }
            u32 candidates = ready_warps;
            for (u32 skip = schedule.random(__builtin_popcount(candidates)); skip > 0; skip--)
                candidates &= candidates - 1;
            warp = lowest_bit(candidates);
        }
    }
    running_warp = warp;
    return &fibers[warp * warp_size + take_ready(warp)];
}

// Ascending: as late as possible; descending: at once; shuffled: now and then, in any order.
void Block::let_loads_land(bool is_picking) {
    std::vector<Load>& loads = transfers->loads;
    while (!loads.empty()) {
        bool needed = is_picking && ready_warps == 0;
        bool wanted = schedule.order == Order::descending || (schedule.order == Order::shuffled && schedule.random(16) == 0);
        if (!needed && !wanted) return;
        transfers->land(*this, schedule.order == Order::shuffled ? schedule.random(loads.size()) : 0);
    }
}

int Block::take_ready(int warp) {
    u32 lanes = ready[warp];
    int lane = schedule.order == Order::descending ? highest_bit(lanes) : lowest_bit(lanes);
    if (schedule.order == Order::shuffled) {
        int turn = static_cast<int>(schedule.state >> 40) & 31;
        u32 turned = lanes >> turn;
        if (turned) lane = turn + lowest_bit(turned);
    }
    ready[warp] &= ~(1u << lane);
    if (ready[warp] == 0) ready_warps &= ~(1u << warp);
    return lane;
}

static const char* file_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void Block::fail(Place place, const char* format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    char where[128];
    std::snprintf(where, sizeof where, " at %s:%d (thread %d)", file_name(place.file), place.line, current->thread);
    fault = std::string(text) + where;
    switch_context(contexts[current->context], scheduler);
    __builtin_unreachable();
}

// Who waits where, the same places counted together.
void Block::report_deadlock() {
    std::map<std::tuple<std::string, std::string, int>, int> places;
    for (int thread = 0; thread < threads; thread++) {
        const Fiber& fiber = fibers[thread];
        if (!fiber.ended) places[{fiber.waits_at, file_name(fiber.place.file), fiber.place.line}]++;
    }
    fault = "deadlock:";
    for (const auto& [place, count] : places) {
        const auto& [word, file, line] = place;
        fault += " " + std::to_string(count) + " of " + std::to_string(threads) + " threads wait in `" + word +
                 "` at " + file + ":" + std::to_string(line) + ",";
    }
    fault += " " + std::to_string(threads - left) + " have ended";
}

void Block::check_end() {
    for (int thread = 0; thread < threads; thread++) {
        current = &fibers[thread];
        if (!current->copies.empty())
            fault = "thread " + std::to_string(thread) + " ends before the copy of " +
                    file_name(current->copies[0].place.file) + ":" + std::to_string(current->copies[0].place.line) +
                    " was waited for";
    }
    for (std::string left : {transfers->leftovers(), products->leftovers()})
        if (!left.empty()) fault = left;
    for (int id = 0; id < 16; id++)
        if (barriers[id].arrived != 0)
            fault = "barrier " + std::to_string(id) + " ends with " + std::to_string(barriers[id].arrived) +
                    " arrivals of " + std::to_string(barriers[id].expected);
}

void* Block::static_shared(const void* site, u32 bytes, u32 alignment, Place place) {
    for (const StaticArray& known : statics)
        if (known.site == site) return shared + known.start;
    if (alignment < 16) alignment = 16;
    u32 start = (static_end + alignment - 1) / alignment * alignment;
    u32 total = bytes;
    for (const StaticArray& known : statics) total += known.bytes;
    if (total > most_static_shared_bytes || total + shared_bytes > most_shared_bytes)
        fail(place, "%u bytes of shared arrays beside %u dynamic bytes are more than a block may have", total,
             shared_bytes);
    ASAN_UNPOISON_MEMORY_REGION(shared + start, bytes);
    std::memset(shared + start, poison, bytes);
    statics.push_back({site, start, bytes});
    static_end = start + bytes + 64;  // the gap stays forbidden
    return shared + start;
}

unsigned char* Block::span(u32 address, u32 bytes, u32 alignment, const char* word, Place place) {
    if (address % alignment != 0)
        fail(place, "`%s`: shared address %u is not a multiple of %u", word, address, alignment);
    bool inside = address + bytes <= shared_bytes;
    for (const StaticArray& array : statics)
        inside |= address >= array.start && address + bytes <= array.start + array.bytes;
    if (!inside) fail(place, "`%s`: %u bytes at shared address %u lie outside the block's memory", word, bytes, address);
    return shared + address;
}

void Block::arrive(int id, int expected, bool waits, const char* word, Place place) {
    Barrier& barrier = barriers[id];
    int thread = current->thread;
    if (barrier.arrived == 0) {
        barrier.expected = expected, barrier.place = place;
    } else if (barrier.expected != expected) {
        fail(place, "`%s`: barrier %d is met by %d threads here and by %d at line %d", word, id, expected,
             barrier.expected, barrier.place.line);
    } else if (id == 0 && !(barrier.place == place)) {
        fail(place, "`%s` in a branch: other threads of the block are at line %d", word, barrier.place.line);
    }
    u64 bit = 1ull << thread % 64;
    if (barrier.here[thread / 64] & bit)
        fail(place, "`%s`: the thread is at barrier %d twice before the others", word, id);
    barrier.here[thread / 64] |= bit;
    if (waits) barrier.waiting[thread / 64] |= bit;
    if (is_tracing) races->release(thread, races->barriers[id]);
    current->place = place;
    if (++barrier.arrived < expected) {
        if (waits) wait(word, place);
        return;
    }
    for (int group = 0; group < most_threads / 64; group++)
        for (u64 left = barrier.waiting[group]; left; left &= left - 1) {
            int waiting = group * 64 + __builtin_ctzll(left);
            if (is_tracing) races->acquire(waiting, races->barriers[id]);
            if (waiting != thread) wake(waiting);
        }
    barrier = Barrier();
}

void Block::order_warp() {
    if (!is_tracing) return;
    Clock all(races->actors, 0);
    int first = current->warp() * warp_size;
    for (int lane = 0; lane < warp_size; lane++) races->release(first + lane, all);
    for (int lane = 0; lane < warp_size; lane++) races->acquire(first + lane, all);
}

}  // namespace emulator
