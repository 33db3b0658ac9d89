// A service that does not read its datagrams until it is asked to: mailbox ADDRESS PORT. Asked `take COUNT` over TCP it
// reads all that wait in its two UDP sockets, at the next two ports, one bound to the address and one to the wildcard,
// and compares them with what the client sent: number i has SIZES[i % 4] bytes of the value i. Answers `OK`, or what
// differs.
#include "asked.h"

static const int sizes[] = {0, 1, 1400, 9000};
static int boxes[2];

static void take(int box, int count) {
    for (int i = 0;; i++) {
        unsigned char bytes[65536];
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(boxes[box], bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
        if (got < 0) {
            if (errno != EAGAIN) snprintf(differences, sizeof differences, "recvfrom: %s", strerror(errno));
            else if (i != count) snprintf(differences, sizeof differences, "box %d: %d of %d", box, i, count);
            return;
        }
        int wrong = got != sizes[i % 4] || ntohs(from.sin_port) != 7100 + box;
        for (ssize_t k = 0; k < got; k++) wrong |= bytes[k] != (i & 255);
        if (wrong) {
            snprintf(differences, sizeof differences, "box %d, number %d: %zd bytes from port %d, first %d", box, i,
                     got, ntohs(from.sin_port), got > 0 ? bytes[0] : -1);
            return;
        }
    }
}

static void check(const char *question) {
    int count = 0;
    if (sscanf(question, "take %d", &count) != 1) return;
    for (int box = 0; box < 2 && !differences[0]; box++) take(box, count);
}

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    for (int box = 0; box < 2; box++) {
        struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]) + 1 + box)};
        int space = 4 << 20;
        if (box == 0) inet_pton(AF_INET, argv[1], &name.sin_addr);
        need((boxes[box] = socket(AF_INET, SOCK_DGRAM, 0)) >= 0, "socket");
        need(!setsockopt(boxes[box], SOL_SOCKET, SO_RCVBUFFORCE, &space, sizeof space), "SO_RCVBUFFORCE");
        need(!bind(boxes[box], (struct sockaddr *)&name, sizeof name), "bind");
    }
    serve(listen_at(argv[1], argv[2]), check);
}
