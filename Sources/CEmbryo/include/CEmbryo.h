// The loop that an embryo runs: it performs system calls which it finds in shared memory, and nothing else.
//
// The code is copied out of its section into a region that exists at the same address in the daemon and in all
// embryos. It uses no C library, no thread-local storage, no writable data and no vector registers, so that it goes on
// when everything else of the address space is unmapped.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
    EMBRYO_CALLS = 512,
    /// A slot is the control words and calls, then scratch memory, then (growing down from its end) a stack.
    EMBRYO_SCRATCH = 0x10000,
    EMBRYO_STACK = 0x10000,
    EMBRYO_SLOT = 0x100000,
    /// Pseudo system call: clone3 with arguments {clone_args, size, slot of the new task}.
    EMBRYO_CLONE = -1,
    /// embryo_call.flags: a negative result ends the batch.
    EMBRYO_STOP_ON_ERROR = 1,
    /// embryo_slot.word
    EMBRYO_IDLE = 0,
    EMBRYO_POSTED = 1,
    EMBRYO_DONE = 2,
};

struct embryo_call {
    int64_t number;
    int64_t arguments[6];
    int64_t result;
    /// Bit n of `take`: argument n becomes the result of the call `from` calls earlier (an open, then its use).
    uint32_t flags, take, from, reserved;
};

struct embryo_slot {
    uint32_t word, count, performed, reserved;
    struct embryo_call calls[EMBRYO_CALLS];
};

/// The code to copy, and where in it the loop begins.
const void *embryo_code(void);
size_t embryo_code_size(void);
size_t embryo_entry(void);

/// clone3 in the daemon with all signals blocked: the new process goes to `entry` with `slot` and never returns.
/// Gives the pid or a negative error number.
long embryo_start(void *clone_args, size_t size, struct embryo_slot *slot, const void *entry);

/// Hands the batch over and wakes the embryo.
void embryo_post(struct embryo_slot *slot);
/// Waits until the batch is done or `nanoseconds` have passed; true when it is done.
int embryo_await(struct embryo_slot *slot, long nanoseconds);
int embryo_is_done(const struct embryo_slot *slot);

/// Where glibc registered this thread's restartable sequence; 0 when it did not.
uintptr_t embryo_rseq_address(void);
uint32_t embryo_rseq_size(void);
