// A service that holds what is set once and seldom looked at: registrations of threads with the kernel, signals that
// wait, settings of the process. corners ADDRESS PORT. Asked `check` over TCP it answers `OK`, or what differs from
// the start. `finish` makes things happen for which they were set: owners and parents die, threads and handlers end.
#include "asked.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/keyctl.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { QUEUED = 40, ALTERNATE = 64 * 1024, VALUES = 256, AUTODISARM = 1 << 31 };
// Newer than the headers of Debian 12, linux/prctl.h and linux/membarrier.h.
enum { SET_MDWE = 65, GET_MDWE = 66, REFUSE_EXEC_GAIN = 1, SET_MEMORY_MERGE = 67, GET_MEMORY_MERGE = 68,
       GET_REGISTRATIONS = 1 << 9, EXCEPT_ADVISED = 2 };
enum { TO_PROCESS = 40, TO_THREAD = 41 };
enum { MAIN, BATCH, IDLE, PLAIN, INSIDE, INSIDE_DISARMED, THREADS };

struct value { char name[48]; long value; };
struct state { int count; struct value values[VALUES]; };

// One thread: what it had at the start, and what it is asked to do.
struct worker {
    pthread_t thread;
    volatile int command, done;
    struct state start;
    char *stack;
    unsigned stack_flags;
    volatile int on_stack, in_handler, leave_handler, returned;
};

// What other processes share with this one.
struct common {
    pthread_mutex_t robust;
    volatile int holds, orphan_heard, orphan_ready;
    struct state owner_start;
    volatile int owner_command, owner_done;
    char owner_differences[2048];
};

static struct worker workers[THREADS];
static struct common *common;
static pid_t owner, parent;
static int listener;
static pthread_mutex_t reporting = PTHREAD_MUTEX_INITIALIZER;

static void differ(const char *who, const char *what, long expected, long found) {
    pthread_mutex_lock(&reporting);
    size_t used = strlen(differences);
    if (used < sizeof differences - 160)
        snprintf(differences + used, 160, "%s, %s: %ld instead of %ld; ", who, what, found, expected);
    pthread_mutex_unlock(&reporting);
}

static void note(struct state *state, long value, const char *format, ...) {
    if (state->count == VALUES) abort();
    struct value *entry = &state->values[state->count++];
    va_list list;
    va_start(list, format);
    vsnprintf(entry->name, sizeof entry->name, format, list);
    va_end(list);
    entry->value = value;
}

static void compare(const char *who, const struct state *before, const struct state *now) {
    if (before->count != now->count) differ(who, "number of settings", before->count, now->count);
    for (int i = 0; i < before->count && i < now->count; i++)
        if (before->values[i].value != now->values[i].value)
            differ(who, before->values[i].name, before->values[i].value, now->values[i].value);
}

static long digest(const void *bytes, size_t length) {
    uint64_t hash = 14695981039346656037ull;
    for (size_t i = 0; i < length; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211ull;
    return (long)(hash >> 1);
}

static long answer(long result) { return result < 0 ? -errno : result; }

// A line of a file in /proc, as a number.
static long line_of(const char *path, const char *key, int base) {
    char text[8192] = "";
    FILE *file = fopen(path, "r");
    if (!file) return -errno;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char *place = strstr(text, key);
    return place ? strtol(place + strlen(key), NULL, base) : -1;
}

// What belongs to the calling thread.
static void note_thread(struct state *to) {
    to->count = 0;
    void *head = NULL;
    size_t length = 0;
    note(to, answer(syscall(SYS_get_robust_list, 0, &head, &length)), "get_robust_list");
    note(to, (long)head, "robust list");
    note(to, length, "length of the robust list");
    stack_t stack;
    sigaltstack(NULL, &stack);
    note(to, (long)stack.ss_sp, "alternate stack");
    note(to, stack.ss_size, "size of the alternate stack");
    note(to, stack.ss_flags & ~SS_ONSTACK, "flags of the alternate stack");
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    note(to, digest(name, strlen(name)), "thread name");
    note(to, prctl(PR_GET_TIMERSLACK), "timer slack");
    note(to, answer(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0)), "I/O priority");
    note(to, getpriority(PRIO_PROCESS, 0), "nice value");
    note(to, answer(sched_getscheduler(0)), "scheduling policy");
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    note(to, digest(&set, sizeof set), "processors");
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    note(to, digest(&mask, 8), "blocked signals");
    int signal = 0;
    prctl(PR_GET_PDEATHSIG, &signal);
    note(to, signal, "parent death signal");
    note(to, answer(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0)), "store bypass");
    note(to, answer(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0)), "indirect branches");
    note(to, prctl(PR_GET_SECUREBITS), "securebits");
    note(to, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), "no_new_privs");
    note(to, prctl(PR_GET_SECCOMP), "seccomp mode");
    note(to, answer(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0)), "machine check policy");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {0};
    syscall(SYS_capget, &header, data);
    note(to, digest(data, sizeof data), "capabilities");
}

// What belongs to the whole process.
static void note_process(struct state *to) {
    note_thread(to);
    note(to, prctl(PR_GET_DUMPABLE), "dumpable");
    int reaper = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &reaper);
    note(to, reaper, "child subreaper");
    note(to, answer(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)), "THP disabled");
    note(to, answer(prctl(GET_MDWE, 0, 0, 0, 0)), "MDWE");
    note(to, answer(prctl(GET_MEMORY_MERGE, 0, 0, 0, 0)), "memory merge");
    note(to, answer(syscall(SYS_membarrier, GET_REGISTRATIONS, 0, 0)), "membarrier registrations");
    mode_t mask = umask(077);
    umask(mask);
    note(to, mask, "umask");
    char path[4096] = "";
    if (getcwd(path, sizeof path)) note(to, digest(path, strlen(path)), "working directory");
    note(to, personality(0xffffffff), "personality");
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit limit;
        getrlimit(i, &limit);
        note(to, limit.rlim_cur, "soft limit %d", i);
        note(to, limit.rlim_max, "hard limit %d", i);
    }
    gid_t groups[64];
    int count = getgroups(64, groups);
    note(to, count, "groups");
    note(to, digest(groups, count * sizeof *groups), "supplementary groups");
    uid_t ids[6];
    getresuid(&ids[0], &ids[1], &ids[2]);
    getresgid(&ids[3], &ids[4], &ids[5]);
    note(to, digest(ids, sizeof ids), "ids");
    for (int i = 0; i <= 40; i++) {
        note(to, prctl(PR_CAPBSET_READ, i), "bounding set, capability %d", i);
        note(to, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0), "ambient set, capability %d", i);
    }
    note(to, line_of("/proc/self/oom_score_adj", "", 10), "oom_score_adj");
    note(to, line_of("/proc/self/coredump_filter", "", 16), "coredump_filter");
    note(to, line_of("/proc/self/status", "Seccomp_filters:", 10), "seccomp filters");
    char key[128] = "";
    note(to, answer(syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, key, sizeof key)), "session keyring");
    note(to, digest(key, strlen(key)), "owner and rights of the session keyring");
    long invocation = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "invocation_id", 0);
    note(to, syscall(SYS_keyctl, KEYCTL_DESCRIBE, invocation, key, sizeof key), "invocation id");
    note(to, digest(key, strlen(key)), "owner and rights of the invocation id");
    note(to, answer(syscall(SYS_times, 0)) < 0 ? errno : 0, "times, which the program forbids itself");
    note(to, answer(syscall(SYS_sysinfo, path)), "sysinfo, which SystemCallFilter= forbids");
}

// What the settings do, beside what they are said to be.
static void check_effects(void) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = 1;
    int result = mprotect(page, 4096, PROT_READ | PROT_EXEC);
    if (!result || errno != EACCES) differ("process", "mprotect under MDWE", EACCES, result ? errno : 0);
    munmap(page, 4096);
    unsigned char resident = 2;
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mincore(page, 4096, &resident);
    if (!(resident & 1)) differ("process", "mlockall(MCL_FUTURE): new page in memory", 1, resident);
    munmap(page, 4096);
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0)) differ("process", "membarrier", 0, errno);
}

static void queue_signals(void) {
    for (int i = 0; i < QUEUED; i++) {
        union sigval value = {.sival_int = i};
        need(!sigqueue(getpid(), TO_PROCESS, value), "sigqueue");
        need(!pthread_sigqueue(pthread_self(), TO_THREAD, value), "pthread_sigqueue");
    }
}

// All signals that wait, in their order, with their values and their sender; then they are sent anew.
static void check_signals(void) {
    for (int number = TO_PROCESS; number <= TO_THREAD; number++) {
        const char *who = number == TO_PROCESS ? "signals of the process" : "signals of the thread";
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, number);
        struct timespec none = {0, 0};
        siginfo_t found;
        int count = 0;
        for (; sigtimedwait(&set, &found, &none) == number; count++) {
            if (found.si_value.sival_int != count) differ(who, "value", count, found.si_value.sival_int);
            if (found.si_code != SI_QUEUE) differ(who, "code", SI_QUEUE, found.si_code);
            if (found.si_pid != getpid()) differ(who, "sender", getpid(), found.si_pid);
        }
        if (count != QUEUED) differ(who, "number", QUEUED, count);
    }
    queue_signals();
}

static struct worker *self(void) {
    for (int i = 0; i < THREADS; i++)
        if (pthread_equal(workers[i].thread, pthread_self())) return &workers[i];
    abort();
}

// On the alternate stack; in two of the threads it stays there until it is told to leave.
static void on_user1(int number) {
    char here;
    (void)number;
    struct worker *worker = self();
    worker->on_stack = &here >= worker->stack && &here < worker->stack + ALTERNATE;
    if (worker != &workers[INSIDE] && worker != &workers[INSIDE_DISARMED]) return;
    stack_t stack;
    sigaltstack(NULL, &stack);
    int expected = worker->stack_flags ? SS_DISABLE : SS_ONSTACK;
    worker->in_handler = 1;
    do {
        usleep(1000);
        sigaltstack(NULL, &stack);
    } while (!worker->leave_handler && stack.ss_flags == expected);
    if (stack.ss_flags != expected) differ("handler", "flags of its stack", expected, stack.ss_flags);
    worker->in_handler = 0;
}

static void handle_on_alternate(struct worker *worker, const char *who) {
    worker->on_stack = 0;
    raise(SIGUSR1);
    if (!worker->on_stack) differ(who, "handler on the alternate stack", 1, 0);
}

static const char *const names[] = {"main", "batch", "idle", "plain", "inside", "inside, disarmed"};

static void *work(void *argument) {
    struct worker *worker = argument;
    int index = worker - workers;
    worker->stack = mmap(NULL, ALTERNATE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    worker->stack_flags = index == INSIDE_DISARMED ? (unsigned)AUTODISARM : 0;
    stack_t stack = {.ss_sp = worker->stack, .ss_size = ALTERNATE, .ss_flags = worker->stack_flags};
    need(!sigaltstack(&stack, NULL), "sigaltstack");
    pthread_setname_np(pthread_self(), names[index]);
    prctl(PR_SET_TIMERSLACK, 60000 + index);
    struct sched_param none = {0};
    if (index == BATCH) need(!sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none), "batch");
    if (index == IDLE) need(!sched_setscheduler(0, SCHED_IDLE, &none), "idle");
    if (index == IDLE) syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
    if (index == BATCH) syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6));
    if (index == PLAIN) need(!setpriority(PRIO_PROCESS, 0, 7), "nice");
    if (index == PLAIN) need(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0), "PR_MCE_KILL");
    // A processor without these faults refuses, and then says the same after a move.
    if (index == BATCH) prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
    if (index == IDLE) prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE, 0, 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (index == PLAIN) need(!sched_setaffinity(0, sizeof one, &one), "affinity");
    note_thread(&worker->start);
    worker->command = worker->done = 1;
    if (index == INSIDE || index == INSIDE_DISARMED) {
        volatile double kept = index + 0.5;
        raise(SIGUSR1);
        if (kept != index + 0.5) differ(names[index], "variable on the ordinary stack", index, kept);
        struct state now;
        note_thread(&now);
        compare(names[index], &worker->start, &now);
        worker->returned = 1;
    }
    for (int done = 1; worker->command >= 0;) {
        if (worker->command == done) {
            usleep(500);
            continue;
        }
        struct state now;
        note_thread(&now);
        compare(names[index], &worker->start, &now);
        handle_on_alternate(worker, names[index]);
        worker->done = done = worker->command;
    }
    return NULL;
}

static int await(const volatile int *what, int value) {
    for (int i = 0; i < 4000 && *what != value; i++) usleep(500);
    return *what == value;
}

// Holds the robust mutex until it is killed.
static void own(void) {
    close(listener);
    need(!pthread_mutex_lock(&common->robust), "lock");
    // The main process does without huge pages at all; here only where none are asked for, from Linux 6.18 on.
    if (prctl(PR_SET_THP_DISABLE, 1, EXCEPT_ADVISED, 0, 0)) need(errno == EINVAL, "THP");
    note_process(&common->owner_start);
    common->holds = 1;
    for (;;) {
        usleep(1000);
        if (common->owner_command == common->owner_done) continue;
        struct state now;
        note_process(&now);
        compare("owner of the mutex", &common->owner_start, &now);
        strncpy(common->owner_differences, differences, sizeof common->owner_differences - 1);
        differences[0] = 0;
        common->owner_done = common->owner_command;
    }
}

static void on_orphaned(int number) { common->orphan_heard = number; }

// A process whose child wants to hear of its end.
static void middle(void) {
    close(listener);
    if (!fork()) {
        signal(SIGUSR2, on_orphaned);
        prctl(PR_SET_PDEATHSIG, SIGUSR2);
        common->orphan_ready = 1;
        while (!common->orphan_heard) usleep(1000);
        common->orphan_ready = getppid();
        for (;;) pause();
    }
    for (;;) pause();
}

// A filter of the program's own, above those of its unit: times(2) fails with ENOTTY.
static void forbid_times(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_times, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, filter};
    // Without the capability for it only a process that has given up more rights may.
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        need(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program),
             "seccomp");
}

static void make(void) {
    forbid_times();
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&common->robust, &attributes);
    if (!(owner = fork())) own();
    if (!(parent = fork())) middle();
    need(owner > 0 && parent > 0, "fork");
    need(await(&common->holds, 1) && await(&common->orphan_ready, 1), "children");
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, TO_PROCESS);
    sigaddset(&blocked, TO_THREAD);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    struct sigaction action = {.sa_handler = on_user1, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    umask(0137);
    need(!chdir("/usr/lib"), "chdir");
    need(!prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
    need(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "THP");
    need(!prctl(PR_SET_DUMPABLE, 0), "dumpable");
    need(prctl(SET_MEMORY_MERGE, 1, 0, 0, 0) == 0 || errno == EINVAL, "memory merge");
    need(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), "membarrier");
    struct rlimit limit = {600000, 700000};
    need(!setrlimit(RLIMIT_MSGQUEUE, &limit), "setrlimit");
    for (int i = 1; i < THREADS; i++) {
        need(!pthread_create(&workers[i].thread, NULL, work, &workers[i]), "thread");
        need(await(&workers[i].done, 1), "thread");
    }
    need(await(&workers[INSIDE].in_handler, 1) && await(&workers[INSIDE_DISARMED].in_handler, 1), "handlers");
    // After the threads, whose stacks would count.
    need(!mlockall(MCL_FUTURE), "mlockall");
    need(!prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0), "MDWE");
    note_process(&workers[MAIN].start);
    queue_signals();
}

static void check(int round) {
    struct state now;
    note_process(&now);
    compare("process", &workers[MAIN].start, &now);
    check_effects();
    check_signals();
    for (int i = BATCH; i <= PLAIN; i++) {
        workers[i].command = round;
        if (!await(&workers[i].done, round)) differ(names[i], "has answered", round, workers[i].done);
    }
    for (int i = INSIDE; i <= INSIDE_DISARMED; i++)
        if (!workers[i].in_handler) differ(names[i], "is in its handler", 1, 0);
    common->owner_command = round;
    if (!await(&common->owner_done, round)) differ("owner of the mutex", "has answered", round, common->owner_done);
    strncat(differences, common->owner_differences, sizeof differences - strlen(differences) - 1);
    int busy = pthread_mutex_trylock(&common->robust);
    if (busy != EBUSY) differ("robust mutex", "of a living owner", EBUSY, busy);
    if (common->orphan_heard) differ("child", "parent death signal of a living parent", 0, common->orphan_heard);
}

static void finish(void) {
    int status = 0;
    // A filter for all threads: refused where they are not all under the same so far.
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    long synchronised = answer(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
    if (synchronised) differ("threads", "a seccomp filter for all of them", 0, synchronised);
    kill(owner, SIGKILL);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    int locked = pthread_mutex_timedlock(&common->robust, &until);
    if (locked != EOWNERDEAD) differ("robust mutex", "of a dead owner", EOWNERDEAD, locked);
    if (waitpid(owner, &status, 0) != owner || status != SIGKILL)
        differ("owner of the mutex", "status", SIGKILL, status);
    kill(parent, SIGKILL);
    if (waitpid(parent, &status, 0) != parent) differ("parent", "waitpid", parent, -errno);
    if (!await(&common->orphan_heard, SIGUSR2)) differ("child", "parent death signal", SIGUSR2, common->orphan_heard);
    if (!await(&common->orphan_ready, getpid())) differ("child", "its subreaper", getpid(), common->orphan_ready);
    for (int i = 1; i < THREADS; i++) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 2;
        workers[i].leave_handler = 1;
        if ((i == INSIDE || i == INSIDE_DISARMED) && !await(&workers[i].returned, 1))
            differ(names[i], "has come back from its handler", 1, 0);
        workers[i].command = -1;
        int joined = pthread_timedjoin_np(workers[i].thread, NULL, &until);
        if (joined) differ(names[i], "pthread_join", 0, joined);
    }
}

static void ask(const char *question) {
    static int round = 2;
    if (question[0] == 'f') finish();
    else check(round++);
}

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    workers[MAIN].thread = pthread_self();
    listener = listen_at(argv[1], argv[2]);
    make();
    serve(listener, ask);
}
