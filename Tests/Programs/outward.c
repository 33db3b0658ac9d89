// A service that is a client: connects once to ADDRESS PORT, without binding, and exchanges numbers with it for ever.
// Whatever breaks the sequence ends it with status 3; it never connects again.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("outward: connect");
        return 1;
    }
    uint64_t number = 0;
    char line[64], answer[64];
    for (;;) {
        int length = snprintf(line, sizeof line, "%lu\n", (unsigned long)++number), got = 0;
        if (send(fd, line, length, MSG_NOSIGNAL) != length) return 3;
        while (got < length) {
            ssize_t count = recv(fd, answer + got, length - got, 0);
            if (count <= 0) return 3;
            got += count;
        }
        if (memcmp(line, answer, length)) return 3;
        poll(NULL, 0, 2);
    }
}
