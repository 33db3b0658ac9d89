// TCP segments and the sockets they are for.
#pragma once

#include <bpf/bpf_core_read.h>

// As the kernel declares them; only names and places of fields count.
struct sock { int unused; };
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct rb_node;
struct rb_root { struct rb_node *rb_node; };
struct sk_buff { char cb[48]; };
struct tcp_sock { struct rb_root out_of_order_queue; struct sk_buff *ooo_last_skb; };
#pragma clang attribute pop

struct tcp_head {
    __be16 source, destination;
    __be32 sequence, acknowledgement;
    __u8 offset, flags;
} __attribute__((packed));

enum {
    TCP_IS_SYN = 0x02,
    TCP_IS_RST = 0x04,
    TCP_IS_ACK = 0x10,
};

static __always_inline void load_ends(
    struct __sk_buff *skb, struct tcp_head *tcp, bool ipv6, struct bpf_sock_tuple *tuple)
{
    if (ipv6) {
        bpf_skb_load_bytes(skb, ETH_HLEN + 8, tuple->ipv6.saddr, 16);
        bpf_skb_load_bytes(skb, ETH_HLEN + 24, tuple->ipv6.daddr, 16);
        tuple->ipv6.sport = tcp->source;
        tuple->ipv6.dport = tcp->destination;
    } else {
        bpf_skb_load_bytes(skb, ETH_HLEN + 12, &tuple->ipv4.saddr, 4);
        bpf_skb_load_bytes(skb, ETH_HLEN + 16, &tuple->ipv4.daddr, 4);
        tuple->ipv4.sport = tcp->source;
        tuple->ipv4.dport = tcp->destination;
    }
}

// To be released, bpf_sk_release.
static __always_inline struct bpf_sock *receiver_of(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, bool ipv6)
{
    __u32 length = ipv6 ? sizeof(tuple->ipv6) : sizeof(tuple->ipv4);
    return bpf_skc_lookup_tcp(skb, tuple, length, BPF_F_CURRENT_NETNS, 0);
}
