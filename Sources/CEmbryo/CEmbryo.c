#include "CEmbryo.h"
#include <linux/futex.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>

#define EMBRYO __attribute__((section("embryo_text"), used, noinline, no_stack_protector, target("general-regs-only")))

extern const char __start_embryo_text[], __stop_embryo_text[];

EMBRYO static long call6(long nr, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "+a"(nr)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return nr;
}

// The new task has another stack: it may touch nothing of this frame, so all of it happens in registers.
EMBRYO static long clone_into(void *clone_args, size_t size, struct embryo_slot *slot, const void *entry) {
    long result = SYS_clone3;
    register struct embryo_slot *r12 __asm__("r12") = slot;
    register const void *r13 __asm__("r13") = entry;
    __asm__ volatile(
        "syscall\n\t"
        "test %%rax, %%rax\n\t"
        "jnz 1f\n\t"
        "xor %%ebp, %%ebp\n\t"
        "mov %%r12, %%rdi\n\t"
        "call *%%r13\n\t"
        "ud2\n"
        "1:"
        : "+a"(result)
        : "D"(clone_args), "S"(size), "r"(r12), "r"(r13)
        : "rcx", "r11", "memory");
    return result;
}

EMBRYO static void embryo_loop(struct embryo_slot *slot) {
    for (;;) {
        for (;;) {
            uint32_t word = __atomic_load_n(&slot->word, __ATOMIC_ACQUIRE);
            if (word == EMBRYO_POSTED) break;
            call6(SYS_futex, (long)&slot->word, FUTEX_WAIT, word, 0, 0, 0);
        }
        uint32_t count = slot->count, i = 0;
        for (; i < count; i++) {
            struct embryo_call *c = &slot->calls[i];
            if (c->take && c->from <= i)
                for (int n = 0; n < 6; n++)
                    if (c->take & (1u << n)) c->arguments[n] = slot->calls[i - c->from].result;
            int64_t *a = c->arguments;
            if (c->number == EMBRYO_CLONE)
                c->result = clone_into((void *)a[0], a[1], (struct embryo_slot *)a[2], (const void *)embryo_loop);
            else
                c->result = call6(c->number, a[0], a[1], a[2], a[3], a[4], a[5]);
            if ((c->flags & EMBRYO_STOP_ON_ERROR) && c->result < 0 && c->result >= -4095) { i++; break; }
        }
        slot->performed = i;
        __atomic_store_n(&slot->word, EMBRYO_DONE, __ATOMIC_RELEASE);
        call6(SYS_futex, (long)&slot->word, FUTEX_WAKE, 1, 0, 0, 0);
    }
}

const void *embryo_code(void) { return __start_embryo_text; }
size_t embryo_code_size(void) { return __stop_embryo_text - __start_embryo_text; }
size_t embryo_entry(void) { return (const char *)embryo_loop - __start_embryo_text; }

long embryo_start(void *clone_args, size_t size, struct embryo_slot *slot, const void *entry) {
    uint64_t all = ~0ull, old = 0;
    call6(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, (long)&all, (long)&old, 8, 0, 0);
    long result = clone_into(clone_args, size, slot, entry);
    call6(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&old, 0, 8, 0, 0);
    return result;
}

void embryo_post(struct embryo_slot *slot) {
    __atomic_store_n(&slot->word, EMBRYO_POSTED, __ATOMIC_RELEASE);
    call6(SYS_futex, (long)&slot->word, FUTEX_WAKE, 1, 0, 0, 0);
}

int embryo_is_done(const struct embryo_slot *slot) {
    return __atomic_load_n(&slot->word, __ATOMIC_ACQUIRE) == EMBRYO_DONE;
}

int embryo_await(struct embryo_slot *slot, long nanoseconds) {
    if (embryo_is_done(slot)) return 1;
    struct timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    call6(SYS_futex, (long)&slot->word, FUTEX_WAIT, EMBRYO_POSTED, (long)&limit, 0, 0);
    return embryo_is_done(slot);
}

uintptr_t embryo_rseq_address(void) {
    return __rseq_size ? (uintptr_t)__builtin_thread_pointer() + __rseq_offset : 0;
}
uint32_t embryo_rseq_size(void) { return __rseq_size; }
