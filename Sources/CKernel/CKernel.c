#define _GNU_SOURCE
#include "CKernel.h"
#include <string.h>

long ck_syscall(long nr, long a, long b, long c, long d, long e, long f) { return syscall(nr, a, b, c, d, e, f); }
const char *ck_error_name(int code) { return strerrorname_np(code); }
const char *ck_error_text(int code) { return strerrordesc_np(code); }
