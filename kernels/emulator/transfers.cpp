// Transfer barriers and the copies of the tensor memory accelerator.
#include "transfers.hpp"

#include "emulator.h"
#include "races.hpp"
#include "tensor_map.hpp"

namespace emulator {

// Lies in a barrier's eight bytes, so that a kernel that writes over them is found.
constexpr u64 barrier_mark = 0xba221e2ba221e2ull;

void Transfers::reset() { barriers.clear(), loads.clear(), stores.clear(); }

ThreadStores& Transfers::of_current_thread(Block& block) {
    if (stores.empty()) stores.resize(block.threads);
    return stores[block.current->thread];
}

TransferBarrier& Transfers::find(Block& block, u32 address, const char* word, Place place) {
    u64 mark;
    std::memcpy(&mark, block.span(address, 8, 8, word, place), 8);
    for (TransferBarrier& barrier : barriers) {
        if (barrier.address != address) continue;
        if (is_tracing) block.races->read(block, block.current->thread, address, 8, place);
        if (mark != barrier_mark) block.fail(place, "`%s`: the barrier at %u was written over", word, address);
        return barrier;
    }
    block.fail(place, "`%s`: the barrier at %u was not initialised", word, address);
}

void Transfers::end_phase_if_complete(Block& block, TransferBarrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes != 0) return;
    barrier.parity ^= 1, barrier.pending = barrier.arrivals;
    if (is_tracing) {
        std::size_t index = &barrier - barriers.data();
        block.races->arrived[index] = block.races->arriving[index];
    }
    for (int group = 0; group < most_threads / 64; group++) {
        for (u64 left = barrier.waiting[group]; left; left &= left - 1) block.wake(group * 64 + __builtin_ctzll(left));
        barrier.waiting[group] = 0;
    }
}

void init_transfer_barrier(u32 address, u32 arrivals, Place place) {
    Block& here = block();
    unsigned char* bytes = here.span(address, 8, 8, "transfer_barrier_init", place);
    if (arrivals == 0) here.fail(place, "`transfer_barrier_init`: a barrier of no arrivals");
    std::memcpy(bytes, &barrier_mark, 8);
    for (TransferBarrier& known : here.transfers->barriers)
        if (known.address == address) here.fail(place, "`transfer_barrier_init`: %u is initialised twice", address);
    TransferBarrier barrier{};
    barrier.address = address, barrier.arrivals = barrier.pending = arrivals;
    if (here.transfers->barriers.size() >= most_transfer_barriers)
        here.fail(place, "`transfer_barrier_init`: more than %d barriers", most_transfer_barriers);
    here.transfers->barriers.push_back(barrier);
    if (is_tracing) {
        here.races->add_transfer_barrier();
        here.races->write(here, here.current->thread, address, 8, place);
    }
}

static void count_arrival(TransferBarrier& barrier, const char* word, Place place) {
    if (barrier.pending == 0)
        block().fail(place, "`%s`: more than %u arrivals in one phase of the barrier at %u", word, barrier.arrivals,
                     barrier.address);
    if (is_tracing) {
        std::size_t index = &barrier - block().transfers->barriers.data();
        block().races->release(block().current->thread, block().races->arriving[index]);
    }
    barrier.pending--;
    block().transfers->end_phase_if_complete(block(), barrier);
}

void arrive_transfer_barrier(u32 address, Place place) {
    const char* word = "transfer_barrier_arrive";
    count_arrival(block().transfers->find(block(), address, word, place), word, place);
}

void expect_transfer_barrier(u32 address, u32 bytes, Place place) {
    const char* word = "transfer_barrier_expect";
    TransferBarrier& barrier = block().transfers->find(block(), address, word, place);
    barrier.bytes += bytes, barrier.announced += bytes;
    count_arrival(barrier, word, place);
}

void wait_transfer_barrier(u32 address, u32 parity, Place place) {
    const char* word = "transfer_barrier_wait";
    Block& here = block();
    if (parity > 1) here.fail(place, "`%s`: parity %u is not 0 or 1", word, parity);
    while (true) {
        TransferBarrier& barrier = here.transfers->find(here, address, word, place);
        if (barrier.parity != parity) {
            std::size_t index = &barrier - here.transfers->barriers.data();
            if (is_tracing) here.races->acquire(here.current->thread, here.races->arrived[index]);
            return;
        }
        int thread = here.current->thread;
        barrier.waiting[thread / 64] |= 1ull << thread % 64;
        here.wait(word, place);
    }
}

// Bytes that were not announced would end the phase before the last of them is there.
void Transfers::start(Block& block, Load load, const char* word) {
    TransferBarrier& barrier = barriers[load.barrier];
    if (load.bytes > barrier.announced)
        block.fail(load.place, "`%s`: %u bytes for a barrier that expects %ld more", word, load.bytes, barrier.announced);
    barrier.announced -= load.bytes;
    for (const Piece& piece : load.pieces) {
        unsigned char* target = block.span(piece.to, piece.bytes, 1, word, load.place);
        if (is_tracing) block.races->start_write(block, piece.to, piece.bytes, load.place);
        std::memset(target, poison, piece.bytes);
    }
    loads.push_back(std::move(load));
    block.loads_in_flight++;
}

void Transfers::land(Block& block, std::size_t index) {
    Load load = std::move(loads[index]);
    loads.erase(loads.begin() + index);
    block.loads_in_flight--;
    for (const Piece& piece : load.pieces) std::memcpy(block.shared + piece.to, &load.data[piece.from], piece.bytes);
    if (is_tracing) {
        u32 actor = block.threads + load.barrier, time = ++block.races->landings[load.barrier];
        for (const Piece& piece : load.pieces) block.races->end_write(piece.to, piece.bytes, actor, time);
        block.races->arriving[load.barrier][actor] = time;
    }
    barriers[load.barrier].bytes -= load.bytes;
    end_phase_if_complete(block, barriers[load.barrier]);
}

constexpr int swizzle_of_tiles = 1;  // 128 bytes, the only one that maps are made with

// Calls visit(row, first byte of a chunk inside the box's row, where its 16 bytes lie) for every chunk of a box at `tile`.
template <class Visit> static void for_chunks(const TensorMapFields& map, u32 tile, Visit visit) {
    u32 row_bytes = map.box_columns * 2;
    for (u32 row = 0; row < map.box_rows; row++)
        for (u32 byte = 0; byte < row_bytes; byte += 16) visit(row, byte, swizzled(tile + row * row_bytes + byte, swizzle_of_tiles));
}

// The part of a chunk that lies inside the matrix: columns [x, x + 8) of row y.
static u32 columns_inside(const TensorMapFields& map, long x, long y) {
    if (y < 0 || y >= static_cast<long>(map.rows) || x >= static_cast<long>(map.columns)) return 0;
    long left = static_cast<long>(map.columns) - x;
    return left < 8 ? left : 8;
}

static void check_map(const TensorMapFields* map, u32 tile, int x, const char* word, Place place) {
    Block& here = block();
    if (map->magic != tensor_map_magic) here.fail(place, "`%s`: this is not a tensor map", word);
    if (map->refusal) here.fail(place, "`%s`: the driver would refuse the tensor map: %s", word, map->refusal);
    if (tile % 1024 != 0) here.fail(place, "`%s`: shared address %u is not a multiple of 1024", word, tile);
    if (x < 0 && x % 8 != 0) here.fail(place, "`%s`: column %d before the matrix", word, x);
}

static unsigned char* element(const TensorMapFields& map, long x, long y) {
    return reinterpret_cast<unsigned char*>(map.address) + y * map.stride_bytes + x * 2;
}

void load_tile(u32 to, const TensorMapFields* map, int x, int y, u32 barrier, Place place) {
    const char* word = "load_tile";
    Block& here = block();
    check_map(map, to, x, word, place);
    TransferBarrier& target = here.transfers->find(here, barrier, word, place);
    Load load;
    load.barrier = &target - here.transfers->barriers.data(), load.place = place;
    load.bytes = map->box_rows * map->box_columns * 2;
    load.data.resize(load.bytes);
    for_chunks(*map, to, [&](u32 row, u32 byte, u32 address) {
        std::size_t offset = row * map->box_columns * 2 + byte;
        long column = x + byte / 2, line = y + long(row);
        for (u32 i = 0; i < 8; i++)
            if (column + i >= 0 && columns_inside(*map, column + i, line))
                std::memcpy(&load.data[offset + 2 * i], element(*map, column + i, line), 2);
        load.pieces.push_back({address, offset, 16});
    });
    here.transfers->start(here, std::move(load), word);
    here.let_loads_land(false);
}

static void check_bulk(const void* global, u32 bytes, const char* word, Place place) {
    if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
        block().fail(place, "`%s`: global address %p is not a multiple of 16", word, global);
    if (bytes == 0 || bytes % 16 != 0) block().fail(place, "`%s`: %u bytes are not a multiple of 16", word, bytes);
}

void load_bulk(u32 to, const void* from, u32 bytes, u32 barrier, Place place) {
    const char* word = "load_bulk";
    Block& here = block();
    check_bulk(from, bytes, word, place);
    here.span(to, bytes, 16, word, place);
    TransferBarrier& target = here.transfers->find(here, barrier, word, place);
    const unsigned char* first = static_cast<const unsigned char*>(from);
    Load load;
    load.barrier = &target - here.transfers->barriers.data(), load.place = place, load.bytes = bytes;
    load.data.assign(first, first + bytes);
    load.pieces.push_back({to, 0, bytes});
    here.transfers->start(here, std::move(load), word);
    here.let_loads_land(false);
}

// Remembers what shared memory holds now; the wait finds out whether somebody has changed it meanwhile.
static void start_store(Store store, const char* word, Place place) {
    Block& here = block();
    for (StorePiece& piece : store.pieces) {
        const unsigned char* from = here.span(piece.from, piece.bytes, 1, word, place);
        if (is_tracing) here.races->read(here, here.current->thread, piece.from, piece.bytes, place);
        piece.seen = store.data.size();
        store.data.insert(store.data.end(), from, from + piece.bytes);
    }
    ThreadStores& mine = here.transfers->of_current_thread(here);
    mine.stores.push_back(std::move(store)), mine.open++;
}

void store_tile(const TensorMapFields* map, int x, int y, u32 from, Place place) {
    check_map(map, from, x, "store_tile", place);
    Store store;
    store.place = place;
    for_chunks(*map, from, [&](u32 row, u32 byte, u32 address) {
        long column = x + byte / 2, line = y + long(row);
        u32 inside = column < 0 ? 0 : columns_inside(*map, column, line);
        if (inside) store.pieces.push_back({element(*map, column, line), address, inside * 2, 0});
    });
    start_store(std::move(store), "store_tile", place);
}

void store_bulk(void* to, u32 from, u32 bytes, Place place) {
    check_bulk(to, bytes, "store_bulk", place);
    block().span(from, bytes, 16, "store_bulk", place);
    Store store;
    store.place = place;
    store.pieces.push_back({static_cast<unsigned char*>(to), from, bytes, 0});
    start_store(std::move(store), "store_bulk", place);
}

void commit_stores() {
    ThreadStores& mine = block().transfers->of_current_thread(block());
    mine.groups.push_back(mine.open), mine.open = 0;
}

static void finish_store(Store& store) {
    Block& here = block();
    for (const StorePiece& piece : store.pieces) {
        const unsigned char* seen = &store.data[piece.seen];
        if (std::memcmp(here.shared + piece.from, seen, piece.bytes) != 0)
            here.fail(store.place, "shared memory at %u was written while a copy to global memory read it", piece.from);
        std::memcpy(piece.to, seen, piece.bytes);
    }
}

void wait_for_stores(int pending) {
    ThreadStores& mine = block().transfers->of_current_thread(block());
    while (mine.groups.size() > static_cast<std::size_t>(pending)) {
        std::size_t count = mine.groups.front();
        for (std::size_t index = 0; index < count; index++) finish_store(mine.stores[index]);
        mine.stores.erase(mine.stores.begin(), mine.stores.begin() + count);
        mine.groups.erase(mine.groups.begin());
    }
}

std::string Transfers::leftovers() const {
    if (!loads.empty()) return "the block ends before a copy of line " + std::to_string(loads[0].place.line) + " has landed";
    for (const ThreadStores& thread : stores)
        if (!thread.stores.empty())
            return "a thread ends before its store of line " + std::to_string(thread.stores[0].place.line) +
                   " was waited for";
    for (const TransferBarrier& barrier : barriers)
        if (barrier.bytes != 0)
            return "the barrier at " + std::to_string(barrier.address) + " ends expecting " +
                   std::to_string(barrier.bytes) + " bytes";
    for (const TransferBarrier& barrier : barriers)
        if (barrier.pending != barrier.arrivals)
            return "the barrier at " + std::to_string(barrier.address) + " ends inside a phase: " +
                   std::to_string(barrier.pending) + " of " + std::to_string(barrier.arrivals) + " arrivals are missing";
    return "";
}

}  // namespace emulator

extern "C" void emulator_tensor_map(void* target, uint64_t address, uint64_t rows, uint64_t columns,
                                    uint64_t stride_bytes, uint32_t box_rows, uint32_t box_columns) {
    emulator::TensorMapFields map{};
    map.magic = emulator::tensor_map_magic;
    map.address = address, map.rows = rows, map.columns = columns, map.stride_bytes = stride_bytes;
    map.box_rows = box_rows, map.box_columns = box_columns;
    if (address % 16 != 0) map.refusal = "the address is not a multiple of 16";
    else if (stride_bytes % 16 != 0 || stride_bytes >= 1ull << 40) map.refusal = "the stride is not a multiple of 16";
    else if (rows == 0 || columns == 0 || rows > 1ull << 32 || columns > 1ull << 32) map.refusal = "an empty matrix";
    else if (box_rows == 0 || box_rows > 256) map.refusal = "a box has 1 to 256 rows";
    else if (box_columns != 64) map.refusal = "a row of a box is 128 bytes, as wide as its swizzle";
    std::memcpy(target, &map, sizeof map);
}
