// The parts of the kernel's structures that the capture programs read. Names and types are the kernel's; offsets are
// filled in at load time from the running kernel's BTF (CO-RE), so order and gaps here mean nothing.
#pragma once
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct { __u64 sig[1]; } sigset_t;
struct list_head { struct list_head *next, *prev; };
struct hlist_node { struct hlist_node *next; };
struct hlist_head { struct hlist_node *first; };
typedef struct { int counter; } atomic_t;
typedef struct { long long counter; } atomic64_t;
typedef struct { int val; } kuid_t;
typedef struct { int val; } kgid_t;
typedef struct { __u64 val; } kernel_cap_t;

struct pid_namespace { unsigned int level; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { unsigned int level; struct upid numbers[1]; };

struct sigpending { struct list_head list; sigset_t signal; };
struct kernel_siginfo { int si_signo; };
struct sigqueue { struct list_head list; struct kernel_siginfo info; };
struct sigaction { unsigned long sa_flags; };
struct k_sigaction { struct sigaction sa; };
struct sighand_struct { struct k_sigaction action[64]; };

struct timerqueue_node { long long expires; };
struct hrtimer_clock_base { int clockid; };
struct hrtimer {
    struct timerqueue_node node;
    struct hrtimer_clock_base *base;
    unsigned char state;
    bool is_queued;
};
struct cpu_timer { struct timerqueue_node node; };
struct k_itimer {
    struct hlist_node list;
    int it_clock, it_id;
    long long it_interval;
    union {
        struct { struct hrtimer timer; } real;
        struct cpu_timer cpu;
    } it;
};
struct cpu_itimer { __u64 expires, incr; };
struct task_cputime_atomic { atomic64_t utime, stime; };
struct thread_group_cputimer { struct task_cputime_atomic cputime_atomic; };
struct rlimit { unsigned long rlim_cur, rlim_max; };
struct signal_struct {
    struct sigpending shared_pending;
    unsigned int flags;
    unsigned int is_child_subreaper : 1;
    struct hrtimer real_timer;
    long long it_real_incr;
    struct cpu_itimer it[2];
    struct thread_group_cputimer cputimer;
    struct hlist_head posix_timers;
    struct pid *pids[4];
    short oom_score_adj;
    struct rlimit rlim[16];
};

struct assoc_array { unsigned long nr_leaves_on_tree; };
struct key { struct assoc_array keys; };
struct landlock_cred_security { void *domain; };
struct group_info { int ngroups; kgid_t gid[1]; };
struct user_namespace { int level; };
struct cred {
    kuid_t uid, suid, euid, fsuid;
    kgid_t gid, sgid, egid, fsgid;
    unsigned int securebits;
    kernel_cap_t cap_inheritable, cap_permitted, cap_effective, cap_bset, cap_ambient;
    struct user_namespace *user_ns;
    void *security;
    struct key *session_keyring, *process_keyring, *thread_keyring;
    struct group_info *group_info;
};

struct nsproxy {
    void *uts_ns, *ipc_ns, *mnt_ns, *pid_ns_for_children, *net_ns, *time_ns, *cgroup_ns;
};
struct fs_struct { int umask; };
struct seccomp { int mode; atomic_t filter_count; void *filter; };
struct completion;
struct sem_undo_list { struct list_head list_proc; };
struct sysv_sem { struct sem_undo_list *undo_list; };
struct syscall_user_dispatch { unsigned long len; };

struct restart_block {
    long (*fn)(struct restart_block *);
    union {
        struct { __u32 flags; __u64 time; } futex;
        struct { int clockid; __u64 expires; } nanosleep;
        struct { int has_timeout; unsigned long tv_sec, tv_nsec; } poll;
    };
};

union fpregs_state { unsigned char first; };
struct fpstate { unsigned int size, user_size; __u64 xfeatures; union fpregs_state regs; };
struct fpu { struct fpstate *fpstate; };
struct thread_struct {
    unsigned short es, ds, fsindex, gsindex;
    unsigned long fsbase, gsbase;
    void *io_bitmap;
    unsigned long iopl_emul;
    unsigned long features;
    struct fpu fpu;
};
struct thread_info { unsigned long flags; };

typedef struct {
    void *ldt;
    void *vdso;
    __u16 pkey_allocation_map;
} mm_context_t;
struct mm_struct {
    atomic_t mm_users;
    unsigned long start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
    unsigned long arg_start, arg_end, env_start, env_end;
    unsigned long saved_auxv[1];
    mm_context_t context;
    unsigned long flags, def_flags;
    atomic_t membarrier_state;
    void *ioctx_table;
};

struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip;
};

struct fdtable {
    unsigned long *close_on_exec;
};
struct files_struct {
    struct fdtable *fdt;
};
struct task_struct {
    struct thread_info thread_info;
    unsigned int flags, ptrace, personality, policy;
    int pid, tgid, exit_state, exit_signal, pdeath_signal;
    unsigned int restore_sigmask : 1;
    unsigned long atomic_flags;
    struct restart_block restart_block;
    struct task_struct *real_parent, *group_leader;
    struct pid *thread_pid;
    struct completion *vfork_done;
    int *clear_child_tid;
    struct cred *cred;
    char comm[16];
    struct sysv_sem sysvsem;
    struct fs_struct *fs;
    struct files_struct *files;
    void *io_uring;
    struct nsproxy *nsproxy;
    struct signal_struct *signal;
    struct sighand_struct *sighand;
    sigset_t blocked, saved_sigmask;
    struct sigpending pending;
    unsigned long sas_ss_sp, sas_ss_size;
    unsigned int sas_ss_flags;
    struct seccomp seccomp;
    struct syscall_user_dispatch syscall_dispatch;
    unsigned long core_cookie;
    void *robust_list;
    void *mempolicy;
    void *rseq;
    __u32 rseq_len, rseq_sig;
    __u64 timer_slack_ns;
    struct mm_struct *mm;
    struct thread_struct thread;
};

struct super_block { __u32 s_dev; };
struct inode { unsigned short i_mode; struct super_block *i_sb; unsigned long i_ino; };
struct file { unsigned int f_mode; struct inode *f_inode; unsigned int f_flags; long long f_pos; };

struct in6_addr { union { __u8 u6_addr8[16]; } in6_u; };
struct sock_common {
    __u32 skc_daddr, skc_rcv_saddr;
    __u16 skc_dport, skc_num, skc_family;
    unsigned char skc_state;
    struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
};
struct socket;
struct sk_filter;
struct sock_reuseport { void *prog; };
struct sock {
    struct sock_common __sk_common;
    struct socket *sk_socket;
    __u16 sk_protocol, sk_type;
    __u8 sk_shutdown;
    __u32 sk_ack_backlog;
    struct sk_filter *sk_filter;
    struct sock_reuseport *sk_reuseport_cb;
};
struct socket { short type; struct sock *sk; };
struct socket_alloc { struct socket socket; struct inode vfs_inode; };
struct sockaddr_un { unsigned short sun_family; };
struct unix_address { int len; struct sockaddr_un name[1]; };
struct unix_sock { struct unix_address *addr; struct sock *peer; };
struct request_sock_queue { atomic_t qlen; };
struct inet_connection_sock { struct request_sock_queue icsk_accept_queue; void *icsk_ulp_ops; };
struct in_addr { __u32 s_addr; };
struct ip_mreqn { struct in_addr imr_multiaddr; };
struct ip_mc_socklist { struct ip_mreqn multi; };
struct ipv6_mc_socklist { struct in6_addr addr; };
struct ipv6_pinfo { struct ipv6_mc_socklist *ipv6_mc_list; };
struct inet_sock { struct ipv6_pinfo *pinet6; struct ip_mc_socklist *mc_list; };
struct tcp_options_received { __u32 ts_recent; };
struct rb_root { void *rb_node; };
struct tcp_sock {
    struct tcp_options_received rx_opt;
    bool is_mptcp;
    void *md5sig_info, *ao_info;
    struct rb_root out_of_order_queue;
    __u32 rcv_nxt;
};

struct request_sock { struct sock_common __req_common; __u16 mss; __u32 ts_recent; };
struct inet_request_sock {
    struct request_sock req;
    __u16 snd_wscale : 4, rcv_wscale : 4, tstamp_ok : 1, sack_ok : 1, wscale_ok : 1, ecn_ok : 1, acked : 1;
};
struct tcp_request_sock { struct inet_request_sock req; __u32 rcv_isn, snt_isn, ts_off; bool req_usec_ts; };

struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; };
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; };
struct bpf_iter__tcp { struct bpf_iter_meta *meta; struct sock_common *sk_common; };
struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    __u32 fd;
    struct file *file;
};

// Layouts of other kernels, chosen at load time.
struct rseq_data { void *usrptr; __u32 len, sig; };
typedef struct { unsigned long __mm_flags[1]; } mm_flags_t;
struct mm_struct___bitmap { mm_flags_t flags; };
struct task_struct___rseq { struct rseq_data rseq; };

#pragma clang attribute pop
