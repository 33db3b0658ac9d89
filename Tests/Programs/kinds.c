// A service that holds one of each kind of kernel object and compares all of them with what it put into them, each
// time it is asked over TCP: kinds ADDRESS PORT DATAFILE LOGFILE. Answers `OK`, or what differs. Every check leaves
// its object as it found it, so that it can be asked again after the next move.
#include "asked.h"
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

enum { HOUR = 3600, PIPE_SIZE = 1 << 18, STACK = 65536, QUEUED = 34, HIGH_SIGNAL = 41, HIGH = 200 };

static const char *data_path, *log_path;
static int pipes[2], streams[2], packets[2], counter, semaphore, polls, once, ticks, boots, signals;
static int data, duplicate, log_file, unlinked, again, memory, local, asynchronous[4];
static sigset_t readable;
static char *view, *other_view, *private_view, first[16], *alternate;
static double started, started_boot;
static struct rlimit files = {3000, 3500}, core = {0, 0};
static char directory[PATH_MAX];
static volatile sig_atomic_t handled_on_alternate;
// Written by the clock's thread only; nanoseconds.
static volatile int64_t largest_step, backward_steps;
static volatile uint64_t samples;

static void differ(const char *what, long expected, long found) {
    size_t used = strlen(differences);
    snprintf(differences + used, sizeof differences - used, "%s: expected %ld, found %ld; ", what, expected, found);
}
#define SAME(what, expected, found)                                                                                    \
    do {                                                                                                               \
        long expected_ = (long)(expected), found_ = (long)(found);                                                     \
        if (expected_ != found_) differ(what, expected_, found_);                                                      \
    } while (0)

static double at(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int64_t nanoseconds(clockid_t clock, int real) {
    struct timespec t;
    if (real) syscall(SYS_clock_gettime, clock, &t);
    else clock_gettime(clock, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

// CLOCK_MONOTONIC and CLOCK_BOOTTIME, by the vDSO and by the kernel in turn, never go back and never leap.
static void *watch_clocks(void *unused) {
    (void)unused;
    int64_t last[2] = {nanoseconds(CLOCK_MONOTONIC, 0), nanoseconds(CLOCK_BOOTTIME, 0)};
    for (int real = 0;; real = !real) {
        for (int i = 0; i < 2; i++) {
            int64_t now = nanoseconds(i ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, real), step = now - last[i];
            if (step < 0) backward_steps++;
            if (step > largest_step) largest_step = step;
            last[i] = now;
        }
        samples++;
        poll(NULL, 0, 2);
    }
    return NULL;
}

static void on_user1(int number) {
    char here;
    (void)number;
    handled_on_alternate = &here >= alternate && &here < alternate + STACK;
}

// A pipe and a socket that say by a signal when there is something to read, fcntl(2) O_ASYNC.
static void make_asynchronous(void) {
    int *end = asynchronous;
    sigaddset(&readable, HIGH_SIGNAL);
    pthread_sigmask(SIG_BLOCK, &readable, NULL);
    need(!pipe(end) && !socketpair(AF_UNIX, SOCK_STREAM, 0, end + 2), "ends");
    need(!setsockopt(end[2], SOL_SOCKET, SO_LOCK_FILTER, &(int){1}, sizeof(int)), "SO_LOCK_FILTER");
    for (; end < asynchronous + 4; end += 2)
        need(!fcntl(*end, F_SETOWN, getpid()) && !fcntl(*end, F_SETSIG, HIGH_SIGNAL)
                 && !fcntl(*end, F_SETFL, O_ASYNC), "O_ASYNC");
}

static void check_asynchronous(void) {
    char byte = 'x';
    int locked = 0;
    struct timespec second = {1, 0}, none = {0, 0};
    for (int *end = asynchronous; end < asynchronous + 4; end += 2) {
        SAME("O_ASYNC", O_ASYNC, fcntl(*end, F_GETFL) & O_ASYNC);
        SAME("signal without cause", -1, sigtimedwait(&readable, NULL, &none));
        SAME("write", 1, write(end[1], &byte, 1));
        SAME("signal of O_ASYNC", HIGH_SIGNAL, sigtimedwait(&readable, NULL, &second));
        SAME("read", 1, read(*end, &byte, 1));
    }
    getsockopt(asynchronous[2], SOL_SOCKET, SO_LOCK_FILTER, &locked, &(socklen_t){sizeof locked});
    SAME("SO_LOCK_FILTER", 1, locked);
}

static void queue_signals(void) {
    union sigval value = {.sival_int = 7};
    sigqueue(getpid(), QUEUED, value);
    value.sival_int = 8;
    sigqueue(getpid(), QUEUED, value);
    pthread_kill(pthread_self(), SIGUSR2);
}

static void make_signals(void) {
    alternate = malloc(STACK);
    stack_t stack = {.ss_sp = alternate, .ss_size = STACK};
    need(!sigaltstack(&stack, NULL), "sigaltstack");
    struct sigaction action = {.sa_handler = on_user1, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigaddset(&action.sa_mask, SIGWINCH);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, QUEUED);
    need((signals = signalfd(-1, &set, SFD_NONBLOCK)) >= 0, "signalfd");
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    queue_signals();
}

static void make_files(void) {
    need((data = open(data_path, O_RDONLY)) >= 0, data_path);
    need(pread(data, first, 16, 1000) == 16 && lseek(data, 1000, SEEK_SET) == 1000, "read data");
    need((duplicate = dup2(data, HIGH)) == HIGH && !fcntl(duplicate, F_SETFD, FD_CLOEXEC), "dup2");
    need(!flock(data, LOCK_EX), "flock");
    private_view = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, data, 0);
    need(private_view != MAP_FAILED, "private mapping");
    private_view[5000] = '!';
    need((log_file = open(log_path, O_WRONLY | O_APPEND | O_CREAT, 0640)) >= 0, log_path);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20};
    need(!fcntl(log_file, F_SETLK, &range), "POSIX lock");
    char name[] = "/var/tmp/kinds.XXXXXX";
    need((unlinked = mkstemp(name)) >= 0, "file");
    need((again = open(name, O_RDONLY)) >= 0 && !unlink(name), "unlinked file");
    need(write(unlinked, "without a name", 14) == 14 && lseek(unlinked, 8, SEEK_SET) == 8, "write unlinked");
    need((memory = memfd_create("kinds", MFD_ALLOW_SEALING)) >= 0 && !ftruncate(memory, 16384), "memfd");
    view = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    other_view = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 8192);
    need(view != MAP_FAILED && other_view != MAP_FAILED, "memfd mapping");
    strcpy(view + 8192, "in memory");
    need(!fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "seals");
}

static void make_queues(void) {
    need(!pipe2(pipes, O_CLOEXEC) && fcntl(pipes[0], F_SETFL, O_NONBLOCK) == 0, "pipe");
    need(fcntl(pipes[1], F_SETPIPE_SZ, PIPE_SIZE) == PIPE_SIZE && write(pipes[1], "in the pipe", 11) == 11, "pipe");
    need(!socketpair(AF_UNIX, SOCK_STREAM, 0, streams) && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets), "pairs");
    need(send(streams[0], "left to right", 13, 0) == 13 && send(streams[1], "back", 4, 0) == 4, "stream pair");
    need(send(packets[0], "one", 3, 0) == 3 && send(packets[0], "three", 5, 0) == 5, "packet pair");
    need((counter = eventfd(41, EFD_NONBLOCK)) >= 0, "eventfd");
    need((semaphore = eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE)) >= 0, "eventfd");
    struct itimerspec hour = {.it_value.tv_sec = HOUR}, tick = {{0, 50000000}, {0, 50000000}};
    need((once = timerfd_create(CLOCK_MONOTONIC, 0)) >= 0 && !timerfd_settime(once, 0, &hour, NULL), "timerfd");
    need((boots = timerfd_create(CLOCK_BOOTTIME, 0)) >= 0 && !timerfd_settime(boots, 0, &hour, NULL), "timerfd");
    need((ticks = timerfd_create(CLOCK_MONOTONIC, 0)) >= 0 && !timerfd_settime(ticks, 0, &tick, NULL), "timerfd");
    need((polls = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll");
    struct epoll_event event = {EPOLLIN, {.u64 = 0x1122334455667788}};
    need(!epoll_ctl(polls, EPOLL_CTL_ADD, pipes[0], &event), "epoll_ctl");
    event.data.u64 = 2;
    need(!epoll_ctl(polls, EPOLL_CTL_ADD, once, &event), "epoll_ctl");
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.u64 = 3;
    need(!epoll_ctl(polls, EPOLL_CTL_ADD, counter, &event), "epoll_ctl");
}

static void make_process(void) {
    umask(027);
    need(!setrlimit(RLIMIT_NOFILE, &files) && !setrlimit(RLIMIT_CORE, &core), "setrlimit");
    need(!chdir("/var/lib") && getcwd(directory, sizeof directory) && !setpriority(PRIO_PROCESS, 0, 3), "process");
    struct itimerval hour = {.it_value.tv_sec = HOUR};
    setitimer(ITIMER_REAL, &hour, NULL);
    prctl(PR_SET_NAME, "all-kinds");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static void expect_text(const char *what, int fd, const char *text, int back) {
    char found[64] = "";
    ssize_t length = strlen(text);
    SAME(what, length, read(fd, found, sizeof found));
    if (strcmp(text, found)) differ(what, 0, 1);
    if (write(back, text, length) != length) differ(what, length, -errno);
}

static void check_queues(void) {
    int waiting = 0;
    ioctl(pipes[0], FIONREAD, &waiting);
    SAME("bytes in the pipe", 11, waiting);
    SAME("size of the pipe", PIPE_SIZE, fcntl(pipes[1], F_GETPIPE_SZ));
    SAME("O_NONBLOCK of the pipe", O_NONBLOCK, fcntl(pipes[0], F_GETFL) & O_NONBLOCK);
    SAME("FD_CLOEXEC of the pipe", FD_CLOEXEC, fcntl(pipes[1], F_GETFD));
    // Before the queues are touched: the edges of the eventfd are taken, the levels stand.
    struct epoll_event events[8];
    int found = epoll_wait(polls, events, 8, 0), pipe_seen = 0;
    for (int i = 0; i < found; i++) {
        if (events[i].data.u64 == 0x1122334455667788) {
            pipe_seen = 1;
            SAME("epoll events", EPOLLIN, events[i].events);
        } else if (events[i].data.u64 != 3) {
            differ("epoll data", 3, events[i].data.u64);
        }
    }
    SAME("pipe in the epoll set", 1, pipe_seen);
    expect_text("pipe", pipes[0], "in the pipe", pipes[1]);
    expect_text("socketpair left to right", streams[1], "left to right", streams[0]);
    expect_text("socketpair right to left", streams[0], "back", streams[1]);
    expect_text("first packet", packets[1], "one", packets[0]);
    expect_text("second packet", packets[1], "three", packets[0]);
    uint64_t value = 0;
    if (read(counter, &value, 8) != 8 || write(counter, &value, 8) != 8) differ("eventfd", 8, -errno);
    SAME("eventfd", 41, value);
    int tokens = 0;
    while (read(semaphore, &value, 8) == 8) tokens++;
    SAME("eventfd semaphore", 3, tokens);
    value = 3;
    if (write(semaphore, &value, 8) != 8) differ("eventfd semaphore", 8, -errno);
}

static void check_timers(void) {
    struct itimerspec left;
    struct itimerval real;
    timerfd_gettime(once, &left);
    double passed = at(CLOCK_MONOTONIC) - started, passed_boot = at(CLOCK_BOOTTIME) - started_boot;
    double error = left.it_value.tv_sec + left.it_value.tv_nsec / 1e9 - (HOUR - passed);
    if (error > 0.1 || error < -0.1) differ("ms of the timerfd", 0, error * 1000);
    timerfd_gettime(boots, &left);
    error = left.it_value.tv_sec + left.it_value.tv_nsec / 1e9 - (HOUR - passed_boot);
    if (error > 0.1 || error < -0.1) differ("ms of the boottime timerfd", 0, error * 1000);
    getitimer(ITIMER_REAL, &real);
    error = real.it_value.tv_sec + real.it_value.tv_usec / 1e6 - (HOUR - passed);
    if (error > 1 || error < -1) differ("ms of the interval timer", 0, error * 1000);
    // Two reads: the second can only be answered by a tick that is still to come.
    uint64_t fired = 0;
    for (int i = 0; i < 2; i++)
        if (read(ticks, &fired, 8) != 8 || fired > 20 * HOUR) differ("periodic timerfd", 1, fired);
    if (passed - passed_boot > 1 || passed_boot - passed > 1) differ("monotonic and boottime", passed, passed_boot);
    uint64_t before = samples;
    for (int i = 0; i < 1000 && samples < before + 4; i++) poll(NULL, 0, 1);
    if (samples < before + 4) differ("samples of the clocks", before + 4, samples);
    SAME("steps back of the clocks", 0, backward_steps);
    if (largest_step > 1000000000) differ("largest step of the clocks in ms", 1000, largest_step / 1000000);
}

static void check_signals(void) {
    sigset_t pending, mask, user2;
    sigpending(&pending);
    SAME("pending SIGUSR2", 1, sigismember(&pending, SIGUSR2));
    SAME("pending real-time signal", 1, sigismember(&pending, QUEUED));
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    SAME("blocked SIGUSR2", 1, sigismember(&mask, SIGUSR2));
    SAME("blocked SIGUSR1", 0, sigismember(&mask, SIGUSR1));
    struct signalfd_siginfo information = {0};
    for (int value = 7; value < 9; value++) {
        SAME("signalfd", sizeof information, read(signals, &information, sizeof information));
        SAME("value of the signal", value, information.ssi_int);
        SAME("sender of the signal", getpid(), information.ssi_pid);
        SAME("code of the signal", SI_QUEUE, information.ssi_code);
    }
    sigemptyset(&user2);
    sigaddset(&user2, SIGUSR2);
    siginfo_t taken;
    struct timespec none = {0, 0};
    SAME("SIGUSR2 for this thread", SIGUSR2, sigtimedwait(&user2, &taken, &none));
    // The C library shows SI_TKILL as SI_USER.
    SAME("code of SIGUSR2", SI_USER, taken.si_code);
    queue_signals();
    handled_on_alternate = 0;
    raise(SIGUSR1);
    SAME("handler on the alternate stack", 1, handled_on_alternate);
    stack_t stack;
    sigaltstack(NULL, &stack);
    SAME("address of the alternate stack", alternate, stack.ss_sp);
    SAME("size of the alternate stack", STACK, stack.ss_size);
    struct sigaction action;
    sigaction(SIGUSR1, NULL, &action);
    SAME("mask of the handler", 1, sigismember(&action.sa_mask, SIGWINCH));
    sigaction(SIGPIPE, NULL, &action);
    SAME("ignored SIGPIPE", SIG_IGN, action.sa_handler);
}

// Another process sees the locks: 1 the flock is missing, 2 the POSIX lock.
static int locks_missing(void) {
    int status = 0;
    pid_t holder = getpid(), child = fork();
    if (child == 0) {
        struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
        int fresh = open(data_path, O_RDONLY), missing = 0;
        if (fresh < 0 || !flock(fresh, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) missing |= 1;
        if (fcntl(log_file, F_GETLK, &range) || range.l_type != F_WRLCK || range.l_pid != holder || range.l_start != 10
            || range.l_len != 20)
            missing |= 2;
        _exit(missing);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : status;
}

static void check_files(void) {
    char found[32] = "";
    SAME("position of the file", 1000, lseek(data, 0, SEEK_CUR));
    SAME("read at the position", 16, read(data, found, 16));
    if (memcmp(found, first, 16)) differ("content at the position", 0, 1);
    SAME("position of the duplicate", 1016, lseek(duplicate, 0, SEEK_CUR));
    SAME("position set back", 1000, lseek(duplicate, 1000, SEEK_SET));
    SAME("flags of the duplicate", FD_CLOEXEC, fcntl(duplicate, F_GETFD));
    SAME("flags of the original", 0, fcntl(data, F_GETFD));
    SAME("private page of the file", '!', private_view[5000]);
    SAME("untouched byte of the private page", private_view[1000], first[0]);
    SAME("missing locks", 0, locks_missing());
    SAME("O_APPEND", O_APPEND | O_WRONLY, fcntl(log_file, F_GETFL) & (O_APPEND | O_ACCMODE));
    SAME("write to the log", 6, write(log_file, "asked\n", 6));
    struct stat status, named;
    if (fstat(log_file, &status) || stat(log_path, &named)) differ("stat of the log", 0, errno);
    SAME("log by its name", named.st_ino, status.st_ino);
    if (fstat(unlinked, &status)) differ("stat of the unlinked file", 0, errno);
    SAME("links of the unlinked file", 0, status.st_nlink);
    SAME("position of the unlinked file", 8, lseek(unlinked, 0, SEEK_CUR));
    memset(found, 0, sizeof found);
    SAME("size of the unlinked file", 14, pread(unlinked, found, 32, 0));
    if (strcmp(found, "without a name")) differ("content of the unlinked file", 0, 1);
    ino_t one_file = status.st_ino;
    if (fstat(again, &status)) differ("stat of its other description", 0, errno);
    SAME("the file of both descriptions", one_file, status.st_ino);
    SAME("flags of its other description", O_RDONLY, fcntl(again, F_GETFL) & O_ACCMODE);
    if (strcmp(view + 8192, "in memory") || strcmp(other_view, "in memory")) differ("memfd", 0, 1);
    // What is written by one mapping is seen by the other and by the descriptor.
    view[8200]++;
    SAME("second mapping of the memfd", view[8200], other_view[8]);
    SAME("memfd by descriptor", 1, pread(memory, found, 1, 8200));
    SAME("memfd by descriptor", view[8200], found[0]);
    view[8200]--;
    SAME("seals", F_SEAL_SHRINK | F_SEAL_GROW, fcntl(memory, F_GET_SEALS));
}

static void check_process(void) {
    mode_t mask = umask(027);
    SAME("umask", 027, mask);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    SAME("soft limit of descriptors", files.rlim_cur, limit.rlim_cur);
    SAME("hard limit of descriptors", files.rlim_max, limit.rlim_max);
    getrlimit(RLIMIT_CORE, &limit);
    SAME("limit of core files", 0, limit.rlim_max);
    char found[PATH_MAX] = "";
    if (!getcwd(found, sizeof found) || strcmp(found, directory)) differ("working directory", 0, 1);
    SAME("nice value", 3, getpriority(PRIO_PROCESS, 0));
    prctl(PR_GET_NAME, found);
    if (strcmp(found, "all-kinds")) differ("name", 0, 1);
    int subreaper = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    SAME("child subreaper", 1, subreaper);
    if (!__rseq_size) return;
    // A registered area is answered by EBUSY, another one by EINVAL, kernel/rseq.c.
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    long answer = syscall(SYS_rseq, area, 32, 0, RSEQ_SIG);
    SAME("rseq", EBUSY, answer ? errno : 0);
    if (area->cpu_id >= (unsigned)sysconf(_SC_NPROCESSORS_CONF)) differ("cpu of rseq", 0, area->cpu_id);
}

static void check(const char *question) {
    (void)question;
    check_queues();
    check_timers();
    check_asynchronous();
    check_signals();
    check_files();
    check_process();
}

int main(int argc, char **argv) {
    if (argc != 5) return 64;
    data_path = argv[3];
    log_path = argv[4];
    local = listen_at(argv[1], argv[2]);
    started = at(CLOCK_MONOTONIC);
    started_boot = at(CLOCK_BOOTTIME);
    make_process();
    make_signals();
    make_asynchronous();
    make_files();
    make_queues();
    pthread_t thread;
    need(!pthread_create(&thread, NULL, watch_clocks, NULL), "thread");
    serve(local, check);
}
