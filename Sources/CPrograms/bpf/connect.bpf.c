// The connect hook: what a unit's processes send of their own accord has the unit's virtual address as its source.
// Programs of type cgroup sock_addr, attached to the unit's cgroup (Documentation/bpf/prog_cgroup_sockopt.rst's
// neighbours; net/core/filter.c: bpf_bind, sock_addr_is_valid_access).
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10
#define EINVAL 22

// The same, field by field, as ConnectSettings in Sources/Addressing/ConnectHook.swift.
struct connect_settings {
    __u32 has_ipv4;
    __u32 has_ipv6;
    __u32 rewrite_wildcard_binds;
    __be32 ipv4;
    __be32 ipv6[4];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct connect_settings);
} connect_options SEC(".maps");

// The part of the kernel's structures that says for whom a socket listens; offsets come from BTF at load time (CO-RE).
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock_common { unsigned char skc_ipv6only : 1; };
struct sock { struct sock_common __sk_common; };
#pragma clang attribute pop

static __always_inline struct connect_settings *settings(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&connect_options, &zero);
}

// Destinations whose source address says more than who is asking: this host, a link, a group.
static __always_inline bool is_left_alone_ipv4(__be32 destination)
{
    __u32 address = bpf_ntohl(destination);
    return address == 0 || address == 0xffffffff || (address >> 24) == 127 || (address >> 28) == 14 ||
           (address >> 16) == 0xa9fe;
}

static __always_inline bool is_left_alone_ipv6(__be32 a, __be32 b, __be32 c, __be32 d)
{
    __u32 first = bpf_ntohl(a);
    if ((first >> 24) == 0xff || (first & 0xffc00000) == 0xfe800000)
        return true;
    return a == 0 && b == 0 && c == 0 && (d == 0 || d == bpf_htonl(1));
}

// 1 lets the call go on. EINVAL means the socket has a source already, which the application chose. Any other failure
// (EADDRNOTAVAIL: the virtual address is not on this host) ends the call: the host's own address is never a substitute.
static __always_inline int verdict(int result)
{
    if (result == 0 || result == -EINVAL)
        return 1;
    bpf_set_retval(result);
    return 0;
}

static __always_inline int bind_ipv6(struct bpf_sock_addr *ctx, __be32 a, __be32 b, __be32 c, __be32 d)
{
    struct sockaddr_in6 source = {.sin6_family = AF_INET6};
    source.sin6_addr.in6_u.u6_addr32[0] = a;
    source.sin6_addr.in6_u.u6_addr32[1] = b;
    source.sin6_addr.in6_u.u6_addr32[2] = c;
    source.sin6_addr.in6_u.u6_addr32[3] = d;
    return verdict(bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)));
}

// An address that was bound without a port (IP_BIND_ADDRESS_NO_PORT) is the application's choice as well, and bpf_bind
// would replace it: __inet_bind of net/ipv4/af_inet.c looks at the port alone.
SEC("cgroup/connect4")
int vip_connect4(struct bpf_sock_addr *ctx)
{
    struct connect_settings *options = settings();
    if (!options || !options->has_ipv4 || is_left_alone_ipv4(ctx->user_ip4) || (ctx->sk && ctx->sk->src_ip4))
        return 1;
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = options->ipv4};
    return verdict(bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)));
}

SEC("cgroup/connect6")
int vip_connect6(struct bpf_sock_addr *ctx)
{
    struct connect_settings *options = settings();
    __be32 a = ctx->user_ip6[0], b = ctx->user_ip6[1], c = ctx->user_ip6[2], d = ctx->user_ip6[3];
    struct bpf_sock *socket = ctx->sk;
    if (!options || (socket && (socket->src_ip6[0] || socket->src_ip6[1] || socket->src_ip6[2] || socket->src_ip6[3])))
        return 1;
    if (a == 0 && b == 0 && c == bpf_htonl(0xffff)) {
        if (!options->has_ipv4 || is_left_alone_ipv4(d))
            return 1;
        return bind_ipv6(ctx, 0, 0, bpf_htonl(0xffff), options->ipv4);
    }
    if (!options->has_ipv6 || is_left_alone_ipv6(a, b, c, d))
        return 1;
    return bind_ipv6(ctx, options->ipv6[0], options->ipv6[1], options->ipv6[2], options->ipv6[3]);
}

SEC("cgroup/sendmsg4")
int vip_sendmsg4(struct bpf_sock_addr *ctx)
{
    struct connect_settings *options = settings();
    if (!options || !options->has_ipv4 || is_left_alone_ipv4(ctx->user_ip4))
        return 1;
    if (ctx->msg_src_ip4 == 0)
        ctx->msg_src_ip4 = options->ipv4;
    return 1;
}

SEC("cgroup/sendmsg6")
int vip_sendmsg6(struct bpf_sock_addr *ctx)
{
    struct connect_settings *options = settings();
    if (!options || !options->has_ipv6 ||
        is_left_alone_ipv6(ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]))
        return 1;
    if (ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == bpf_htonl(0xffff))
        return 1; // continues as IPv4 and comes by vip_sendmsg4
    if (ctx->msg_src_ip6[0] | ctx->msg_src_ip6[1] | ctx->msg_src_ip6[2] | ctx->msg_src_ip6[3])
        return 1;
    ctx->msg_src_ip6[0] = options->ipv6[0];
    ctx->msg_src_ip6[1] = options->ipv6[1];
    ctx->msg_src_ip6[2] = options->ipv6[2];
    ctx->msg_src_ip6[3] = options->ipv6[3];
    return 1;
}

SEC("cgroup/bind4")
int vip_bind4(struct bpf_sock_addr *ctx)
{
    struct connect_settings *options = settings();
    if (options && options->rewrite_wildcard_binds && options->has_ipv4 && ctx->user_ip4 == 0)
        ctx->user_ip4 = options->ipv4;
    return 1;
}

// Whether a socket bound to :: serves IPv4 as well (IPV6_V6ONLY is off). One of which the kernel does not tell, which
// is an MPTCP socket, is taken to.
static __always_inline bool serves_ipv4(struct bpf_sock *socket)
{
    if (!socket)
        return true;
    struct sock *tcp = (struct sock *)bpf_skc_to_tcp6_sock(socket);
    if (tcp)
        return !BPF_CORE_READ_BITFIELD(tcp, __sk_common.skc_ipv6only);
    struct sock *udp = (struct sock *)bpf_skc_to_udp6_sock(socket);
    return !udp || !BPF_CORE_READ_BITFIELD(udp, __sk_common.skc_ipv6only);
}

// A bind to :: that serves both families is left alone where both have a virtual address: no single address is both.
SEC("cgroup/bind6")
int vip_bind6(struct bpf_sock_addr *ctx)
{
    struct connect_settings *options = settings();
    if (!options || !options->rewrite_wildcard_binds || !options->has_ipv6)
        return 1;
    if (ctx->user_ip6[0] | ctx->user_ip6[1] | ctx->user_ip6[2] | ctx->user_ip6[3])
        return 1;
    if (options->has_ipv4 && serves_ipv4(ctx->sk))
        return 1;
    ctx->user_ip6[0] = options->ipv6[0];
    ctx->user_ip6[1] = options->ipv6[1];
    ctx->user_ip6[2] = options->ipv6[2];
    ctx->user_ip6[3] = options->ipv6[3];
    return 1;
}

char _license[] SEC("license") = "GPL";
