// A bulk transfer that checks every byte: the stream is the numbers 0, 1, 2, … of 64 bits each.
//   bulk serve ADDRESS PORT          each connection begins with `d` (the server sends) or `u` (it receives and checks)
//   bulk down|up ADDRESS PORT        the client; at SIGTERM it ends the transfer and prints one JSON line
// A wrong byte ends the connection; the client then counts a failure. Addresses are of either family.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1 << 17 };

static volatile sig_atomic_t stopped;
static void stop(int number) { (void)number, stopped = 1; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static socklen_t name_of(const char *address, const char *port, struct sockaddr_storage *name) {
    struct sockaddr_in *four = (struct sockaddr_in *)name;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)name;
    memset(name, 0, sizeof *name);
    if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(atoi(port));
        return sizeof *four;
    }
    if (inet_pton(AF_INET6, address, &six->sin6_addr) != 1) {
        fprintf(stderr, "bulk: %s is no address\n", address);
        exit(64);
    }
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(atoi(port));
    return sizeof *six;
}

// Puts the bytes of the stream from `at` into the buffer.
static void fill(unsigned char *bytes, size_t count, uint64_t at) {
    for (size_t i = 0; i < count;) {
        uint64_t word = (at + i) / 8;
        size_t from = (at + i) % 8, length = 8 - from < count - i ? 8 - from : count - i;
        memcpy(bytes + i, (char *)&word + from, length);
        i += length;
    }
}

static int wrong(const unsigned char *bytes, size_t count, uint64_t at) {
    unsigned char expected[CHUNK];
    fill(expected, count, at);
    return memcmp(bytes, expected, count) != 0;
}

static void *serve_one(void *argument) {
    int fd = (int)(intptr_t)argument;
    unsigned char bytes[CHUNK], way = 0;
    uint64_t done = 0;
    ssize_t got = recv(fd, &way, 1, 0);
    while (got > 0 && way == 'd') {
        fill(bytes, CHUNK, done);
        if ((got = send(fd, bytes, CHUNK, MSG_NOSIGNAL)) > 0) done += got;
    }
    while (way == 'u' && (got = recv(fd, bytes, CHUNK, 0)) > 0 && !wrong(bytes, got, done)) done += got;
    if (way == 'u' && got == 0) send(fd, &done, 8, MSG_NOSIGNAL);
    if (way == 'u' && got > 0) fprintf(stderr, "bulk: a wrong byte after %lu\n", done);
    close(fd);
    return NULL;
}

static int serve(struct sockaddr_storage *name, socklen_t size) {
    int listener = socket(name->ss_family, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)name, size) || listen(listener, 64)) {
        perror("bulk: bind");
        return 1;
    }
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && !pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)fd)) pthread_detach(thread);
    }
}

static int load(char way, struct sockaddr_storage *name, socklen_t size) {
    unsigned char bytes[CHUNK];
    uint64_t done = 0, arrived = 0;
    double silence = 0, last = now();
    int failed = 0, fd = socket(name->ss_family, SOCK_STREAM, 0);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    if (connect(fd, (struct sockaddr *)name, size) || send(fd, &way, 1, 0) != 1) {
        perror("bulk: connect");
        return 1;
    }
    printf("{\"event\":\"start\"}\n");
    fflush(stdout);
    while (!stopped && !failed) {
        struct pollfd one = {.fd = fd, .events = way == 'u' ? POLLOUT | POLLIN : POLLIN};
        if (poll(&one, 1, 100) <= 0) continue;
        if (way == 'u') fill(bytes, CHUNK, done);
        ssize_t got = way == 'u' ? send(fd, bytes, CHUNK, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(fd, bytes, CHUNK, 0);
        if (got < 0 && errno == EAGAIN && !(one.revents & (POLLIN | POLLERR | POLLHUP))) continue;
        failed = got <= 0 || (way == 'd' && wrong(bytes, got, done));
        double moment = now();
        if (moment - last > silence) silence = moment - last;
        last = moment;
        if (!failed) done += got;
    }
    if (now() - last > silence) silence = now() - last;
    if (!failed && way == 'u') {
        shutdown(fd, SHUT_WR);
        failed = recv(fd, &arrived, 8, MSG_WAITALL) != 8 || arrived != done;
    }
    printf("{\"event\":\"end\",\"bytes\":%lu,\"failed\":%d,\"resets\":0,\"longest_silence_ms\":%.1f}\n", done, failed,
           silence);
    return failed;
}

int main(int argc, char **argv) {
    struct sockaddr_storage name;
    if (argc != 4) return 64;
    socklen_t size = name_of(argv[2], argv[3], &name);
    if (!strcmp(argv[1], "serve")) return serve(&name, size);
    return load(argv[1][0], &name, size);
}
