// A long and lossy cable, in the network namespace in which it is started: wire DELAY_MS LOSS_PER_MILLE. What was eth0
// becomes `far`, and a tap takes its name, hardware address and IP addresses. Frames go between the two, each way after
// half the delay, and some not at all. Prints `ready`; at its end the namespace has no eth0.
// wire INTERFACE only has the kernel cut segments itself there: for the other end of the cable.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAMES = 1 << 15, LONGEST = 2048 };

struct queue {
    int from, to;
    unsigned head, tail;
    struct frame { int64_t due; int length; unsigned char bytes[LONGEST]; } *frames;
};

static int must(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void run(const char *command) {
    if (system(command)) {
        fprintf(stderr, "wire: %s\n", command);
        exit(1);
    }
}

// No segment larger than the wire's, and each with its sum: nobody behind us finishes them.
static void without_offloads(const char *name) {
    static const unsigned kinds[] = {ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STXCSUM};
    int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct ethtool_value value = {.cmd = kinds[i], .data = 0};
        struct ifreq request = {.ifr_data = (char *)&value};
        strncpy(request.ifr_name, name, IFNAMSIZ - 1);
        must(ioctl(fd, SIOCETHTOOL, &request), "SIOCETHTOOL");
    }
    close(fd);
}

static int open_tap(void) {
    int fd = must(open("/dev/net/tun", O_RDWR | O_NONBLOCK), "/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    strcpy(request.ifr_name, "eth0");
    must(ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
    return fd;
}

static int open_far(void) {
    int fd = must(socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL)), "socket"), size = 64 << 20, one = 1;
    struct sockaddr_ll name = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("far")};
    must(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size), "SO_RCVBUFFORCE");
    must(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one), "PACKET_IGNORE_OUTGOING");
    must(bind(fd, (struct sockaddr *)&name, sizeof name), "bind");
    return fd;
}

static void take(struct queue *q, int64_t delay, int loss) {
    for (;;) {
        struct frame *frame = &q->frames[q->head % FRAMES];
        int length = read(q->from, frame->bytes, LONGEST);
        if (length <= 0) return;
        if (random() % 1000 < loss || q->head - q->tail == FRAMES) continue;
        frame->length = length;
        frame->due = now() + delay;
        q->head++;
    }
}

// Nanoseconds until the next one is due.
static int64_t give(struct queue *q) {
    while (q->tail != q->head) {
        struct frame *frame = &q->frames[q->tail % FRAMES];
        int64_t left = frame->due - now();
        if (left > 0) return left;
        if (write(q->to, frame->bytes, frame->length) < 0 && errno != ENOBUFS && errno != EAGAIN) perror("write");
        q->tail++;
    }
    return 100000000;
}

int main(int argc, char **argv) {
    if (argc == 2) return without_offloads(argv[1]), 0;
    if (argc != 3) return 64;
    int64_t delay = atoi(argv[1]) * 500000LL;
    // IPv6 addresses go with the link otherwise, ip-sysctl(rst).
    run("echo 1 >/proc/sys/net/ipv6/conf/eth0/keep_addr_on_down");
    run("ip link set eth0 down && ip link set eth0 name far");
    int tap = open_tap();
    run("ip link set eth0 address $(ip -o link show far | sed 's/.*ether \\([^ ]*\\).*/\\1/')");
    run("ip -o address show dev far scope global | while read -r n d f a rest; do"
        " ip address del $a dev far; ip address add $a dev eth0 $([ $f = inet6 ] && echo nodad); done;"
        " ip link set far up promisc on && ip link set eth0 up");
    // The frames that pass through are not for this end of the cable: another address, and no word on its own.
    run("ip link set far address 02:00:00:00:00:01; echo 8 >/proc/sys/net/ipv4/conf/far/arp_ignore;"
        " test ! -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/far/disable_ipv6");
    without_offloads("far");
    int far = open_far();
    struct queue queues[2] = {{.from = tap, .to = far}, {.from = far, .to = tap}};
    for (int i = 0; i < 2; i++) queues[i].frames = calloc(FRAMES, sizeof(struct frame));
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct pollfd entries[2] = {{.fd = tap, .events = POLLIN}, {.fd = far, .events = POLLIN}};
        int64_t first = give(&queues[0]), second = give(&queues[1]);
        int64_t pause = first < second ? first : second;
        struct timespec time = {pause / 1000000000, pause % 1000000000};
        ppoll(entries, 2, &time, NULL);
        for (int i = 0; i < 2; i++) take(&queues[i], delay, atoi(argv[2]));
    }
}
