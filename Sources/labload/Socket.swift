import CKernel
import Glibc
import Kernel

/// The address to connect to: IPv4 or IPv6, numeric.
struct Endpoint {
    let host: String
    let port: UInt16
    private let family: Int32
    private var address4 = sockaddr_in()
    private var address6 = sockaddr_in6()

    init(host: String, port: Int) throws(Options.Wrong) {
        guard let number = UInt16(exactly: port) else { throw Options.Wrong(description: "--port \(port)") }
        self.host = host
        self.port = number
        address4.sin_family = sa_family_t(AF_INET)
        address4.sin_port = number.bigEndian
        address6.sin6_family = sa_family_t(AF_INET6)
        address6.sin6_port = number.bigEndian
        if inet_pton(AF_INET, host, &address4.sin_addr) == 1 {
            family = AF_INET
        } else if inet_pton(AF_INET6, host, &address6.sin6_addr) == 1 {
            family = AF_INET6
        } else {
            throw Options.Wrong(description: "--host \(host): a numeric address is needed")
        }
    }

    /// A non-blocking socket on its way to the address; writable once connected.
    func connect() throws(KernelError) -> FileDescriptor {
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = FileDescriptor(owning: try systemCall("socket") { socket(family, kind, 0) })
        let raw = descriptor.raw
        do throws(KernelError) {
            try systemCall("connect", on: host) {
                family == AF_INET
                    ? connect(raw, to: address4) : connect(raw, to: address6)
            }
        } catch  where error.code.rawValue == EINPROGRESS {}
        var one: Int32 = 1
        setsockopt(raw, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        return descriptor
    }

    private func connect<Address>(_ raw: Int32, to address: Address) -> Int32 {
        withUnsafePointer(to: address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(raw, $0, socklen_t(MemoryLayout<Address>.size))
            }
        }
    }

    func request(_ path: String) -> [UInt8] {
        let name = family == AF_INET6 ? "[\(host)]" : host
        return [UInt8]("GET \(path) HTTP/1.1\r\nHost: \(name)\r\nUser-Agent: labload\r\n\r\n".utf8)
    }
}

/// epoll(7) and the signals that steer the program, taken with signalfd(2).
final class EventLoop {
    private let epoll: FileDescriptor
    private let signals: FileDescriptor
    static let signalTag: UInt32 = .max

    init() throws(KernelError) {
        var mask = sigset_t()
        sigemptyset(&mask)
        for number in [SIGTERM, SIGINT, SIGUSR1, SIGUSR2] { sigaddset(&mask, number) }
        sigprocmask(SIG_BLOCK, &mask, nil)
        signal(SIGPIPE, SIG_IGN)
        signals = FileDescriptor(
            owning: try systemCall("signalfd") { signalfd(-1, &mask, Int32(SFD_CLOEXEC) | Int32(SFD_NONBLOCK)) })
        epoll = FileDescriptor(owning: try systemCall("epoll_create1") { epoll_create1(Int32(O_CLOEXEC)) })
        try watch(signals.raw, EPOLLIN.rawValue, tag: Self.signalTag)
    }

    /// EPOLL_CTL_ADD, or EPOLL_CTL_MOD when it is there already.
    func watch(_ raw: Int32, _ events: UInt32, tag: UInt32) throws(KernelError) {
        var event = epoll_event()
        event.events = events
        event.data.u32 = tag
        let epoll = self.epoll.raw
        do throws(KernelError) {
            try systemCall("epoll_ctl", on: "fd \(raw)") { epoll_ctl(epoll, EPOLL_CTL_ADD, raw, &event) }
        } catch  where error.code == .exists {
            try systemCall("epoll_ctl", on: "fd \(raw)") { epoll_ctl(epoll, EPOLL_CTL_MOD, raw, &event) }
        }
    }

    func forget(_ raw: Int32) {
        var event = epoll_event()
        epoll_ctl(epoll.raw, EPOLL_CTL_DEL, raw, &event)
    }

    /// Tags of what is ready within `nanoseconds`.
    func wait(nanoseconds: Int64) throws(KernelError) -> [UInt32] {
        var events = [epoll_event](repeating: epoll_event(), count: 64)
        let timeout = Int32(clamping: (max(0, nanoseconds) + 999_999) / 1_000_000)
        let epoll = self.epoll.raw
        let count = try systemCall("epoll_wait") { epoll_wait(epoll, &events, 64, timeout) }
        return events.prefix(Int(count)).map(\.data.u32)
    }

    /// The signals that have arrived.
    func takeSignals() -> [Int32] {
        var numbers: [Int32] = []
        var information = signalfd_siginfo()
        while read(signals.raw, &information, MemoryLayout<signalfd_siginfo>.size) > 0 {
            numbers.append(Int32(information.ssi_signo))
        }
        return numbers
    }
}
