#pragma once
#include <stddef.h>

/// A BPF object file (ELF) that was built into the program, valid for ever.
struct program_bytes {
    const void *start;
    size_t length;
};
