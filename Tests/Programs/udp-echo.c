// UDP echo at a steady pace: udp-echo serve ADDRESS PORT, and the client udp-echo load ADDRESS PORT RATE [SIZE], which
// sends RATE numbered datagrams a second of SIZE bytes (8, the number alone, unless told) and at SIGTERM, when it has
// waited a second for the last answers, prints one JSON line: how many were lost or came twice, and the longest time
// without an answer. Every byte behind the number is checked. Addresses are of either family.
#define _GNU_SOURCE
#include <arpa/inet.h>
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
static void stop(int number) { (void)number, stopped = 1; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

enum { LONGEST = 65000 };

static socklen_t name_of(const char *address, const char *port, struct sockaddr_storage *name) {
    struct sockaddr_in *four = (struct sockaddr_in *)name;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)name;
    memset(name, 0, sizeof *name);
    if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(atoi(port));
        return sizeof *four;
    }
    if (inet_pton(AF_INET6, address, &six->sin6_addr) != 1) return 0;
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(atoi(port));
    return sizeof *six;
}

// What stands at `index` of datagram `number`.
static unsigned char byte_of(uint64_t number, size_t index) { return number * 31 + index * 7; }

static int serve(int fd, struct sockaddr_storage *name, socklen_t length) {
    static unsigned char bytes[LONGEST];
    if (bind(fd, (struct sockaddr *)name, length)) {
        perror("udp-echo: bind");
        return 1;
    }
    for (;;) {
        struct sockaddr_storage from;
        socklen_t size = sizeof from;
        ssize_t count = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &size);
        if (count >= (ssize_t)sizeof(uint64_t)) sendto(fd, bytes, count, 0, (struct sockaddr *)&from, size);
    }
}

static uint64_t sent, answered, wrong;
static double last, silence;

static void take_answers(int fd, size_t size) {
    static unsigned char bytes[LONGEST];
    static uint8_t seen[1 << 24];
    for (;;) {
        ssize_t count = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count < 0) return;
        uint64_t number;
        memcpy(&number, bytes, sizeof number);
        int good = (size_t)count == size && number < sent;
        for (size_t i = sizeof number; good && i < size; i++) good = bytes[i] == byte_of(number, i);
        if (!good || seen[number]++) { wrong++; continue; }
        answered++;
        double moment = now();
        if (moment - last > silence) silence = moment - last;
        last = moment;
    }
}

static int load(int fd, struct sockaddr_storage *name, socklen_t length, double rate, size_t size) {
    static unsigned char bytes[LONGEST];
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    if (size < sizeof(uint64_t) || size > LONGEST || connect(fd, (struct sockaddr *)name, length)) return 1;
    printf("{\"event\":\"start\"}\n");
    fflush(stdout);
    double start = last = now(), end = 0;
    while (!end || (now() < end && answered < sent)) {
        if (stopped && !end) end = now() + 1000;
        // What is due by now, in a burst if this process was late.
        while (!end && sent < (now() - start) * rate / 1000 && sent < 1 << 24) {
            memcpy(bytes, &sent, sizeof sent);
            for (size_t i = sizeof sent; i < size; i++) bytes[i] = byte_of(sent, i);
            if (send(fd, bytes, size, MSG_DONTWAIT) != (ssize_t)size) break;
            sent++;
        }
        struct pollfd one = {.fd = fd, .events = POLLIN};
        struct timespec pause = {0, 200000};
        if (ppoll(&one, 1, &pause, NULL) > 0) take_answers(fd, size);
    }
    printf("{\"event\":\"end\",\"requests\":%lu,\"failed\":%lu,\"resets\":%lu,\"longest_silence_ms\":%.1f}\n", sent,
           sent - answered, wrong, silence);
    return sent != answered || wrong;
}

int main(int argc, char **argv) {
    struct sockaddr_storage name;
    socklen_t length = argc < 4 ? 0 : name_of(argv[2], argv[3], &name);
    if (!length) return 64;
    int fd = socket(name.ss_family, SOCK_DGRAM, 0), space = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &space, sizeof space);
    if (argc == 4) return serve(fd, &name, length);
    return load(fd, &name, length, atof(argv[4]), argc > 5 ? strtoul(argv[5], NULL, 10) : sizeof(uint64_t));
}
