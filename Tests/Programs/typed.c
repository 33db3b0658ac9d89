// A service of each kind that systemd knows: typed MODE ADDRESS PORT [PIDFILE], where MODE is run, notify (says
// READY=1), fork (daemonizes, PIDFILE if given). Answers each line of its TCP clients and says so on standard output:
//   count            → COUNT PID
//   connect A P      → the address from which a new connection to A P leaves, or why there is none
// SIGHUP prints `reloaded`; SIGTERM ends it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned long answered;

static struct sockaddr_in address_of(const char *text, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    inet_pton(AF_INET, text, &address.sin_addr);
    return address;
}

static void notify_ready(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof address.sun_path) exit(5);
    memcpy(address.sun_path, path, strlen(path));
    if (*path == '@') address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + strlen(path);
    if (sendto(fd, "READY=1", 7, 0, (struct sockaddr *)&address, size) != 7) exit(6);
    close(fd);
}

// The parent ends once the child listens and the pid file is there, daemon(7).
static void daemonize(const char *pidfile) {
    pid_t child = fork();
    if (child < 0) exit(7);
    if (child > 0) {
        if (pidfile) {
            FILE *file = fopen(pidfile, "w");
            if (!file || fprintf(file, "%d\n", child) < 0 || fclose(file)) exit(8);
        }
        _exit(0);
    }
    setsid();
}

static void connect_anew(char *line, char *answer, size_t size) {
    char target[64], port[16];
    if (sscanf(line, "connect %63s %15s", target, port) != 2) {
        snprintf(answer, size, "bad question\n");
        return;
    }
    struct sockaddr_in address = address_of(target, port), own;
    socklen_t length = sizeof own;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) || getsockname(fd, (struct sockaddr *)&own, &length))
        snprintf(answer, size, "%s\n", strerror(errno));
    else
        snprintf(answer, size, "%s\n", inet_ntop(AF_INET, &own.sin_addr, target, sizeof target));
    close(fd);
}

static int answer(int fd) {
    char input[512], output[128];
    ssize_t count = recv(fd, input, sizeof input - 1, 0);
    if (count <= 0) return 0;
    input[count] = 0;
    if (!strncmp(input, "connect", 7))
        connect_anew(input, output, sizeof output);
    else
        snprintf(output, sizeof output, "%lu %d\n", ++answered, getpid());
    printf("typed: answers %s", output);
    return send(fd, output, strlen(output), MSG_NOSIGNAL) > 0;
}

int main(int argc, char **argv) {
    if (argc < 4) return 64;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = address_of(argv[2], argv[3]);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) {
        perror("typed: bind");
        return 1;
    }
    if (!strcmp(argv[1], "notify")) notify_ready();
    if (!strcmp(argv[1], "fork")) daemonize(argc > 4 ? argv[4] : NULL);
    struct pollfd all[18] = {{.events = POLLIN}, {.fd = listener, .events = POLLIN}};
    all[0].fd = signalfd(-1, &set, SFD_CLOEXEC);
    int used = 2;
    printf("typed: ready as %d\n", getpid());
    for (;;) {
        if (poll(all, used, -1) < 0) continue;
        struct signalfd_siginfo information;
        if (all[0].revents && read(all[0].fd, &information, sizeof information) == sizeof information) {
            if (information.ssi_signo == SIGTERM) return 0;
            printf("typed: reloaded\n");
        }
        for (int i = 2; i < used; i++) {
            if (!all[i].revents || answer(all[i].fd)) continue;
            close(all[i].fd);
            all[i--] = all[--used];
        }
        if (!all[1].revents || used == 18) continue;
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0) all[used++] = (struct pollfd){.fd = client, .events = POLLIN};
    }
}
