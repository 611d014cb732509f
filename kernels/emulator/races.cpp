// The checks of shared memory, and the calls that a compiler's tracing of plain loads and stores makes.
#include "races.hpp"

#include <algorithm>

namespace emulator {

void Races::start_block(const Block& block) {
    actors = block.threads + most_transfer_barriers;
    clocks.assign(block.threads, Clock(actors, 0));
    for (int thread = 0; thread < block.threads; thread++) clocks[thread][thread] = 1;
    for (Clock& clock : barriers) clock.assign(actors, 0);
    arriving.clear(), arrived.clear(), landings.clear(), readers.clear();
    cells.assign(shared_arena_bytes / 2, Cell());
}

void Races::add_transfer_barrier() {
    arriving.emplace_back(actors, 0), arrived.emplace_back(actors, 0), landings.push_back(0);
}

void Races::release(int thread, Clock& clock) {
    Clock& mine = clocks[thread];
    for (int actor = 0; actor < actors; actor++) clock[actor] = std::max(clock[actor], mine[actor]);
    mine[thread]++;
}

void Races::acquire(int thread, const Clock& clock) {
    Clock& mine = clocks[thread];
    for (int actor = 0; actor < actors; actor++) mine[actor] = std::max(mine[actor], clock[actor]);
}

bool Races::knows(int thread, Epoch epoch) const {
    return epoch.time == 0 || (epoch.time != time_in_flight && clocks[thread][epoch.actor] >= epoch.time);
}

void Races::report(Block& block, int thread, const char* does, Epoch other, const char* did, u32 address, Place place) {
    bool is_thread = static_cast<int>(other.actor) < block.threads;
    std::string who = is_thread ? "thread " + std::to_string(other.actor) : std::string("a load");
    if (other.time == time_in_flight) who = "a copy of " + who;
    const char* rest = place.line ? "; the thread's last word was" : "; no word came before,";
    block.fail(place, "race: thread %d %s shared address %u that %s %s, and nothing orders the two%s", thread, does, address,
               who.c_str(), other.time == time_in_flight ? "is writing" : did, rest);
}

void Races::check(Block& block, int thread, Cell& cell, bool writes, u32 address, Place place) {
    const char* does = writes ? "writes" : "reads";
    if (!knows(thread, cell.write))
        report(block, thread, does, cell.write, "has written", address, place);
    if (!writes) return;
    if (!knows(thread, cell.read)) report(block, thread, does, cell.read, "has read", address, place);
    if (cell.more_readers == 0) return;
    for (Epoch reader : readers[cell.more_readers - 1])
        if (!knows(thread, reader)) report(block, thread, does, reader, "has read", address, place);
}

void Races::read(Block& block, int thread, u32 address, u32 bytes, Place place) {
    for (u32 index = address / 2; index < (address + bytes + 1) / 2; index++) {
        Cell& cell = cells[index];
        check(block, thread, cell, false, index * 2, place);
        Epoch now{clocks[thread][thread], static_cast<u32>(thread)};
        if (cell.more_readers == 0 && knows(thread, cell.read)) {
            cell.read = now;
            continue;
        }
        if (cell.more_readers == 0) readers.emplace_back(), cell.more_readers = static_cast<u32>(readers.size());
        std::vector<Epoch>& others = readers[cell.more_readers - 1];
        others.erase(std::remove_if(others.begin(), others.end(), [&](Epoch other) { return knows(thread, other); }),
                     others.end());
        others.push_back(now);
    }
}

void Races::write(Block& block, int thread, u32 address, u32 bytes, Place place) {
    for (u32 index = address / 2; index < (address + bytes + 1) / 2; index++) {
        Cell& cell = cells[index];
        check(block, thread, cell, true, index * 2, place);
        cell.write = {clocks[thread][thread], static_cast<u32>(thread)};
        cell.read = Epoch();
        if (cell.more_readers) readers[cell.more_readers - 1].clear();
        cell.more_readers = 0;
    }
}

void Races::start_write(Block& block, u32 address, u32 bytes, Place place) {
    write(block, block.current->thread, address, bytes, place);
    for (u32 index = address / 2; index < (address + bytes) / 2; index++) cells[index].write.time = time_in_flight;
}

void Races::end_write(u32 address, u32 bytes, int actor, u32 time) {
    for (u32 index = address / 2; index < (address + bytes) / 2; index++)
        cells[index].write = {time, static_cast<u32>(actor)};
}

#ifdef EMULATOR_TRACE

// A plain access of a kernel; stacks and global memory are none of our concern.
static void trace(const void* pointer, std::size_t bytes, bool writes) {
    Block* block = current_block;
    if (!block || !block->current) return;
    std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(block->shared);
    if (offset >= shared_arena_bytes) return;
    int thread = block->current->thread;
    u32 address = static_cast<u32>(offset), count = static_cast<u32>(bytes);
    if (writes) block->races->write(*block, thread, address, count, block->current->place);
    else block->races->read(*block, thread, address, count, block->current->place);
}

#endif

}  // namespace emulator

#ifdef EMULATOR_TRACE
// What `-fsanitize=thread` makes of loads and stores; the sanitizer's own library is not linked.
using emulator::trace;
#define TRACED(bytes)                                                                \
    extern "C" void __tsan_read##bytes(void* pointer) { trace(pointer, bytes, false); }            \
    extern "C" void __tsan_write##bytes(void* pointer) { trace(pointer, bytes, true); }            \
    extern "C" void __tsan_unaligned_read##bytes(void* pointer) { trace(pointer, bytes, false); }  \
    extern "C" void __tsan_unaligned_write##bytes(void* pointer) { trace(pointer, bytes, true); }
TRACED(1)
TRACED(2)
TRACED(4)
TRACED(8)
TRACED(16)
extern "C" void __tsan_read_range(void* pointer, std::size_t bytes) { trace(pointer, bytes, false); }
extern "C" void __tsan_write_range(void* pointer, std::size_t bytes) { trace(pointer, bytes, true); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" unsigned __tsan_atomic32_fetch_add(volatile unsigned* target, unsigned value, int) {
    return __atomic_fetch_add(target, value, __ATOMIC_SEQ_CST);
}
extern "C" unsigned __tsan_atomic32_load(const volatile unsigned* target, int) {
    return __atomic_load_n(target, __ATOMIC_SEQ_CST);
}
extern "C" unsigned char __tsan_atomic8_load(const volatile unsigned char* target, int) {
    return __atomic_load_n(target, __ATOMIC_SEQ_CST);
}
extern "C" int __tsan_atomic32_compare_exchange_strong(volatile unsigned* target, unsigned* expected, unsigned value, int,
                                                       int) {
    return __atomic_compare_exchange_n(target, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
extern "C" int __tsan_atomic32_compare_exchange_weak(volatile unsigned* target, unsigned* expected, unsigned value, int,
                                                     int) {
    return __atomic_compare_exchange_n(target, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif
