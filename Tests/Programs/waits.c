// A service whose threads wait in the calls that a freeze interrupts: waits ADDRESS PORT. Asked `check` over TCP it
// answers `OK`, or which calls have returned although nothing happened. Asked `wake` it makes happen what each waits
// for and answers `OK`, or what a call returned in place of its success.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { HOUR = 3600, NANOSLEEP, BOOT_NANOSLEEP, FUTEX, FUTEX_TIMED, FUTEX_UNTIL, FUTEX_SOON, FUTEX_DAY, POLL, PPOLL, SELECT, EPOLL, EPOLL_TIMED, EPOLL_MASK,
       READ, RECEIVE, RECEIVE_TIMED, ACCEPT, SIGNAL, PAUSE, END };

static const char *const names[] = {
    [NANOSLEEP] = "nanosleep", [BOOT_NANOSLEEP] = "clock_nanosleep", [FUTEX] = "futex", [FUTEX_TIMED] = "futex, timed",
    [FUTEX_UNTIL] = "futex, absolute", [FUTEX_SOON] = "futex, in turns", [FUTEX_DAY] = "futex, time of day", [POLL] = "poll", [PPOLL] = "ppoll", [SELECT] = "select", [EPOLL] = "epoll_wait",
    [EPOLL_TIMED] = "epoll_wait, timed",
    [EPOLL_MASK] = "epoll_pwait", [READ] = "read", [RECEIVE] = "recv", [RECEIVE_TIMED] = "recv, SO_RCVTIMEO",
    [ACCEPT] = "accept", [SIGNAL] = "sigtimedwait", [PAUSE] = "pause",
};
static int words[END], events[END], pairs[END][2], polls[END], listener;
static volatile int returned[END];
static volatile time_t turn_ends;
static pthread_t threads[END];
static struct sockaddr_in at_listener = {.sin_family = AF_INET};

static void handle(int number) { (void)number; }

// Waits of a second each until a moment, each of which must end then: at once on the move or never, it would be the
// other host's clock that counts.
static long wait_in_turns(int *word) {
    for (;;) {
        struct timespec until, now;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += 1;
        turn_ends = until.tv_sec;
        long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, 0, &until, NULL, FUTEX_BITSET_MATCH_ANY);
        if (result == 0) return 0;
        if (errno != ETIMEDOUT) return -1;
        clock_gettime(CLOCK_MONOTONIC, &now);
        long early = (until.tv_sec - now.tv_sec) * 1000 + (until.tv_nsec - now.tv_nsec) / 1000000;
        if (early > 0 || early < -1500) {
            errno = ETIME;
            return -1;
        }
    }
}

// The call itself; its result, or the negative error.
static long wait_in(int which) {
    struct timespec hour = {HOUR, 0}, until;
    struct epoll_event event;
    struct pollfd one = {.fd = events[which], .events = POLLIN};
    char buffer[8];
    sigset_t set;
    fd_set readable;
    struct timeval time = {HOUR, 0};
    switch (which) {
    case NANOSLEEP: return syscall(SYS_nanosleep, &hour, &hour);
    case BOOT_NANOSLEEP: return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &hour, &hour);
    case FUTEX: return syscall(SYS_futex, &words[which], FUTEX_WAIT_PRIVATE, 0, NULL);
    case FUTEX_TIMED: return syscall(SYS_futex, &words[which], FUTEX_WAIT_PRIVATE, 0, &hour);
    case FUTEX_UNTIL:
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += HOUR;
        return syscall(SYS_futex, &words[which], FUTEX_WAIT_BITSET_PRIVATE, 0, &until, NULL, FUTEX_BITSET_MATCH_ANY);
    case FUTEX_DAY:
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += HOUR;
        return syscall(SYS_futex, &words[which], FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &until, NULL,
                       FUTEX_BITSET_MATCH_ANY);
    case FUTEX_SOON: return wait_in_turns(&words[which]);
    case POLL: return poll(&one, 1, HOUR * 1000);
    case PPOLL: return ppoll(&one, 1, &hour, NULL);
    case SELECT:
        FD_ZERO(&readable);
        FD_SET(events[which], &readable);
        return select(events[which] + 1, &readable, NULL, NULL, &time);
    case EPOLL: return epoll_wait(polls[which], &event, 1, -1);
    case EPOLL_TIMED: return epoll_wait(polls[which], &event, 1, HOUR * 1000);
    case EPOLL_MASK:
        sigemptyset(&set);
        return epoll_pwait(polls[which], &event, 1, -1, &set);
    case READ: return read(events[which], buffer, 8);
    case RECEIVE: return recv(pairs[which][0], buffer, 8, 0);
    case RECEIVE_TIMED:
        setsockopt(pairs[which][0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        return recv(pairs[which][0], buffer, 8, 0);
    case ACCEPT: return accept(listener, NULL, NULL);
    case SIGNAL:
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        return sigtimedwait(&set, NULL, &hour);
    case PAUSE: return pause();
    }
    return 0;
}

static void *run(void *argument) {
    int which = (int)(intptr_t)argument;
    errno = 0;
    long result = wait_in(which);
    // Sleeps and pause end by a signal only, and say so.
    int interrupted = which == NANOSLEEP || which == BOOT_NANOSLEEP || which == PAUSE;
    returned[which] = (interrupted ? result < 0 && errno == EINTR : result >= 0) ? 1 : -errno - 1000;
    return NULL;
}

static void wake(int which) {
    uint64_t one = 1;
    switch (which) {
    case NANOSLEEP: case BOOT_NANOSLEEP: case PAUSE: pthread_kill(threads[which], SIGUSR1); return;
    case SIGNAL: pthread_kill(threads[which], SIGUSR2); return;
    case FUTEX: case FUTEX_TIMED: case FUTEX_UNTIL: case FUTEX_DAY: case FUTEX_SOON:
        syscall(SYS_futex, &words[which], FUTEX_WAKE_PRIVATE, 1);
        return;
    case RECEIVE: case RECEIVE_TIMED: send(pairs[which][1], "x", 1, 0); return;
    case ACCEPT:
        connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&at_listener, sizeof at_listener);
        return;
    default:
        if (write(events[which], &one, 8) != 8) returned[which] = -errno;
    }
}

static void answer(int fd, int waking) {
    char text[2048] = "";
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!waking && now.tv_sec > turn_ends + 2) strcpy(text, "futex, in turns: does not end; ");
    for (int which = NANOSLEEP; which < END; which++) {
        if (waking) {
            wake(which);
            for (int i = 0; i < 2000 && !returned[which]; i++) poll(NULL, 0, 1);
        }
        if (returned[which] == waking) continue;
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s: %d; ", names[which], returned[which]);
    }
    strcat(text, text[0] ? "\n" : "OK\n");
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0) perror("waits: send");
}

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    struct sigaction action = {.sa_handler = handle};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    at_listener = address;
    at_listener.sin_port = htons(atoi(argv[2]) + 1);
    int own = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(own, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(own, (struct sockaddr *)&address, sizeof address) || listen(own, 4)
        || bind(listener, (struct sockaddr *)&at_listener, sizeof at_listener) || listen(listener, 4)) {
        perror("waits: bind");
        return 1;
    }
    for (int which = NANOSLEEP; which < END; which++) {
        events[which] = eventfd(0, 0);
        polls[which] = epoll_create1(0);
        struct epoll_event event = {.events = EPOLLIN};
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[which])
            || epoll_ctl(polls[which], EPOLL_CTL_ADD, events[which], &event)
            || pthread_create(&threads[which], NULL, run, (void *)(intptr_t)which))
            return 1;
    }
    for (;;) {
        char question[64];
        int client = accept(own, NULL, NULL);
        while (client >= 0 && recv(client, question, sizeof question, 0) > 0) answer(client, question[0] == 'w');
        if (client >= 0) close(client);
    }
}
