// A service that holds things that cannot be moved, named by its arguments; it sleeps until it is ended.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/keyctl.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
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

// mseal(2), which the headers of Debian 12 do not know.
static void sealed(void) {
    char *memory = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(syscall(462, memory, 8192, 0), "mseal");
}

static void zombie(void) {
    if (must(fork(), "fork") == 0) _exit(3);
}

static void stopped(void) {
    int status;
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        raise(SIGSTOP);
        for (;;) pause();
    }
    must(waitpid(child, &status, WUNTRACED), "waitpid");
}

static void flooded(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 150; i++) must(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i}), "sigqueue");
}

// A child whose end is told by another signal than SIGCHLD.
static void cloned(void) {
    signal(SIGWINCH, SIG_IGN);
    if (must(syscall(SYS_clone, SIGWINCH, NULL, NULL, NULL, NULL), "clone") == 0)
        for (;;) pause();
}

static void *start_child(void *argument) {
    if (must(fork(), "fork") == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        *(volatile int *)argument = 1;
        for (;;) pause();
    }
    pause();
    return NULL;
}

// A child that hears of the end of a thread, not of the process.
static void orphan(void) {
    volatile int *ready = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    must(-pthread_create(&thread, NULL, start_child, (void *)ready), "pthread_create");
    while (!*ready) usleep(1000);
}

static void homeless(void) {
    char path[] = "/var/lib/homeless-XXXXXX";
    if (!mkdtemp(path)) must(-1, "mkdtemp");
    must(chdir(path), "chdir");
    must(rmdir(path), "rmdir");
}

static void deadline(void) {
    struct { unsigned size, policy; unsigned long flags, nice, runtime, limit, period; } attributes = {
        48, 6, 0, 0, 1000000, 100000000, 100000000};
    must(syscall(SYS_sched_setattr, 0, &attributes, 0), "sched_setattr");
}

// Without the right to remove directories any more; the headers of Debian 12 have neither call.
static void confined(void) {
    unsigned long handled = 1 << 4;
    int rules = must(syscall(444, &handled, sizeof handled, 0), "landlock_create_ruleset");
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(syscall(446, rules, 0), "landlock_restrict_self");
    close(rules);
}

// A listener for a peer who signs, as BGP speakers do.
static void signing(void) {
    int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    struct tcp_md5sig key = {.tcpm_keylen = 6, .tcpm_key = "secret"};
    struct sockaddr_in *peer = (struct sockaddr_in *)&key.tcpm_addr;
    peer->sin_family = AF_INET;
    inet_pton(AF_INET, "10.10.10.100", &peer->sin_addr);
    must(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key), "TCP_MD5SIG");
    must(listen(fd, 1), "listen");
}

// A child, for which RDTSC is a fault.
static void timeless(void) {
    if (must(fork(), "fork") == 0) {
        prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
        for (;;) pause();
    }
}

// A namespace of the service's own, which no setting of its unit makes.
static void unshared(int kind) {
    must(unshare(kind), "unshare");
}

static void fifo(void) {
    unlink("/run/awkward.fifo");
    must(mkfifo("/run/awkward.fifo", 0600), "mkfifo");
    must(open("/run/awkward.fifo", O_RDWR), "/run/awkward.fifo");
}

// Sends a text with a memfd, to `address` or to whoever the socket is connected to.
static void send_descriptor(int fd, struct sockaddr_un *address, char *text) {
    int sent = must(memfd_create("sent", 0), "memfd_create");
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {text, strlen(text)};
    struct msghdr message = {address, address ? sizeof *address : 0, &data, 1, control, sizeof control, 0};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &sent, sizeof(int));
    must(sendmsg(fd, &message, 0), "SCM_RIGHTS");
    close(sent);
}

// A descriptor in systemd's keeping, sd_pid_notify_with_fds(3).
static void store(void) {
    int fd = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, getenv("NOTIFY_SOCKET"), sizeof address.sun_path - 1);
    send_descriptor(fd, &address, "FDSTORE=1\nFDNAME=kept");
    close(fd);
}

// A descriptor that nobody has received yet.
static void in_flight(void) {
    int ends[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
    send_descriptor(ends[0], NULL, "x");
}

// A socket with a program of the service's: one that takes everything, or one that chooses the first of the port.
static void programmed(int option) {
    int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket"), yes = 1;
    struct sock_filter code = {BPF_RET | BPF_K, 0, 0, option == SO_ATTACH_FILTER ? -1 : 0};
    struct sock_fprog program = {1, &code};
    struct sockaddr_in any = {.sin_family = AF_INET};
    must(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes), "SO_REUSEPORT");
    must(bind(fd, (struct sockaddr *)&any, sizeof any), "bind");
    must(setsockopt(fd, SOL_SOCKET, option, &program, sizeof program), "SO_ATTACH");
}

static void hold(const char *kind) {
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
        struct sigevent silent = {.sigev_notify = SIGEV_NONE};
        must(timer_create(CLOCK_THREAD_CPUTIME_ID, &silent, &timer), "timer_create");
    } else if (!strcmp(kind, "traced")) {
        tracee();
    } else if (!strcmp(kind, "unlinked")) {
        unlinked();
    } else if (!strcmp(kind, "sealed")) {
        sealed();
    } else if (!strcmp(kind, "zombie")) {
        zombie();
    } else if (!strcmp(kind, "stopped")) {
        stopped();
    } else if (!strcmp(kind, "flooded")) {
        flooded();
    } else if (!strcmp(kind, "cloned")) {
        cloned();
    } else if (!strcmp(kind, "orphan")) {
        orphan();
    } else if (!strcmp(kind, "homeless")) {
        homeless();
    } else if (!strcmp(kind, "deadline")) {
        deadline();
    } else if (!strcmp(kind, "confined")) {
        confined();
    } else if (!strcmp(kind, "key")) {
        must(syscall(SYS_add_key, "user", "secret", "s", 1, KEY_SPEC_PROCESS_KEYRING), "add_key");
    } else if (!strcmp(kind, "session-key")) {
        must(syscall(SYS_add_key, "user", "secret", "s", 1, KEY_SPEC_SESSION_KEYRING), "add_key");
    } else if (!strcmp(kind, "signing")) {
        signing();
    } else if (!strcmp(kind, "timeless")) {
        timeless();
    } else if (!strcmp(kind, "personality")) {
        must(personality(ADDR_NO_RANDOMIZE), "personality");
    } else if (!strcmp(kind, "unshared-uts")) {
        unshared(CLONE_NEWUTS);
    } else if (!strcmp(kind, "unshared-mount")) {
        unshared(CLONE_NEWNS);
    } else if (!strcmp(kind, "semaphores")) {
        struct sembuf one = {0, 1, 0};
        must(semop(must(semget(IPC_PRIVATE, 2, 0600), "semget"), &one, 1), "semop");
    } else if (!strcmp(kind, "queue")) {
        struct { long type; char text[2]; } message = {1, "x"};
        must(msgsnd(must(msgget(IPC_PRIVATE, 0600), "msgget"), &message, 1, 0), "msgsnd");
    } else if (!strcmp(kind, "mqueue")) {
        must(mq_open("/awkward", O_RDWR | O_CREAT, 0600, NULL), "mq_open");
    } else if (!strcmp(kind, "fifo")) {
        fifo();
    } else if (!strcmp(kind, "raw")) {
        must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "socket");
    } else if (!strcmp(kind, "store")) {
        store();
    } else if (!strcmp(kind, "in-flight")) {
        in_flight();
    } else if (!strcmp(kind, "filter")) {
        programmed(SO_ATTACH_FILTER);
    } else if (!strcmp(kind, "selector")) {
        programmed(SO_ATTACH_REUSEPORT_CBPF);
    } else if (!strcmp(kind, "secret")) {
        must(syscall(447, 0), "memfd_secret"); // not in the headers of Debian 12
    } else if (!strcmp(kind, "huge")) {
        must(memfd_create("huge", MFD_HUGETLB), "memfd_create");
    } else if (strcmp(kind, "nothing")) {
        fprintf(stderr, "awkward: unknown kind `%s`\n", kind);
        exit(64);
    }
}

// Tells whoever started the unit that the thing is there.
static void be_ready(void) {
    close(must(open("/run/awkward.ready", O_WRONLY | O_CREAT, 0644), "/run/awkward.ready"));
}

// `when PATH` among the arguments: what follows is held once the path exists.
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "when") || i + 1 == argc) {
            hold(argv[i]);
            continue;
        }
        be_ready();
        for (i++; access(argv[i], F_OK);) usleep(1000);
    }
    be_ready();
    for (;;) pause();
}
