/// What turns an empty set of namespaces into a host: the last steps before systemd, as its PID 1 does them.
///
/// A shell script, because these are mount(8) lines that a reader wants to see as such. Arguments: the member's
/// directory, the host's name, its cgroup, the kernel's word on whether IPv4 SYN cookies exist.
enum HostScript {
    /// Makes the outer namespaces and leaves the host's cgroup root free of processes (no-internal-process rule).
    static let outer = #"""
        set -eu
        cgroup=$1; offset=$2; network=$3; shift 3
        echo 0 > "$cgroup/cgroup.procs"
        exec nsenter --net="$network" unshare --cgroup sh -euc '
            cgroup=$1; offset=$2; shift 2
            echo 0 > "$cgroup/lab.exec/cgroup.procs"
            exec unshare --mount --uts --ipc --time --monotonic "$offset" --boottime "$offset" --pid --fork \
                sh -euc "$@"' outer "$cgroup" "$offset" "$@"
        """#

    /// Runs as PID 1 of the new pid namespace, on the machine's root until pivot_root.
    static let inner = #"""
        directory=$1; name=$2; cgroup=$3
        echo 0 > "$cgroup/cgroup.procs"
        # /proc is still the machine's: it tells the machine's number of this process.
        read -r pid rest < /proc/self/stat
        echo "$pid" > "$directory/pid.new"; mv "$directory/pid.new" "$directory/pid"

        layers=$directory/layers
        mount -t tmpfs -o mode=755 "lab-$name" "$layers"
        mkdir "$layers/upper" "$layers/work" "$layers/root"
        cp -a "$directory/stage/." "$layers/upper/"
        chmod 755 "$layers/upper"
        root=$layers/root
        mount -t overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "lab-$name" "$root"

        mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
        mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
        mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
        mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf "$root/sys/fs/bpf"

        dev=$root/dev
        mount -t tmpfs -o nosuid,mode=755 dev "$dev"
        mkdir "$dev/pts" "$dev/shm" "$dev/net" "$dev/mqueue"
        mknod -m 666 "$dev/null" c 1 3; mknod -m 666 "$dev/zero" c 1 5; mknod -m 666 "$dev/full" c 1 7
        mknod -m 666 "$dev/random" c 1 8; mknod -m 666 "$dev/urandom" c 1 9; mknod -m 666 "$dev/tty" c 5 0
        mknod -m 666 "$dev/net/tun" c 10 200
        mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
        mount -t tmpfs -o nosuid,nodev,mode=1777 shm "$dev/shm"
        mount -t mqueue -o nosuid,nodev,noexec mqueue "$dev/mqueue"
        ln -s pts/ptmx "$dev/ptmx"; ln -s /proc/self/fd "$dev/fd"
        ln -s fd/0 "$dev/stdin"; ln -s fd/1 "$dev/stdout"; ln -s fd/2 "$dev/stderr"

        mount -t tmpfs -o nosuid,nodev,mode=755 run "$root/run"
        mount -t tmpfs -o nosuid,nodev,mode=1777 tmp "$root/tmp"
        mkdir "$root/run/host"; : > "$root/run/host/notify"
        mount --bind "$directory/notify" "$root/run/host/notify"

        hostname "$name"
        [ ! -e /proc/sys/net/ipv4/tcp_syncookies ] || echo 1 > /proc/sys/net/ipv4/tcp_syncookies
        cd "$root"
        pivot_root . .
        umount -l .
        cd /
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            container=mobilityd-lab NOTIFY_SOCKET=/run/host/notify \
            /usr/lib/systemd/systemd --log-target=journal-or-kmsg --show-status=false
        """#
}
