// Asks all the time who has an address, past this host's own neighbour table: ARP, RFC 826, or neighbour solicitations,
// RFC 4861 section 4.3.
//   who-has INTERFACE OWN-ADDRESS ADDRESS
// A question every 2 ms. At SIGTERM it prints one JSON line: questions, the longest time without an answer, and how
// often the owner changed from one answer or announcement to the next. Each owner but the last is on a line of its own
// before it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
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

static unsigned char hardware[6], own[16], wanted[16], question[128];
static size_t length;

static void ask_arp(void) {
    unsigned char head[] = {0, 1, 8, 0, 6, 4, 0, 1};
    memset(question, 0xff, 6);
    memcpy(question + 6, hardware, 6);
    memcpy(question + 12, "\x08\x06", 2);
    memcpy(question + 14, head, 8);
    memcpy(question + 22, hardware, 6);
    memcpy(question + 28, own, 4);
    memcpy(question + 38, wanted, 4);
    length = 42;
}

static uint16_t sum_of(const unsigned char *bytes, size_t count, uint32_t sum) {
    for (size_t i = 0; i < count; i += 2) sum += bytes[i] << 8 | bytes[i + 1];
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return htons(~sum);
}

static void ask_neighbour(void) {
    unsigned char *ip = question + 14, *icmp = ip + 40;
    memcpy(question, "\x33\x33\xff", 3);
    memcpy(question + 3, wanted + 13, 3);
    memcpy(question + 6, hardware, 6);
    memcpy(question + 12, "\x86\xdd", 2);
    memcpy(ip, "\x60\0\0\0\0\x20\x3a\xff", 8);
    memcpy(ip + 8, own, 16);
    memcpy(ip + 24, "\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff", 13);
    memcpy(ip + 37, wanted + 13, 3);
    icmp[0] = 135;
    memcpy(icmp + 8, wanted, 16);
    memcpy(icmp + 24, "\x01\x01", 2); // source link-layer address
    memcpy(icmp + 26, hardware, 6);
    uint16_t sum = sum_of(ip + 8, 64, 32 + 58); // the addresses and the message, length, next header
    memcpy(icmp + 2, &sum, 2);
    length = 86;
}

// The hardware address that the frame says has the wanted address, or NULL.
static const unsigned char *owner_in(const unsigned char *frame, ssize_t count, int six) {
    if (!six) return count >= 42 && !memcmp(frame + 28, wanted, 4) ? frame + 22 : NULL;
    int is_advertisement = count >= 86 && frame[20] == 58 && frame[54] == 136 && !memcmp(frame + 62, wanted, 16);
    return is_advertisement && frame[78] == 2 ? frame + 80 : NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 64;
    int six = strchr(argv[3], ':') != NULL, family = six ? AF_INET6 : AF_INET;
    if (inet_pton(family, argv[2], own) != 1 || inet_pton(family, argv[3], wanted) != 1) return 64;
    int fd = socket(AF_PACKET, SOCK_RAW, htons(six ? ETH_P_IPV6 : ETH_P_ARP));
    struct ifreq request = {};
    strncpy(request.ifr_name, argv[1], IFNAMSIZ - 1);
    struct sockaddr_ll name = {.sll_family = AF_PACKET, .sll_protocol = htons(six ? ETH_P_IPV6 : ETH_P_ARP)};
    name.sll_ifindex = if_nametoindex(argv[1]);
    if (ioctl(fd, SIOCGIFHWADDR, &request) || bind(fd, (struct sockaddr *)&name, sizeof name)) {
        perror("who-has");
        return 1;
    }
    memcpy(hardware, request.ifr_hwaddr.sa_data, 6);
    if (six) ask_neighbour(); else ask_arp();
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    printf("{\"event\":\"start\"}\n");
    fflush(stdout);
    unsigned char frame[2048], owner[6] = {}, changes = 0;
    uint64_t asked = 0;
    double start = now(), heard = start, silence = 0;
    while (!stopped) {
        if (asked <= (now() - start) / 2 && send(fd, question, length, 0) == (ssize_t)length) asked++;
        struct pollfd one = {.fd = fd, .events = POLLIN};
        struct timespec pause = {0, 500000};
        if (ppoll(&one, 1, &pause, NULL) <= 0) continue;
        ssize_t count = recv(fd, frame, sizeof frame, MSG_DONTWAIT);
        const unsigned char *said = owner_in(frame, count, six);
        if (!said || !memcmp(said, hardware, 6)) continue;
        if (now() - heard > silence) silence = now() - heard;
        heard = now();
        if (!memcmp(said, owner, 6)) continue;
        if (memcmp(owner, "\0\0\0\0\0\0", 6)) changes++;
        memcpy(owner, said, 6);
        printf("{\"at_ms\":%.1f,\"owner\":\"%02x:%02x:%02x:%02x:%02x:%02x\"}\n", heard - start, owner[0], owner[1],
               owner[2], owner[3], owner[4], owner[5]);
        fflush(stdout);
    }
    printf("{\"event\":\"end\",\"asked\":%lu,\"longest_silence_ms\":%d,\"changes\":%d}\n", asked, (int)silence,
           changes);
    return 0;
}
