// Keeps one TCP connection to ADDRESS PORT. Each line on the FIFO named by its third argument is sent as a question;
// the answer's line is printed. An end or an error of the connection is told on standard error and ends it with 1.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 4) return 64;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("ask: connect");
        return 1;
    }
    // Open for writing as well, so that it never ends.
    int questions = mkfifo(argv[3], 0600) && errno != EEXIST ? -1 : open(argv[3], O_RDWR);
    if (questions < 0) {
        perror("ask: fifo");
        return 1;
    }
    char buffer[16384];
    for (;;) {
        struct pollfd both[2] = {{.fd = questions, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        if (poll(both, 2, -1) < 0) continue;
        if (both[0].revents) {
            ssize_t count = read(questions, buffer, sizeof buffer);
            if (count > 0 && send(fd, buffer, count, MSG_NOSIGNAL) != count) {
                perror("ask: send");
                return 1;
            }
        }
        if (both[1].revents) {
            ssize_t count = recv(fd, buffer, sizeof buffer, 0);
            if (count <= 0) {
                fprintf(stderr, "ask: %s\n", count ? strerror(errno) : "end");
                return 1;
            }
            fwrite(buffer, 1, count, stdout);
            fflush(stdout);
        }
    }
}
