// The kernel capture module: reads what the kernel knows of tasks and open files, BPF iterators over the threads of one
// process (bpf_iter link with task.pid). Nothing in the kernel is changed and no task is stopped.
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "capture.h"
#include "kernel_types.h"
#include "capture_rights.h"
#include "capture_sockets.h"
#include "capture_tcp.h"

char _license[] SEC("license") = "GPL";

#define MMF_DISABLE_THP_EXCEPT_ADVISED (1ul << 23)

// Scratch: a record is bigger than the BPF stack. The reader holds a lock for the length of a pass.
static struct {
    struct capture_thread head;
    unsigned char xsave[CAPTURE_XSAVE];
} thread;
static struct capture_process process;
static struct capture_signal queued;
static struct capture_file entry;

extern int LINUX_KERNEL_VERSION __kconfig;

// Functions of the kernel that a restart block may name; absent ones are 0.
extern const void hrtimer_nanosleep_restart __ksym __weak;
extern const void do_restart_poll __ksym __weak;
extern const void futex_wait_restart __ksym __weak;
extern const void do_no_restart_syscall __ksym __weak;

static __always_inline void fill_header(struct capture_header *header, __u32 kind, __u32 length, __u32 tid) {
    header->magic = CAPTURE_MAGIC;
    header->kind = kind;
    header->length = length;
    header->tid = tid;
}

// The number of `pid` as the reader's pid namespace shows it; 0 when it has none there.
static __always_inline __u32 number(struct pid *pid, __u32 level, const void *ns) {
    struct { int nr, pad; void *ns; } upid = {};
    if (!pid || BPF_CORE_READ(pid, level) < level || level > 32) return 0;
    unsigned long place = bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
    bpf_probe_read_kernel(&upid, sizeof(upid), (const char *)pid + place);
    return upid.ns == ns ? upid.nr : 0;
}

// The innermost pid namespace of `pid`.
static __always_inline const void *namespace_of(struct pid *pid) {
    struct { int nr, pad; void *ns; } upid = {};
    __u32 level = BPF_CORE_READ(pid, level);
    unsigned long place = bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
    bpf_probe_read_kernel(&upid, sizeof(upid), (const char *)pid + place);
    return upid.ns;
}

struct reader {
    __u32 level;
    const void *pid_ns;
    const void *net_ns;
};

static __always_inline struct reader current_reader(void) {
    struct task_struct *self = (struct task_struct *)bpf_get_current_task();
    struct pid *pid = BPF_CORE_READ(self, thread_pid);
    struct reader reader = {
        .level = BPF_CORE_READ(pid, level),
        .pid_ns = namespace_of(pid),
        .net_ns = BPF_CORE_READ(self, nsproxy, net_ns),
    };
    return reader;
}

static __always_inline void read_numbers(struct capture_thread *out, struct task_struct *task, struct reader reader) {
    out->tid = number(BPF_CORE_READ(task, thread_pid), reader.level, reader.pid_ns);
    out->tgid = number(BPF_CORE_READ(task, group_leader, thread_pid), reader.level, reader.pid_ns);
    out->ppid = number(BPF_CORE_READ(task, real_parent, group_leader, thread_pid), reader.level, reader.pid_ns);
    out->pgid = number(BPF_CORE_READ(task, signal, pids[2]), reader.level, reader.pid_ns);
    out->sid = number(BPF_CORE_READ(task, signal, pids[3]), reader.level, reader.pid_ns);
}

static __always_inline void read_registers(struct capture_thread *out, struct task_struct *task) {
    struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
    // The first 21 words of user_regs_struct are struct pt_regs.
    bpf_probe_read_kernel(out->registers, 21 * 8, regs);
    // With FRED the selectors' words carry more than the selector.
    out->registers[17] &= 0xffff;
    out->registers[20] &= 0xffff;
    out->registers[21] = task->thread.fsbase;
    out->registers[22] = task->thread.gsbase;
    out->registers[23] = task->thread.ds;
    out->registers[24] = task->thread.es;
    out->registers[25] = task->thread.fsindex;
    out->registers[26] = task->thread.gsindex;
}

static __always_inline void read_restart(struct capture_thread *out, struct task_struct *task) {
    struct restart_block *block = &task->restart_block;
    const void *function = (const void *)block->fn;
    out->restart_kind = out->restart_clock = out->restart_flags = 0;
    out->restart_seconds = out->restart_nanoseconds = 0;
    if (function && function == &hrtimer_nanosleep_restart) {
        out->restart_kind = 1;
        out->restart_clock = BPF_CORE_READ(block, nanosleep.clockid);
        out->restart_nanoseconds = BPF_CORE_READ(block, nanosleep.expires);
    } else if (function && function == &do_restart_poll) {
        out->restart_kind = 2;
        out->restart_flags = BPF_CORE_READ(block, poll.has_timeout);
        out->restart_seconds = BPF_CORE_READ(block, poll.tv_sec);
        out->restart_nanoseconds = BPF_CORE_READ(block, poll.tv_nsec);
    } else if (function && function == &futex_wait_restart) {
        out->restart_kind = 3;
        out->restart_flags = BPF_CORE_READ(block, futex.flags);
        out->restart_nanoseconds = BPF_CORE_READ(block, futex.time);
    } else if (function && function != &do_no_restart_syscall) {
        out->restart_kind = 255;
    }
}

static __always_inline void read_credentials(struct capture_thread *out, struct task_struct *task) {
    struct cred *cred = task->cred;
    out->uid = (__u32)BPF_CORE_READ(cred, uid.val);
    out->euid = (__u32)BPF_CORE_READ(cred, euid.val);
    out->suid = (__u32)BPF_CORE_READ(cred, suid.val);
    out->fsuid = (__u32)BPF_CORE_READ(cred, fsuid.val);
    out->gid = (__u32)BPF_CORE_READ(cred, gid.val);
    out->egid = (__u32)BPF_CORE_READ(cred, egid.val);
    out->sgid = (__u32)BPF_CORE_READ(cred, sgid.val);
    out->fsgid = (__u32)BPF_CORE_READ(cred, fsgid.val);
    out->cap_inheritable = BPF_CORE_READ(cred, cap_inheritable.val);
    out->cap_permitted = BPF_CORE_READ(cred, cap_permitted.val);
    out->cap_effective = BPF_CORE_READ(cred, cap_effective.val);
    out->cap_bounding = BPF_CORE_READ(cred, cap_bset.val);
    out->cap_ambient = BPF_CORE_READ(cred, cap_ambient.val);
    out->securebits = BPF_CORE_READ(cred, securebits);
    out->user_ns = (word)BPF_CORE_READ(cred, user_ns);
    out->own_keys = out->session_keys = 0;
    if (bpf_core_field_exists(cred->session_keyring)) {
        out->own_keys = keys_in(BPF_CORE_READ(cred, thread_keyring)) + keys_in(BPF_CORE_READ(cred, process_keyring));
        out->session_keys = keys_in(BPF_CORE_READ(cred, session_keyring));
    }
    out->landlock = landlock_domain(cred);
    out->landlock_told = &landlock_blob_sizes != 0;
    struct group_info *info = BPF_CORE_READ(cred, group_info);
    __u32 count = BPF_CORE_READ(info, ngroups);
    out->group_count = count;
    if (count > CAPTURE_GROUPS) count = CAPTURE_GROUPS;
    bpf_probe_read_kernel(out->groups, count * 4, (const char *)info + bpf_core_field_offset(struct group_info, gid));
}

static __always_inline void read_namespaces(struct capture_thread *out, struct task_struct *task) {
    struct nsproxy *proxy = task->nsproxy;
    out->mnt_ns = (word)BPF_CORE_READ(proxy, mnt_ns);
    out->net_ns = (word)BPF_CORE_READ(proxy, net_ns);
    out->uts_ns = (word)BPF_CORE_READ(proxy, uts_ns);
    out->ipc_ns = (word)BPF_CORE_READ(proxy, ipc_ns);
    out->time_ns = (word)BPF_CORE_READ(proxy, time_ns);
    out->cgroup_ns = (word)BPF_CORE_READ(proxy, cgroup_ns);
    out->pid_ns_for_children = (word)BPF_CORE_READ(proxy, pid_ns_for_children);
    struct pid *pid = BPF_CORE_READ(task, thread_pid);
    out->pid_ns = pid ? (word)namespace_of(pid) : 0;
}

static __always_inline void read_rseq(struct capture_thread *out, struct task_struct *task) {
    struct task_struct___rseq *other = (void *)task;
    if (bpf_core_field_exists(other->rseq.usrptr)) {
        out->rseq = (word)BPF_CORE_READ(other, rseq.usrptr);
        out->rseq_length = BPF_CORE_READ(other, rseq.len);
        out->rseq_signature = BPF_CORE_READ(other, rseq.sig);
    } else if (bpf_core_field_exists(task->rseq_len)) {
        out->rseq = (word)task->rseq;
        out->rseq_length = task->rseq_len;
        out->rseq_signature = task->rseq_sig;
    }
}

// Threads share a list from the start; what counts is whether it holds anything.
static __always_inline bool has_undo(struct task_struct *task) {
    struct sem_undo_list *undo = task->sysvsem.undo_list;
    if (!undo) return false;
    return BPF_CORE_READ(undo, list_proc.next) != (void *)undo + bpf_core_field_offset(struct sem_undo_list, list_proc);
}

// TIF_NOTSC and TIF_NOCPUID of arch/x86/include/asm/thread_info.h, whose numbers 6.18 has changed; BTF has no macros.
static __always_inline void read_faulting(struct capture_thread *out, struct task_struct *task) {
    bool is_new = LINUX_KERNEL_VERSION >= KERNEL_VERSION(6, 18, 0);
    word flags = task->thread_info.flags;
    out->no_tsc = flags >> (is_new ? 21 : 16) & 1;
    out->no_cpuid = flags >> (is_new ? 20 : 15) & 1;
}

static __always_inline void read_process_wide(struct capture_thread *out, struct task_struct *task) {
    out->files = (word)task->files;
    out->fs = (word)task->fs;
    out->umask = BPF_CORE_READ(task, fs, umask);
    out->sighand = (word)task->sighand;
    out->mm = (word)task->mm;
    out->atomic_flags = task->atomic_flags;
    out->seccomp_mode = task->seccomp.mode;
    out->seccomp_filters = (__u32)task->seccomp.filter_count.counter;
    out->vfork_done = (word)task->vfork_done;
    out->io_uring = bpf_core_field_exists(task->io_uring) ? (word)task->io_uring : 0;
    out->sem_undo = bpf_core_field_exists(task->sysvsem) ? has_undo(task) : 0;
    out->io_bitmap = bpf_core_field_exists(task->thread.io_bitmap) ? (word)task->thread.io_bitmap : 0;
    out->iopl = bpf_core_field_exists(task->thread.iopl_emul) ? task->thread.iopl_emul : 0;
    out->shadow_stack = bpf_core_field_exists(task->thread.features) ? task->thread.features : 0;
    out->dispatch_length = bpf_core_field_exists(task->syscall_dispatch) ? task->syscall_dispatch.len : 0;
    out->core_cookie = bpf_core_field_exists(task->core_cookie) ? task->core_cookie : 0;
    out->memory_policy = bpf_core_field_exists(task->mempolicy) ? (word)task->mempolicy : 0;
}

// Where the FPU state lives: inside thread_struct up to 6.15, behind task_struct (whose size BTF tells) from 6.16. A
// debugging build of the latter has a pointer of the same name.
static __always_inline __u32 read_xsave(struct task_struct *task) {
    struct fpu *fpu;
    if (bpf_core_field_exists(task->thread.fpu) && bpf_core_field_size(task->thread.fpu) > 8)
        fpu = (struct fpu *)((char *)task + bpf_core_field_offset(struct task_struct, thread)
            + bpf_core_field_offset(struct thread_struct, fpu));
    else
        fpu = (struct fpu *)((char *)task + bpf_core_type_size(struct task_struct));
    struct fpstate *state = BPF_CORE_READ(fpu, fpstate);
    __u32 size = BPF_CORE_READ(state, size);
    thread.head.xsave_user_size = BPF_CORE_READ(state, user_size);
    thread.head.xsave_features = BPF_CORE_READ(state, xfeatures);
    if (size > CAPTURE_XSAVE) size = 0;
    const char *registers = (const char *)state + bpf_core_field_offset(struct fpstate, regs);
    if (bpf_probe_read_kernel(thread.xsave, size, registers)) size = 0;
    thread.head.xsave_size = size;
    return size;
}

static __always_inline void write_thread(struct seq_file *seq, struct task_struct *task) {
    struct capture_thread *out = &thread.head;
    struct reader reader = current_reader();
    read_numbers(out, task, reader);
    out->reader_net_ns = (word)reader.net_ns;
    out->reader_pid_ns = (word)reader.pid_ns;
    out->exit_state = task->exit_state;
    out->exit_signal = (__s64)task->exit_signal;
    out->task_flags = task->flags;
    out->ptrace = task->ptrace;
    out->thread_flags = task->thread_info.flags;
    read_registers(out, task);
    out->blocked = task->blocked.sig[0];
    out->saved_blocked = task->saved_sigmask.sig[0];
    out->restore_blocked = BPF_CORE_READ_BITFIELD_PROBED(task, restore_sigmask);
    out->pending = task->pending.signal.sig[0];
    out->stack_pointer = task->sas_ss_sp;
    out->stack_size = task->sas_ss_size;
    out->stack_flags = task->sas_ss_flags;
    out->robust_list = (word)task->robust_list;
    out->clear_child_tid = (word)task->clear_child_tid;
    read_rseq(out, task);
    read_restart(out, task);
    read_process_wide(out, task);
    read_namespaces(out, task);
    read_credentials(out, task);
    out->personality = task->personality;
    out->parent_death_signal = task->pdeath_signal;
    out->timer_slack = task->timer_slack_ns;
    out->parent_tid = number(BPF_CORE_READ(task, real_parent, thread_pid), reader.level, reader.pid_ns);
    out->policy = task->policy;
    read_faulting(out, task);
    out->last_filter = (word)task->seccomp.filter;
    bpf_probe_read_kernel(out->comm, sizeof(out->comm), task->comm);
    __u32 size = read_xsave(task);
    fill_header(&out->header, CAPTURE_THREAD, sizeof(thread.head) + size, out->tid);
    if (size <= CAPTURE_XSAVE) bpf_seq_write(seq, &thread, sizeof(thread.head) + size);
}

#include "capture_timers.h"

static __always_inline void read_memory_layout(struct capture_process *out, struct task_struct *task) {
    struct mm_struct *mm = task->mm;
    out->start_code = BPF_CORE_READ(mm, start_code);
    out->end_code = BPF_CORE_READ(mm, end_code);
    out->start_data = BPF_CORE_READ(mm, start_data);
    out->end_data = BPF_CORE_READ(mm, end_data);
    out->start_brk = BPF_CORE_READ(mm, start_brk);
    out->brk = BPF_CORE_READ(mm, brk);
    out->start_stack = BPF_CORE_READ(mm, start_stack);
    out->arg_start = BPF_CORE_READ(mm, arg_start);
    out->arg_end = BPF_CORE_READ(mm, arg_end);
    out->env_start = BPF_CORE_READ(mm, env_start);
    out->env_end = BPF_CORE_READ(mm, env_end);
    out->vdso = (word)BPF_CORE_READ(mm, context.vdso);
    out->ldt = bpf_core_field_exists(mm->context.ldt) ? (word)BPF_CORE_READ(mm, context.ldt) : 0;
    out->pkeys = bpf_core_field_exists(mm->context.pkey_allocation_map)
        ? BPF_CORE_READ(mm, context.pkey_allocation_map) : 0;
    out->aio_contexts = bpf_core_field_exists(mm->ioctx_table) ? (word)BPF_CORE_READ(mm, ioctx_table) : 0;
    out->mm_users = BPF_CORE_READ(mm, mm_users.counter);
    out->new_mappings = BPF_CORE_READ(mm, def_flags);
    out->membarrier = bpf_core_field_exists(mm->membarrier_state) ? BPF_CORE_READ(mm, membarrier_state.counter) : 0;
    // A word up to 6.17, in which bit 23 is about the zero page; a bitmap from 6.18.
    struct mm_struct___bitmap *newer = (void *)mm;
    out->mm_flags = bpf_core_field_exists(newer->flags.__mm_flags) ? BPF_CORE_READ(newer, flags.__mm_flags[0])
        : BPF_CORE_READ(mm, flags) & ~MMF_DISABLE_THP_EXCEPT_ADVISED;
    __u32 size = bpf_core_field_size(mm->saved_auxv);
    if (size > sizeof(out->auxv)) size = sizeof(out->auxv);
    __builtin_memset(out->auxv, 0, sizeof(out->auxv));
    if (mm) bpf_probe_read_kernel(out->auxv, size, (char *)mm + bpf_core_field_offset(struct mm_struct, saved_auxv));
}

static __always_inline void write_process(struct seq_file *seq, struct task_struct *task) {
    struct capture_process *out = &process;
    struct signal_struct *signal = task->signal;
    read_memory_layout(out, task);
    read_timers(out, signal);
    out->oom_score_adj = (__s64)BPF_CORE_READ(signal, oom_score_adj);
    out->signal_flags = BPF_CORE_READ(signal, flags);
    out->child_subreaper = BPF_CORE_READ_BITFIELD_PROBED(signal, is_child_subreaper);
    out->shared_pending = BPF_CORE_READ(signal, shared_pending.signal.sig[0]);
    bpf_probe_read_kernel(out->limits, sizeof(out->limits), &signal->rlim);
    // A task that has exited has no handlers any more.
    out->has_actions = bpf_probe_read_kernel(out->actions, sizeof(out->actions), &task->sighand->action) == 0;
    fill_header(&out->header, CAPTURE_PROCESS, sizeof(*out), thread.head.tgid);
    bpf_seq_write(seq, out, sizeof(*out));
}

static __always_inline void write_signals(struct seq_file *seq, struct sigpending *pending, bool shared) {
    struct list_head *head = &pending->list;
    struct list_head *node = BPF_CORE_READ(head, next);
    for (int i = 0; i < CAPTURE_PENDING && node && node != head; i++) {
        struct sigqueue *element = (void *)((char *)node - bpf_core_field_offset(struct sigqueue, list));
        fill_header(&queued.header, CAPTURE_SIGNAL, sizeof(queued), thread.head.tid);
        queued.shared = shared;
        bpf_probe_read_kernel(queued.info, sizeof(queued.info),
            (const char *)element + bpf_core_field_offset(struct sigqueue, info));
        bpf_seq_write(seq, &queued, sizeof(queued));
        node = BPF_CORE_READ(node, next);
    }
}

SEC("iter/task")
int capture_threads(struct bpf_iter__task *ctx) {
    struct task_struct *task = ctx->task;
    struct seq_file *seq = ctx->meta->seq;
    if (!task) return 0;
    write_thread(seq, task);
    write_signals(seq, &task->pending, false);
    if (task->pid == task->tgid) {
        write_process(seq, task);
        write_signals(seq, &task->signal->shared_pending, true);
        if (process.posix_timers) write_posix_timers(seq, task->signal);
    }
    return 0;
}

#define O_CLOEXEC 02000000

// Of the number and not of the file, as fdinfo shows it.
static bool closes_on_exec(struct task_struct *task, __u32 fd) {
    unsigned long *bits = BPF_CORE_READ(task, files, fdt, close_on_exec);
    word part = 0;
    if (bits) bpf_probe_read_kernel(&part, sizeof(part), bits + fd / 64);
    return part >> (fd & 63) & 1;
}

SEC("iter/task_file")
int capture_files(struct bpf_iter__task_file *ctx) {
    struct task_struct *task = ctx->task;
    struct file *file = ctx->file;
    struct seq_file *seq = ctx->meta->seq;
    if (!task || !file) return 0;
    struct capture_file *out = &entry;
    __builtin_memset(out, 0, sizeof(*out));
    struct reader reader = current_reader();
    __u32 tid = number(BPF_CORE_READ(task, thread_pid), reader.level, reader.pid_ns);
    out->tgid = number(BPF_CORE_READ(task, group_leader, thread_pid), reader.level, reader.pid_ns);
    fill_header(&out->header, CAPTURE_FILE, sizeof(*out), tid);
    out->number = ctx->fd;
    out->file = (word)file;
    out->flags = (file->f_flags & ~O_CLOEXEC) | (closes_on_exec(task, ctx->fd) ? O_CLOEXEC : 0);
    out->mode = file->f_mode;
    out->position = file->f_pos;
    out->inode = file->f_inode->i_ino;
    out->device = file->f_inode->i_sb->s_dev;
    struct socket *socket = bpf_sock_from_file(file);
    struct sock *sk = socket ? BPF_CORE_READ(socket, sk) : 0;
    if (sk) {
        out->is_socket = 1;
        out->family = BPF_CORE_READ(sk, __sk_common.skc_family);
        out->type = BPF_CORE_READ(sk, sk_type);
        out->protocol = BPF_CORE_READ(sk, sk_protocol);
        out->state = BPF_CORE_READ(sk, __sk_common.skc_state);
        out->shutdown = BPF_CORE_READ(sk, sk_shutdown);
        read_programs(out, sk);
        if (out->family == AF_INET || out->family == AF_INET6) read_inet(out, sk);
        if (out->family == AF_UNIX) read_unix(out, sk);
    }
    bpf_seq_write(seq, out, sizeof(*out));
    return 0;
}
