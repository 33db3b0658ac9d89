// The clients' hook: a process of this host that connects to a virtual address gets one of the host's own.
// The kernel would take the virtual address itself while it is here (ip_route_output_key_hash_rcu, net/ipv4/route.c),
// and at the next move the client's end would leave the host together with the service's. Programs of type cgroup
// sock_addr on the root of the cgroup tree; no call fails because of them.
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

// In network order; IPv4 as ::ffff:a.b.c.d.
struct client_address { __be32 word[4]; };

// Virtual address → this host's own in its subnet.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __type(key, struct client_address);
    __type(value, struct client_address);
} client_sources SEC(".maps");

// The cookie of the host's network namespace: containers are below the same root.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} client_network SEC(".maps");

static __always_inline struct client_address *source(struct bpf_sock_addr *ctx, struct client_address *destination)
{
    struct client_address *found = bpf_map_lookup_elem(&client_sources, destination);
    if (!found)
        return 0;
    __u32 zero = 0;
    __u64 *network = bpf_map_lookup_elem(&client_network, &zero);
    return network && *network == bpf_get_netns_cookie(ctx) ? found : 0;
}

static __always_inline struct client_address *source_ipv4(struct bpf_sock_addr *ctx)
{
    struct client_address destination = {.word = {0, 0, bpf_htonl(0xffff), ctx->user_ip4}};
    return source(ctx, &destination);
}

static __always_inline struct client_address *source_ipv6(struct bpf_sock_addr *ctx)
{
    struct client_address destination = {
        .word = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
    return source(ctx, &destination);
}

// A socket that has a source already keeps it: one that chose it, or that a program of its unit's cgroup has given one.
// Those run first. Without a port bpf_bind would replace it (__inet_bind looks at inet_num, net/ipv4/af_inet.c).
SEC("cgroup/connect4")
int client_connect4(struct bpf_sock_addr *ctx)
{
    if (!ctx->sk || ctx->sk->src_ip4)
        return 1;
    struct client_address *own = source_ipv4(ctx);
    if (!own)
        return 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = own->word[3]};
    bpf_bind(ctx, (struct sockaddr *)&address, sizeof(address));
    return 1;
}

SEC("cgroup/connect6")
int client_connect6(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *socket = ctx->sk;
    if (!socket || socket->src_ip6[0] || socket->src_ip6[1] || socket->src_ip6[2] || socket->src_ip6[3])
        return 1;
    struct client_address *own = source_ipv6(ctx);
    if (!own)
        return 1;
    struct sockaddr_in6 address = {.sin6_family = AF_INET6};
    for (int i = 0; i < 4; i++)
        address.sin6_addr.in6_u.u6_addr32[i] = own->word[i];
    bpf_bind(ctx, (struct sockaddr *)&address, sizeof(address));
    return 1;
}

SEC("cgroup/sendmsg4")
int client_sendmsg4(struct bpf_sock_addr *ctx)
{
    struct client_address *own = ctx->msg_src_ip4 ? 0 : source_ipv4(ctx);
    if (own)
        ctx->msg_src_ip4 = own->word[3];
    return 1;
}

SEC("cgroup/sendmsg6")
int client_sendmsg6(struct bpf_sock_addr *ctx)
{
    if (ctx->msg_src_ip6[0] | ctx->msg_src_ip6[1] | ctx->msg_src_ip6[2] | ctx->msg_src_ip6[3])
        return 1;
    if (ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == bpf_htonl(0xffff))
        return 1; // continues as IPv4 and comes by client_sendmsg4
    struct client_address *own = source_ipv6(ctx);
    if (!own)
        return 1;
    ctx->msg_src_ip6[0] = own->word[0];
    ctx->msg_src_ip6[1] = own->word[1];
    ctx->msg_src_ip6[2] = own->word[2];
    ctx->msg_src_ip6[3] = own->word[3];
    return 1;
}

char _license[] SEC("license") = "GPL";
