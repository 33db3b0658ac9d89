// A service with timers of timer_create(2) of every sort, which it compares when asked over TCP:
// timers ADDRESS PORT [ROOT]. With ROOT it has changed its root to that directory, in which there is a file `here`.
// Answers `OK`, or what differs.
#include "asked.h"
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

enum { HOUR = 3600, TICK = 10000000, FIRST = 40, DIRECTED, SILENT, GAPS = 5 };

// The numbers of the kernel are what moves; the C library's timer_t may hide them.
static int ticking, hourly, absolute, directed, disarmed, processor, whole;
static volatile sig_atomic_t ticks, wrong_values, directed_ticks, wrong_threads, alarms;
static volatile int listener_tid;
static double started_boot;
static time_t due;
static clockid_t worker_clock;
static int has_root;

static double at(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void differ(const char *what, double expected, double found) {
    size_t used = strlen(differences);
    snprintf(differences + used, sizeof differences - used, "%s: expected %f, found %f; ", what, expected, found);
}

static void on_tick(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    ticks++;
    if (info->si_code != SI_TIMER || info->si_value.sival_int != 0x1234) wrong_values++;
}

static void on_directed(int number) {
    (void)number;
    directed_ticks++;
    if (syscall(SYS_gettid) != listener_tid) wrong_threads++;
}

static void on_alarm(int number) {
    (void)number;
    alarms++;
}

static int make(clockid_t clock, int notify, int signal, int value, int tid) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signal, .sigev_value.sival_int = value};
    event._sigev_un._tid = tid;
    int number = -1;
    need(!syscall(SYS_timer_create, clock, &event, &number), "timer_create");
    return number;
}

static void set(int timer, int flags, struct itimerspec setting) {
    need(!syscall(SYS_timer_settime, timer, flags, &setting, NULL), "timer_settime");
}

static void *work(void *unused) {
    (void)unused;
    need(!pthread_getcpuclockid(pthread_self(), &worker_clock), "clock");
    listener_tid = syscall(SYS_gettid);
    struct timespec pause = {0, 1000000};
    for (;;) nanosleep(&pause, NULL);
    return NULL;
}

static void make_timers(void) {
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(FIRST, &action, NULL);
    action = (struct sigaction){.sa_handler = on_directed, .sa_flags = SA_RESTART};
    sigaction(DIRECTED, &action, NULL);
    // Often between its signal and the taking of it, when the kernel has it in no queue.
    action = (struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval rhythm = {{0, TICK / 1000}, {0, TICK / 1000}};
    need(!setitimer(ITIMER_REAL, &rhythm, NULL), "setitimer");
    ticking = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, FIRST, 0x1234, 0);
    // Numbers with gaps between them.
    int gone[GAPS];
    for (int i = 0; i < GAPS; i++) gone[i] = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    hourly = make(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, 0);
    for (int i = 0; i < GAPS; i++) syscall(SYS_timer_delete, gone[i]);
    absolute = make(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
    directed = make(CLOCK_MONOTONIC, SIGEV_SIGNAL | SIGEV_THREAD_ID, DIRECTED, 0, listener_tid);
    disarmed = make(CLOCK_REALTIME, SIGEV_SIGNAL, SILENT, 7, 0);
    processor = make(worker_clock, SIGEV_SIGNAL, SILENT, 8, 0);
    whole = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, 0, 0);
    set(ticking, 0, (struct itimerspec){{0, TICK}, {0, TICK}});
    set(directed, 0, (struct itimerspec){{0, TICK}, {0, TICK}});
    set(hourly, 0, (struct itimerspec){{60, 0}, {HOUR, 0}});
    due = time(NULL) + HOUR;
    set(absolute, TIMER_ABSTIME, (struct itimerspec){{0, 0}, {due, 500000000}});
    set(processor, 0, (struct itimerspec){{0, 0}, {HOUR, 0}});
    set(whole, 0, (struct itimerspec){{HOUR, 0}, {HOUR, 0}});
    started_boot = at(CLOCK_BOOTTIME);
}

static double left(int timer, double interval) {
    struct itimerspec now = {0};
    if (syscall(SYS_timer_gettime, timer, &now)) {
        differ("timer by its number: errno", 0, errno);
        return 0;
    }
    double found = now.it_interval.tv_sec + now.it_interval.tv_nsec / 1e9;
    if (found != interval) differ("interval", interval, found);
    return now.it_value.tv_sec + now.it_value.tv_nsec / 1e9;
}

static void expect(const char *what, double expected, double found) {
    if (found - expected > 0.2 || expected - found > 0.2) differ(what, expected, found);
}

// The periodic timers go on at their pace: in a fifth of a second twenty times, on a busy machine fewer.
static void expect_ticks(void) {
    int before = ticks, directed_before = directed_ticks, alarms_before = alarms;
    double end = at(CLOCK_MONOTONIC) + 0.2;
    while (at(CLOCK_MONOTONIC) < end) {
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
    if (ticks - before < 8 || ticks - before > 24) differ("ticks in a fifth of a second", 20, ticks - before);
    int found = directed_ticks - directed_before;
    if (found < 8 || found > 24) differ("ticks of the thread in a fifth of a second", 20, found);
    found = alarms - alarms_before;
    if (found < 8 || found > 24) differ("alarms in a fifth of a second", 20, found);
    if (wrong_values) differ("ticks with another value", 0, wrong_values);
    if (wrong_threads) differ("ticks in another thread", 0, wrong_threads);
}

static void check(const char *question) {
    (void)question;
    if (has_root && (access("/here", F_OK) || !access("/usr", F_OK))) differ("root directory: errno", 0, errno);
    expect_ticks();
    expect("boottime timer", HOUR - (at(CLOCK_BOOTTIME) - started_boot), left(hourly, 60));
    expect("absolute timer", due + 0.5 - at(CLOCK_REALTIME), left(absolute, 0));
    expect("disarmed timer", 0, left(disarmed, 0));
    // Next to none of an hour of processor time has passed, whatever the clock shows now.
    double thread = left(processor, 0), process = left(whole, HOUR);
    if (thread > HOUR || thread < HOUR - 60) differ("timer of the thread's processor time", HOUR, thread);
    if (process > HOUR || process < HOUR - 60) differ("timer of processor time", HOUR, process);
    // A timer made now has a number that no other has.
    int numbers[] = {ticking, hourly, absolute, directed, disarmed, processor, whole};
    int fresh = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i] == fresh) differ("number of a new timer", -1, fresh);
    syscall(SYS_timer_delete, fresh);
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    int local = listen_at(argv[1], argv[2]);
    pthread_t thread;
    need(!pthread_create(&thread, NULL, work, NULL), "thread");
    while (!listener_tid) usleep(1000);
    make_timers();
    has_root = argc > 3;
    if (has_root) need(!chroot(argv[3]) && !chdir("/"), "chroot");
    serve(local, check);
}
