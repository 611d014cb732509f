// Products of warpgroups: four warps meet, the factors are read at once, the sums appear when they are waited for.
#include "products.hpp"

#include <algorithm>

#include "matrix_math.hpp"
#include "races.hpp"
#include "tensor_map.hpp"

namespace emulator {

// A signalling NaN: arithmetic makes it quiet, so that even `sum = sum + x` is seen.
constexpr u32 poison_bits = 0xffbfffffu;

void Products::reset() {
    threads.clear(), operations.clear(), free_operations.clear();
    for (Warpgroup& group : groups) group.arrived = 0;
}

ThreadProducts& Products::of_current_thread(Block& block) {
    if (threads.empty()) threads.resize(block.threads);
    return threads[block.current->thread];
}

static ThreadProducts& mine() { return block().products->of_current_thread(block()); }

// All 128 threads; the last one runs `complete`.
template <class Complete> static int meet_warpgroup(const char* word, Place place, Complete complete) {
    Block& here = block();
    int number = here.current->thread / warpgroup_size;
    if ((number + 1) * warpgroup_size > here.threads)
        here.fail(place, "`%s`: warp %d is not in a group of four", word, here.current->warp());
    std::vector<Warpgroup>& groups = here.products->groups;
    if (groups.size() <= static_cast<std::size_t>(number)) groups.resize(here.threads / warpgroup_size);
    Warpgroup& group = groups[number];
    int phase = mine().phase;
    mine().phase ^= 1;
    if (group.arrived == 0) group.word = word, group.place = place;
    if (group.word != word || !(group.place == place))
        here.fail(place, "warps of a group part: one is at `%s`, another at `%s` (line %d)", word, group.word,
                  group.place.line);
    if (++group.arrived < warpgroup_size) {
        here.wait(word, place);
        return phase;
    }
    group.arrived = 0;
    complete(group, phase);
    for (int thread = number * warpgroup_size; thread < (number + 1) * warpgroup_size; thread++)
        if (thread != here.current->thread) here.wake(thread);
    return phase;
}

void change_registers(const char* word, Place place) { meet_warpgroup(word, place, [](Warpgroup&, int) {}); }

u64 describe_matrix(u32 start, u32 leading_bytes, u32 stride_bytes, int swizzle, Place place) {
    Block& here = block();
    if (start % 16 != 0 || start >= here.shared_bytes)
        here.fail(place, "`matrix_descriptor`: %u is no multiple of 16 in dynamic shared memory", start);
    if (leading_bytes % 16 != 0 || stride_bytes % 16 != 0 || leading_bytes >= 1u << 18 || stride_bytes >= 1u << 18)
        here.fail(place, "`matrix_descriptor`: strides %u and %u are not multiples of 16 below 2^18", leading_bytes,
                  stride_bytes);
    return static_cast<u64>(start >> 4) | static_cast<u64>(leading_bytes >> 4) << 16 |
           static_cast<u64>(stride_bytes >> 4) << 32 | static_cast<u64>(swizzle) << 62;
}

bool ProductRequest::agrees(const ProductRequest& other) const {
    return n == other.n && a_in_registers == other.a_in_registers && turn_a == other.turn_a &&
           turn_b == other.turn_b && accumulate == other.accumulate && a == other.a && b == other.b;
}

// Where the 16 bytes lie that hold eight neighbours: of row `line` from inner element `inner` on, or, turned, of inner
// element `inner` from row `line` on. Strides: "Strides" and "Canonical layouts" of the PTX ISA's wgmma section.
static u32 chunk_address(u64 descriptor, bool turned, u32 line, u32 inner) {
    u32 start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
    u32 stride = (descriptor >> 32 & 0x3fff) << 4;
    int swizzle = static_cast<int>(descriptor >> 62);
    u32 width = swizzle == 0 ? 16 : 256u >> swizzle;  // bytes of a row of the pattern
    if (!turned && swizzle == 0) return start + line / 8 * stride + line % 8 * 16 + inner / 8 * leading;
    if (!turned) return swizzled(start + line / 8 * stride + line % 8 * width + inner * 2, swizzle);
    if (swizzle == 0) return start + line / 8 * stride + inner / 8 * leading + inner % 8 * 16;
    u32 lines = width / 2;  // neighbours in a row of the pattern
    u32 address = start + line / lines * leading + inner / 8 * stride + inner % 8 * width + line % lines * 2;
    return swizzled(address, swizzle);
}

// Whose reads of shared memory the race checks are told of: each warp's at the issue, a thread's own at its wait.
enum class Readers { warps, mine, none };

static void note_read(u32 address, Readers readers, Place place) {
    Block& here = block();
    int first = here.current->thread / warpgroup_size * warpgroup_size;
    if (readers == Readers::mine) here.races->read(here, here.current->thread, address, 16, place);
    if (readers == Readers::warps)
        for (int warp = 0; warp < 4; warp++) here.races->read(here, first + warp * warp_size, address, 16, place);
}

// Calls put(line, inner, value) for every element of a factor [lines, 16].
template <class Put>
static void read_factor(u64 descriptor, bool turned, u32 lines, Readers readers, Place place, Put put) {
    u16 chunk[8];
    for (u32 inner = 0; inner < 16; inner += turned ? 1 : 8)
        for (u32 line = 0; line < lines; line += turned ? 8 : 1) {
            u32 address = chunk_address(descriptor, turned, line, inner);
            std::memcpy(chunk, block().span(address, 16, 16, "warpgroup_multiply", place), 16);
            if (is_tracing) note_read(address, readers, place);
            for (u32 i = 0; i < 8; i++) put(turned ? line + i : line, turned ? inner : inner + i, chunk[i]);
        }
}

// The factors that lie in shared memory.
static void read_factors(Operation& operation, Readers readers) {
    const ProductRequest& request = operation.request;
    auto put_a = [&](u32 line, u32 inner, u16 value) { operation.a[line][inner] = value; };
    auto put_b = [&](u32 line, u32 inner, u16 value) { operation.b[inner][line] = value; };
    read_factor(request.b, request.turn_b, request.n, readers, operation.place, put_b);
    if (!request.a_in_registers) read_factor(request.a, request.turn_a, 64, readers, operation.place, put_a);
}

static void read_registers(Operation& operation, const ProductRequest* requests) {
    for (int thread = 0; thread < warpgroup_size; thread++)
        for (int part = 0; part < 4; part++) {
            int row = thread / 32 * 16 + thread % 32 / 4 + part % 2 * 8, inner = thread % 4 * 2 + part / 2 * 8;
            std::memcpy(&operation.a[row][inner], &requests[thread].a_registers[part], 4);
        }
}

static std::size_t new_operation(Products& products) {
    if (products.free_operations.empty()) {
        products.operations.emplace_back();
        return products.operations.size() - 1;
    }
    std::size_t operation = products.free_operations.back();
    products.free_operations.pop_back();
    return operation;
}

static void issue(Warpgroup& group, int phase) {
    Products& products = *block().products;
    for (const ProductRequest& request : group.requests)
        if (!request.agrees(group.requests[0]))
            block().fail(group.place, "`warpgroup_multiply`: the threads of a group do not ask for the same product");
    std::size_t number = group.operation[phase] = new_operation(products);
    Operation& operation = products.operations[number];
    operation.request = group.requests[0], operation.place = group.place, operation.unfinished = warpgroup_size;
    read_factors(operation, Readers::warps);
    if (operation.request.a_in_registers) read_registers(operation, group.requests);
    multiply_64_n_16(&group.product[phase][0][0], widest_product, operation.request.n, operation.a, operation.b);
}

// Accumulators from now on hidden, or those that a product under way adds to already.
static HiddenSums& hide(float* sums, const ProductRequest& request, Place place) {
    ThreadProducts& thread = mine();
    for (HiddenSums& known : thread.hidden) {
        if (known.array != sums) continue;
        for (int index = 0; index < known.count; index++)
            if (bits_of(sums[index]) != poison_bits)
                block().fail(place, "`warpgroup_multiply`: accumulator %d was touched while a product was under way", index);
        return known;
    }
    bool named = std::count(thread.fence_names.begin(), thread.fence_names.end(), sums) > 0;
    if (!named) block().fail(place, "`warpgroup_multiply`: the fence before did not name these accumulators");
    thread.hidden.push_back({sums, request.n / 2, 0, {}});
    std::copy(sums, sums + request.n / 2, thread.hidden.back().values);
    for (int index = 0; index < request.n / 2; index++) std::memcpy(&sums[index], &poison_bits, sizeof poison_bits);
    return thread.hidden.back();
}

void multiply_warpgroup(float* sums, const ProductRequest& request, Place place) {
    ThreadProducts& thread = mine();
    if (!thread.fenced) block().fail(place, "`warpgroup_multiply`: no warpgroup_fence() since the last commit");
    HiddenSums& hidden = hide(sums, request, place);
    int number = block().current->thread / warpgroup_size, lane = block().current->thread % warpgroup_size;
    if (block().products->groups.empty()) block().products->groups.resize(block().threads / warpgroup_size);
    if (number < static_cast<int>(block().products->groups.size()))
        block().products->groups[number].requests[lane] = request;
    int phase = meet_warpgroup("warpgroup_multiply", place, issue);
    const Warpgroup& group = block().products->groups[number];
    int row = lane / 32 * 16 + lane % 32 / 4, column = lane % 4 * 2;
    for (int index = 0; index < request.n / 2; index++) {
        float product = group.product[phase][row + index / 2 % 2 * 8][column + index / 4 * 8 + index % 2];
        hidden.values[index] = (request.accumulate ? hidden.values[index] : 0.0f) + product;
    }
    hidden.under_way++, thread.open++;
    thread.issued.push_back({group.operation[phase], sums});
}

void fence_products(Accumulators named, Place) {
    ThreadProducts& thread = mine();
    thread.fenced = true;
    thread.fence_names.assign(named.starts, named.starts + named.length);
}

void commit_products(Place) {
    ThreadProducts& thread = mine();
    thread.groups.push_back(thread.open);
    thread.open = 0, thread.fenced = false;
}

// The last thread that waits for a product looks whether its factors in shared memory are still what they were.
static void finish_operation(std::size_t number) {
    Products& products = *block().products;
    Operation& operation = products.operations[number];
    static thread_local Operation now;
    now.request = operation.request, now.place = operation.place;
    if (is_tracing && block().current->lane() == 0) read_factors(now, Readers::mine);
    if (--operation.unfinished > 0) return;
    std::memcpy(now.a, operation.a, sizeof now.a);
    read_factors(now, Readers::none);
    bool same = std::memcmp(now.a, operation.a, sizeof now.a) == 0;
    for (int inner = 0; inner < 16; inner++)
        same &= std::memcmp(now.b[inner], operation.b[inner], operation.request.n * sizeof(u16)) == 0;
    if (!same) block().fail(operation.place, "a factor in shared memory was written before its product was waited for");
    products.free_operations.push_back(number);
}

static void show(HiddenSums& hidden, Accumulators named, Place place) {
    for (int index = 0; index < hidden.count; index++)
        if (bits_of(hidden.array[index]) != poison_bits)
            block().fail(place, "accumulator %d was touched before its product was waited for", index);
    if (std::count(named.starts, named.starts + named.length, hidden.array) == 0)
        block().fail(place, "`warpgroup_wait`: accumulators became ready that the call does not name");
    std::copy(hidden.values, hidden.values + hidden.count, hidden.array);
}

void wait_for_products(int pending, Accumulators named, Place place) {
    ThreadProducts& thread = mine();
    while (thread.groups.size() > static_cast<std::size_t>(pending)) {
        std::size_t count = thread.groups.front();
        thread.groups.erase(thread.groups.begin());
        for (std::size_t index = 0; index < count; index++) {
            auto [operation, array] = thread.issued[index];
            finish_operation(operation);
            for (HiddenSums& hidden : thread.hidden)
                if (hidden.array == array) hidden.under_way--;
        }
        thread.issued.erase(thread.issued.begin(), thread.issued.begin() + count);
    }
    for (HiddenSums& hidden : thread.hidden)
        if (hidden.under_way == 0) show(hidden, named, place);
    auto done = [](const HiddenSums& hidden) { return hidden.under_way == 0; };
    thread.hidden.erase(std::remove_if(thread.hidden.begin(), thread.hidden.end(), done), thread.hidden.end());
}

std::string Products::leftovers() const {
    for (const ThreadProducts& thread : threads)
        if (!thread.issued.empty())
            return "a thread ends before its product of line " +
                   std::to_string(operations[thread.issued[0].operation].place.line) + " was waited for";
    return "";
}

}  // namespace emulator
