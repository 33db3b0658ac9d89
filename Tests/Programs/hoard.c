// A server that accepts late, and its clients. hoard serve ADDRESS PORT: listens, and at each SIGUSR1 accepts all who
// wait, greets each with the number of its turn, takes what it says (a length and so many bytes) and answers with the
// sum of the bytes. hoard load ADDRESS PORT COUNT: connects COUNT times, one after another. A quarter say nothing
// before they are greeted; the others have said everything by then, and every second of them has shut down its side.
// Prints {"start"} when all is said and acknowledged, and at the end one JSON line: how many were answered rightly and
// in their turn, and how many not. It ends by itself, not by SIGTERM.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint32_t lengths[] = {0, 300, 9000, 50000};
enum { KINDS = 4, LONGEST = 50000 };

static int must(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static socklen_t name(struct sockaddr_storage *to, const char *address, int port) {
    struct sockaddr_in *four = (void *)to;
    struct sockaddr_in6 *six = (void *)to;
    memset(to, 0, sizeof *to);
    if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return sizeof *four;
    }
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    must(inet_pton(AF_INET6, address, &six->sin6_addr) - 1, "address");
    return sizeof *six;
}

static int all(ssize_t (*call)(int, void *, size_t), int fd, void *bytes, size_t count) {
    for (size_t done = 0; done < count;) {
        ssize_t part = call(fd, (char *)bytes + done, count - done);
        if (part <= 0)
            return -1;
        done += part;
    }
    return 0;
}

static ssize_t put(int fd, void *bytes, size_t count) { return send(fd, bytes, count, MSG_NOSIGNAL); }
static ssize_t get(int fd, void *bytes, size_t count) { return recv(fd, bytes, count, 0); }

static uint32_t sum_of(const unsigned char *bytes, uint32_t count) {
    uint32_t sum = count;
    for (uint32_t i = 0; i < count; i++)
        sum = sum * 31 + bytes[i];
    return sum;
}

static void serve(const char *address, int port) {
    struct sockaddr_storage own;
    socklen_t length = name(&own, address, port);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    int listener = must(socket(own.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket"), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    must(bind(listener, (void *)&own, length), "bind");
    must(listen(listener, 1024), "listen");
    static unsigned char bytes[LONGEST];
    uint32_t turn = 0;
    for (int signal;; sigwait(&set, &signal)) {
        for (int fd; (fd = accept(listener, 0, 0)) >= 0; turn++, close(fd)) {
            uint32_t count, sum;
            if (all(put, fd, &turn, 4) || all(get, fd, &count, 4) || count > LONGEST || all(get, fd, bytes, count))
                continue;
            sum = sum_of(bytes, count);
            all(put, fd, &sum, 4);
        }
    }
}

static int say(int fd, unsigned char *bytes, uint32_t count) {
    return all(put, fd, &count, 4) || all(put, fd, bytes, count);
}

static void load(const char *address, int port, int count) {
    struct sockaddr_storage peer;
    socklen_t length = name(&peer, address, port);
    static unsigned char bytes[LONGEST];
    for (int i = 0; i < LONGEST; i++)
        bytes[i] = i * 7 + i / 251;
    int *fds = calloc(count, sizeof *fds), right = 0;
    signal(SIGTERM, SIG_IGN);
    for (int i = 0; i < count; i++) {
        fds[i] = must(socket(peer.ss_family, SOCK_STREAM, 0), "socket");
        must(connect(fds[i], (void *)&peer, length), "connect");
        if (i % KINDS == 0)
            continue;
        must(-say(fds[i], bytes, lengths[i % KINDS]), "send");
        if (i % 2)
            shutdown(fds[i], SHUT_WR);
    }
    for (int i = 0; i < count; i++)
        for (int left = 1; left; must(ioctl(fds[i], SIOCOUTQ, &left), "SIOCOUTQ"))
            poll(0, 0, 1);
    printf("{\"start\":%d}\n", count);
    fflush(stdout);
    for (int i = 0; i < count; i++) {
        uint32_t turn, sum;
        if (all(get, fds[i], &turn, 4) || (i % KINDS == 0 && say(fds[i], bytes, 100)) || all(get, fds[i], &sum, 4) ||
            sum != sum_of(bytes, i % KINDS ? lengths[i % KINDS] : 100)) {
            if (right == i)
                fprintf(stderr, "connection %d: %s\n", i, strerror(errno));
            continue;
        }
        right += turn == (uint32_t)i;
    }
    printf("{\"event\":\"end\",\"requests\":%d,\"failed\":%d}\n", right, count - right);
}

int main(int count, char **words) {
    struct rlimit limit = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &limit);
    if (count == 4 && !strcmp(words[1], "serve"))
        serve(words[2], atoi(words[3]));
    else if (count == 5 && !strcmp(words[1], "load"))
        load(words[2], atoi(words[3]), atoi(words[4]));
    else
        return 2;
    return 0;
}
