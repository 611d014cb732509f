// Launches: looks a kernel up and spreads its blocks over OS threads.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "block.hpp"
#include "emulator.h"
#include "forbidden.hpp"
#include "registry.hpp"

namespace emulator {
namespace {

std::map<std::string, Entry>& kernels() {
    static std::map<std::string, Entry> known;
    return known;
}

struct Launch {
    const Entry* entry;
    u32 grid[3];
    u32 threads, shared_bytes;
    void** arguments;
    EmulatorSettings settings;
    u64 blocks;
    std::atomic<u64> next{0};
    std::atomic<u64> first_fault{~0ull};  // blocks after it need not run: the same fault is told every time
    std::mutex lock;
    std::string fault;
};

// Blocks are dear to make (stacks, a megabyte of state), so they are kept for the next launch.
struct IdleBlocks {
    std::mutex lock;
    std::vector<std::unique_ptr<Block>> blocks;

    std::unique_ptr<Block> take() {
        std::lock_guard<std::mutex> hold(lock);
        if (blocks.empty()) return std::make_unique<Block>();
        std::unique_ptr<Block> block = std::move(blocks.back());
        blocks.pop_back();
        return block;
    }
    void give_back(std::unique_ptr<Block> block) {
        std::lock_guard<std::mutex> hold(lock);
        blocks.push_back(std::move(block));
    }
};

IdleBlocks& idle_blocks() {
    static IdleBlocks* kept = new IdleBlocks;  // never destroyed: launches may come while the process ends
    return *kept;
}

void note_fault(Launch& launch, u64 number, const std::string& fault) {
    std::lock_guard<std::mutex> hold(launch.lock);
    if (number >= launch.first_fault) return;
    launch.first_fault = number;
    u64 x = number % launch.grid[0], y = number / launch.grid[0] % launch.grid[1];
    u64 z = number / launch.grid[0] / launch.grid[1];
    launch.fault = fault + " in block (" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}

void run_blocks(Launch& launch) {
    std::unique_ptr<Block> block = idle_blocks().take();
    std::copy(launch.grid, launch.grid + 3, block->grid);
    block->threads = launch.threads, block->shared_bytes = launch.shared_bytes;
    for (u64 number; (number = launch.next++) < launch.blocks;) {
        if (number > launch.first_fault) break;
        block->index[0] = number % launch.grid[0];
        block->index[1] = number / launch.grid[0] % launch.grid[1];
        block->index[2] = number / launch.grid[0] / launch.grid[1];
        if (!block->run(launch.entry->call, launch.arguments, Schedule::of(launch.settings.schedule, number)))
            note_fault(launch, number, block->fault);
    }
    idle_blocks().give_back(std::move(block));
}

void run_all(Launch& launch) {
    u64 workers = launch.settings.threads ? launch.settings.threads : std::max(1u, std::thread::hardware_concurrency());
    workers = std::min<u64>(workers, launch.blocks);
    std::vector<std::thread> others;
    for (u64 worker = 1; worker < workers; worker++) others.emplace_back([&] { run_blocks(launch); });
    run_blocks(launch);
    for (std::thread& other : others) other.join();
}

// Empty where a GPU would take the launch.
std::string refusal(const Launch& launch) {
    if (launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0) return "the grid is empty";
    if (launch.grid[0] > 0x7fffffffu || launch.grid[1] > 65535 || launch.grid[2] > 65535)
        return "the grid is too large: at most 2147483647 x 65535 x 65535 blocks";
    if (launch.threads == 0 || launch.threads > most_threads || launch.threads % warp_size != 0)
        return std::to_string(launch.threads) + " threads are not whole warps up to 1024";
    if (launch.shared_bytes > most_shared_bytes)
        return std::to_string(launch.shared_bytes) + " bytes of shared memory are more than " +
               std::to_string(most_shared_bytes);
    return "";
}

// Empty where the arguments are as many and as large as the kernel's parameters.
std::string mismatch(const Entry& entry, const u32* bytes, u32 count) {
    if (count != entry.argument_bytes.size())
        return std::to_string(count) + " arguments for " + std::to_string(entry.argument_bytes.size()) + " parameters";
    for (u32 index = 0; index < count; index++)
        if (bytes[index] != entry.argument_bytes[index])
            return "argument " + std::to_string(index) + " has " + std::to_string(bytes[index]) +
                   " bytes, its parameter " + std::to_string(entry.argument_bytes[index]);
    return "";
}

int answer(int code, const std::string& text, char* message, size_t message_bytes) {
    if (message && message_bytes > 0) std::snprintf(message, message_bytes, "%s", text.c_str());
    return code;
}

}  // namespace

Registration::Registration(const char* name, Entry entry) { kernels()[name] = std::move(entry); }

}  // namespace emulator

using namespace emulator;

extern "C" int emulator_has_kernel(const char* kernel) { return kernels().count(kernel) != 0; }

extern "C" int emulator_parameters(const char* kernel, uint32_t* bytes, uint32_t room) {
    auto found = kernels().find(kernel);
    if (found == kernels().end()) return -1;
    const std::vector<std::size_t>& sizes = found->second.argument_bytes;
    for (std::size_t index = 0; index < sizes.size() && index < room; index++) bytes[index] = uint32_t(sizes[index]);
    return int(sizes.size());
}

extern "C" int emulator_launch(const char* kernel, const uint32_t blocks[3], uint32_t threads, uint32_t shared_bytes,
                               void** arguments, const uint32_t* argument_bytes, uint32_t argument_count,
                               const EmulatorSettings* settings, char* message, size_t message_bytes) try {
    std::string name = std::string("kernel `") + kernel + "`: ";
    auto found = kernels().find(kernel);
    if (found == kernels().end())
        return answer(EMULATOR_UNKNOWN_KERNEL, name + "no kernel of this name is built in", message, message_bytes);
    Launch launch;
    launch.entry = &found->second;
    std::copy(blocks, blocks + 3, launch.grid);
    launch.threads = threads, launch.shared_bytes = shared_bytes, launch.arguments = arguments;
    launch.settings = settings ? *settings : EmulatorSettings{80, 0, 0};
    launch.blocks = u64(blocks[0]) * blocks[1] * blocks[2];
    std::string refused = refusal(launch);
    if (refused.empty()) refused = mismatch(*launch.entry, argument_bytes, argument_count);
    if (!refused.empty()) return answer(EMULATOR_BAD_LAUNCH, name + refused, message, message_bytes);
    run_all(launch);
    if (!launch.fault.empty()) return answer(EMULATOR_FAULT, name + launch.fault, message, message_bytes);
    return answer(EMULATOR_OK, "", message, message_bytes);
} catch (const std::exception& error) {
    return answer(EMULATOR_BAD_LAUNCH, std::string("kernel `") + kernel + "`: " + error.what(), message, message_bytes);
}

extern "C" void emulator_forbid(void* address, size_t bytes) { ASAN_POISON_MEMORY_REGION(address, bytes); }

extern "C" void emulator_allow(void* address, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(address, bytes); }
