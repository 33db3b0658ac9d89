// Accepts one connection on PORT, prints the peer's address, echoes lines and checks that they are 1, 2, 3, ….
// At SIGTERM prints one JSON line.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;
static void stop(int signal) { (void)signal, stopped = 1; }

int main(int argc, char **argv) {
    if (argc != 2) return 64;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))}, peer;
    socklen_t size = sizeof peer;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4)) return 1;
    printf("{\"listening\":true}\n");
    fflush(stdout);
    int fd = accept(listener, (struct sockaddr *)&peer, &size);
    if (fd < 0) return 1;
    char text[64], input[4096];
    inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text);
    printf("{\"peer\":\"%s\"}\n", text);
    fflush(stdout);
    uint64_t expected = 0, errors = 0;
    size_t filled = 0;
    while (!stopped) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 100) <= 0) continue;
        ssize_t count = recv(fd, input + filled, sizeof input - filled, 0);
        if (count <= 0) {
            if (count < 0 && errno == EINTR) continue;
            errors++;
            break;
        }
        filled += count;
        char *at = input, *end;
        while ((end = memchr(at, '\n', input + filled - at))) {
            if (strtoull(at, NULL, 10) != ++expected) errors++;
            if (send(fd, at, end + 1 - at, MSG_NOSIGNAL) != end + 1 - at) errors++;
            at = end + 1;
        }
        filled -= at - input;
        memmove(input, at, filled);
    }
    printf("{\"peer\":\"%s\",\"numbers\":%lu,\"errors\":%lu}\n", text, (unsigned long)expected, (unsigned long)errors);
    return errors ? 1 : 0;
}
