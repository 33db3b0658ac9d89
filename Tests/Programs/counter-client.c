// The client of counter: takes the numbers 1, 2, 3, … and sends each back. Prints lines of progress and at
// SIGTERM one JSON line; a skipped or repeated number, a reset or an end is counted as an error.
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;
static void stop(int signal) { (void)signal, stopped = 1; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: counter-client ADDRESS PORT [MS-BETWEEN-PROGRESS [MS-BETWEEN-ANSWERS]]\n");
        return 64;
    }
    double interval = argc > 3 ? atof(argv[3]) : 200;
    int pause = argc > 4 ? atoi(argv[4]) : 0;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found;
    if (getaddrinfo(argv[1], argv[2], &hints, &found)) return 64;
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen)) {
        perror("counter-client: connect");
        return 1;
    }
    uint64_t expected = 0, errors = 0;
    char input[4096], line[64];
    size_t filled = 0;
    double last = now(), silence = 0, told = 0;
    while (!stopped) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 100) <= 0) continue;
        if (pause) usleep(pause * 1000);
        ssize_t count = recv(fd, input + filled, sizeof input - filled, 0);
        if (count <= 0) {
            if (count < 0 && errno == EINTR) continue;
            fprintf(stderr, "counter-client: %s after %lu\n", count ? strerror(errno) : "end", (unsigned long)expected);
            errors++;
            break;
        }
        if (now() - last > silence) silence = now() - last;
        last = now();
        filled += count;
        char *at = input, *end;
        while ((end = memchr(at, '\n', input + filled - at))) {
            uint64_t value = strtoull(at, NULL, 10);
            if (value != ++expected) {
                fprintf(stderr, "counter-client: expected %lu, found %lu\n", (unsigned long)expected, (unsigned long)value);
                errors++;
                expected = value;
            }
            int length = snprintf(line, sizeof line, "%lu\n", (unsigned long)value);
            if (send(fd, line, length, MSG_NOSIGNAL) != length) errors++;
            at = end + 1;
        }
        filled -= at - input;
        memmove(input, at, filled);
        if (now() - told > interval) {
            printf("{\"numbers\":%lu}\n", (unsigned long)expected);
            fflush(stdout);
            told = now();
        }
    }
    printf("{\"numbers\":%lu,\"errors\":%lu,\"longest_silence_ms\":%.1f}\n", (unsigned long)expected, (unsigned long)errors, silence);
    return errors ? 1 : 0;
}
