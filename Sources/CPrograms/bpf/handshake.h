// Connections whose handshake was made on another host: the peer's next segment makes them here, in the listener's
// accept queue, through bpf_sk_assign_tcp_reqsk (net/core/filter.c, from Linux 6.9; needs net.ipv4.tcp_syncookies).
// Sources/Addressing/Handshakes.swift has the shapes of the map.
#pragma once

#include "segments.h"

struct hold_connection {
    __u8 local[16], remote[16];
    __u16 local_port, remote_port; // host order
};

struct hold_handshake {
    __u64 at;              // bpf_ktime_get_ns() when our timestamp clock showed `timestamp`
    __u64 expires;         // the same clock
    __u32 sequence;        // the next byte that we send: what the peer acknowledges
    __u32 receive_sequence; // the first byte of the peer's data
    __u32 timestamp;
    __u32 timestamp_recent; // the peer's latest
    __u16 segment;         // the largest that the peer takes
    __u8 send_scale, receive_scale;
    __u8 has_scales, has_sack, has_timestamps, has_ecn;
    __u8 counts_microseconds; // the timestamp clock
    __u8 unused[7];
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, struct hold_connection);
    __type(value, struct hold_handshake);
} hold_handshakes SEC(".maps");

// When the last of them expires; 0 when there is none, which is nearly always.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} hold_handshakes_until SEC(".maps");

// As the kernel declares it.
struct bpf_tcp_req_attrs {
    __u32 rcv_tsval, rcv_tsecr;
    __u16 mss;
    __u8 rcv_wscale, snd_wscale, ecn_ok, wscale_ok, sack_ok, tstamp_ok, usec_ts_ok, reserved[3];
};
extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk, struct bpf_tcp_req_attrs *attrs,
                                   int attrs__sz) __ksym;

// Interface index of lo, include/net/flow.h LOOPBACK_IFINDEX.
#define LOOPBACK 1

static __always_inline int assign(struct __sk_buff *skb, struct bpf_sock *listener, struct hold_handshake *shake)
{
    __u64 unit = shake->counts_microseconds ? 1000 : 1000000;
    struct bpf_tcp_req_attrs attributes = {
        .rcv_tsval = shake->timestamp_recent,
        .rcv_tsecr = shake->timestamp + (__u32)((bpf_ktime_get_ns() - shake->at) / unit),
        .mss = shake->segment,
        .rcv_wscale = shake->receive_scale,
        .snd_wscale = shake->send_scale,
        .ecn_ok = shake->has_ecn,
        .wscale_ok = shake->has_scales,
        .sack_ok = shake->has_sack,
        .tstamp_ok = shake->has_timestamps,
        .usec_ts_ok = shake->counts_microseconds,
    };
    struct tcp_sock *socket = bpf_skc_to_tcp_sock(listener);
    if (!socket)
        return -1;
    return bpf_sk_assign_tcp_reqsk(skb, (struct sock *)socket, &attributes, sizeof(attributes));
}

static __always_inline bool awaits_handshakes(void)
{
    __u32 zero = 0;
    __u64 *until = bpf_map_lookup_elem(&hold_handshakes_until, &zero);
    if (!until || !*until)
        return false;
    if (bpf_ktime_get_ns() <= *until)
        return true;
    *until = 0;
    return false;
}

// A packet that a packet socket on the interface hears as well reaches IP as a clone, which has lost what was assigned
// to it (skb_share_check in net/ipv6/ip6_input.c and net/ipv4/ip_input.c): nobody listens like that on lo.
static __always_inline int to_loopback(struct __sk_buff *skb)
{
    __u8 hardware[ETH_ALEN] = {};
    if (bpf_skb_store_bytes(skb, 0, hardware, sizeof(hardware), 0))
        return TC_ACT_SHOT;
    skb->mark = HOLD_PASS;
    return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

// The peer's SYN once more: our answer is on its way and is repeated by user space until the peer has it. A second one
// by the listener has another sequence number, and the peer is reset for acknowledging one of the two.
static __always_inline int begin_or_end(struct hold_connection *key, struct hold_handshake *shake, struct tcp_head *tcp)
{
    __u32 sequence = bpf_ntohl(tcp->sequence), flags = tcp->flags & (TCP_IS_SYN | TCP_IS_RST | TCP_IS_ACK);
    if (flags == TCP_IS_SYN && sequence + 1 == shake->receive_sequence)
        return TC_ACT_SHOT;
    // Given up by the peer, or its next connection between the same ports.
    if (flags == TCP_IS_SYN || ((flags & TCP_IS_RST) && sequence == shake->receive_sequence))
        bpf_map_delete_elem(&hold_handshakes, key);
    return TC_ACT_UNSPEC;
}

// What a segment that goes on to the stack belongs to: without an entry it is let alone. `segment` is the offset of
// its TCP header.
static __always_inline int take_up(struct __sk_buff *skb, __u32 segment, bool ipv6)
{
    struct tcp_head tcp;
    if (bpf_skb_load_bytes(skb, segment, &tcp, sizeof(tcp)))
        return TC_ACT_UNSPEC;
    struct hold_connection key = {
        .local_port = bpf_ntohs(tcp.destination), .remote_port = bpf_ntohs(tcp.source)};
    struct bpf_sock_tuple tuple = {};
    load_ends(skb, &tcp, ipv6, &tuple);
    if (ipv6) {
        __builtin_memcpy(key.remote, tuple.ipv6.saddr, 16);
        __builtin_memcpy(key.local, tuple.ipv6.daddr, 16);
    } else {
        key.local[10] = key.local[11] = key.remote[10] = key.remote[11] = 0xff;
        __builtin_memcpy(&key.remote[12], &tuple.ipv4.saddr, 4);
        __builtin_memcpy(&key.local[12], &tuple.ipv4.daddr, 4);
    }
    struct hold_handshake *shake = bpf_map_lookup_elem(&hold_handshakes, &key);
    if (!shake || bpf_ktime_get_ns() > shake->expires)
        return TC_ACT_UNSPEC;
    if ((tcp.flags & (TCP_IS_SYN | TCP_IS_RST)) || !(tcp.flags & TCP_IS_ACK))
        return begin_or_end(&key, shake, &tcp);
    struct bpf_sock *found = receiver_of(skb, &tuple, ipv6);
    if (!found)
        return TC_ACT_UNSPEC;
    int verdict = TC_ACT_UNSPEC;
    // One that is known already is in no need of us; what could not be assigned would be answered with a reset.
    if (found->state != BPF_TCP_LISTEN)
        bpf_map_delete_elem(&hold_handshakes, &key); // it is there
    else if (bpf_ntohl(tcp.acknowledgement) != shake->sequence)
        verdict = TC_ACT_UNSPEC; // of another connection between the same ports
    else if (bpf_ntohl(tcp.sequence) != shake->receive_sequence)
        // The kernel takes the first segment's sequence number for the beginning: a later one has to come again.
        verdict = TC_ACT_SHOT;
    else if (skb->ifindex == LOOPBACK)
        verdict = assign(skb, found, shake) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
    else
        verdict = to_loopback(skb);
    bpf_sk_release(found);
    return verdict;
}
