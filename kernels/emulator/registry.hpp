// Kernels by name: REGISTER_KERNEL(k) makes `k` launchable through untyped arguments, as cuLaunchKernel takes them.
#pragma once
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace emulator {

// A kernel and what it takes.
struct Entry {
    void (*call)(void**) = nullptr;
    std::vector<std::size_t> argument_bytes;
};

struct Registration {
    Registration(const char* name, Entry entry);
};

template <class T> inline T read_argument(const void* argument) {
    static_assert(std::is_trivially_copyable<T>::value, "a kernel's arguments are plain values");
    T value;
    std::memcpy(&value, argument, sizeof value);
    return value;
}

template <class... Arguments, std::size_t... indices>
inline void call_kernel(void (*kernel)(Arguments...), void** arguments, std::index_sequence<indices...>) {
    kernel(read_argument<std::remove_const_t<Arguments>>(arguments[indices])...);
}

template <class... Arguments> inline void call_kernel(void (*kernel)(Arguments...), void** arguments) {
    call_kernel(kernel, arguments, std::index_sequence_for<Arguments...>());
}

template <class... Arguments> inline Entry entry_of(void (*)(Arguments...), void (*call)(void**)) {
    return {call, {sizeof(Arguments)...}};
}

}  // namespace emulator

#define REGISTER_KERNEL(kernel)                                                                        \
    static const emulator::Registration kernel##_registration(                                         \
        #kernel, emulator::entry_of(&kernel, [](void** arguments) { emulator::call_kernel(&kernel, arguments); }));
