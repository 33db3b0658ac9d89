"""A process with a little of everything, which then reports what it knows of itself as `name=value` lines.

Argument: the cgroup to enter. It ends when its standard input does.
"""
import ctypes, mmap, os, resource, select, signal, socket, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write("0")

def show(name, value):
    sys.stdout.write("%s=%s\n" % (name, value))

def syscall(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.signal(signal.SIGALRM, lambda *_: None)
alternate = ctypes.create_string_buffer(65536)
stack = Stack(ctypes.addressof(alternate), 0, 65536)
assert libc.sigaltstack(ctypes.byref(stack), None) == 0
show("alternateStack", ctypes.addressof(alternate))
os.umask(0o027)
os.nice(3)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
libc.prctl(15, b"mobile-service", 0, 0, 0)
libc.prctl(29, 123456, 0, 0, 0)
libc.prctl(36, 1, 0, 0, 0)
libc.prctl(38, 1, 0, 0, 0)
os.setgroups([7, 12, 100])
signal.setitimer(signal.ITIMER_REAL, 3600, 7)
signal.setitimer(signal.ITIMER_VIRTUAL, 1800, 9)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, 40})
# Pending for the process, with a value nobody else sends.
libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(0x1234))
signal.pthread_kill(threading.get_ident(), signal.SIGHUP)

shared = mmap.mmap(-1, 1 << 20)
shared[0:5] = b"hello"
private = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, 8 << 20, 16384):
    private[page:page + 4] = b"page"
private_address = ctypes.addressof(ctypes.c_char.from_buffer(private))
show("private", private_address)
show("shared", ctypes.addressof(ctypes.c_char.from_buffer(shared)))
memfd = os.memfd_create("cache", 2)
os.ftruncate(memfd, 4096 * 100)
os.pwrite(memfd, b"data", 4096 * 50)
show("memfd", memfd)

read_end, write_end = os.pipe()
show("pipe", "%d,%d" % (read_end, write_end))
listener = socket.create_server(("127.0.0.1", 0), backlog=5)
show("listener", "%d,%d" % (listener.fileno(), listener.getsockname()[1]))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
# With a second argument nothing is left in the accept queue, which a capture refuses.
if len(sys.argv) < 3:
    waiting = socket.create_connection(listener.getsockname())
show("connection", "%d,%d,%d" % (client.fileno(), server.fileno(), client.getsockname()[1]))
left, right = socket.socketpair()
show("pair", "%d,%d,%d,%d" % (
    left.fileno(), right.fileno(), os.fstat(left.fileno()).st_ino, os.fstat(right.fileno()).st_ino))
named = socket.socket(socket.AF_UNIX)
named.bind("\0mobility-test-%d" % os.getpid())
show("named", named.fileno())
opened = open(__file__)
opened.seek(17)
duplicate = os.dup(opened.fileno())
show("file", "%d,%d" % (opened.fileno(), duplicate))

# Threads, each waiting in another kind of system call.
tids = {}
ready = threading.Barrier(6)
limit_ns = {}
outcome = {}
def waits(name, body):
    def run():
        tids[name] = threading.get_native_id()
        ready.wait()
        outcome[name] = body()
    threading.Thread(target=run, daemon=True).start()

epoll = select.epoll()
epoll.register(read_end, select.EPOLLIN)
poller = select.poll()
poller.register(read_end, select.POLLIN)
def nap():
    request = (ctypes.c_long * 2)(3600, 0)
    limit_ns["nanosleep"] = time.monotonic_ns() + 3600 * 10**9
    return syscall(35, ctypes.addressof(request), 0)
class Event(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]
events = Event()
def wait_epoll():
    result = libc.epoll_wait(epoll.fileno(), ctypes.byref(events), 1, 3600000)
    return (result, ctypes.get_errno())
class Poll(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]
polled = Poll(read_end, 1, 0)
def wait_poll():
    limit_ns["poll"] = time.monotonic_ns() + 1800 * 10**9
    return libc.poll(ctypes.byref(polled), 1, 1800000)
word = ctypes.c_int(5)
def wait_futex():
    request = (ctypes.c_long * 2)(900, 0)
    limit_ns["futex"] = time.monotonic_ns() + 900 * 10**9
    return syscall(202, ctypes.addressof(word), 0, 5, ctypes.addressof(request), 0, 0)
def suspend():
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM, 40})
    # ppoll with a mask of its own: what /proc shows then is not the thread's real mask.
    mask = (ctypes.c_ulong * 1)(1 << 9 | 1 << 39)
    return syscall(271, 0, 0, 0, ctypes.addressof(mask), 8)
waits("nanosleep", nap)
waits("epoll", wait_epoll)
waits("poll", wait_poll)
waits("futex", wait_futex)
waits("ppoll", suspend)
ready.wait()
for name, tid in tids.items():
    show("tid." + name, tid)
# Each has to sit in its call before the report goes out.
numbers = {"nanosleep": "35", "epoll": "232", "poll": "7", "futex": "202", "ppoll": "271"}
for name, tid in tids.items():
    while True:
        with open("/proc/self/task/%d/syscall" % tid) as text:
            if text.read().split()[0] == numbers[name]:
                break
        time.sleep(0.001)
for name, value in limit_ns.items():
    show("limit." + name, value)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    signal.pause()
    os._exit(0)
show("child", child)
with open("/proc/self/stat") as text:
    fields = text.read().rsplit(")", 1)[1].split()
for name, index in (("startcode", 23), ("endcode", 24), ("startstack", 25), ("start_data", 42), ("end_data", 43),
                    ("start_brk", 44), ("arg_start", 45), ("arg_end", 46), ("env_start", 47), ("env_end", 48)):
    show("stat." + name, fields[index])
show("pid", os.getpid())
show("sid", os.getsid(0))
show("cwd", os.getcwd())
show("done", 1)
sys.stdout.flush()
for line in sys.stdin:
    # After the thaw: what has the service noticed?
    shared[5:6] = b"!"
    show("outcome", sorted(outcome.items()))
    show("threads", threading.active_count())
    show("alive", bytes(shared[0:6]).decode())
    sys.stdout.flush()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
