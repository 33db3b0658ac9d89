// Segments that a connection lacks while later ones have come already. The later ones are acknowledged (SACK, RFC
// 2018), and the kernel gives them to nobody, so that they cannot travel: the peer, who may forget them only when they
// are acknowledged for good, would find them gone, and repeat everything after a timeout (tcp_check_sack_reneging in
// net/ipv4/tcp_input.c). What fills the gap may still pass therefore, while everything newer waits.
#pragma once

#include "segments.h"

// The place of end_seq in struct tcp_skb_cb, include/net/tcp.h, behind seq.
#define SEGMENT_END 4

static __always_inline bool is_before_end(struct tcp_sock *socket, __u32 sequence)
{
    __u32 end = 0;
    struct sk_buff *last = BPF_CORE_READ(socket, ooo_last_skb);
    // The pointer is left behind when the queue becomes empty.
    if (!BPF_CORE_READ(socket, out_of_order_queue.rb_node) || !last)
        return false;
    unsigned long place = bpf_core_field_offset(struct sk_buff, cb) + SEGMENT_END;
    if (bpf_probe_read_kernel(&end, sizeof(end), (char *)last + place))
        return false;
    return (__s32)(sequence - end) < 0;
}

// `segment` is the offset of the TCP header.
static __always_inline bool fills_gap(struct __sk_buff *skb, __u32 segment, bool ipv6)
{
    struct tcp_head tcp;
    if (bpf_skb_load_bytes(skb, segment, &tcp, sizeof(tcp)))
        return false;
    struct bpf_sock_tuple tuple = {};
    load_ends(skb, &tcp, ipv6, &tuple);
    struct bpf_sock *found = receiver_of(skb, &tuple, ipv6);
    if (!found)
        return false;
    struct tcp_sock *socket = bpf_skc_to_tcp_sock(found);
    bool fills = socket && is_before_end(socket, bpf_ntohl(tcp.sequence));
    bpf_sk_release(found);
    return fills;
}
