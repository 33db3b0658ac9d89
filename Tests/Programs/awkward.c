// A service that holds one thing that cannot be moved, named by its first argument; it sleeps until it is ended.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int must(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(2);
    }
    return result;
}

static void tracee(void) {
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        for (;;) pause();
    }
}

static void unlinked(void) {
    char path[] = "/var/lib/awkward-XXXXXX";
    int fd = must(mkstemp(path), "mkstemp");
    must(ftruncate(fd, 8192), "ftruncate");
    char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) must(-1, "mmap");
    memory[0] = 1;
    close(fd);
    unlink(path);
}

// A connection to HOST:PORT of the environment, from the address of this host.
static void connection(void) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(7009)};
    struct sockaddr_in own = {.sin_family = AF_INET};
    inet_pton(AF_INET, getenv("PEER"), &peer.sin_addr);
    inet_pton(AF_INET, getenv("OWN"), &own.sin_addr);
    int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    must(bind(fd, (struct sockaddr *)&own, sizeof own), "bind");
    must(connect(fd, (struct sockaddr *)&peer, sizeof peer), "connect");
}

static void multicast(void) {
    int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(5353)};
    must(bind(fd, (struct sockaddr *)&any, sizeof any), "bind");
    struct ip_mreqn group = {.imr_ifindex = if_nametoindex("eth0")};
    inet_pton(AF_INET, "239.1.2.3", &group.imr_multiaddr);
    must(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group), "IP_ADD_MEMBERSHIP");
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    if (!strcmp(kind, "inotify")) {
        must(inotify_add_watch(must(inotify_init1(0), "inotify_init1"), "/etc", IN_CREATE), "inotify_add_watch");
    } else if (!strcmp(kind, "io_uring")) {
        char parameters[120] = {0};
        must(syscall(SYS_io_uring_setup, 4, parameters), "io_uring_setup");
    } else if (!strcmp(kind, "tun")) {
        must(open("/dev/net/tun", O_RDWR), "/dev/net/tun");
    } else if (!strcmp(kind, "pty")) {
        int main_side, other_side;
        must(openpty(&main_side, &other_side, NULL, NULL, NULL), "openpty");
    } else if (!strcmp(kind, "connection")) {
        connection();
    } else if (!strcmp(kind, "multicast")) {
        multicast();
    } else if (!strcmp(kind, "timer")) {
        timer_t timer;
        must(timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_NONE}, &timer), "timer_create");
    } else if (!strcmp(kind, "traced")) {
        tracee();
    } else if (!strcmp(kind, "unlinked")) {
        unlinked();
    } else if (strcmp(kind, "nothing")) {
        fprintf(stderr, "awkward: unknown kind `%s`\n", kind);
        return 64;
    }
    // Tells whoever started the unit that the thing is there.
    close(must(open("/run/awkward.ready", O_WRONLY | O_CREAT, 0644), "/run/awkward.ready"));
    for (;;) pause();
}
