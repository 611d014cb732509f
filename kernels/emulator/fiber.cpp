// Switching between fibers: a few instructions on x86-64, `swapcontext` elsewhere.
#include "fiber.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t stack_bytes = 256 * 1024;
#else
constexpr std::size_t stack_bytes = 64 * 1024;
#endif
constexpr std::size_t page_bytes = 4096;
// Stacks that start at the same place of a page would fight for the same lines of the cache.
constexpr std::size_t stagger_bytes = 192;

}  // namespace

#ifdef EMULATOR_OWN_FIBERS

asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
extern "C" void emulator_switch(void** save_stack_pointer, void* stack_pointer);

static void jump(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }

static void set_entry(Context& context, void (*entry)()) {
    auto* top = reinterpret_cast<std::uintptr_t*>(static_cast<unsigned char*>(context.bottom) + context.bytes);
    *--top = 0;  // where `entry` would return to
    *--top = reinterpret_cast<std::uintptr_t>(entry);
    context.stack_pointer = top - 6;  // the six saved registers: any values
}

#else

static void jump(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }

static void set_entry(Context& context, void (*entry)()) {
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = context.bottom;
    context.registers.uc_stack.ss_size = context.bytes;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
}

#endif

#if defined(__SANITIZE_ADDRESS__)

// A computation that never returned has left forbidden zones on its stack.
void prepare_context(Context& context, void (*entry)()) {
    __asan_unpoison_memory_region(context.bottom, context.bytes);
    context.fake_stack = nullptr;
    set_entry(context, entry);
}

// The current stack's fake frames wait here until the jump has landed.
static __thread void* arriving_fake_stack = nullptr;

void switch_context(Context& from, Context& to) {
    void* mine = nullptr;
    __sanitizer_start_switch_fiber(&mine, to.bottom, to.bytes);
    from.fake_stack = mine;
    arriving_fake_stack = to.fake_stack;
    jump(from, to);
    __sanitizer_finish_switch_fiber(arriving_fake_stack, nullptr, nullptr);
}

void leave_context(Context& from, Context& to) {
    __sanitizer_start_switch_fiber(nullptr, to.bottom, to.bytes);
    arriving_fake_stack = to.fake_stack;
    jump(from, to);
}

void arrive_in_context() { __sanitizer_finish_switch_fiber(arriving_fake_stack, nullptr, nullptr); }

#else

void prepare_context(Context& context, void (*entry)()) { set_entry(context, entry); }
void switch_context(Context& from, Context& to) { jump(from, to); }
void leave_context(Context& from, Context& to) { jump(from, to); }
void arrive_in_context() {}

#endif

#if defined(__SANITIZE_ADDRESS__)

void describe_thread_stack(Context& context) {
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    pthread_attr_getstack(&attributes, &context.bottom, &context.bytes);
    pthread_attr_destroy(&attributes);
}

#else

void describe_thread_stack(Context&) {}

#endif

Stacks::~Stacks() {
    if (memory) munmap(memory, capacity * stack_bytes);
}

void Stacks::reserve(int count) {
    if (count <= capacity) return;
    if (memory) munmap(memory, capacity * stack_bytes);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapped = mmap(nullptr, count * stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    memory = nullptr, capacity = 0;
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    memory = static_cast<unsigned char*>(mapped), capacity = count;
    for (int index = 0; index < count; index++) mprotect(memory + index * stack_bytes, page_bytes, PROT_NONE);
}

void Stacks::give(Context& context, int index) const {
    context.bottom = memory + index * stack_bytes + page_bytes;
    context.bytes = stack_bytes - page_bytes - (index % 20) * stagger_bytes;
}

}  // namespace emulator
