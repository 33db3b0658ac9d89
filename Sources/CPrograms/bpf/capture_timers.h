// Interval timers, setitimer(2), and those of timer_create(2). Included where `thread` and `fill_header` are known.
#pragma once

#define HRTIMER_STATE_ENQUEUED 1
#define CLOCK_MONOTONIC 1
#define CLOCK_BOOTTIME 7

static struct capture_timer timed;

static __always_inline bool is_queued(struct hrtimer *timer) {
    return bpf_core_field_exists(timer->state) ? BPF_CORE_READ(timer, state) & HRTIMER_STATE_ENQUEUED
        : bpf_core_field_exists(timer->is_queued) ? BPF_CORE_READ(timer, is_queued) : true;
}

static __always_inline void read_timers(struct capture_process *out, struct signal_struct *signal) {
    struct hrtimer *timer = &signal->real_timer;
    out->now = bpf_ktime_get_ns();
    // With an interval it is queued again only when its signal is taken, kernel/time/itimer.c: until then it is armed.
    out->real_interval = BPF_CORE_READ(signal, it_real_incr);
    out->real_expires = is_queued(timer) || out->real_interval ? BPF_CORE_READ(timer, node.expires) : 0;
    out->prof_expires = BPF_CORE_READ(signal, it[0].expires);
    out->prof_interval = BPF_CORE_READ(signal, it[0].incr);
    out->virtual_expires = BPF_CORE_READ(signal, it[1].expires);
    out->virtual_interval = BPF_CORE_READ(signal, it[1].incr);
    out->cpu_user = BPF_CORE_READ(signal, cputimer.cputime_atomic.utime.counter);
    out->cpu_system = BPF_CORE_READ(signal, cputimer.cputime_atomic.stime.counter);
    out->posix_timers = bpf_core_field_exists(signal->posix_timers) && BPF_CORE_READ(signal, posix_timers.first) != 0;
}

// A timer with an interval that is not queued waits for its signal to be taken: disarming one clears the interval.
static __always_inline void write_timer(struct seq_file *seq, struct k_itimer *timer) {
    __s32 clock = BPF_CORE_READ(timer, it_clock);
    // CPU clocks are numbers below zero, inside the kernel also those of CLOCK_PROCESS_CPUTIME_ID and its like.
    bool of_cpu = clock < 0;
    timed.id = BPF_CORE_READ(timer, it_id);
    timed.interval = BPF_CORE_READ(timer, it_interval);
    timed.clock = of_cpu ? CAPTURE_CPU_CLOCK : BPF_CORE_READ(timer, it.real.timer.base, clockid);
    timed.next = of_cpu ? BPF_CORE_READ(timer, it.cpu.node.expires) : BPF_CORE_READ(timer, it.real.timer.node.expires);
    timed.is_armed = of_cpu ? timed.next != 0 : timed.interval || is_queued(&timer->it.real.timer);
    if (timed.clock == CLOCK_MONOTONIC) timed.next -= bpf_ktime_get_ns();
    if (timed.clock == CLOCK_BOOTTIME) timed.next -= bpf_ktime_get_boot_ns();
    fill_header(&timed.header, CAPTURE_TIMER, sizeof(timed), thread.head.tid);
    bpf_seq_write(seq, &timed, sizeof(timed));
}

static __always_inline void write_posix_timers(struct seq_file *seq, struct signal_struct *signal) {
    struct hlist_node *node = BPF_CORE_READ(signal, posix_timers.first);
    for (int i = 0; i < CAPTURE_TIMERS && node; i++) {
        write_timer(seq, (void *)((char *)node - bpf_core_field_offset(struct k_itimer, list)));
        node = BPF_CORE_READ(node, next);
    }
}
