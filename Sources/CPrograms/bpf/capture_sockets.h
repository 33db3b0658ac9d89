// What the kernel knows of an internet or unix socket, for the pass over open files.
#pragma once

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define SOCK_STREAM 1
#define TCP_LISTEN 10

static __always_inline void map_address(unsigned char *to, __u32 address) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, 4);
}

// SO_ATTACH_FILTER and SO_ATTACH_BPF; SO_ATTACH_REUSEPORT_CBPF and _EBPF.
static __always_inline void read_programs(struct capture_file *out, struct sock *sk) {
    out->has_filter = BPF_CORE_READ(sk, sk_filter) != 0;
    struct sock_reuseport *group = BPF_CORE_READ(sk, sk_reuseport_cb);
    if (group) out->has_selector = BPF_CORE_READ(group, prog) != 0;
}

static __always_inline void read_memberships(struct capture_file *out, struct sock *sk) {
    struct inet_sock *inet = (struct inet_sock *)sk;
    struct ip_mc_socklist *list = BPF_CORE_READ(inet, mc_list);
    if (list) {
        map_address(out->multicast_group, BPF_CORE_READ(list, multi.imr_multiaddr.s_addr));
    } else if (out->family == AF_INET6 && bpf_core_field_exists(inet->pinet6)) {
        struct ipv6_mc_socklist *list6 = BPF_CORE_READ(inet, pinet6, ipv6_mc_list);
        if (list6) BPF_CORE_READ_INTO(&out->multicast_group, list6, addr.in6_u.u6_addr8);
    }
}

static __always_inline void read_inet(struct capture_file *out, struct sock *sk) {
    out->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
    out->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
    if (out->family == AF_INET) {
        map_address(out->local_address, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
        map_address(out->remote_address, BPF_CORE_READ(sk, __sk_common.skc_daddr));
    } else {
        BPF_CORE_READ_INTO(&out->local_address, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
        BPF_CORE_READ_INTO(&out->remote_address, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
    }
    if (out->protocol == IPPROTO_MPTCP) out->is_mptcp = 1;
    if (out->type != SOCK_STREAM) read_memberships(out, sk);
    if (out->protocol != IPPROTO_TCP || out->type != SOCK_STREAM) return;
    struct tcp_sock *tcp = (struct tcp_sock *)sk;
    struct inet_connection_sock *connection = (struct inet_connection_sock *)sk;
    out->timestamp_recent = BPF_CORE_READ(tcp, rx_opt.ts_recent);
    if (bpf_core_field_exists(tcp->is_mptcp)) out->is_mptcp = BPF_CORE_READ(tcp, is_mptcp);
    out->has_upper_layer = BPF_CORE_READ(connection, icsk_ulp_ops) != 0;
    if (bpf_core_field_exists(tcp->md5sig_info)) out->is_signed = BPF_CORE_READ(tcp, md5sig_info) != 0;
    if (bpf_core_field_exists(tcp->ao_info)) out->is_signed |= BPF_CORE_READ(tcp, ao_info) != 0;
    if (out->state != TCP_LISTEN) return;
    out->accept_queue = BPF_CORE_READ(sk, sk_ack_backlog);
    out->half_open = BPF_CORE_READ(connection, icsk_accept_queue.qlen.counter);
}

// Without the two bytes of the family, which `len` counts.
static __always_inline word read_name(unsigned char *out, struct unix_sock *socket) {
    struct unix_address *address = BPF_CORE_READ(socket, addr);
    if (!address) return 0;
    __u32 length = BPF_CORE_READ(address, len) - 2;
    if (length > 110) length = 110;
    bpf_probe_read_kernel(out, length, (char *)address + bpf_core_field_offset(struct unix_address, name) + 2);
    return length;
}

static __always_inline void read_unix(struct capture_file *out, struct sock *sk) {
    struct unix_sock *socket = (struct unix_sock *)sk;
    if (out->state == TCP_LISTEN) out->accept_queue = BPF_CORE_READ(sk, sk_ack_backlog);
    struct sock *peer = BPF_CORE_READ(socket, peer);
    if (peer) {
        struct socket_alloc *home = (struct socket_alloc *)BPF_CORE_READ(peer, sk_socket);
        if (home) out->peer_inode = BPF_CORE_READ(home, vfs_inode.i_ino);
        out->peer_name_length = read_name(out->peer_name, (struct unix_sock *)peer);
    }
    out->name_length = read_name(out->name, socket);
}
