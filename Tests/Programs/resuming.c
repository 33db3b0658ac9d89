// A service in small that checks itself: threads, a child, shared memory, signals, floating point, timed waits.
// It writes one line of counters to the file given as its argument, again and again.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long spins, naps, wakes, usr1, errors, wrong_naps;
static volatile long *shared_page;
static __thread volatile long thread_local_count;
static unsigned char *big;
enum { BIG = 8 << 20 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

static void on_usr1(int s) { (void)s; usr1++; }

static void note(const char *path, const char *role) {
    char name[512], line[512];
    int *tid_address = 0;
    stack_t stack;
    struct sigaction action;
    prctl(PR_GET_TID_ADDRESS, &tid_address);
    sigaltstack(0, &stack);
    struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } raw = {0};
    syscall(SYS_rt_sigaction, SIGUSR1, 0, &raw, 8);
    (void)action;
    snprintf(name, sizeof name, "%s.thread.%ld", path, (long)syscall(SYS_gettid));
    int n = snprintf(line, sizeof line, "%s %lu %lu %lu %lu %lu %lu %lu %lu\n", role, (unsigned long)tid_address,
        __rseq_size ? (unsigned long)__builtin_thread_pointer() + __rseq_offset : 0, (unsigned long)stack.ss_sp,
        (unsigned long)stack.ss_size, (unsigned long)raw.handler, raw.flags, (unsigned long)raw.restorer, raw.mask);
    int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (write(fd, line, n) != n) errors++;
    close(fd);
}

static const char *base;
static int refused;

static void filter(int error) {
    // acct fails with `error`; what a restore has to do and this program does not is deadly.
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_acct, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setresuid, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_capset, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) exit(21);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) exit(22);
    close(fd);
}

// What a service manager does for a unit with a sandbox: u = user namespace, t = time namespace.
static void sandbox(const char *how) {
    if (strchr(how, 't')) {
        if (unshare(CLONE_NEWTIME)) exit(23);
        put("/proc/self/timens_offsets", "monotonic 5000 0\nboottime 5000 0\n");
    }
    if (strchr(how, 'u')) {
        // Only a process outside may write a map of many ids.
        int gate[2];
        char name[64], byte = 0;
        if (pipe(gate)) exit(24);
        long self = getpid(), helper = fork();
        if (helper == 0) {
            if (read(gate[0], &byte, 1) != 1) _exit(1);
            snprintf(name, sizeof name, "/proc/%ld/uid_map", self);
            put(name, "0 0 70000");
            snprintf(name, sizeof name, "/proc/%ld/gid_map", self);
            put(name, "0 0 70000");
            _exit(0);
        }
        int status;
        if (unshare(CLONE_NEWUSER) || write(gate[1], &byte, 1) != 1 || waitpid(helper, &status, 0) < 0 || status) exit(24);
        close(gate[0]);
        close(gate[1]);
    }
    if (unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC)) exit(25);
    if (sethostname("sandboxed", 9)) exit(26);
    gid_t groups[] = {65533, 100};
    for (int c = 0; c < 41; c++) if (c != CAP_NET_RAW && c != CAP_SETPCAP && c != CAP_SYS_ADMIN) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
    if (prctl(PR_SET_KEEPCAPS, 1) || setgroups(2, groups) || setresgid(65533, 65533, 65533)) exit(27);
    if (setresuid(65534, 65534, 65534)) exit(28);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{1 << CAP_NET_RAW, 1 << CAP_NET_RAW, 1 << CAP_NET_RAW}, {0, 0, 0}};
    if (syscall(SYS_capset, &header, data)) exit(29);
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0)) exit(30);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) exit(31);
    filter(97);
    filter(98);
    filter(96);
}

static void *spin(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "spinner");
    note(base, "spin");
    double a = 1.0, b = 0.5;
    for (;;) {
        for (int i = 0; i < 1000; i++) { a = a * 1.0000001 + b; b = b * 0.9999999; if (a > 1e6) { a = 1.0; b = 0.5; } }
        if (!(a >= 1.0) || b > 0.5) errors++;
        if (++thread_local_count != spins + 1) errors++;
        spins++;
        size_t at = (size_t)(spins * 4097) % BIG;
        if (big[at] != (unsigned char)(at * 31 + 7)) errors++;
        if (spins % 256 == 0) usleep(1000);
    }
}

static void *nap(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "napper");
    note(base, "nap");
    for (;;) {
        struct timespec t = {1, 500000000}, t0, t1;
        clock_gettime(CLOCK_MONOTONIC, &t0);
        if (nanosleep(&t, 0) != 0) errors++;
        clock_gettime(CLOCK_MONOTONIC, &t1);
        double d = t1.tv_sec - t0.tv_sec + (t1.tv_nsec - t0.tv_nsec) / 1e9;
        if (d < 1.5 - 0.001) wrong_naps++;
        naps++;
    }
}

static void *waiter(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "waiter");
    note(base, "wait");
    pthread_mutex_lock(&lock);
    for (;;) { pthread_cond_wait(&wake, &lock); wakes++; }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    base = argv[1];
    umask(022);
    if (argc > 2) sandbox(argv[2]);
    if (argc > 3) {
        close(open(base, O_CREAT | O_WRONLY, 0644));
        for (;;) pause();
    }
    prctl(PR_SET_DUMPABLE, 1);
    syscall(SYS_acct, "");
    refused = errno;
    shared_page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    big = mmap(0, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < BIG; i++) big[i] = (unsigned char)(i * 31 + 7);
    int memory = memfd_create("numbers", 0);
    if (ftruncate(memory, 8192)) return 3;
    volatile long *numbers = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    numbers[600] = 4711;
    void *text = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, open("/etc/passwd", O_RDONLY), 0);
    ((char *)text)[0] = 'X';
    static char alternate[32768];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, 0);
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigaction(SIGUSR1, &action, 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_SETMASK, &set, 0);
    for (int i = 0; i < 1024; i++) close(i);
    long home = getpid(), parent = getppid();
    long child = fork();
    if (child == 0) {
        note(base, "child");
        for (;;) { if (poll(0, 0, 30) != 0) shared_page[1]++; shared_page[0]++; if (getppid() != home) shared_page[1]++; }
    }
    pthread_t t[3];
    pthread_create(&t[0], 0, spin, 0);
    pthread_create(&t[1], 0, nap, 0);
    pthread_create(&t[2], 0, waiter, 0);
    note(base, "main");
    char *grown = malloc(100000);
    strcpy(grown, "heap");
    for (long count = 0;; count++) {
        struct timespec t = {0, 20000000};
        nanosleep(&t, 0);
        sigset_t pending;
        sigpending(&pending);
        if (numbers[600] != 4711 || *(char *)text != 'X' || strcmp(grown, "heap") || getpid() != home
            || (long)syscall(SYS_gettid) != home || getppid() != parent) errors++;
        errno = 0;
        syscall(SYS_acct, "");
        if (errno != refused) errors++;
        struct utsname names;
        uname(&names);
        if (argc > 2 && strcmp(names.nodename, "sandboxed")) errors++;
        struct timespec quick, real;
        clock_gettime(CLOCK_MONOTONIC, &quick);
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &real);
        if (real.tv_sec < quick.tv_sec || real.tv_sec > quick.tv_sec + 1) errors++;
        pthread_mutex_lock(&lock);
        pthread_cond_signal(&wake);
        pthread_mutex_unlock(&lock);
        char line[256], temporary[512];
        int n = snprintf(line, sizeof line, "%ld %ld %ld %ld %ld %ld %d %ld %ld %ld\n", count, spins, naps, wakes,
            shared_page[0], usr1, sigismember(&pending, SIGUSR2), errors + shared_page[1], wrong_naps, child);
        snprintf(temporary, sizeof temporary, "%s.new", base);
        int fd = open(temporary, O_CREAT | O_WRONLY | O_TRUNC, 0644);
        if (write(fd, line, n) != n) errors++;
        close(fd);
        rename(temporary, base);
    }
}
