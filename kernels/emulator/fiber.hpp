// Fibers: what lets the threads of a block wait for each other on one OS thread.
#pragma once
#include <cstddef>

#if defined(__x86_64__) && !defined(EMULATOR_PORTABLE_FIBERS)
#define EMULATOR_OWN_FIBERS
#else
#include <ucontext.h>
#endif

namespace emulator {

// A paused computation and the stack that it stands on.
struct Context {
#ifdef EMULATOR_OWN_FIBERS
    void* stack_pointer = nullptr;
#else
    ucontext_t registers;
#endif
    void* bottom = nullptr;  // the stack's lowest address
    std::size_t bytes = 0;
    void* fake_stack = nullptr;  // AddressSanitizer's
};

// Continues `to` and returns when something switches back to `from`.
void switch_context(Context& from, Context& to);
// The same from a computation that has ended.
void leave_context(Context& from, Context& to);
// What a fiber does first, as AddressSanitizer wants to know that it has arrived.
void arrive_in_context();
// Makes `context`, whose stack is set, start in `entry`, which must not return.
void prepare_context(Context& context, void (*entry)());
// The stack of the OS thread that calls, which AddressSanitizer wants to know.
void describe_thread_stack(Context& context);

// Stacks for `count` fibers, each with a page below it that must not be touched; kept for the next block.
class Stacks {
  public:
    ~Stacks();
    void reserve(int count);
    void give(Context& context, int index) const;

  private:
    unsigned char* memory = nullptr;
    int capacity = 0;
};

}  // namespace emulator
