// The hold queue's packet programs, tc clsact (tc-bpf(8)): `hold_ingress` and `hold_egress` on the NIC and on lo, over
// which this host's own processes reach the address, `hold_inject` on the tap behind which packets wait.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "hold.h"
#include "handshake.h"
#include "gaps.h"
#include "fragments.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, struct hold_address);
    __type(value, struct hold_mode);
} hold_modes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, struct hold_address);
    __type(value, struct hold_tally);
} hold_tallies SEC(".maps");

// Interface index of a tap → interface index of the NIC whose packets it holds.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, __u32);
} hold_taps SEC(".maps");

// Offsets from the start of the Ethernet frame.
enum {
    IPV4_FRAGMENT = ETH_HLEN + 6,
    IPV4_PROTOCOL = ETH_HLEN + 9,
    IPV4_SOURCE = ETH_HLEN + 12,
    IPV4_DESTINATION = ETH_HLEN + 16,
    IPV6_NEXT = ETH_HLEN + 6,
    IPV6_SOURCE = ETH_HLEN + 8,
    IPV6_DESTINATION = ETH_HLEN + 24,
    IPV6_PAYLOAD = ETH_HLEN + 40,
    ARP_SENDER = ETH_HLEN + 14,
    ARP_TARGET = ETH_HLEN + 24,
    TCP_FLAGS = 13,
    PROTOCOL_TCP = 6,
    PROTOCOL_ICMPV6 = 58,
    ND_FIRST = 133, // router solicitation
    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,
    ND_LAST = 137, // redirect
};

static __always_inline bool load_ipv4(struct __sk_buff *skb, __u32 offset, struct hold_address *address)
{
    __builtin_memset(address, 0, sizeof(*address));
    address->bytes[10] = 0xff;
    address->bytes[11] = 0xff;
    return bpf_skb_load_bytes(skb, offset, &address->bytes[12], 4) == 0;
}

static __always_inline bool load_ipv6(struct __sk_buff *skb, __u32 offset, struct hold_address *address)
{
    return bpf_skb_load_bytes(skb, offset, address->bytes, 16) == 0;
}

static __always_inline struct hold_mode *mode_of(struct hold_address *address)
{
    return bpf_map_lookup_elem(&hold_modes, address);
}

// Drops the packet if the address is silent; not who-has and is-at while it is still answered for. Who sends these is
// told that they were dropped. TCP is not: the kernel gives up a handshake whose SYN-ACK is dropped
// (reqsk_timer_handler in net/ipv4/inet_connection_sock.c), and narrows a connection's congestion window
// (__tcp_transmit_skb in net/ipv4/tcp_output.c).
static __always_inline int silence(struct hold_address *address, bool resolution)
{
    struct hold_mode *mode = mode_of(address);
    if (!mode || !(mode->flags & HOLD_SILENT) || (resolution && (mode->flags & HOLD_ANSWER)))
        return TC_ACT_UNSPEC;
    struct hold_tally *tally = bpf_map_lookup_elem(&hold_tallies, address);
    if (tally)
        __sync_fetch_and_add(&tally->silenced, 1);
    return resolution ? TC_ACT_SHOT : TC_ACT_STOLEN;
}

// Whether the IPv6 packet is for an address that is silent here.
static __always_inline bool is_silent(struct __sk_buff *skb)
{
    struct hold_address address;
    if (!load_ipv6(skb, IPV6_DESTINATION, &address))
        return false;
    struct hold_mode *mode = mode_of(&address);
    return mode && mode->flags & HOLD_SILENT;
}

// Another host says that it has the address: this one is no longer to say so.
static __always_inline void yield_to(struct hold_address *address)
{
    struct hold_mode *mode = mode_of(address);
    if (mode && (mode->flags & HOLD_ANSWER))
        __sync_fetch_and_and(&mode->flags, ~HOLD_ANSWER);
}

// The type of an ICMPv6 message of neighbour discovery, RFC 4861, else 0.
static __always_inline __u8 neighbour_discovery(struct __sk_buff *skb)
{
    __u8 next = 0, type = 0;
    if (bpf_skb_load_bytes(skb, IPV6_NEXT, &next, 1) || next != PROTOCOL_ICMPV6)
        return 0;
    if (bpf_skb_load_bytes(skb, IPV6_PAYLOAD, &type, 1) || type < ND_FIRST || type > ND_LAST)
        return 0;
    return type;
}

// The offset of the TCP header; 0 where there is none, as in any but the first fragment.
static __always_inline __u32 tcp_offset(struct __sk_buff *skb, bool ipv6)
{
    __u8 protocol = 0;
    __u32 segment = IPV6_PAYLOAD;
    if (ipv6) {
        if (bpf_skb_load_bytes(skb, IPV6_NEXT, &protocol, 1))
            return 0;
    } else {
        __u8 length = 0;
        __be16 fragment = 0;
        if (bpf_skb_load_bytes(skb, ETH_HLEN, &length, 1) || bpf_skb_load_bytes(skb, IPV4_PROTOCOL, &protocol, 1) ||
            bpf_skb_load_bytes(skb, IPV4_FRAGMENT, &fragment, 2))
            return 0;
        if (fragment & bpf_htons(0x1fff))
            return 0;
        segment = ETH_HLEN + (length & 15) * 4;
    }
    return protocol == PROTOCOL_TCP ? segment : 0;
}

static __always_inline bool is_opening_segment(struct __sk_buff *skb, bool ipv6)
{
    __u8 flags = 0;
    __u32 segment = tcp_offset(skb, ipv6);
    if (!segment || bpf_skb_load_bytes(skb, segment + TCP_FLAGS, &flags, 1))
        return false;
    return (flags & 0x12) == 0x02; // SYN, no ACK
}

// A packet for one of our addresses takes a ticket; it goes on only if nothing before it still waits.
static __always_inline int hold(struct __sk_buff *skb, struct hold_address *address, bool ipv6, bool injected)
{
    struct hold_mode *mode = mode_of(address);
    if (!mode)
        return TC_ACT_UNSPEC;
    struct hold_tally *tally = bpf_map_lookup_elem(&hold_tallies, address);
    if (!tally)
        return TC_ACT_UNSPEC;
    if (injected) {
        __sync_fetch_and_add(&tally->passed, 1);
        return TC_ACT_UNSPEC;
    }
    if (skb->pkt_type == PACKET_OTHERHOST) // a switch that does not know the receiver's port yet gives it to all
        return TC_ACT_UNSPEC;
    __u32 flags = mode->flags;
    if (has_begun_to_pass(skb, ipv6, flags & HOLD_ALL))
        return TC_ACT_UNSPEC;
    if (!(flags & HOLD_ALL) && !((flags & HOLD_SYN) && is_opening_segment(skb, ipv6)))
        return TC_ACT_UNSPEC;
    if (flags & HOLD_GAPS) {
        __u32 segment = tcp_offset(skb, ipv6);
        if (segment && fills_gap(skb, segment, ipv6))
            return TC_ACT_UNSPEC;
    }
    __u64 ticket = __sync_fetch_and_add(&tally->tickets, 1);
    if (flags & HOLD_DRAIN) {
        __u64 passed = *(volatile __u64 *)&tally->passed;
        if ((__s64)(passed + mode->settled - ticket) >= 0) {
            __sync_fetch_and_add(&tally->passed, 1);
            return TC_ACT_UNSPEC;
        }
    }
    __sync_fetch_and_add(&tally->packets, 1);
    __sync_fetch_and_add(&tally->bytes, skb->len);
    return bpf_redirect(mode->tap, 0);
}

// A packet that nobody holds goes on to the stack.
static __always_inline int go_on(struct __sk_buff *skb, int verdict, bool ipv6)
{
    if (verdict != TC_ACT_UNSPEC || !awaits_handshakes())
        return verdict;
    __u32 segment = tcp_offset(skb, ipv6);
    return segment ? take_up(skb, segment, ipv6) : TC_ACT_UNSPEC;
}

SEC("tc")
int hold_ingress(struct __sk_buff *skb)
{
    struct hold_address address;
    bool injected = skb->mark == HOLD_MARK, passes = skb->mark == HOLD_PASS;
    if (injected || passes)
        skb->mark = 0; // else the service's own fwmark rules would see it
    bool ipv4 = skb->protocol == bpf_htons(ETH_P_IP), ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
    if (passes)
        return ipv4 || ipv6 ? go_on(skb, TC_ACT_UNSPEC, ipv6) : TC_ACT_UNSPEC;
    if (skb->vlan_present) // belongs to a VLAN interface, which has its own programs
        return TC_ACT_UNSPEC;
    if (ipv4)
        return load_ipv4(skb, IPV4_DESTINATION, &address)
            ? go_on(skb, hold(skb, &address, false, injected), false) : TC_ACT_UNSPEC;
    if (skb->protocol == bpf_htons(ETH_P_ARP)) {
        if (load_ipv4(skb, ARP_SENDER, &address))
            yield_to(&address);
        return load_ipv4(skb, ARP_TARGET, &address) ? silence(&address, true) : TC_ACT_UNSPEC;
    }
    if (!ipv6)
        return TC_ACT_UNSPEC;
    __u8 type = neighbour_discovery(skb);
    if (type == ND_ADVERTISEMENT && load_ipv6(skb, IPV6_PAYLOAD + 8, &address))
        yield_to(&address);
    if (type == ND_SOLICITATION)
        return load_ipv6(skb, IPV6_PAYLOAD + 8, &address) ? silence(&address, true) : TC_ACT_UNSPEC;
    // A late answer about somebody else's address helps nobody, unless it is the other host who has asked, from this
    // address, and the neighbour that answers still believes it here.
    if (type && !injected && !(type == ND_ADVERTISEMENT && is_silent(skb)))
        return TC_ACT_UNSPEC;
    return load_ipv6(skb, IPV6_DESTINATION, &address)
        ? go_on(skb, hold(skb, &address, true, injected), true) : TC_ACT_UNSPEC;
}

SEC("tc")
int hold_egress(struct __sk_buff *skb)
{
    struct hold_address address;
    if (skb->vlan_present || skb->mark == HOLD_PASS)
        return TC_ACT_UNSPEC;
    if (skb->protocol == bpf_htons(ETH_P_IP))
        return load_ipv4(skb, IPV4_SOURCE, &address) ? silence(&address, false) : TC_ACT_UNSPEC;
    if (skb->protocol == bpf_htons(ETH_P_ARP))
        return load_ipv4(skb, ARP_SENDER, &address) ? silence(&address, true) : TC_ACT_UNSPEC;
    if (skb->protocol != bpf_htons(ETH_P_IPV6))
        return TC_ACT_UNSPEC;
    __u8 type = neighbour_discovery(skb);
    if (type == ND_ADVERTISEMENT && load_ipv6(skb, IPV6_PAYLOAD + 8, &address) &&
        silence(&address, true) == TC_ACT_SHOT)
        return TC_ACT_SHOT;
    return load_ipv6(skb, IPV6_SOURCE, &address) ? silence(&address, type != 0) : TC_ACT_UNSPEC;
}

SEC("tc")
int hold_inject(struct __sk_buff *skb)
{
    __u32 tap = skb->ifindex, receiver = 1;
    __u32 *nic = bpf_map_lookup_elem(&hold_taps, &tap);
    if (!nic)
        return TC_ACT_SHOT;
    skb->mark = HOLD_MARK;
    // A packet of this host's own came by lo, as its hardware address tells: elsewhere it would be a martian.
    if (bpf_skb_load_bytes(skb, 0, &receiver, 4) || receiver == 0)
        return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
    return bpf_redirect(*nic, BPF_F_INGRESS);
}

char _license[] SEC("license") = "GPL";
