import Glibc
import Kernel
import Testing
import Units

@Suite struct NotifySenderTests {
    /// A datagram socket that asks for credentials receives the message and the named sender.
    @Test func announcesInOneDatagramWithCredentials() throws {
        let address = "@mobility-test-\(getpid())"
        let receiver = FileDescriptor(owning: socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0))
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let bytes = [0] + [UInt8](address.utf8.dropFirst())
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: bytes) }
        let length = socklen_t(2 + bytes.count)
        let bound = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(receiver.raw, $0, length) }
        }
        try #require(bound == 0)
        try NotifySender.announce(mainPID: 77, notifySocket: address, asPID: getpid(), uid: getuid(), gid: getgid())
        #expect(String(decoding: try receiver.read(upTo: 100), as: UTF8.self) == "MAINPID=77\nREADY=1")
    }

    @Test func refusesAnAddressThatIsTooLong() {
        #expect(throws: KernelError.self) {
            try NotifySender.keepAlive(
                notifySocket: "/" + String(repeating: "x", count: 200), asPID: 1, uid: 0, gid: 0)
        }
    }
}
