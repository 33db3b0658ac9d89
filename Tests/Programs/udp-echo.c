// UDP echo at a steady pace: udp-echo serve ADDRESS PORT, and the client udp-echo load ADDRESS PORT RATE, which sends
// RATE numbered datagrams a second and at SIGTERM, when it has waited a second for the last answers, prints one JSON
// line: how many were lost or came twice, and the longest time without an answer.
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

static int serve(int fd, struct sockaddr_in *name) {
    if (bind(fd, (struct sockaddr *)name, sizeof *name)) {
        perror("udp-echo: bind");
        return 1;
    }
    for (;;) {
        uint64_t number;
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        if (recvfrom(fd, &number, sizeof number, 0, (struct sockaddr *)&from, &size) == sizeof number)
            sendto(fd, &number, sizeof number, 0, (struct sockaddr *)&from, size);
    }
}

static int load(int fd, struct sockaddr_in *name, double rate) {
    uint64_t sent = 0, answered = 0, twice = 0, number;
    static uint8_t seen[1 << 24];
    double start, last, silence = 0;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    if (connect(fd, (struct sockaddr *)name, sizeof *name)) return 1;
    printf("{\"event\":\"start\"}\n");
    fflush(stdout);
    start = last = now();
    double end = 0;
    while (!end || (now() < end && answered < sent)) {
        if (stopped && !end) end = now() + 1000;
        // What is due by now, in a burst if this process was late.
        while (!end && sent < (now() - start) * rate / 1000 && sent < sizeof seen)
            if (send(fd, &sent, sizeof sent, MSG_DONTWAIT) == sizeof sent) sent++;
            else break;
        struct pollfd one = {.fd = fd, .events = POLLIN};
        struct timespec pause = {0, 200000};
        if (ppoll(&one, 1, &pause, NULL) <= 0) continue;
        while (recv(fd, &number, sizeof number, MSG_DONTWAIT) == sizeof number) {
            if (number >= sent || seen[number]++) { twice++; continue; }
            answered++;
            double moment = now();
            if (moment - last > silence) silence = moment - last;
            last = moment;
        }
    }
    printf("{\"event\":\"end\",\"requests\":%lu,\"failed\":%lu,\"resets\":%lu,\"longest_silence_ms\":%.1f}\n", sent,
           sent - answered, twice, silence);
    return sent != answered || twice;
}

int main(int argc, char **argv) {
    if (argc < 4) return 64;
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    inet_pton(AF_INET, argv[2], &name.sin_addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), space = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &space, sizeof space);
    return argc == 5 ? load(fd, &name, atof(argv[4])) : serve(fd, &name);
}
