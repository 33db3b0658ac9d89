// TCP of one network namespace: handshakes that are under way, and connections that lack a segment.
#pragma once

#define TCP_NEW_SYN_RECV 12

static struct capture_handshake shake;

static __always_inline void read_ends(unsigned char *local, unsigned char *remote, struct sock_common *common) {
    if (BPF_CORE_READ(common, skc_family) == AF_INET) {
        map_address(local, BPF_CORE_READ(common, skc_rcv_saddr));
        map_address(remote, BPF_CORE_READ(common, skc_daddr));
    } else {
        bpf_core_read(local, 16, &common->skc_v6_rcv_saddr);
        bpf_core_read(remote, 16, &common->skc_v6_daddr);
    }
}

// tcp_syn_ack's clock, include/net/tcp.h tcp_clock_ts(): milliseconds or microseconds since boot.
static __always_inline void read_handshake(struct capture_handshake *out, struct tcp_request_sock *request) {
    struct inet_request_sock *inet = &request->req;
    struct sock_common *common = &request->req.req.__req_common;
    out->sent = BPF_CORE_READ(request, snt_isn);
    out->received = BPF_CORE_READ(request, rcv_isn);
    if (bpf_core_field_exists(request->req_usec_ts)) out->counts_microseconds = BPF_CORE_READ(request, req_usec_ts);
    word now = bpf_ktime_get_ns() / (out->counts_microseconds ? 1000 : 1000000);
    out->timestamp = (__u32)(now + BPF_CORE_READ(request, ts_off));
    out->timestamp_recent = BPF_CORE_READ(request, req.req.ts_recent);
    out->segment = BPF_CORE_READ(request, req.req.mss);
    out->send_scale = BPF_CORE_READ_BITFIELD_PROBED(inet, snd_wscale);
    out->receive_scale = BPF_CORE_READ_BITFIELD_PROBED(inet, rcv_wscale);
    out->has_scales = BPF_CORE_READ_BITFIELD_PROBED(inet, wscale_ok);
    out->has_sack = BPF_CORE_READ_BITFIELD_PROBED(inet, sack_ok);
    out->has_timestamps = BPF_CORE_READ_BITFIELD_PROBED(inet, tstamp_ok);
    out->has_ecn = BPF_CORE_READ_BITFIELD_PROBED(inet, ecn_ok);
    out->is_complete = BPF_CORE_READ_BITFIELD_PROBED(inet, acked);
    out->local_port = BPF_CORE_READ(common, skc_num);
    out->remote_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
    read_ends(out->local_address, out->remote_address, common);
}

SEC("iter/tcp")
int capture_handshakes(struct bpf_iter__tcp *ctx) {
    struct sock_common *common = ctx->sk_common;
    if (!common || common->skc_state != TCP_NEW_SYN_RECV) return 0;
    struct tcp_request_sock *request = bpf_skc_to_tcp_request_sock(common);
    if (!request) return 0;
    __builtin_memset(&shake, 0, sizeof(shake));
    shake.header.magic = CAPTURE_MAGIC;
    shake.header.kind = CAPTURE_HANDSHAKE;
    shake.header.length = sizeof(shake);
    read_handshake(&shake, request);
    bpf_seq_write(ctx->meta->seq, &shake, sizeof(shake));
    return 0;
}

static struct capture_gap gap;

SEC("iter/tcp")
int capture_gaps(struct bpf_iter__tcp *ctx) {
    struct sock_common *common = ctx->sk_common;
    struct tcp_sock *socket = common ? bpf_skc_to_tcp_sock(common) : 0;
    if (!socket || !BPF_CORE_READ(socket, out_of_order_queue.rb_node)) return 0;
    __builtin_memset(&gap, 0, sizeof(gap));
    gap.header.magic = CAPTURE_MAGIC;
    gap.header.kind = CAPTURE_GAP;
    gap.header.length = sizeof(gap);
    gap.next = BPF_CORE_READ(socket, rcv_nxt);
    gap.local_port = BPF_CORE_READ(common, skc_num);
    gap.remote_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
    read_ends(gap.local_address, gap.remote_address, common);
    bpf_seq_write(ctx->meta->seq, &gap, sizeof(gap));
    return 0;
}
