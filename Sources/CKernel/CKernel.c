#define _GNU_SOURCE
#include "CKernel.h"
#include <cpuid.h>
#include <string.h>

long ck_syscall(long nr, long a, long b, long c, long d, long e, long f) { return syscall(nr, a, b, c, d, e, f); }
const char *ck_error_name(int code) { return strerrorname_np(code); }
const char *ck_error_text(int code) { return strerrordesc_np(code); }

void ck_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t *out) {
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

uint64_t ck_enabled_components(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
