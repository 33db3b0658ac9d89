// Fragmented packets whose first fragments passed just before a hold began: the rest passes too. A packet of which each
// host has a part is lost.
#pragma once
#include <linux/in6.h>

// A fragmented packet on its way: RFC 791 section 3.2, RFC 8200 section 4.5. IPv4 addresses are those of its header.
struct fragment_key {
    __u8 addresses[32]; // source, then destination; of IPv4 the first eight bytes
    __u32 identification;
    __u32 protocol;
};

// Packet → CLOCK_MONOTONIC of its latest fragment that passed, ns.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct fragment_key);
    __type(value, __u64);
} hold_fragments SEC(".maps");

enum {
    FRAGMENT_PAUSE = 50000000, // ns from one fragment to the next at the most: the number is used again later
    IPV6_FRAGMENT = 44,
};

// Whether the packet is a fragment, and of what.
static __always_inline bool load_fragment(struct __sk_buff *skb, bool ipv6, struct fragment_key *key)
{
    __builtin_memset(key, 0, sizeof(*key));
    if (ipv6) {
        __u8 next = 0;
        if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) || next != IPV6_FRAGMENT)
            return false;
        return !bpf_skb_load_bytes(skb, ETH_HLEN + 8, key->addresses, 32) &&
            !bpf_skb_load_bytes(skb, ETH_HLEN + 40 + 4, &key->identification, 4);
    }
    __be16 words[2] = {}; // identification, flags and offset
    __u8 protocol = 0;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 4, words, 4) || !(words[1] & bpf_htons(0x3fff)))
        return false;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 9, &protocol, 1))
        return false;
    key->identification = words[0];
    key->protocol = protocol;
    return bpf_skb_load_bytes(skb, ETH_HLEN + 12, key->addresses, 8) == 0;
}

// True for a fragment that follows one which passed; while nothing is held, notes that it passes.
static __always_inline bool has_begun_to_pass(struct __sk_buff *skb, bool ipv6, bool holds)
{
    struct fragment_key key;
    if (!load_fragment(skb, ipv6, &key))
        return false;
    __u64 now = bpf_ktime_get_ns();
    if (holds) {
        __u64 *passed = bpf_map_lookup_elem(&hold_fragments, &key);
        if (!passed || now - *passed > FRAGMENT_PAUSE)
            return false;
    }
    bpf_map_update_elem(&hold_fragments, &key, &now, BPF_ANY);
    return holds;
}
