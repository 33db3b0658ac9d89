// The records that the capture programs write, one after another, native (little) endian, without padding.
// Every record begins with the header; `length` counts the header. KernelCapture/RecordDecoder.swift reads them: a
// change here changes CAPTURE_VERSION.
#pragma once

#define CAPTURE_VERSION 8u
#define CAPTURE_MAGIC (0x4d500000u | CAPTURE_VERSION)
#define CAPTURE_GROUPS 64
#define CAPTURE_AUXV 64
#define CAPTURE_LIMITS 16
#define CAPTURE_SIGNALS 64
// Of each queue; all records of a task fit into what the kernel gives an iterator, 32 KiB, beside any xsave area.
#define CAPTURE_PENDING 100
// Of each process: those of timer_create(2).
#define CAPTURE_TIMERS 64
#define CAPTURE_CPU_CLOCK (~0ull)
// Room for the xsave area of any processor so far (AMX: 11 KiB).
#define CAPTURE_XSAVE 16384

enum capture_kind {
    CAPTURE_THREAD = 1, CAPTURE_PROCESS = 2, CAPTURE_SIGNAL = 3, CAPTURE_FILE = 4, CAPTURE_TIMER = 5,
    CAPTURE_HANDSHAKE = 6, CAPTURE_GAP = 7
};

struct capture_header {
    unsigned int magic, kind, length, tid;
};

typedef unsigned long long word;

struct capture_thread {
    struct capture_header header;
    word tid, tgid, ppid, pgid, sid;
    word exit_state, exit_signal, task_flags, ptrace, thread_flags;
    // struct user_regs_struct without the segment part, then fs_base, gs_base, ds, es, fs, gs.
    word registers[27];
    word blocked, saved_blocked, restore_blocked, pending;
    word stack_pointer, stack_size, stack_flags;
    word robust_list, clear_child_tid;
    word rseq, rseq_length, rseq_signature;
    // 0 none, 1 nanosleep, 2 poll, 3 futex, 255 another function.
    word restart_kind, restart_clock, restart_flags, restart_seconds, restart_nanoseconds;
    word files, fs, sighand, mm, umask;
    word user_ns, mnt_ns, net_ns, pid_ns, pid_ns_for_children, uts_ns, ipc_ns, time_ns, cgroup_ns;
    word reader_net_ns, reader_pid_ns;
    word uid, euid, suid, fsuid, gid, egid, sgid, fsgid;
    word cap_inheritable, cap_permitted, cap_effective, cap_bounding, cap_ambient;
    word securebits, atomic_flags, seccomp_mode, seccomp_filters;
    word vfork_done, io_uring, sem_undo, io_bitmap, iopl, shadow_stack, dispatch_length, core_cookie, memory_policy;
    word personality, parent_death_signal, timer_slack;
    // The thread that made this process, and how many keys are in keyrings: of thread and process, of the session.
    // The last filter stands for the whole chain that it ends.
    word parent_tid, policy, own_keys, session_keys, last_filter, landlock, landlock_told, no_tsc, no_cpuid;
    word group_count;
    unsigned int groups[CAPTURE_GROUPS];
    char comm[16];
    word xsave_size, xsave_user_size, xsave_features;
    // xsave_size bytes follow.
};

struct capture_process {
    struct capture_header header;
    // bpf_ktime_get_ns(): CLOCK_MONOTONIC of the initial time namespace.
    word now;
    word start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
    word arg_start, arg_end, env_start, env_end, vdso, mm_flags;
    word aio_contexts, ldt, pkeys, mm_users;
    word oom_score_adj, child_subreaper, posix_timers, shared_pending, has_actions;
    // VM_… of new mappings, membarrier(2) registrations, SIGNAL_… of sched/signal.h.
    word new_mappings, membarrier, signal_flags;
    // expires is 0 when disarmed; the two CPU timers' values are CPU time.
    word real_expires, real_interval;
    word virtual_expires, virtual_interval, prof_expires, prof_interval, cpu_user, cpu_system;
    word auxv[CAPTURE_AUXV];
    word limits[CAPTURE_LIMITS * 2];
    // handler, flags, restorer, mask
    word actions[CAPTURE_SIGNALS * 4];
};

struct capture_signal {
    struct capture_header header;
    word shared;
    // The used part of siginfo_t.
    unsigned char info[48];
};

struct capture_timer {
    struct capture_header header;
    // `clock` is the one that `next` is counted on: nanoseconds from now on those that never jump, else a time on it.
    // A timer of CPU time has CAPTURE_CPU_CLOCK for it.
    word id, clock, is_armed, next, interval;
};

struct capture_file {
    struct capture_header header;
    word tgid, number, file, flags, mode, position, inode, device;
    word is_socket;
    word family, type, protocol, state, shutdown;
    word local_port, remote_port, timestamp_recent, accept_queue, half_open;
    word peer_inode, is_mptcp, has_upper_layer, is_signed, has_filter, has_selector;
    unsigned char local_address[16], remote_address[16];
    // Of a unix socket: its own name and that of the socket it is connected to.
    word name_length, peer_name_length;
    unsigned char name[112], peer_name[112];
    // The first group of the socket's memberships; all zero without one.
    unsigned char multicast_group[16];
};

// A TCP handshake whose last segment has not come: a request socket.
struct capture_handshake {
    struct capture_header header;
    // The initial sequence numbers of this side and of the peer, and our timestamp clock now.
    word sent, received, timestamp, timestamp_recent, segment;
    // The peer has completed it, and the listener waits for data (TCP_DEFER_ACCEPT).
    word send_scale, receive_scale, has_scales, has_sack, has_timestamps, has_ecn, counts_microseconds, is_complete;
    word local_port, remote_port;
    unsigned char local_address[16], remote_address[16];
};

// A TCP connection that has received something out of order: what it lacks begins at `next`.
struct capture_gap {
    struct capture_header header;
    word next, local_port, remote_port;
    unsigned char local_address[16], remote_address[16];
};
