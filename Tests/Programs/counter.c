// A service that checks itself: two processes count in a shared mapping, a second thread counts in thread-local
// memory, and each TCP client is sent the numbers 1, 2, 3, … and must send them back. Any skipped or repeated number
// ends the service with status 3 and says where.
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct shared {
    volatile uint64_t ping, pong, private_count;
};
static struct shared *shared;
static __thread uint64_t own;

static void fail(const char *what, uint64_t expected, uint64_t found) {
    fprintf(stderr, "counter: %s: expected %lu, found %lu\n", what, (unsigned long)expected, (unsigned long)found);
    _exit(3);
}

static void nap(long microseconds) {
    struct timespec span = {0, microseconds * 1000};
    while (nanosleep(&span, &span) == -1 && errno == EINTR)
        ;
}

// The child answers each ping; it must see every one of them.
static void child(pid_t parent) {
    uint64_t seen = shared->pong;
    prctl(PR_SET_NAME, "counter-child");
    while (getppid() == parent) {
        uint64_t now = shared->ping;
        if (now != seen) {
            if (now != seen + 1) fail("shared memory in the child", seen + 1, now);
            seen = now;
            shared->pong = now;
        }
        nap(100);
    }
    _exit(0);
}

static void *pinger(void *unused) {
    (void)unused;
    for (;;) {
        if (shared->pong == shared->ping) {
            own++;
            if (shared->ping + 1 != own) fail("thread-local memory", shared->ping + 1, own);
            shared->ping = own;
            shared->private_count = own;
        }
        nap(100);
    }
    return NULL;
}

// Sends number after number and takes them back; the pipeline is never empty, so both queues hold data in a move.
static void *talk(void *argument) {
    int fd = (int)(intptr_t)argument;
    uint64_t sent = 0, returned = 0;
    char line[64], input[4096];
    size_t filled = 0;
    for (;;) {
        if (sent - returned < 64) {
            int length = snprintf(line, sizeof line, "%lu\n", (unsigned long)++sent);
            if (send(fd, line, length, MSG_NOSIGNAL) != length) break;
        }
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 2) <= 0) continue;
        ssize_t count = recv(fd, input + filled, sizeof input - filled, 0);
        if (count <= 0) break;
        filled += count;
        char *at = input, *end;
        while ((end = memchr(at, '\n', input + filled - at))) {
            uint64_t value = strtoull(at, NULL, 10);
            if (value != ++returned) fail("numbers from the client", returned, value);
            at = end + 1;
        }
        filled -= at - input;
        memmove(input, at, filled);
    }
    close(fd);
    return NULL;
}

// Memory that a move must carry: no page is zero and no two are alike.
static void fill(size_t size) {
    uint64_t *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED) fail("memory", size, 0);
    for (size_t i = 0; i < size / 8; i++) words[i] = i * 0x9e3779b97f4a7c15 + 1;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: counter ADDRESS PORT [MEGABYTES]\n");
        return 64;
    }
    if (argc == 4) fill(atol(argv[3]) << 20);
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found;
    if (getaddrinfo(argv[1], argv[2], &hints, &found)) return 64;
    int listener = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 64)) {
        perror("counter: bind");
        return 1;
    }
    pid_t self = getpid();
    pid_t worker = fork();
    if (worker == 0) child(self);
    pthread_t thread;
    pthread_create(&thread, NULL, pinger, NULL);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && pthread_create(&thread, NULL, talk, (void *)(intptr_t)fd) == 0) pthread_detach(thread);
    }
}
