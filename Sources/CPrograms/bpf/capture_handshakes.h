// Handshakes that are under way, of the listeners of one network namespace.
#pragma once

#define TCP_NEW_SYN_RECV 12

static struct capture_handshake shake;

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
    if (BPF_CORE_READ(common, skc_family) == AF_INET) {
        map_address(out->local_address, BPF_CORE_READ(common, skc_rcv_saddr));
        map_address(out->remote_address, BPF_CORE_READ(common, skc_daddr));
    } else {
        BPF_CORE_READ_INTO(&out->local_address, common, skc_v6_rcv_saddr.in6_u.u6_addr8);
        BPF_CORE_READ_INTO(&out->remote_address, common, skc_v6_daddr.in6_u.u6_addr8);
    }
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
