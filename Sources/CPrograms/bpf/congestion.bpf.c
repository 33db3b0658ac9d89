// A congestion control that a restored connection has for an instant: as it is chosen, it chooses the one that the
// connection had, and gives the socket the window that it had. What the kernel lets such a program write is listed in
// bpf_tcp_ca_btf_struct_access, net/ipv4/bpf_tcp_ca.c. Loaded under a name of each daemon's own; nobody keeps it.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "congestion.h"

#define SOL_TCP 6
#define TCP_CONGESTION 13

char _license[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock { int sk_family; };
struct tcp_sock { __u32 snd_cwnd, snd_ssthresh; };
struct tcp_congestion_ops {
    void (*init)(struct sock *sk);
    __u32 (*ssthresh)(struct sock *sk);
    void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
    __u32 (*undo_cwnd)(struct sock *sk);
    char name[16];
};
#pragma clang attribute pop

// Filled by socket: only its own storage is looked at.
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct congestion_window);
} windows SEC(".maps");

SEC("struct_ops/congestion_init")
void BPF_PROG(congestion_init, struct sock *sk) {
    struct congestion_window *window = bpf_sk_storage_get(&windows, sk, 0, 0);
    if (!window) return;
    // Chosen afterwards, another congestion control would reset the threshold (tcp_reinit_congestion_control,
    // net/ipv4/tcp_cong.c).
    if (bpf_setsockopt(sk, SOL_TCP, TCP_CONGESTION, window->successor, sizeof window->successor)) return;
    struct tcp_sock *socket = (struct tcp_sock *)sk;
    socket->snd_cwnd = window->segments;
    socket->snd_ssthresh = window->threshold;
}

// The rest is required of every congestion control, and never called.
SEC("struct_ops/congestion_threshold")
__u32 BPF_PROG(congestion_threshold, struct sock *sk) {
    __u32 half = ((struct tcp_sock *)sk)->snd_cwnd / 2;
    return half > 2 ? half : 2;
}

SEC("struct_ops/congestion_avoid")
void BPF_PROG(congestion_avoid, struct sock *sk, __u32 ack, __u32 acked) {}

SEC("struct_ops/congestion_undo")
__u32 BPF_PROG(congestion_undo, struct sock *sk) { return ((struct tcp_sock *)sk)->snd_cwnd; }

SEC(".struct_ops")
struct tcp_congestion_ops congestion = {
    .init = (void *)congestion_init,
    .ssthresh = (void *)congestion_threshold,
    .cong_avoid = (void *)congestion_avoid,
    .undo_cwnd = (void *)congestion_undo,
    .name = CONGESTION_NAME,
};
