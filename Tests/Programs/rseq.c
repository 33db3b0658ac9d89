// A service whose threads spend their time in restartable sequences, rseq(2): rseq ADDRESS PORT [own]. With `own` each
// thread registers an area and a signature of its own, for which the C library's must be off
// (GLIBC_TUNABLES=glibc.pthread.rseq=0). Asked `check` over TCP it answers `OK`, or what a move has changed; `finish`
// unregisters as well. A sequence says before it begins and after it ended on which host that was: one that is entered
// on one host may on another only come out at its abort handler.
#include "asked.h"
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

enum { THREADS = 2, ROUNDS = 1000000, OWN_SIGNATURE = 0x0badcafe, COMMITTED = 0, OTHER_CPU = 1, ABORTED = 2 };

struct worker {
    pthread_t thread;
    struct rseq *area;
    volatile long committed, aborted, torn, crossed_inside, crossed_aborted, crossed_between;
    volatile int wanted, examined;
    char differences[256];
};

// Newer than the headers of Debian 12, linux/membarrier.h.
enum { GET_REGISTRATIONS = 1 << 9 };

static struct worker workers[THREADS];
static __thread struct rseq own_area __attribute__((aligned(32)));
static int own;
static uint32_t signature = RSEQ_SIG;

// Counts down inside a restartable sequence for as long as the thread is on `cpu`.
#define SECTION(name, sign)                                                                                           \
    static int name(struct rseq *area, uint32_t cpu) {                                                               \
        __asm__ goto(".pushsection rseq_sections, \"aw\"\n\t.balign 32\n"                                            \
                     "3:\t.long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"                                    \
                     "mov %[rounds], %%ecx\n\t"                                                                      \
                     "lea 3b(%%rip), %%rax\n\t"                                                                      \
                     "mov %%rax, 8(%[area])\n"                                                                       \
                     "1:\tcmp %[cpu], 4(%[area])\n\tjne %l[other]\n\tpause\n\tdec %%ecx\n\tjnz 1b\n"                 \
                     "2:\t.pushsection .text.aborts, \"ax\"\n\t.byte 0x0f, 0xb9, 0x3d\n\t.long %c[sig]\n"            \
                     "4:\tjmp %l[abort]\n\t.popsection"                                                              \
                     :                                                                                               \
                     : [rounds] "i"(ROUNDS / 20), [area] "r"(area), [cpu] "r"(cpu), [sig] "i"(sign)                  \
                     : "rax", "rcx", "memory", "cc"                                                                  \
                     : other, abort);                                                                                \
        return COMMITTED;                                                                                            \
    other:                                                                                                           \
        return OTHER_CPU;                                                                                            \
    abort:                                                                                                           \
        return ABORTED;                                                                                              \
    }
SECTION(section_of_libc, RSEQ_SIG)
SECTION(section_of_own, OWN_SIGNATURE)

static void differ(char *to, const char *what, long long expected, long long found) {
    size_t used = strlen(to);
    if (used < 200) snprintf(to + used, 256 - used, "%s: %lld instead of %lld; ", what, found, expected);
}

static char host(void) {
    struct utsname names;
    uname(&names);
    return names.nodename[0];
}

static long registered(struct worker *self, uint32_t length, int flags, uint32_t sign) {
    return syscall(SYS_rseq, self->area, length, flags, sign) ? errno : 0;
}

// On each processor in turn: what the area says, and what a second registration is answered, kernel/rseq.c.
static void examine(struct worker *self, int last) {
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one)) differ(self->differences, "sched_setaffinity", 0, errno);
        uint32_t found = *(volatile uint32_t *)&self->area->cpu_id;
        if (found != (uint32_t)cpu) differ(self->differences, "cpu_id", cpu, found);
    }
    sched_setaffinity(0, sizeof all, &all);
    long again = registered(self, 32, 0, signature), other = registered(self, 32, 0, signature + 1);
    long longer = registered(self, 64, 0, signature), wrong = registered(self, 32, RSEQ_FLAG_UNREGISTER, signature + 1);
    if (again != EBUSY) differ(self->differences, "registering the same again", EBUSY, again);
    if (other != EPERM) differ(self->differences, "registering another signature", EPERM, other);
    if (longer != EINVAL) differ(self->differences, "registering another length", EINVAL, longer);
    if (wrong != EPERM) differ(self->differences, "unregistering with another signature", EPERM, wrong);
    if (!last) return;
    long gone = registered(self, 32, RSEQ_FLAG_UNREGISTER, signature), back = registered(self, 32, 0, signature);
    if (gone) differ(self->differences, "unregistering", 0, gone);
    if (back) differ(self->differences, "registering anew", 0, back);
}

static void *work(void *argument) {
    struct worker *self = argument;
    self->area = own ? &own_area : (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    if (own && registered(self, 32, 0, signature)) abort();
    char before = host();
    for (;;) {
        char entered = host();
        if (entered != before) self->crossed_between++;
        uint32_t cpu = *(volatile uint32_t *)&self->area->cpu_id_start;
        int result = own ? section_of_own(self->area, cpu) : section_of_libc(self->area, cpu);
        before = host();
        if (result == COMMITTED) self->committed++;
        if (result == OTHER_CPU) self->torn++;
        if (result == ABORTED) self->aborted++;
        if (before != entered && result == ABORTED) self->crossed_aborted++;
        if (before != entered && result != ABORTED) self->crossed_inside++;
        if (self->wanted != self->examined) {
            examine(self, self->wanted < 0);
            self->examined = self->wanted;
        }
    }
    return NULL;
}

// Every worker by itself, for a registration is its thread's; then what the sequences have met since the start.
static void check(int round, int moves) {
    long inside = 0;
    for (int i = 0; i < THREADS; i++) {
        struct worker *w = &workers[i];
        w->differences[0] = 0;
        long committed = w->committed;
        w->wanted = round;
        for (int n = 0; n < 4000 && (w->examined != round || w->committed == committed); n++) usleep(1000);
        if (w->examined != round) differ(w->differences, "examined", round, w->examined);
        if (w->committed == committed) differ(w->differences, "sequences that end", committed + 1, committed);
        if (w->torn) differ(w->differences, "sequences that saw another processor", 0, w->torn);
        if (w->crossed_inside) differ(w->differences, "sequences that went on after a move", 0, w->crossed_inside);
        long crossed = w->crossed_inside + w->crossed_aborted + w->crossed_between;
        if (crossed != moves) differ(w->differences, "moves met", moves, crossed);
        inside += w->crossed_aborted;
        strncat(differences, w->differences, sizeof differences - strlen(differences) - 1);
    }
    // What the threads do outside of sequences takes a thousandth of their time.
    if (moves && !inside) differ(differences, "sequences aborted by moves", moves * THREADS, inside);
    int expedited = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;
    long found = syscall(SYS_membarrier, GET_REGISTRATIONS, 0, 0);
    if (found != expedited) differ(differences, "membarrier registrations", expedited, found < 0 ? -errno : found);
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0)) differ(differences, "membarrier", 0, errno);
}

static char last;

static void ask(const char *question) {
    static int round = 1, moves;
    char now = host();
    if (now != last) moves++;
    last = now;
    check(question[0] == 'f' ? -1 : round++, moves);
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    own = argc > 3;
    if (own) signature = OWN_SIGNATURE;
    if (own == (__rseq_size != 0)) return 65;
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0);
    int listener = listen_at(argv[1], argv[2]);
    for (int i = 0; i < THREADS; i++) pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    last = host();
    serve(listener, ask);
}
