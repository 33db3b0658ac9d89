import CKernel
import Glibc

/// One datagram with the credentials of another process: what a service manager's notification socket judges its
/// sender by, unix(7) SCM_CREDENTIALS and sd_notify(3).
public enum NotifySocket {
    /// The sender a datagram names; naming one other than oneself needs CAP_SYS_ADMIN (pid), CAP_SETUID, CAP_SETGID.
    public struct Credentials: Sendable, Equatable {
        public let pid: Int32
        public let uid: UInt32
        public let gid: UInt32
        public init(pid: Int32, uid: UInt32, gid: UInt32) {
            self.pid = pid
            self.uid = uid
            self.gid = gid
        }
    }

    /// SCM_CREDENTIALS of <linux/socket.h>, which glibc shows only under _GNU_SOURCE.
    private static let credentialsType: Int32 = 2

    /// Sends `message` to the socket at `address`: a path, or an abstract name with a leading `@`.
    public static func send(_ message: String, to address: String, as sender: Credentials) throws(KernelError) {
        var target = sockaddr_un()
        target.sun_family = sa_family_t(AF_UNIX)
        var name = [UInt8](address.utf8)
        guard !name.isEmpty, name.count < MemoryLayout.size(ofValue: target.sun_path) else {
            throw KernelError(call: "sendmsg", object: address, code: .invalidArgument)
        }
        let abstract = name[0] == UInt8(ascii: "@")
        if abstract { name[0] = 0 }
        withUnsafeMutableBytes(of: &target.sun_path) { $0.copyBytes(from: name) }
        let base = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        let length = socklen_t(base + name.count + (abstract ? 0 : 1))

        let raw = try systemCall("socket", on: address) {
            Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        }
        let socket = FileDescriptor(owning: raw)
        var text = [UInt8](message.utf8)
        var control = controlMessage(sender)
        try systemCall("sendmsg", on: address) {
            text.withUnsafeMutableBytes { text in
                control.withUnsafeMutableBytes { control in
                    var vector = iovec(iov_base: text.baseAddress, iov_len: text.count)
                    return withUnsafeMutablePointer(to: &vector) { vector in
                        withUnsafeMutablePointer(to: &target) { target in
                            var header = msghdr()
                            header.msg_name = UnsafeMutableRawPointer(target)
                            header.msg_namelen = length
                            header.msg_iov = vector
                            header.msg_iovlen = 1
                            header.msg_control = control.baseAddress
                            header.msg_controllen = control.count
                            return sendmsg(raw, &header, Int32(MSG_NOSIGNAL))
                        }
                    }
                }
            }
        }
        _ = consume socket
    }

    /// struct cmsghdr and struct ucred with the alignment of cmsg(3) on 64-bit machines.
    private static func controlMessage(_ sender: Credentials) -> [UInt8] {
        var bytes: [UInt8] = []
        func append(_ value: some FixedWidthInteger) { withUnsafeBytes(of: value) { bytes += $0 } }
        append(UInt64(16 + 12))
        append(Int32(SOL_SOCKET))
        append(credentialsType)
        append(sender.pid)
        append(sender.uid)
        append(sender.gid)
        append(UInt32(0))
        return bytes
    }
}
