// System calls and structures that glibc 2.36 has no wrapper for, and macros that Swift cannot import.
// Nothing here decides anything.
#pragma once
// _GNU_SOURCE stays out of this header: Swift's Glibc module is built without it, and two shapes of fd_set do not
// fit into one program. What needs it lives in CKernel.c.
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

/// The raw system call; returns -1 with errno set on failure, as syscall(2) does.
long ck_syscall(long nr, long a, long b, long c, long d, long e, long f);
/// strerrorname_np(3) and strerrordesc_np(3); null for a number the C library does not know.
const char *ck_error_name(int code);
const char *ck_error_text(int code);
static inline int ck_errno(void) { return errno; }
static inline void ck_set_errno(int e) { errno = e; }
static inline int ck_open(const char *path, int flags, unsigned mode) { return open(path, flags, mode); }
static inline int ck_openat(int dir, const char *path, int flags, unsigned mode) {
    return openat(dir, path, flags, mode);
}
static inline int ck_fcntl(int fd, int cmd, long arg) { return fcntl(fd, cmd, arg); }
static inline int ck_ioctl(int fd, unsigned long request, void *arg) { return ioctl(fd, request, arg); }
static inline int ck_wifexited(int s) { return WIFEXITED(s); }
static inline int ck_wexitstatus(int s) { return WEXITSTATUS(s); }
static inline int ck_wifsignaled(int s) { return WIFSIGNALED(s); }
static inline int ck_wtermsig(int s) { return WTERMSIG(s); }
static inline int ck_wifstopped(int s) { return WIFSTOPPED(s); }
static inline int ck_wstopsig(int s) { return WSTOPSIG(s); }
static inline int ck_sock_cloexec(void) { return SOCK_CLOEXEC; }
static inline int ck_sock_nonblock(void) { return SOCK_NONBLOCK; }

/// The CPUID instruction: eax, ebx, ecx, edx into `out`. Leaf 0xd tells which xsave components exist, and where.
void ck_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t *out);
/// XCR0, the xsave components that the kernel has enabled for user mode.
uint64_t ck_enabled_components(void);
